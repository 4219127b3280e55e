package conf

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// readRules reads ingress and deny.
func (o *object) readRules(b *ipam.Bridge) (err error) {
	if b.Ingress, err = o.rules("ingress"); err != nil {
		return err
	}
	b.Deny, err = o.rules("deny")
	return err
}

func (o *object) rules(key string) ([]ipam.Rule, error) {
	items, err := o.list(key, `rules such as {"protocol": "tcp", "ports": "80"}`)
	if err != nil {
		return nil, err
	}
	var rules []ipam.Rule
	for _, item := range items {
		r, err := asObject(item.path, item.raw)
		if err != nil {
			return nil, err
		}
		rule, err := r.rule()
		if err != nil {
			return nil, err
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// rule reads one rule. An empty list of ports or networks is refused: where a
// template filled in nothing, "nobody" was as likely meant as "everybody".
func (o *object) rule() (ipam.Rule, error) {
	var r ipam.Rule
	if err := o.checkKeys(ruleKeys); err != nil {
		return r, err
	}
	if _, ok := o.raw("protocol"); !ok {
		return r, invalid(o.at("protocol"), nil, `it is required: "tcp", "udp", "sctp", "icmp" or "any"`)
	}
	var err error
	if r.Protocol, err = o.word("protocol", "", "tcp", "udp", "sctp", "icmp", "any"); err != nil {
		return r, err
	}
	if _, ok := o.raw("ports"); ok {
		if r.Protocol == "icmp" || r.Protocol == "any" {
			return r, o.invalid("ports", `protocol %q has no ports: "tcp", "udp" or "sctp" have`, r.Protocol)
		}
		if r.Ports, err = o.ports(); err != nil {
			return r, err
		}
	}
	if _, ok := o.raw("from"); !ok {
		return r, nil
	}
	from, err := o.list("from", `networks such as "10.1.0.0/16"`)
	if err != nil {
		return r, err
	}
	if len(from) == 0 {
		return r, o.invalid("from", "it is empty: leave it out to mean anywhere")
	}
	for _, item := range from {
		s, err := item.text()
		if err != nil {
			return r, err
		}
		p, err := asPrefix4(item.path, s)
		if err != nil {
			return r, err
		}
		r.From = append(r.From, p)
	}
	return r, nil
}

// ports reads 80, "80", "8000-8100" or a list of them.
func (o *object) ports() ([]ipam.PortRange, error) {
	raw := o.fields["ports"]
	if len(raw) == 0 || raw[0] != '[' {
		p, err := asPorts(element{path: o.at("ports"), raw: raw})
		return []ipam.PortRange{p}, err
	}
	items, err := o.list("ports", "ports")
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return nil, o.invalid("ports", "it is empty: leave it out to mean every port")
	}
	var out []ipam.PortRange
	for _, item := range items {
		p, err := asPorts(item)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func asPorts(e element) (ipam.PortRange, error) {
	s := string(e.raw)
	if strings.HasPrefix(s, `"`) {
		if err := json.Unmarshal(e.raw, &s); err != nil {
			return ipam.PortRange{}, invalid(e.path, e.raw, "a string or a number is wanted")
		}
	}
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	if err1 != nil || err2 != nil || first == 0 {
		return ipam.PortRange{}, invalid(e.path, e.raw, `a port from 1 to 65535 is wanted, such as "80" or "8000-8100"; several stand in a list`)
	}
	if last < first {
		return ipam.PortRange{}, invalid(e.path, e.raw, "the range ends before it starts")
	}
	return ipam.PortRange{First: uint16(first), Last: uint16(last)}, nil
}
