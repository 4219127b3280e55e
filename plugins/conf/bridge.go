package conf

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Defaults of flat-bridge's keys.
const (
	defaultBridge    = "br100" // nova-network's
	defaultLeaseTime = time.Hour
)

// Bounds of an Ethernet device's MTU in bytes: RFC 791's smallest, the kernel's
// largest for a veth.
const (
	minMTU = 68
	maxMTU = 65535
)

// portPrefix begins the name of every workload port; the guard drops by it. The others
// begin those of a shared gateway's two ends.
const portPrefix, legPrefix, legPortPrefix = "fdp", "fgw", "fgp"

// notOurs refuses a link's name that is, or might be, one of our own links'.
func (o *object) notOurs(key, name string) error {
	for prefix, whose := range map[string]string{portPrefix: "workload ports", legPrefix: "shared gateways", legPortPrefix: "shared gateways"} {
		if strings.HasPrefix(name, prefix) {
			return o.invalid(key, "names that begin with %q are those of %s", prefix, whose)
		}
	}
	return nil
}

// readBridge reads flat-bridge's keys. The notices name those without effect.
func (o *object) readBridge() (*ipam.Bridge, []string, error) {
	b := &ipam.Bridge{}
	for _, read := range []func(*ipam.Bridge) error{
		o.readBridgeName, o.readGatewayKeys, o.readSwitches, o.readRules, o.readFilter,
		o.readMTU, o.readUplink, o.readLeaseTime, o.readDHCPOptions, o.readDHCP, o.readDNS, o.readAnnotations, o.readLimits,
	} {
		if err := read(b); err != nil {
			return nil, nil, err
		}
	}
	notices, err := o.readDropIn(b)
	return b, notices, err
}

func (o *object) readBridgeName(b *ipam.Bridge) (err error) {
	if b.Name, err = o.text("bridge", defaultBridge); err != nil {
		return err
	}
	if !isLinkName(b.Name) {
		return o.invalid("bridge", linkNameWanted)
	}
	return o.notOurs("bridge", b.Name)
}

const linkNameWanted = "a link's name is wanted: at most 15 letters, digits, '_', '-' and '.', the first a letter, digit or '_'"

// isLinkName is narrower than the kernel's rule, which takes '%' for a pattern, iptables'
// where a trailing '+' matches any end, and sysctl's where "all" is every link.
func isLinkName(s string) bool {
	return s != "" && len(s) <= 15 && strings.Trim(s, labelChars+".") == "" && !strings.ContainsAny(s[:1], "-.") &&
		s != "all" && s != "default" && s != "lo"
}

func (o *object) readGatewayKeys(b *ipam.Bridge) (err error) {
	if b.IsGateway, err = o.boolean("isGateway", true); err != nil {
		return err
	}
	if _, ok := o.raw("isDefaultGateway"); ok {
		v, err := o.boolean("isDefaultGateway", false)
		if err != nil {
			return err
		}
		b.IsDefaultGateway = &v
	}
	return nil
}

func (o *object) readSwitches(b *ipam.Bridge) (err error) {
	if b.AllowSameNetTraffic, err = o.toggle(); err != nil {
		return err
	}
	if b.Published, err = o.boolean("published", true); err != nil {
		return err
	}
	if b.AntiSpoofing, err = o.boolean("antiSpoofing", true); err != nil {
		return err
	}
	if b.Fallback, err = o.word("fallback", ipam.FallbackDrop, ipam.FallbackDrop, ipam.FallbackReject); err != nil {
		return err
	}
	if b.StatusOnExhaustion, err = o.word("statusOnExhaustion", ipam.ExhaustionFail, ipam.ExhaustionFail, ipam.ExhaustionOK); err != nil {
		return err
	}
	b.Addressing, err = o.word("addressing", ipam.AddressingStatic, ipam.AddressingStatic, ipam.AddressingDHCP)
	return err
}

// toggle reads allowSameNetTraffic, which the reference plugin calls portIsolation
// and turns round. Of two that disagree neither can be meant.
func (o *object) toggle() (bool, error) {
	open, err := o.boolean("allowSameNetTraffic", true)
	if err != nil {
		return false, err
	}
	if _, given := o.raw("portIsolation"); !given {
		return open, nil
	}
	isolated, err := o.boolean("portIsolation", false)
	if err != nil {
		return false, err
	}
	if _, both := o.raw("allowSameNetTraffic"); both && open == isolated {
		return false, o.invalid("portIsolation", "allowSameNetTraffic is %t, which says the opposite: leave one of the two out", open)
	}
	return !isolated, nil
}

// readFilter reads filter and logDrops. What only chains can enforce is refused
// without them: it would be left out in silence.
func (o *object) readFilter(b *ipam.Bridge) (err error) {
	if raw, _ := o.raw("filter"); string(raw) == "true" || string(raw) == "false" {
		return o.invalid("filter", `"on" or "none" (no workload chains) is wanted, in quotes`)
	}
	if b.Filter, err = o.word("filter", ipam.FilterOn, ipam.FilterOn, ipam.FilterNone); err != nil {
		return err
	}
	if b.LogDrops, err = o.boolean("logDrops", false); err != nil || b.Filter == ipam.FilterOn {
		return err
	}
	const says = `it needs the workloads' chains, which "filter": "none" leaves out`
	switch {
	case len(b.Ingress) > 0:
		return o.invalid("ingress", says)
	case len(b.Deny) > 0:
		return o.invalid("deny", says)
	case !b.AllowSameNetTraffic:
		key := "allowSameNetTraffic"
		if _, ok := o.raw(key); !ok {
			key = "portIsolation"
		}
		return o.invalid(key, says)
	}
	return nil
}

func (o *object) readMTU(b *ipam.Bridge) error {
	raw, ok := o.raw("mtu")
	if !ok {
		return nil
	}
	// As in the reference plugin 0 is the same as absent.
	if err := json.Unmarshal(raw, &b.MTU); err != nil || (b.MTU != 0 && (b.MTU < minMTU || b.MTU > maxMTU)) {
		return o.invalid("mtu", "a number of bytes from %d to %d is wanted", minMTU, maxMTU)
	}
	return nil
}

// macPrefix reads the first half of every MAC the network derives.
func (o *object) macPrefix() (ipam.MACPrefix, error) {
	s, err := o.text("macPrefix", ipam.DefaultMACPrefix.String())
	if err != nil {
		return ipam.MACPrefix{}, err
	}
	p, err := ipam.ParseMACPrefix(s)
	if err != nil {
		return p, o.invalid("macPrefix", "%v", err)
	}
	if p == (ipam.MACPrefix{}) {
		return p, o.invalid("macPrefix", "it is all zero: three octets such as %s are wanted", ipam.DefaultMACPrefix)
	}
	return p, nil
}
