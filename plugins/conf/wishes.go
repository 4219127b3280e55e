package conf

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Asked is what one source asks for, as it was spelled; empty is nothing.
// Config.Request judges it.
type Asked struct {
	MAC, Hostname, Identity string
	AllowSameNetTraffic     string // "true" or "false" where a boolean was meant
	IPs                     []string
	Allowed                 []string // each IP, MAC or IP/MAC
}

// given returns how a wish was spelled.
func (a Asked) given(wish string) string {
	switch wish {
	case wishIP:
		return strings.Join(a.IPs, ",")
	case wishMAC:
		return a.MAC
	case wishHostname:
		return a.Hostname
	case wishIdentity:
		return a.Identity
	case wishAllowed:
		return strings.Join(a.Allowed, ",")
	}
	return a.AllowSameNetTraffic
}

// asker is one source of requests.
type asker struct {
	Asked
	code uint // of its spelling mistakes
	// key returns where a wish stands, for errors.
	key func(wish string) string
}

// wishes are what all sources ask for, and whose they are.
type wishes struct {
	askers  []asker // in their order of precedence, each wish on its own
	tenant  bool
	granted []string // what counts of a tenant's
	notices notices
}

func (c *Config) wishes(args cniArgs) *wishes {
	w := &wishes{
		askers: []asker{
			{c.RuntimeConfig, types.ErrInvalidNetworkConfig, func(w string) string { return "key runtimeConfig." + argsKeys[w] }},
			{c.Args, types.ErrInvalidNetworkConfig, func(w string) string { return "key args.cni." + argsKeys[w] }},
			{args.asked, types.ErrInvalidEnvironmentVariables, func(w string) string { return "CNI_ARGS " + cniArgsKeys[w] }},
			// Neither conflist nor environment is to be mended, but the request.
			{c.Annotations, ErrRequestRefused, func(w string) string { return "annotation " + annotationPrefix + w }},
		},
		tenant:  args.namespace != "",
		granted: defaultAnnotations(),
		notices: notices{slices.Clone(c.ignored.list), c.ignored.more},
	}
	if c.Network.Bridge != nil {
		w.granted = c.Network.Bridge.Annotations
	}
	return w
}

// argsKeys are the keys of wishes in args.cni; runtimeConfig has the first two.
var argsKeys = map[string]string{
	wishIP: "ips", wishMAC: "mac", wishHostname: "hostname", wishIdentity: "identity", wishToggle: "allowSameNetTraffic", wishAllowed: "allowedAddresses",
}

// first returns the source whose wish counts, nil if nobody has it, or may.
func (w *wishes) first(wish string) *asker {
	var found *asker
	for i, a := range w.askers {
		if a.given(wish) == "" && (wish != wishIP || len(a.IPs) == 0) {
			continue
		}
		if w.tenant && !slices.Contains(w.granted, wish) {
			w.notices.add("ignoring %s: pods may not ask for it, for key annotations does not list %q", a.spelled(wish), wish)
			continue
		}
		if found == nil {
			found = &w.askers[i]
		}
	}
	return found
}

// spelled names a wish's source and value.
func (a asker) spelled(wish string) string { return a.spelledAs(wish, a.given(wish)) }

func (a asker) spelledAs(wish, value string) string {
	return fmt.Sprintf("%s with value %q", a.key(wish), clipped(value))
}

func (a asker) malformed(wish, value, format string, args ...any) *types.Error {
	return newError(a.code, "%s: %s", a.spelledAs(wish, value), fmt.Sprintf(format, args...))
}

func (a asker) refused(wish, value, format string, args ...any) *types.Error {
	err := a.malformed(wish, value, format, args...)
	err.Code = ErrRequestRefused
	return err
}

// requestedMAC refuses what no container's interface can have. Whether the MAC is
// taken the store says.
func (a asker) requestedMAC() (ipam.MAC, error) {
	m, err := ipam.ParseMAC(a.MAC)
	switch {
	case err != nil:
		return m, a.malformed(wishMAC, a.MAC, "six octets are wanted, such as fa:16:3e:00:00:02")
	case m.IsZero():
		return m, a.refused(wishMAC, a.MAC, "all octets are zero")
	case m.IsMulticast():
		return m, a.refused(wishMAC, a.MAC, "it is multicast: the lowest bit of its first octet must be 0")
	case m.IsHostSide():
		return m, a.refused(wishMAC, a.MAC, "MACs that begin with fe are those of the ports' host sides")
	}
	return m, nil
}

// requestedAddr picks the one address that lies in subnet: a workload in several
// networks sends one list to all.
func (a asker) requestedAddr(network string, subnet netip.Prefix, ignored *notices) (netip.Addr, error) {
	var found netip.Addr
	for _, s := range a.IPs {
		addr, bits, err := addrOrCIDR(s)
		if err != nil {
			return found, a.malformed(wishIP, s, "an address is wanted, such as %s", subnet.Addr().Next().Next())
		}
		if !subnet.Contains(addr) {
			ignored.add("ignoring %s: it is outside subnet %s of network %s", a.spelledAs(wishIP, s), subnet, network)
			continue
		}
		if bits != subnet.Bits() && bits != 32 {
			return found, a.malformed(wishIP, s, "the prefix length is wrong: network %s has /%d", network, subnet.Bits())
		}
		if found.IsValid() && found != addr {
			return found, a.refused(wishIP, s, "%s is asked for too: a workload has one address in network %s", found, network)
		}
		found = addr
	}
	if !found.IsValid() {
		return found, a.refused(wishIP, a.given(wishIP), "it is outside subnet %s of network %s", subnet, network)
	}
	return found, nil
}

