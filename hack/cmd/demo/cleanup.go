package main

import "context"

// cleanUp removes everything and compares the node with what it was.
func (s *story) cleanUp(ctx context.Context) error {
	s.heading("Clean-up")
	s.say("Containers go, then the network, then what the node keeps between networks.")
	for _, line := range []string{
		"for c in web-2 vm1 db; do cnitool del flat /run/netns/$c && ip netns delete $c; done",
		"flatctl network rm flat",
	} {
		if _, err := s.shell(ctx, line); err != nil {
			return err
		}
	}
	s.command("kill %flat-dhcpd")
	if err := s.dhcpd.Stop(); err != nil {
		return err
	}
	lines := s.dhcpd.Lines()
	s.output(lines[len(lines)-1])
	for _, line := range []string{
		"ip link delete br100",
		"nft delete table bridge flatdhcp",
		"rm -r /etc/cni/vm.d " + conflist + " /var/lib/flatdhcp /var/lib/cni /run/flatdhcp",
	} {
		if _, err := s.shell(ctx, line); err != nil {
			return err
		}
	}
	s.gap()
	after, err := s.node.State(ctx)
	if err != nil {
		return err
	}
	s.say(`The node before and after: iptables-save, nft list ruleset, links, addresses, routes, forwarding
		database, neighbours, conntrack, sysctls, files, processes, mounts.`)
	diff := s.before.Diff(after)
	s.command("diff before after")
	if diff == "" {
		s.output("(nothing)")
	}
	s.output(diff)
	s.claim(diff == "", "the difference is empty: no rule, link, address, flow, process, mount or file is left, and docker0 is as it was")
	return nil
}
