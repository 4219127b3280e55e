package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Widest and narrowest IPv4 subnet. Beyond /8 the low 24 bits of an address no
// longer name it, so MACs would not be unique; a /31 has no address to give.
const (
	minBits = 8
	maxBits = 30
)

// maxIfName is IFNAMSIZ less the terminating NUL.
const maxIfName = 15

// Validate reports the first thing that makes n impossible in itself, as ErrConfig
// with key, value and what is accepted. What contradicts other networks or living
// workloads only the store knows.
func (n Network) Validate() error {
	if !isNetworkName(n.Name) {
		return badKey("name", n.Name, "letters, digits, dots, dashes and underscores, the first a letter or digit, 200 at most")
	}
	if err := n.Pool.validate(); err != nil {
		return err
	}
	if err := n.validateAllowed(); err != nil {
		return err
	}
	if b := n.Bridge; b != nil && (b.Name == "" || len(b.Name) > maxIfName ||
		strings.ContainsAny(b.Name, "/ \t\n") || b.Name == "." || b.Name == "..") {
		return badKey("bridge", b.Name, "an interface name of 1 to 15 characters")
	}
	return nil
}

func badKey(key string, value any, accepted string) error {
	return fmt.Errorf("%w: key %q: value %q: accepted is %s", ErrConfig, key, fmt.Sprint(value), accepted)
}

func (p Pool) validate() error {
	switch s := p.Subnet; {
	case !s.IsValid():
		return badKey("subnet", "", "an IPv4 prefix such as 10.0.0.0/24")
	case !s.Addr().Is4():
		return badKey("subnet", s, "an IPv4 prefix; IPv6 is not supported by this version")
	case s.Bits() < minBits || s.Bits() > maxBits:
		return badKey("subnet", s, fmt.Sprintf("a prefix length from /%d to /%d", minBits, maxBits))
	case s != s.Masked():
		return badKey("subnet", s, s.Masked().String()+": the bits below the prefix length must be 0")
	}
	inside := "an address inside subnet " + p.Subnet.String()
	switch g := p.Gateway; {
	case !p.Subnet.Contains(g):
		return badKey("gateway", g, inside)
	case g == p.Subnet.Addr(), g == lastAddr(p.Subnet):
		return badKey("gateway", g, inside+" that is neither the network's own nor the broadcast address")
	}
	switch {
	case !p.Subnet.Contains(p.RangeStart):
		return badKey("rangeStart", p.RangeStart, inside)
	case !p.Subnet.Contains(p.RangeEnd):
		return badKey("rangeEnd", p.RangeEnd, inside)
	case p.RangeEnd.Less(p.RangeStart):
		return badKey("rangeEnd", p.RangeEnd, fmt.Sprintf("an address not below rangeStart %s", p.RangeStart))
	}
	for _, r := range p.Exclude {
		if !p.Subnet.Contains(r.Start) || !p.Subnet.Contains(r.End) || r.End.Less(r.Start) {
			return badKey("exclude", rangeText(r), "addresses or ascending ranges inside subnet "+p.Subnet.String())
		}
	}
	if err := p.validateNodes(); err != nil {
		return err
	}
	if len(p.intervals()) == 0 {
		return badKey("rangeStart", p.RangeStart, "a range that leaves an address to give, "+
			"network, broadcast, gateway, nodes' and excluded addresses aside")
	}
	if err := p.validatePeers(); err != nil {
		return err
	}
	return p.validateRest()
}

func (p Pool) validateRest() error {
	switch {
	case p.ReuseDelay < 0:
		return badKey("reuseDelay", p.ReuseDelay.String(), "a duration of 0s or more")
	case p.Retain < 0:
		return badKey("retain", p.Retain.String(), "a duration of 0s or more")
	case p.Domain != "" && !validHostname(p.Domain):
		return badKey("domain", p.Domain, "DNS labels joined by dots, such as novalocal")
	}
	first := MAC{p.MACPrefix[0], p.MACPrefix[1], p.MACPrefix[2]}
	if first.IsZero() || first.IsMulticast() || first.IsHostSide() {
		return badKey("macPrefix", p.MACPrefix, "three octets such as fa:16:3e, not 0, not multicast, not beginning with fe")
	}
	for _, r := range p.Routes {
		if !r.Dst.IsValid() {
			return badKey("routes", r.Dst, "a prefix such as 0.0.0.0/0 as dst")
		}
	}
	return nil
}

func rangeText(r Range) string {
	if r.Start == r.End {
		return r.Start.String()
	}
	return r.Start.String() + "-" + r.End.String()
}

// validHostname reports whether s is one DNS label or several joined by dots
// (RFC 1123: letters, digits and inner dashes).
func validHostname(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
				return false
			}
		}
	}
	return true
}

// validWorkload says what is wrong with an identity; empty if nothing. What is
// stored must be read back by ParseWorkload, and fit a key.
func validWorkload(w Workload) string {
	switch p, err := ParseWorkload(w.String()); {
	case !slices.Contains([]string{KindID, KindMAC, KindPod, KindName, KindCID, KindPeer}, w.Kind):
		return fmt.Sprintf("identity of kind %q: id, mac, pod, name, cid and peer are accepted", w.Kind)
	case w.Kind == KindPeer && !validHostname(w.Peer()):
		return fmt.Sprintf("%q is no node's name", w.Peer())
	case err != nil, p != w:
		return "an identity has a kind, a value and an interface, none of which contains a slash"
	case len(w.String()) > 1024:
		return "an identity has at most 1024 characters"
	}
	return ""
}

// validAttachment says what is wrong with a holder's name; empty if nothing.
func validAttachment(h Holder) string {
	switch {
	case h.ContainerID == "" || h.IfName == "":
		return "an attachment has a container ID and an interface name"
	case len(h.ContainerID)+len(h.IfName) > 1024 || strings.Contains(h.ContainerID+h.IfName, "\x00"):
		return "an attachment's container ID and interface name have at most 1024 characters, none of them NUL"
	}
	return ""
}

// sameFamily reports whether a wish is for an address of the subnet's family.
func sameFamily(a netip.Addr, p netip.Prefix) bool { return a.BitLen() == p.Addr().BitLen() }
