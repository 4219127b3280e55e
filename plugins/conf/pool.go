package conf

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Defaults of flat-ipam's keys.
const (
	defaultDomain     = "novalocal" // nova-network's
	defaultReuseDelay = 60 * time.Second
	defaultRetain     = 24 * time.Hour
)

// checkIPAMType insists on flat-ipam: flat-bridge works on its store in process, and
// chains, guard and DHCP are all made from the rows.
func (o *object) checkIPAMType() error {
	kind, err := o.text("type", "")
	if err != nil {
		return err
	}
	if kind != FlatIPAM {
		return invalid(o.at("type"), o.fields["type"], `"flat-ipam" is wanted, with a subnet: chains, guard and DHCP are made from its reservations`)
	}
	return nil
}

// dataDir reads the directory of the stores.
func (o *object) dataDir() (string, error) {
	dir, err := o.text("dataDir", DefaultDataDir)
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(dir) {
		return "", o.invalid("dataDir", "an absolute path is wanted, such as %q", DefaultDataDir)
	}
	return filepath.Clean(dir), nil
}

// readPool reads flat-ipam's keys; host-local's mean what they mean there.
func (o *object) readPool(p *ipam.Pool) error {
	// As in host-local the range stands here or in "ranges".
	bounds, err := o.theRange()
	if err != nil {
		return err
	}
	if err := bounds.readBounds(p); err != nil {
		return err
	}
	if err := o.readExclude(p); err != nil {
		return err
	}
	if err := o.readPeers(p); err != nil {
		return err
	}
	if err := o.readRoutes(p); err != nil {
		return err
	}
	if p.ResolvConf, err = o.text("resolvConf", ""); err != nil {
		return err
	}
	if p.ResolvConf != "" && !filepath.IsAbs(p.ResolvConf) {
		return o.invalid("resolvConf", "an absolute path is wanted, such as \"/etc/resolv.conf\"")
	}
	if p.Domain, err = o.text("domain", defaultDomain); err != nil {
		return err
	}
	// Stricter than dns.domain: workloads' names in it are host names (RFC 1123).
	if !isDomain(p.Domain) || strings.Contains(p.Domain, "_") {
		return o.invalid("domain", "a DNS domain is wanted, such as %q", defaultDomain)
	}
	p.Domain = strings.TrimSuffix(p.Domain, ".")
	if p.ReuseDelay, err = o.duration("reuseDelay", defaultReuseDelay, 0); err != nil {
		return err
	}
	if p.Retain, err = o.duration("retain", defaultRetain, 0); err != nil {
		return err
	}
	p.MACPrefix = ipam.DefaultMACPrefix
	return nil
}

// readExclude reads what is never given: "10.0.0.5", "10.0.0.16/28" or
// "10.0.0.5-10.0.0.9".
func (o *object) readExclude(p *ipam.Pool) error {
	if err := o.eachText("exclude", "addresses, networks or ranges", func(item element, s string) error {
		r, err := asRange(item.path, s)
		if err != nil {
			return err
		}
		if !p.Subnet.Contains(r.Start) || !p.Subnet.Contains(r.End) {
			return invalid(item.path, item.raw, "it is not inside subnet %s", p.Subnet)
		}
		p.Exclude = append(p.Exclude, r)
		return nil
	}); err != nil {
		return err
	}
	if !anyLeft(p) {
		return o.invalid("exclude", "nothing of the range %s to %s is left to give", p.RangeStart, p.RangeEnd)
	}
	return nil
}

func asRange(path, s string) (ipam.Range, error) {
	if from, to, ok := strings.Cut(s, "-"); ok {
		start, err := asAddr4(path, strings.TrimSpace(from))
		if err != nil {
			return ipam.Range{}, err
		}
		end, err := asAddr4(path, strings.TrimSpace(to))
		if err != nil {
			return ipam.Range{}, err
		}
		if end.Less(start) {
			return ipam.Range{}, invalid(path, quoted(s), "the range ends before it starts")
		}
		return ipam.Range{Start: start, End: end}, nil
	}
	if strings.Contains(s, "/") {
		net, err := asPrefix4(path, s)
		if err != nil {
			return ipam.Range{}, err
		}
		return ipam.Range{Start: net.Addr(), End: broadcast(net)}, nil
	}
	a, err := asAddr4(path, s)
	return ipam.Range{Start: a, End: a}, err
}

// anyLeft reports whether the range has an address beside the gateway, the nodes' and the
// excluded ones: it goes from one exclusion's end to the next.
func anyLeft(p *ipam.Pool) bool {
	taken := slices.Clone(p.Exclude)
	for _, a := range append([]netip.Addr{p.Gateway}, p.Nodes...) {
		taken = append(taken, ipam.Range{Start: a, End: a})
	}
	slices.SortFunc(taken, func(a, b ipam.Range) int { return a.Start.Compare(b.Start) })
	next := p.RangeStart
	for _, t := range taken {
		if next.Less(t.Start) {
			break
		}
		if next.Compare(t.End) <= 0 {
			next = t.End.Next()
		}
	}
	return next.IsValid() && next.Compare(p.RangeEnd) <= 0
}

// isDomain reports whether s is a domain name: labels of letters, digits, inner
// hyphens and, since real domains have them, underscores.
func isDomain(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(label, labelChars) != "" {
			return false
		}
	}
	return true
}

const labelChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
