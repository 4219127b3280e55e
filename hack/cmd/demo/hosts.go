package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// neighbours are what others have on compute-1 already: a container of Docker's.
const neighbours = `set -e
ip link add docker0 address 02:42:ac:11:00:01 type bridge
ip address add 172.17.0.1/16 dev docker0
ip netns add other
ip link add veth0 type veth peer name eth0 address 02:42:ac:11:00:02 netns other
ip link set veth0 master docker0 up
ip link set docker0 up
ip -netns other address add 172.17.0.2/16 dev eth0
ip -netns other link set eth0 up
sysctl -q net.ipv4.ip_forward=1`

// policies are what Docker does to a host's tables, and an operator.
const policies = `set -e
iptables -P INPUT ACCEPT
iptables -P OUTPUT ACCEPT
iptables -P FORWARD DROP
iptables -A FORWARD -i docker0 -j ACCEPT
iptables -t nat -A PREROUTING -d 192.0.2.1 -j DNAT --to-destination 172.17.0.2
iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
nft add table inet operator
sysctl -q net.ipv4.ip_forward=1`

// theHosts furnishes hosts that others use already: what is theirs must not change.
func (s *story) theHosts(ctx context.Context) error {
	s.title("flatdhcp: one fixed IP on one flat segment, seen alike by container, DHCP client and firewall")
	s.heading("Three hosts")
	s.say(`A controller and two compute hosts share a management network (eth1) and a flat one (eth2, without
		addresses); outside stands for the world. They are made of network and mount namespaces: nothing outside
		them is touched. As on many machines Docker is there first, with its FORWARD policy DROP, and on compute-1
		with a container.`)
	if _, err := s.look(ctx, s.compute1, neighbours); err != nil {
		return err
	}
	for _, h := range s.hosts()[1:] {
		if _, err := s.look(ctx, h, policies); err != nil {
			return err
		}
	}
	if err := s.tree(ctx, map[string]string{"eth1": "management", "eth2": "flat", "docker0": "somebody else's: must not change"}); err != nil {
		return err
	}
	// All answer before the snapshot: nothing is still coming up.
	for _, h := range s.hosts()[1:] {
		if _, err := s.look(ctx, h, "ping -c 1 -w 5 "+outsideAddr); err != nil {
			return err
		}
	}
	if _, err := s.look(ctx, s.compute1, "ping -c 1 -w 5 172.17.0.2"); err != nil {
		return err
	}
	var err error
	s.before, err = s.states(ctx)
	return err
}

// states are those of all hosts. What the hosts said to one another is forgotten first: it
// would expire at some time.
func (s *story) states(ctx context.Context) (map[string]lab.State, error) {
	all := map[string]lab.State{}
	for _, h := range s.hosts() {
		if _, err := s.look(ctx, h, "conntrack -F 2>/dev/null; ip neighbour flush dev eth1"); err != nil {
			return nil, err
		}
		state, err := h.State(ctx)
		if err != nil {
			return nil, err
		}
		all[h.Name()] = state
	}
	return all, nil
}

// plugin is a host's conflist, with what is the host's own.
func plugin(addressing, own, pool string) string {
	return fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": "flat",
  "plugins": [
    {
      "type": "flat-bridge",
      "flatInterface": "eth2",
      %s
      "ipam": { "type": "flat-ipam", "subnet": "10.0.0.0/24", "gateway": "10.0.0.1",
        %s }
    }
  ]
}
`, strings.ReplaceAll(strings.TrimSpace(own), "ADDRESSING", addressing), pool)
}

// theController brings the gateway's side up: a configuration, and the daemon.
func (s *story) theController(ctx context.Context) error {
	s.heading("The controller is gateway, DHCP and DNS server")
	s.say(`flatdhcp is two CNI plugins and a daemon. The controller needs no more than the daemon and a
		configuration, which tells it of the addresses that the compute hosts give away ("peers"):`)
	control := plugin("", `"metadata": "`+controlAddr+`:8775",`, `"rangeStart": "10.0.0.192",
        "peers": [
          { "node": "compute-1", "rangeStart": "10.0.0.2", "rangeEnd": "10.0.0.63" },
          { "node": "compute-2", "rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127" } ]`)
	const compute = `"isGateway": false,
      "allowSameNetTraffic": true,
      "antiSpoofing": true,
      "addressing": "ADDRESSING",`
	ranges := map[*lab.Host]string{
		s.compute1: `"rangeStart": "10.0.0.2", "rangeEnd": "10.0.0.63"`,
		s.compute2: `"rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127"`,
	}
	if err := s.controller.WriteFile(ctx, conflist, 0o644, control); err != nil {
		return err
	}
	for h, pool := range ranges {
		for path, addressing := range map[string]string{conflist: "static", vmConflist: "dhcp"} {
			if err := h.WriteFile(ctx, path, 0o644, plugin(addressing, compute, pool)); err != nil {
				return err
			}
		}
	}
	if _, err := s.shell(ctx, s.controller, "cat "+conflist); err != nil {
		return err
	}
	s.gap()
	s.command("controller", "flat-dhcpd --conf-dir /etc/cni/net.d &")
	var err error
	if s.dhcpd, err = s.controller.StartDaemon("--conf-dir", "/etc/cni/net.d"); err != nil {
		return err
	}
	for _, text := range []string{"started", "bridge br100 is made", "DHCP, static leases only"} {
		line, _, err := waitLine(ctx, s.dhcpd, 0, text)
		if err != nil {
			return err
		}
		s.output(line)
	}
	if err := until(ctx, "eth2 is a port of br100", func() (bool, error) {
		out, err := s.look(ctx, s.controller, "ip link show master br100")
		return strings.Contains(out, "eth2@"), err
	}); err != nil {
		return err
	}
	out, err := s.shell(ctx, s.controller, "ip -4 -brief address show br100; ip -brief link show master br100")
	if err != nil {
		return err
	}
	s.claim(strings.Contains(out, gateway+"/24") && strings.Contains(out, "eth2@"), "br100 has the gateway address, and eth2 for its port, without any workload here")
	if out, err = s.look(ctx, s.compute1, "ip -brief link"); err != nil {
		return err
	}
	s.claim(!strings.Contains(out, "br100"), "a compute host has no br100 before its first workload")
	return s.serveMetadata(ctx)
}
