package conf

import (
	"strings"

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

// Request says what the attachment wants: who the workload is, who holds its
// reservation, and which address, MAC, host name and toggle it asks for. The notices
// name what was asked for and ignored; the caller logs them.
//
// With K8S_POD_NAMESPACE every request is a tenant's, whichever way it came (under
// Multus an annotation fills runtimeConfig): only what the key annotations lists counts,
// and every identity is scoped to that namespace. Without it requests are the operator's.
func (c *Config) Request(env Env) (ipam.Request, []string, error) {
	args, err := parseCNIArgs(env.Args)
	if err == nil {
		err = args.checkNames()
	}
	if err != nil {
		return ipam.Request{}, nil, err
	}
	w := c.wishes(args)
	req := ipam.Request{
		HostnameHint: Hostname(args.pod),
		Holder: ipam.Holder{
			ContainerID: env.ContainerID, IfName: env.IfName,
			NetNS: env.NetNS, NetNSInode: env.NetNSInode, BootID: env.BootID,
			Ported: c.Network.Bridge != nil,
		},
	}
	id := ""
	var asked []string // what the store may refuse
	for _, wish := range wishWords {
		a := w.first(wish)
		if a == nil {
			continue
		}
		switch wish {
		case wishIP:
			req.Addr, err = a.requestedAddr(c.Name, c.Network.Pool.Subnet, &w.notices)
		case wishMAC:
			req.MAC, err = a.requestedMAC()
		case wishHostname:
			req.Hostname, err = a.requestedHostname()
		case wishIdentity:
			id, err = a.requestedIdentity()
		case wishToggle:
			req.AllowSameNetTraffic, err = a.requestedToggle(c.Network, &w.notices)
		case wishAllowed:
			req.AllowedAddresses, err = a.requestedAllowed(c.Network, req, &w.notices)
		}
		if err != nil {
			return ipam.Request{}, nil, err
		}
		if wish != wishToggle {
			asked = append(asked, a.spelled(wish))
		}
	}
	req.Asked = strings.Join(asked, ", ")
	names := identities(args, id, req.MAC, env)
	req.Workload, req.Named = names[0], names[1:]
	return req, w.notices.all(), nil
}

// identities names the workload by what is known of it that outlives its container,
// the first first. A MAC comes before the pod's name, for KubeVirt's pods change name and
// their VM's MAC does not. The container ID is the last resort.
func identities(args cniArgs, id string, mac ipam.MAC, env Env) []ipam.Workload {
	var names []ipam.Workload
	name := func(kind, value string) {
		names = append(names, ipam.Workload{Namespace: args.namespace, Kind: kind, Value: value, IfName: env.IfName})
	}
	if id != "" {
		name(ipam.KindID, id)
	}
	if !mac.IsZero() {
		name(ipam.KindMAC, mac.String())
	}
	switch {
	case args.pod != "" && args.namespace != "":
		name(ipam.KindPod, args.pod)
	case args.pod != "":
		name(ipam.KindName, args.pod)
	case len(names) == 0:
		name(ipam.KindCID, env.ContainerID)
	}
	return names
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
