package main

import (
	"context"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// cleanUp removes everything and compares the hosts with what they were.
func (s *story) cleanUp(ctx context.Context) error {
	s.heading("Clean-up")
	s.say("Workloads go, then the network, then what a host keeps between networks.")
	type step struct {
		on   *lab.Host
		line string
	}
	del := func(names string) string {
		return "for c in " + names + "; do cnitool del flat /run/netns/$c && ip netns delete $c; done"
	}
	for _, d := range []step{{s.compute1, del("vm1 vm2 web-2")}, {s.compute2, del("vm3 db")}} {
		if _, err := s.shell(ctx, d.on, d.line); err != nil {
			return err
		}
	}
	s.command("controller", "kill %flat-dhcpd")
	if err := s.dhcpd.Stop(); err != nil {
		return err
	}
	lines := s.dhcpd.Lines()
	s.output(lines[len(lines)-1])
	if err := s.httpd.Kill(); err != nil {
		return err
	}
	for _, line := range []string{
		"flatctl network rm flat",
		"ip link delete br100",
		"nft delete table bridge flatdhcp",
		"rm -rf /etc/cni/vm.d " + conflist + " /var/lib/flatdhcp /var/lib/cni /run/flatdhcp /run/metadata",
	} {
		for _, h := range s.hosts()[1:] {
			if _, err := s.shell(ctx, h, line); err != nil {
				return err
			}
		}
	}
	s.gap()
	after, err := s.states(ctx)
	if err != nil {
		return err
	}
	s.say(`The hosts before and after: iptables-save, nft list ruleset, links, addresses, routes, forwarding
		database, neighbours, conntrack, sysctls, files, processes, mounts.`)
	clean := true
	for _, h := range s.hosts() {
		diff := s.before[h.Name()].Diff(after[h.Name()])
		s.command(h.Name(), "diff before after")
		if diff == "" {
			s.output("(nothing)")
		}
		s.output(diff)
		clean = clean && diff == ""
	}
	s.claim(clean, "the differences are empty: no rule, link, address, flow, process, mount or file is left, and docker0 is as it was")
	return nil
}