func addrOrCIDR(s string) (netip.Addr, int, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		return p.Addr(), p.Bits(), err
	}
	a, err := netip.ParseAddr(s)
	a = a.Unmap()
	return a, a.BitLen(), err
}

func commaList(s string) []string {
	if s == "" {
		return nil
	}
	list := strings.Split(s, ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}

// maxIdentity bounds an identity asked for (bytes); a UUID or a host name fits.
const maxIdentity = 128

// requestedIdentity accepts no character with a meaning in the key that the identity
// becomes part of: a slash would leave the namespace, a colon pose as another kind.
func (a asker) requestedIdentity() (string, error) {
	if len(a.Identity) > maxIdentity || strings.Trim(a.Identity, labelChars+".") != "" {
		return "", a.malformed(wishIdentity, a.Identity, "at most %d letters, digits, '-', '_' and '.' are accepted", maxIdentity)
	}
	return a.Identity, nil
}

// requestedHostname takes no liberties, as a pod's own name must: who asks for a name
// means this one. DNS knows no case.
func (a asker) requestedHostname() (string, error) {
	name := strings.ToLower(a.Hostname)
	if Hostname(name) != name {
		return "", a.malformed(wishHostname, a.Hostname, "a DNS label is wanted: at most 63 letters, digits and inner hyphens")
	}
	return name, nil
}

// requestedToggle reads the workload's own toggle. To close a workload takes its chain.
func (a asker) requestedToggle(n ipam.Network, ignored *notices) (*bool, error) {
	open := a.AllowSameNetTraffic == "true"
	switch {
	case !open && a.AllowSameNetTraffic != "false":
		return nil, a.malformed(wishToggle, a.AllowSameNetTraffic, `"true" or "false" is wanted`)
	case n.Bridge == nil:
		ignored.add("ignoring %s: only flat-bridge makes chains, and another plugin attaches to network %s", a.spelled(wishToggle), n.Name)
		return nil, nil
	case !open && !n.Filtered():
		return nil, a.refused(wishToggle, a.AllowSameNetTraffic, `network %s has "filter": "none", so that no chain could see to it`, n.Name)
	}
	return &open, nil
}

// requestedAllowed reads what the workload asks for besides its own. Of addresses those in
// the network's subnet count, for a workload in several networks sends one list to all.
// Whether one may be had the store says.
func (a asker) requestedAllowed(n ipam.Network, req ipam.Request, ignored *notices) (list []ipam.AllowedAddress, err error) {
	if n.Bridge == nil {
		ignored.add("ignoring %s: only flat-bridge guards what a workload uses, and another plugin attaches to network %s", a.spelled(wishAllowed), n.Name)
		return nil, nil
	}
	for _, s := range a.Allowed {
		one, err := ipam.ParseAllowedAddress(s)
		switch {
		case err != nil:
			return nil, a.malformed(wishAllowed, s, "an address, a MAC or both are wanted, such as %s or %[1]s/00:00:5e:00:01:07", n.Pool.Subnet.Addr().Next().Next())
		case one.Addr.IsValid() && !n.Pool.Subnet.Contains(one.Addr):
			ignored.add("ignoring %s: it is outside subnet %s of network %s", a.spelledAs(wishAllowed, s), n.Pool.Subnet, n.Name)
		case !slices.Contains(list, one):
			list = append(list, one)
		}
	}
	if len(list) > maxRequestedAllowed {
		return nil, a.refused(wishAllowed, a.given(wishAllowed), "at most %d are accepted", maxRequestedAllowed)
	}
	if own := req.AllowSameNetTraffic; len(list) > 0 && own != nil && !*own && n.Bridge.AllowSameNetTraffic {
		return nil, a.refused(wishAllowed, a.given(wishAllowed),
			"its own toggle is off, and network %s is open, whose toggle judges what reaches addresses that several workloads may have", n.Name)
	}
	return list, nil
}

// maxRequestedAllowed bounds what one workload may ask for: each costs elements and rules.
const maxRequestedAllowed = 16

// maxNotices bounds what one ADD logs: a pod may have any number of annotations.
const maxNotices = 16

// notices collects what the caller is to log.
type notices struct {
	list []string
	more int
}

func (n *notices) add(format string, args ...any) {
	if len(n.list) >= maxNotices {
		n.more++
		return
	}
	n.list = append(n.list, fmt.Sprintf(format, args...))
}

func (n *notices) all() []string {
	if n.more == 0 {
		return n.list
	}
	return append(n.list, fmt.Sprintf("ignoring %d more requests", n.more))
}
