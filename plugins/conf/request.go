package conf

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Env is what a verb learns beside its standard input. The caller finds out inode
// and boot ID, for nothing here asks the system.
type Env struct {
	ContainerID string // CNI_CONTAINERID
	IfName      string // CNI_IFNAME
	NetNS       string // CNI_NETNS, a path
	Args        string // CNI_ARGS
	NetNSInode  uint64 // of the namespace at NetNS; 0 = unknown
	BootID      string // of this boot; empty = unknown
}

// asker is one source of requests, with the CNI code of its spelling mistakes.
type asker struct {
	name string
	code uint
	mac  string
	ips  []string
}

// Request says what the attachment wants: who the workload is, who holds its
// reservation, and which address, MAC and host name it asks for. The notices name
// what was asked for and ignored; the caller logs them.
//
// With K8S_POD_NAMESPACE every request is a tenant's, whichever way it came (under
// Multus an annotation fills runtimeConfig), and every identity is scoped to that
// namespace; without it requests are the operator's. An address and a MAC are things
// that a tenant may ask for by default.
func (c *Config) Request(env Env) (ipam.Request, []string, error) {
	args, err := parseCNIArgs(env.Args)
	if err != nil {
		return ipam.Request{}, nil, err
	}
	for _, part := range []struct{ key, value string }{{"K8S_POD_NAMESPACE", args.namespace}, {"K8S_POD_NAME", args.pod}} {
		// Slashes separate the parts of a stored identity: a namespace "a/b" could pose
		// as another's.
		if part.value != "" && (strings.Contains(part.value, "/") || !printable(part.value)) {
			return ipam.Request{}, nil, argsError(part.key+"="+part.value, "a name without slashes, spaces and control characters is wanted")
		}
	}
	// In this order of precedence, each request on its own.
	askers := []asker{
		{"runtimeConfig", types.ErrInvalidNetworkConfig, c.RuntimeConfig.MAC, c.RuntimeConfig.IPs},
		{"args.cni", types.ErrInvalidNetworkConfig, c.Args.MAC, c.Args.IPs},
		{"CNI_ARGS", types.ErrInvalidEnvironmentVariables, args.mac, commaList(args.ip)},
	}
	req := ipam.Request{
		HostnameHint: Hostname(args.pod),
		Holder: ipam.Holder{
			ContainerID: env.ContainerID, IfName: env.IfName,
			NetNS: env.NetNS, NetNSInode: env.NetNSInode, BootID: env.BootID,
			Ported: c.Network.Bridge != nil,
		},
	}
	for _, a := range askers {
		if a.mac == "" {
			continue
		}
		if req.MAC, err = a.requestedMAC(); err != nil {
			return ipam.Request{}, nil, err
		}
		break
	}
	var notices []string
	for _, a := range askers {
		if len(a.ips) == 0 {
			continue
		}
		if req.Addr, notices, err = a.requestedAddr(c.Name, c.Network.Pool.Subnet); err != nil {
			return ipam.Request{}, nil, err
		}
		break
	}
	req.Workload = identity(args, req.MAC, env)
	if named := identity(args, ipam.MAC{}, env); named != req.Workload && named.Kind != ipam.KindCID {
		req.Named = named
	}
	return req, notices, nil
}

// identity names the workload by the first thing known of it that outlives its
// container. A MAC comes before the pod's name, for KubeVirt's pods change name and
// their VM's MAC does not.
func identity(args cniArgs, mac ipam.MAC, env Env) ipam.Workload {
	w := ipam.Workload{Namespace: args.namespace, IfName: env.IfName}
	switch {
	case !mac.IsZero():
		w.Kind, w.Value = ipam.KindMAC, mac.String()
	case args.pod != "" && args.namespace != "":
		w.Kind, w.Value = ipam.KindPod, args.pod
	case args.pod != "":
		w.Kind, w.Value = ipam.KindName, args.pod
	default:
		w.Kind, w.Value = ipam.KindCID, env.ContainerID
	}
	return w
}

func (a asker) malformed(key, value, format string, args ...any) *types.Error {
	return newError(a.code, "%s %s %q: %s", a.name, key, clipped(value), fmt.Sprintf(format, args...))
}

func (a asker) refused(key, value, format string, args ...any) *types.Error {
	err := a.malformed(key, value, format, args...)
	err.Code = ErrRequestRefused
	return err
}

// requestedMAC refuses what no container's interface can have. Whether the MAC is
// taken the store says.
func (a asker) requestedMAC() (ipam.MAC, error) {
	m, err := ipam.ParseMAC(a.mac)
	switch {
	case err != nil:
		return m, a.malformed("MAC", a.mac, "six octets are wanted, such as fa:16:3e:00:00:02")
	case m.IsZero():
		return m, a.refused("MAC", a.mac, "all octets are zero")
	case m.IsMulticast():
		return m, a.refused("MAC", a.mac, "it is multicast: the lowest bit of its first octet must be 0")
	case m.IsHostSide():
		return m, a.refused("MAC", a.mac, "MACs that begin with fe are those of the ports' host sides")
	}
	return m, nil
}

// requestedAddr picks the one address that lies in subnet: a workload in several
// networks sends one list to all.
func (a asker) requestedAddr(network string, subnet netip.Prefix) (netip.Addr, []string, error) {
	var (
		found   netip.Addr
		notices []string
	)
	for _, s := range a.ips {
		addr, bits, err := addrOrCIDR(s)
		if err != nil {
			return found, nil, a.malformed("IP", s, "an address is wanted, such as %s", subnet.Addr().Next().Next())
		}
		if !subnet.Contains(addr) {
			notices = append(notices, fmt.Sprintf("ignoring address %s asked for by %s: it is outside subnet %s of network %s",
				addr, a.name, subnet, network))
			continue
		}
		if bits != subnet.Bits() && bits != 32 {
			return found, nil, a.malformed("IP", s, "the prefix length is wrong: network %s has /%d", network, subnet.Bits())
		}
		if found.IsValid() && found != addr {
			return found, nil, a.refused("IP", s, "%s is asked for too: a workload has one address in network %s", found, network)
		}
		found = addr
	}
	if !found.IsValid() {
		return found, nil, a.refused("IP", strings.Join(a.ips, ","), "it is outside subnet %s of network %s", subnet, network)
	}
	return found, notices, nil
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

// asked reads what runtimeConfig or args.cni asks for.
func (o *object) asked() (Asked, error) {
	mac, err := o.text("mac", "")
	if err != nil {
		return Asked{}, err
	}
	ips, err := o.texts("ips", "addresses")
	return Asked{MAC: mac, IPs: ips}, err
}

// Hostname makes a DNS label of a pod's or container's name: lower case, a hyphen
// for whatever no label may have, none at the ends. A longer one than DNS takes keeps
// its first two characters and its last 60, as nova did after dnsmasq refused whole
// lines for it (LP#1238910): the end is what tells replicas apart. Empty if nothing is left.
func Hostname(name string) string {
	label := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, name)
	label = strings.Trim(label, "-")
	if len(label) > 63 {
		label = label[:2] + "-" + label[len(label)-60:]
	}
	return label
}
