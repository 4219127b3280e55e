package main

import "context"

// sameAddress replaces the container of a named workload.
func (s *story) sameAddress(ctx context.Context) error {
	s.heading("A workload keeps its address")
	s.say(`default/web is deleted and made again: another container, the same workload.`)
	for _, line := range []string{"cnitool del flat /run/netns/web", "ip netns delete web"} {
		if _, err := s.shell(ctx, s.compute1, line); err != nil {
			return err
		}
	}
	if _, err := s.shell(ctx, s.compute1, "flatctl networks"); err != nil {
		return err
	}
	var networks []struct {
		Stats struct{ Used, Retained int }
	}
	if err := s.lookJSON(ctx, s.compute1, &networks, "flatctl networks -o json"); err != nil {
		return err
	}
	s.claim(len(networks) == 1 && networks[0].Stats.Used == 2 && networks[0].Stats.Retained == 1,
		"nothing holds %s now, but it is retained for default/web", s.web.Addr.Addr())
	s.gap()
	again, err := s.attach(ctx, s.compute1, "web-2", "web", "/etc/cni/net.d", interfaceOf)
	if err != nil {
		return err
	}
	s.claim(again.Addr == s.web.Addr && again.MAC == s.web.MAC, "the new container has the same address and MAC: %s, %s", again.Addr, again.MAC)
	s.web = again
	return nil
}
