package names

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Finding says what a zone knows of a name and type.
type Finding uint8

// What Find finds.
const (
	Elsewhere Finding = iota // not this zone's: others know
	Found                    // records
	NoData                   // the name exists, with other types alone
	NoName                   // there is no such name
)

const reverseSuffix = ".in-addr.arpa."

// Answer is a Finding with what belongs to it.
type Answer struct {
	Finding Finding
	Records []dns.RR // if Found
	// Authority is the SOA record that says for how long a negative answer holds (RFC
	// 2308); nil unless NoData or NoName.
	Authority dns.RR
}

// Find answers for name, whose case does not matter, and a type. It never says Elsewhere
// of a name in the zone or of the reverse name of an address in the subnet, so these
// are never asked of others.
func (z *Zone) Find(name string, qtype uint16) Answer {
	lower := strings.ToLower(name)
	switch {
	case dns.IsSubDomain(z.Origin, lower):
		return z.forward(name, lower, qtype)
	case dns.IsSubDomain("localhost.", lower):
		return z.localhost(name, qtype)
	case strings.HasSuffix(lower, reverseSuffix):
		return z.reverse(name, lower, qtype)
	}
	return Answer{}
}

func (z *Zone) forward(name, lower string, qtype uint16) Answer {
	addr, there := z.hosts[lower]
	if !there {
		host, _ := strings.CutSuffix(lower, "."+z.Origin)
		if a, ok := defaultAddr(host); ok && z.Subnet.Contains(a) && z.ofPeer(a) {
			addr, there = a, true
		}
	}
	switch {
	case !there:
		return z.negative(NoName, z.Origin)
	case lower == z.Origin:
		return z.apex(name, z.Origin, qtype)
	case addr.IsValid() && (qtype == dns.TypeA || qtype == dns.TypeANY):
		return found(&dns.A{Hdr: z.header(name, dns.TypeA), A: addr.AsSlice()})
	}
	return z.negative(NoData, z.Origin)
}

// reverse answers for a name below in-addr.arpa. A subnet that does not end at an octet
// is several zones (RFC 1918's 172.16.0.0/12 is the well-known case): the apex of each
// is the octets that the prefix reaches into.
func (z *Zone) reverse(name, lower string, qtype uint16) Answer {
	labels := strings.Split(strings.TrimSuffix(lower, reverseSuffix), ".")
	var octets [4]byte
	n := 0
	for ; n < len(octets) && n < len(labels); n++ {
		label := labels[len(labels)-1-n]
		v, err := strconv.ParseUint(label, 10, 8)
		if err != nil || len(label) > 1 && label[0] == '0' {
			break
		}
		octets[n] = byte(v)
	}
	covered := (z.Subnet.Bits() + 7) / 8
	addr := netip.AddrFrom4(octets)
	if n < covered || !z.Subnet.Contains(addr) {
		return Answer{}
	}
	apex := strings.Join(labels[len(labels)-covered:], ".") + reverseSuffix
	host, there := z.pointers[addr]
	if n == len(octets) && z.ofPeer(addr) {
		host, there = ipam.DefaultHostname(addr)+"."+z.Origin, true
	}
	switch {
	case n < len(labels): // no number, or below an address
		return z.negative(NoName, apex)
	case n == covered && n < len(octets):
		return z.apex(name, apex, qtype)
	case n < len(octets):
		return z.negative(NoData, apex)
	case !there:
		return z.negative(NoName, apex)
	case qtype == dns.TypePTR || qtype == dns.TypeANY:
		return found(&dns.PTR{Hdr: z.header(name, dns.TypePTR), Ptr: host})
	case n == covered:
		return z.apex(name, apex, qtype)
	}
	return z.negative(NoData, apex)
}

// apex answers for the name of a zone.
func (z *Zone) apex(name, apex string, qtype uint16) Answer {
	switch qtype {
	case dns.TypeSOA, dns.TypeANY:
		soa := z.soa(apex)
		soa.Hdr.Name = name
		return found(soa)
	case dns.TypeNS:
		return found(&dns.NS{Hdr: z.header(name, dns.TypeNS), Ns: nameServer + "." + z.Origin})
	}
	return z.negative(NoData, apex)
}

// localhost answers as RFC 6761 section 6.3 wants it: nobody else is asked.
func (z *Zone) localhost(name string, qtype uint16) Answer {
	switch qtype {
	case dns.TypeA, dns.TypeANY:
		return found(&dns.A{Hdr: z.header(name, dns.TypeA), A: netip.AddrFrom4([4]byte{127, 0, 0, 1}).AsSlice()})
	case dns.TypeAAAA:
		return found(&dns.AAAA{Hdr: z.header(name, dns.TypeAAAA), AAAA: netip.IPv6Loopback().AsSlice()})
	}
	return z.negative(NoData, "localhost.")
}

func found(rr dns.RR) Answer { return Answer{Finding: Found, Records: []dns.RR{rr}} }

func (z *Zone) negative(f Finding, apex string) Answer {
	soa := z.soa(apex)
	soa.Hdr.Ttl = negativeTTL
	return Answer{Finding: f, Authority: soa}
}

func (z *Zone) header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: z.TTL}
}

func (z *Zone) soa(apex string) *dns.SOA {
	return &dns.SOA{
		Hdr: z.header(apex, dns.TypeSOA),
		Ns:  nameServer + "." + z.Origin, Mbox: "hostmaster." + z.Origin, Serial: z.Serial,
		// Nobody transfers the zone; the values are RFC 1912's in kind.
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: negativeTTL,
	}
}

// reverseName returns the name of an IPv4 address's PTR record.
func reverseName(a netip.Addr) string {
	b := a.As4()
	return strconv.Itoa(int(b[3])) + "." + strconv.Itoa(int(b[2])) + "." + strconv.Itoa(int(b[1])) + "." + strconv.Itoa(int(b[0])) + reverseSuffix
}
