package server

import "net/netip"

// lookup returns the option that r's client is to get for a number: the reservation's
// own, else the network's. False: there is none, or it is not to be sent.
func (r *Reply) lookup(code byte) (option, bool) {
	if o, ok := r.row.Options.Get(code); ok {
		return option{o.Code, o.Value}, len(o.Value) > 0
	}
	if h := r.row.Holder; code == optRouter && h != nil && h.OtherDefaultRoute {
		return r.scope.second, len(r.scope.second.value) > 0
	}
	return r.scope.configured(code)
}

// boot sets the header's fields for clients that boot from the network, many of which
// read these and not the options.
func (r *Reply) boot() {
	if o, ok := r.lookup(optBootServer); ok {
		if a, ok := parse4(o.value); ok {
			r.SIAddr = a
		}
	}
	// One byte stays 0: the field is a C string.
	if o, ok := r.lookup(optBootFile); ok && len(o.value) < cookieOffset-fileOffset {
		r.File = o.value
	}
}

// parse4 reads an IPv4 address without allocating.
func parse4(text []byte) (netip.Addr, bool) {
	var a [4]byte
	part, n, digits := 0, 0, 0
	for _, c := range text {
		switch {
		case c >= '0' && c <= '9' && digits < 3:
			n, digits = n*10+int(c-'0'), digits+1
		case c == '.' && digits > 0 && part < 3:
			a[part], part, n, digits = byte(n), part+1, 0, 0
		default:
			return netip.Addr{}, false
		}
		if n > 255 {
			return netip.Addr{}, false
		}
	}
	if part != 3 || digits == 0 {
		return netip.Addr{}, false
	}
	a[3] = byte(n)
	return netip.AddrFrom4(a), true
}

// choose lists the network's and the reservation's options: those of option 55 in its
// order, or all of them for a client that sends none. What the administrator set for
// this client alone is sent in any case (RFC 2131 section 4.3.1: "any parameters specific
// to this client").
func (e *Encoder) choose(r *Reply) {
	e.text = append(e.text[:0], hostname(r.row)...)
	asked, ok := r.query.long(optRequestList)
	if !ok || len(asked) == 0 {
		for i := range r.scope.options {
			e.chooseOne(r, r.scope.options[i].code)
		}
	}
	for _, code := range asked {
		e.chooseOne(r, code)
	}
	for i := range r.row.Options {
		e.chooseOne(r, r.row.Options[i].Code)
	}
}

// chooseOne adds an option once, if there is one of that number.
func (e *Encoder) chooseOne(r *Reply, code byte) {
	if e.sent.has(code) {
		return
	}
	switch code {
	case optHostname:
		e.add(code, e.text)
	case optRoutes, optRoutesMS:
		e.chooseRoutes(r, code)
	default:
		if o, ok := r.lookup(code); ok {
			e.add(code, o.value)
		}
	}
}

// chooseRoutes adds option 121, or 249, with the default route inside: a client that
// takes classless routes must ignore option 3 (RFC 3442).
func (e *Encoder) chooseRoutes(r *Reply, code byte) {
	o, ok := r.lookup(code)
	if !ok && code == optRoutesMS {
		o, ok = r.lookup(optRoutes)
	}
	if !ok {
		return
	}
	start := len(e.routes)
	e.routes = append(e.routes, o.value...)
	if gw, ok := r.lookup(optRouter); ok && len(gw.value) >= 4 && !hasDefault(o.value) {
		e.routes = append(append(e.routes, 0), gw.value[:4]...)
	}
	e.add(code, e.routes[start:])
}

// hasDefault reports whether routes of option 121 contain one to everywhere.
func hasDefault(b []byte) bool {
	for len(b) > 0 && b[0] <= 32 {
		if b[0] == 0 {
			return true
		}
		n := 1 + (int(b[0])+7)/8 + 4
		b = b[min(n, len(b)):]
	}
	return false
}
