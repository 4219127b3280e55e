package main

import (
	"context"
	"fmt"
	"strings"
)

// spoofing lets one container pretend to be the gateway, without the guard and with it.
func (s *story) spoofing(ctx context.Context) error {
	s.heading("A container that poses as the gateway")
	s.say(`db, on compute-2, takes the gateway's address and announces it by ARP. Web, on compute-1, then sends it
		what was meant for the gateway. First with the source checks of db's guard switched off:`)
	if err := s.edit(ctx, s.compute2, `"antiSpoofing": true`, `"antiSpoofing": false`); err != nil {
		return err
	}
	s.gap()
	bridgeMAC, err := s.knowsGateway(ctx)
	if err != nil {
		return err
	}
	const pose = "ip netns exec db ip address add " + gateway + "/32 dev eth0"
	const announce = "ip netns exec db busybox arping -q -A -c 1 -I eth0 " + gateway
	if _, err := s.shell(ctx, s.compute2, pose); err != nil {
		return err
	}
	if _, err := s.shell(ctx, s.compute2, announce); err != nil {
		return err
	}
	if err := until(ctx, "web believes db", func() (bool, error) {
		mac, err := s.gatewayOfWeb(ctx)
		return mac == s.db.MAC, err
	}); err != nil {
		return err
	}
	if _, err := s.shell(ctx, s.compute1, askWeb); err != nil {
		return err
	}
	s.claim(true, "guard off: the spoof is alive, web takes db (%s) for the gateway", s.db.MAC)
	s.gap()

	s.say("The same with the guard on:")
	if err := s.edit(ctx, s.compute2, `"antiSpoofing": false`, `"antiSpoofing": true`); err != nil {
		return err
	}
	if _, err := s.shell(ctx, s.compute1, "ip -netns web-2 neighbour flush dev eth0"); err != nil {
		return err
	}
	if _, err := s.knowsGateway(ctx); err != nil {
		return err
	}
	before, err := s.dropped(ctx)
	if err != nil {
		return err
	}
	if _, err := s.shell(ctx, s.compute2, announce); err != nil {
		return err
	}
	var after uint64
	if err := until(ctx, "the guard has counted the announcement", func() (bool, error) {
		after, err = s.dropped(ctx)
		return after > before, err
	}); err != nil {
		return err
	}
	if _, err := s.shell(ctx, s.compute2, "nft list counter bridge flatdhcp in_arp | grep packets"); err != nil {
		return err
	}
	if _, err := s.shell(ctx, s.compute1, askWeb); err != nil {
		return err
	}
	mac, err := s.gatewayOfWeb(ctx)
	if err != nil {
		return err
	}
	s.claim(mac == bridgeMAC, "guard on: the spoof is dead, counter in_arp on compute-2 went from %d to %d and web still knows the gateway as %s", before, after, mac)
	return nil
}

const askWeb = "ip -netns web-2 neighbour show " + gateway

// knowsGateway makes web learn the gateway's true MAC, and returns it.
func (s *story) knowsGateway(ctx context.Context) (string, error) {
	if _, err := s.shellShowing(ctx, s.compute1, "ip netns exec web-2 ping -c 1 -W 5 "+gateway, grep("bytes from")); err != nil {
		return "", err
	}
	if _, err := s.shell(ctx, s.compute1, askWeb); err != nil {
		return "", err
	}
	mac, err := s.gatewayOfWeb(ctx)
	if err == nil && mac == "" {
		err = fmt.Errorf("web does not know the gateway after a ping that it answered")
	}
	return mac, err
}

// gatewayOfWeb is the MAC by which web knows the gateway.
func (s *story) gatewayOfWeb(ctx context.Context) (string, error) {
	out, err := s.look(ctx, s.compute1, askWeb)
	if err != nil {
		return "", err
	}
	fields := strings.Fields(out)
	for i, f := range fields {
		if f == "lladdr" && i+1 < len(fields) {
			return fields[i+1], nil
		}
	}
	return "", nil
}

// dropped is the guard's counter of forged ARP.
func (s *story) dropped(ctx context.Context) (uint64, error) {
	var info struct {
		Guard struct{ Dropped map[string]uint64 }
	}
	if err := s.lookJSON(ctx, s.compute2, &info, "flatctl rules -o json default/db"); err != nil {
		return 0, err
	}
	return info.Guard.Dropped["in_arp"], nil
}
