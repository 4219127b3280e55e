package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

func (s *story) aVM(ctx context.Context) error {
	s.heading("A VM boots on compute-1")
	s.say(`A VM asks for its address itself. cnitool does what a runtime would, with "addressing": "dhcp": the
		result names an address, but nobody configures it.`)
	var err error
	if s.vm, err = s.attach(ctx, s.compute1, "vm1", "vm1", "/etc/cni/vm.d", addressOf); err != nil {
		return err
	}
	out, err := s.look(ctx, s.compute1, "ip netns exec vm1 ip -4 -brief address show eth0")
	if err != nil {
		return err
	}
	s.claim(out == "", "before it boots, nothing inside knows %s", s.vm.Addr)
	s.gap()
	if _, _, err := waitLine(ctx, s.dhcpd, 0, "sockets bound"); err != nil {
		return err
	}
	mark := s.dhcpd.Mark()
	const boot = "ip netns exec vm1 udhcpc -f -q -n -i eth0 -s /run/lab/udhcpc.sh"
	s.command("compute-1", boot)
	lease, console, err := (&lab.VM{Container: s.compute1.Find("vm1")}).Boot(ctx, "eth0")
	fmt.Fprintf(s.w, "\n    %s\n", s.paint(bold, "console.log"))
	for line := range strings.Lines(console) {
		fmt.Fprintf(s.w, "    │ %s\n", strings.TrimRight(line, "\n"))
	}
	if err != nil {
		return err
	}
	s.lease = lease
	fmt.Fprintf(s.w, "    │ eth0: %s, router %s, domain %s, hostname %s, lease %s\n\n", lease.Addr, lease.Router, lease.Domain, lease.Hostname, lease.Time)
	s.say("The controller has no reservation for it: its MAC names its address. It logs:")
	line, _, err := waitLine(ctx, s.dhcpd, mark, "DHCPACK")
	if err != nil {
		return err
	}
	s.output(line)
	s.claim(lease.Addr == s.vm.Addr, "from another host's daemon its client received the very address that the CNI result named, %s", s.vm.Addr)
	s.gap()
	return s.moreVMs(ctx)
}

// moreVMs boots one more on each compute host.
func (s *story) moreVMs(ctx context.Context) error {
	s.say("One more boots here, and one on compute-2:")
	for _, more := range []struct {
		on   *lab.Host
		name string
		as   *attachment
	}{{s.compute1, "vm2", &s.vm2}, {s.compute2, "vm3", &s.vm3}} {
		var err error
		if *more.as, err = s.attach(ctx, more.on, more.name, more.name, "/etc/cni/vm.d", addressOf); err != nil {
			return err
		}
		s.command(more.on.Name(), "ip netns exec "+more.name+" udhcpc -f -q -n -i eth0 -s /run/lab/udhcpc.sh")
		lease, console, err := (&lab.VM{Container: more.on.Find(more.name)}).Boot(ctx, "eth0")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, console)
		}
		s.claim(lease.Addr == more.as.Addr, "%s has %s from the controller", more.name, lease.Addr)
		s.gap()
	}
	return nil
}

func (s *story) containers(ctx context.Context) error {
	s.heading("Containers join, on either compute host")
	s.say("A container is a network namespace. Here the address is configured, and the result says what it got.")
	var err error
	if s.web, err = s.attach(ctx, s.compute1, "web", "web", "/etc/cni/net.d", compact); err != nil {
		return err
	}
	s.gap()
	out, err := s.shell(ctx, s.compute1, "ip netns exec web ip -brief address show eth0")
	if err != nil {
		return err
	}
	s.claim(strings.Contains(out, s.web.Addr.String()), "the container has the address of the result, %s", s.web.Addr)
	s.gap()
	if s.db, err = s.attach(ctx, s.compute2, "db", "db", "/etc/cni/net.d", addressOf); err != nil {
		return err
	}
	s.gap()
	return s.tree(ctx, map[string]string{"eth1": "management", "eth2": "the flat switch", "docker0": "somebody else's",
		"controller br100": "gateway, DHCP, DNS, NAT", "br100": "a switch, no address"})
}
