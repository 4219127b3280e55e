package seed

import (
	"net"
	"net/netip"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// spoofCases: what a workload sends in a name that is not its own, to the gateway.
var spoofCases = []testCase{
	{id: "K1a", action: "vm1 sends with a foreign IPv4 source", run: func(s *scene) outcome {
		return s.spoof("in_ipv4", func(vm1, gw lab.Endpoint) []byte {
			return s.echo(lab.Endpoint{MAC: vm1.MAC, Addr: foreignAddr}, gw)
		})
	}},
	{id: "K1b", action: "vm1 sends with a foreign source MAC", run: func(s *scene) outcome {
		return s.spoof("in_mac", func(vm1, gw lab.Endpoint) []byte {
			return s.echo(lab.Endpoint{MAC: foreignMAC, Addr: vm1.Addr}, gw)
		})
	}},
	{id: "K1c", action: "vm1 sends ARP with a foreign sender", run: func(s *scene) outcome {
		return s.spoof("in_arp", func(vm1, gw lab.Endpoint) []byte {
			return lab.ARP(gw.MAC, vm1.MAC, lab.ARPReply, lab.Endpoint{MAC: vm1.MAC, Addr: foreignAddr}, gw)
		})
	}},
}

var (
	foreignAddr = netip.MustParseAddr("10.0.0.50") // nobody's
	foreignMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 0x66}
)

func (s *scene) spoof(reason string, frame func(vm1, gw lab.Endpoint) []byte) outcome {
	s.t.Helper()
	p := s.pathToGateway(s.vm1)
	return drops(delivered, s.compute1.guardCounter(reason), func(bool) bool {
		return p.passes(frame(s.vm1.endpoint(), lab.Endpoint{MAC: p.to.MAC(), Addr: gateway}))
	})
}
