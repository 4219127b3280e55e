package names

import (
	"github.com/miekg/dns"
)

const (
	// minUDP is what every client takes in a datagram (RFC 1035); maxUDP what fits into no
	// fragment on any common path (DNS Flag Day 2020), whatever a client says it takes.
	minUDP = 512
	maxUDP = 1232
)

// refusal returns the reply to what is no question that this server answers, nil if it
// is one. (What is no query at all has met silence before.)
func refusal(req *dns.Msg) *dns.Msg {
	if req.Opcode != dns.OpcodeQuery {
		return failed(req, dns.RcodeNotImplemented)
	}
	// RFC 9619: a query has one question.
	if len(req.Question) != 1 || len(req.Answer) > 0 || len(req.Ns) > 0 {
		return failed(req, dns.RcodeFormatError)
	}
	opts := 0
	for _, rr := range req.Extra {
		if rr.Header().Rrtype == dns.TypeOPT {
			opts++
		}
	}
	opt := req.IsEdns0()
	switch q := req.Question[0]; {
	case opts > 1 || opt != nil && opt.Hdr.Name != ".":
		return failed(req, dns.RcodeFormatError) // RFC 6891 section 6.1.1
	case opt != nil && opt.Version() != 0:
		return failed(req, dns.RcodeBadVers)
	case q.Qclass != dns.ClassINET:
		return failed(req, dns.RcodeRefused) // version.bind, too
	case q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR:
		return failed(req, dns.RcodeRefused)
	case q.Qtype == dns.TypeOPT || q.Qtype == dns.TypeNone:
		return failed(req, dns.RcodeFormatError)
	case q.Qtype == dns.TypeMAILA || q.Qtype == dns.TypeMAILB || q.Qtype == dns.TypeTKEY || q.Qtype == dns.TypeTSIG:
		return failed(req, dns.RcodeNotImplemented)
	}
	return nil
}

// failed returns a reply without records.
func failed(req *dns.Msg, rcode int) *dns.Msg {
	r := header(req)
	r.Rcode = rcode
	if opt := req.IsEdns0(); opt != nil {
		edns(r, false)
		// The upper bits go into the OPT record when packed.
	} else if rcode > 0xf {
		r.Rcode = dns.RcodeFormatError
	}
	return r
}

// header returns the frame of a reply to req.
func header(req *dns.Msg) *dns.Msg {
	r := new(dns.Msg)
	r.Id, r.Response, r.Opcode = req.Id, true, req.Opcode
	r.RecursionDesired, r.RecursionAvailable = req.RecursionDesired, true
	r.CheckingDisabled = req.CheckingDisabled
	r.Compress = true
	if len(req.Question) > 0 {
		r.Question = req.Question[:1]
	}
	return r
}

// edns gives r an OPT record, as it has to have one if the query did (RFC 6891).
func edns(r *dns.Msg, do bool) {
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	opt.SetUDPSize(maxUDP)
	if do {
		opt.SetDo()
	}
	r.Extra = append(r.Extra, opt)
}

// own returns the zone's reply to req, nil if the zone does not know.
func (z *Zone) own(req *dns.Msg) (*dns.Msg, Finding) {
	q := req.Question[0]
	a := z.Find(q.Name, q.Qtype)
	if a.Finding == Elsewhere {
		return nil, Elsewhere
	}
	r := header(req)
	r.Authoritative = true
	r.Answer = a.Records
	if a.Authority != nil {
		r.Ns = []dns.RR{a.Authority}
	}
	if a.Finding == NoName {
		r.Rcode = dns.RcodeNameError
	}
	if opt := req.IsEdns0(); opt != nil {
		edns(r, opt.Do())
	}
	return r, a.Finding
}

// minimal answers ANY for a name that is not ours (RFC 8482): the whole of what others
// have would serve nobody but who wants a large reply sent to a victim.
func minimal(req *dns.Msg) *dns.Msg {
	r := header(req)
	r.Answer = []dns.RR{&dns.HINFO{
		Hdr: dns.RR_Header{Name: req.Question[0].Name, Rrtype: dns.TypeHINFO, Class: dns.ClassINET, Ttl: 3600},
		Cpu: "RFC8482",
	}}
	if opt := req.IsEdns0(); opt != nil {
		edns(r, opt.Do())
	}
	return r
}

// relayed makes another server's answer the reply to req.
func relayed(req, answer *dns.Msg) *dns.Msg {
	r := header(req)
	r.Rcode, r.AuthenticatedData = answer.Rcode, answer.AuthenticatedData
	r.Answer, r.Ns = answer.Answer, answer.Ns
	for _, rr := range answer.Extra {
		if rr.Header().Rrtype != dns.TypeOPT { // that one is between two neighbours
			r.Extra = append(r.Extra, rr)
		}
	}
	if opt := req.IsEdns0(); opt != nil {
		edns(r, opt.Do())
	} else if r.Rcode > 0xf {
		r.Rcode = dns.RcodeServerFailure
	}
	return r
}

// limit returns how long the reply to req may be on UDP, in bytes.
func limit(req *dns.Msg) int {
	if opt := req.IsEdns0(); opt != nil {
		return min(max(int(opt.UDPSize()), minUDP), maxUDP)
	}
	return minUDP
}
