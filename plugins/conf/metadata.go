package conf

import (
	"net"
	"net/netip"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// readMetadata reads where requests for 169.254.169.254:80 go. Whether a server on another
// host can be reached, and answer, only the node knows.
func (o *object) readMetadata(n ipam.Network) error {
	s, err := o.text("metadata", "")
	if _, given := o.raw("metadata"); err != nil || !given {
		return err
	}
	to, err := netip.ParseAddrPort(s)
	a := to.Addr().Unmap()
	switch {
	case err != nil:
		return o.invalid("metadata", "%s", metadataMistake(s))
	case !a.Is4():
		return o.invalid("metadata", "IPv6 is not supported: an IPv4 address and a port are wanted")
	case to.Port() == 0:
		return o.invalid("metadata", "a port from 1 to 65535 is wanted")
	case !a.IsGlobalUnicast() && !a.IsLoopback() && a != ipam.MetadataAddr:
		return o.invalid("metadata", "no server has such an address: one of this node or of another host is wanted")
	case n.Pool.Subnet.Contains(a) && a != n.Pool.Gateway:
		return o.invalid("metadata", "it is of subnet %s, from where answers go straight to workloads, which asked %s: name the gateway %s, another address of this node, or a host outside",
			n.Pool.Subnet, ipam.MetadataAddr, n.Pool.Gateway)
	case !n.Bridge.IsGateway:
		return o.invalid("metadata", "requests are sent on at the gateway, which isGateway: false keeps off this node")
	}
	n.Bridge.Metadata = netip.AddrPortFrom(a, to.Port())
	return nil
}

// metadataMistake says what is wrong with what is no address with a port.
func metadataMistake(s string) string {
	const wanted = `an IPv4 address and a port are wanted, such as "192.168.56.200:8775"`
	if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
		return "the port is missing: " + wanted
	}
	if host, _, err := net.SplitHostPort(s); err == nil && host != "" {
		if _, err := netip.ParseAddr(host); err != nil {
			return "packets cannot be redirected to a name: " + wanted
		}
	}
	return wanted
}
