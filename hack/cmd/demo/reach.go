package main

import (
	"context"
	"fmt"
	"strings"
)

// instance is what the metadata server says of whoever asks.
const instance = "i-00000009"

// serveMetadata starts a metadata server on the controller: busybox's, which logs who asks.
func (s *story) serveMetadata(ctx context.Context) error {
	if err := s.controller.WriteFile(ctx, "/run/metadata/latest/meta-data/instance-id", 0o644, instance+"\n"); err != nil {
		return err
	}
	var err error
	s.httpd, err = s.controller.Start("busybox", "httpd", "-f", "-vv", "-p", controlAddr+":8775", "-h", "/run/metadata")
	return err
}

// whoReachesWhom is the seed's matrix of pings, and its metadata.
func (s *story) whoReachesWhom(ctx context.Context) error {
	vm := s.vm.Addr.Addr().String()
	s.heading("Who reaches whom")
	inVM := "ip netns exec vm1 "
	if err := s.answered(ctx, s.controller, "ping -c 1 -W 5 "+vm, "the controller reaches the VM"); err != nil {
		return err
	}
	s.gap()
	out, err := s.failing(ctx, s.compute1, "busybox ping -c 1 -W 1 "+vm, grep("not permitted", "packet loss"))
	if err != nil {
		return err
	}
	s.claim(strings.Contains(out, "Operation not permitted"), "the VM's own host does not: it has no address on the flat network, and the VM's chain refuses its others (EPERM)")
	s.gap()
	for _, to := range []struct{ addr, claim string }{
		{s.vm2.Addr.Addr().String(), "VM to VM, on one host"},
		{s.vm3.Addr.Addr().String(), "VM to VM, on two hosts"},
		{s.db.Addr.Addr().String(), "VM and container are neighbours on one flat segment, too"},
		{outsideAddr, "the VM reaches the world, by the controller"},
	} {
		if err := s.answered(ctx, s.compute1, inVM+"ping -c 1 -W 5 "+to.addr, "%s", to.claim); err != nil {
			return err
		}
		s.gap()
	}
	route := "ip route add 10.0.0.0/24 via " + controlAddr
	if _, err := s.shell(ctx, s.outside, route); err != nil {
		return err
	}
	dropped, err := s.lastRule(ctx, s.compute1, "default/vm1")
	if err != nil {
		return err
	}
	if _, err := s.failing(ctx, s.outside, "ping -c 1 -W 1 "+vm, grep("packet loss")); err != nil {
		return err
	}
	after, err := s.lastRule(ctx, s.compute1, "default/vm1")
	if err != nil {
		return err
	}
	s.claim(after.Packets > dropped.Packets, "the world does not reach the VM: the end of its chain, %s, dropped that (%d, was %d)", after.Rule, after.Packets, dropped.Packets)
	if _, err := s.look(ctx, s.outside, strings.Replace(route, "add", "del", 1)); err != nil {
		return err
	}
	s.gap()
	return s.metadata(ctx)
}

// metadata asks as the seed's image does at boot.
func (s *story) metadata(ctx context.Context) error {
	mark := s.httpd.Mark()
	out, err := s.shell(ctx, s.compute1, "ip netns exec vm1 busybox wget -q -O - http://169.254.169.254/latest/meta-data/instance-id")
	if err != nil {
		return err
	}
	line, _, err := waitLine(ctx, s.httpd, mark, "instance-id")
	if err != nil {
		return err
	}
	s.output(fmt.Sprintf("(the server logs: %s)", line))
	s.claim(strings.TrimSpace(out) == instance && strings.Contains(line, s.vm.Addr.Addr().String()),
		"the metadata server on the controller knows the VM by its own address")
	return nil
}
