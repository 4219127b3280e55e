package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// The network that every contender serves: clients from 10.0.0.2 on, with the MACs that
// follow from their addresses.
const (
	bridge    = "br100"
	clientsNS = "clients"
	leaseTime = time.Hour
	maxHosts  = 50_000
)

var (
	subnet    = netip.MustParsePrefix("10.0.0.0/16")
	gateway   = netip.MustParseAddr("10.0.0.1")
	relay     = netip.MustParseAddr("10.0.255.254")
	bridgeMAC = ipam.MAC{0x02, 0xfd, 0, 0, 0, 1}
	relayMAC  = ipam.MAC{0x02, 0xfd, 0, 0, 0, 2}
)

// host is the address and MAC of client i.
func host(i int) (netip.Addr, ipam.MAC) {
	i += 2
	a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	return a, ipam.DeriveMAC(ipam.DefaultMACPrefix, a)
}

// lines is one line for each of n hosts.
func lines(n int, line func(i int, a netip.Addr, m ipam.MAC) string) string {
	var b strings.Builder
	for i := range n {
		a, m := host(i)
		b.WriteString(line(i, a, m))
	}
	return b.String()
}

// fill makes flat-dhcpd's store with n reservations. It runs on the contender's host,
// whose files are in memory: a transaction for each costs a fraction of a millisecond.
func fill(ctx context.Context, dir string, n int) error {
	s := ipam.OpenDir(dir).Store("bench")
	if _, err := s.Configure(ctx, record()); err != nil {
		return err
	}
	for i := range n {
		a, m := host(i)
		name := fmt.Sprintf("h%d", i)
		if _, err := s.ReserveAdmin(ctx, ipam.AdminRequest{
			Workload: ipam.Workload{Kind: ipam.KindID, Value: name, IfName: "eth0"}, Addr: a, MAC: m, Hostname: name,
		}); err != nil {
			return err
		}
	}
	return nil
}

func record() ipam.Network {
	return ipam.Network{
		Name: "bench",
		Pool: ipam.Pool{
			Subnet: subnet, RangeStart: netip.MustParseAddr("10.0.0.2"), RangeEnd: netip.MustParseAddr("10.0.255.200"),
			Gateway: gateway, Domain: "novalocal", MACPrefix: ipam.DefaultMACPrefix,
			ReuseDelay: ipam.Duration(time.Minute), Retain: ipam.Duration(24 * time.Hour),
		},
		Bridge: &ipam.Bridge{
			Name: bridge, IsGateway: true, AllowSameNetTraffic: true, Fallback: ipam.FallbackDrop,
			Published: true, AntiSpoofing: true, Addressing: ipam.AddressingDHCP, MTU: 1500,
			LeaseTime: ipam.Duration(leaseTime),
			DHCP:      ipam.DHCP{Relays: []netip.Addr{relay}},
			DNS:       ipam.DNS{Nameservers: []netip.Addr{netip.MustParseAddr("9.9.9.9")}},
		},
	}
}

// mode is the way of the replies.
type mode string

const (
	unicast   mode = "unicast"   // to the client's MAC
	broadcast mode = "broadcast" // as the client's flag demands
	relayed   mode = "relay"     // to giaddr
)

func parseModes(list string) ([]mode, error) {
	var modes []mode
	for word := range strings.SplitSeq(list, ",") {
		switch m := mode(word); m {
		case unicast, broadcast, relayed:
			modes = append(modes, m)
		default:
			return nil, errors.New("unicast, broadcast and relay are wanted")
		}
	}
	return modes, nil
}
