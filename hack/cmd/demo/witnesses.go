package main

import (
	"context"
	"fmt"
	"strings"
)

// witnesses asks everybody who knows the VM's address for it.
func (s *story) witnesses(ctx context.Context) error {
	addr := s.vm.Addr.Addr().String()
	s.heading("One address, its witnesses")
	s.say("Seven places know who %s is. Each is asked by itself:", addr)
	type witness struct {
		name, ask string
		// say picks the answer out of what came back: "" if the witness does not know.
		say func(out string) string
	}
	line := func(words ...string) func(string) string {
		return func(out string) string {
			for l := range strings.Lines(out) {
				all := true
				for _, w := range words {
					all = all && strings.Contains(l, w)
				}
				if all {
					return strings.Trim(strings.Join(strings.Fields(l), " "), ",")
				}
			}
			return ""
		}
	}
	list := []witness{
		{"CNI result", "cat /var/lib/cni/results/flat-" + s.compute1.Find("vm1").ID() + "-eth0", func(out string) string {
			if strings.Contains(out, `"`+s.vm.Addr.String()+`"`) && strings.Contains(out, s.vm.MAC) {
				return s.vm.Addr.String() + " " + s.vm.MAC
			}
			return ""
		}},
		{"lease", "ip netns exec vm1 ip -4 -brief address show eth0", line(s.lease.Addr.String())},
		{"chain", "iptables -S | grep -- '-d " + addr + "/32'", line("-d "+addr+"/32", "-j FLAT-WL-")},
		{"guard", "nft list set bridge flatdhcp sources", func(out string) string {
			_, out, _ = strings.Cut(out, "elements = {")
			out, _, _ = strings.Cut(out, "}")
			return line(s.vm.HostPort, s.vm.MAC, addr)(strings.ReplaceAll(out, ",", "\n"))
		}},
		{"row", "flatctl reservations | grep " + addr, line(addr+" ", s.vm.MAC, "default/pod:vm1/eth0")},
		{"DNS", "ip netns exec vm1 busybox nslookup " + s.lease.Hostname + "." + s.lease.Domain + " " + gateway, func(out string) string {
			if strings.Contains(out, "Name:\t"+s.lease.Hostname) && strings.Contains(out, "Address: "+addr) {
				return s.lease.Hostname + "." + s.lease.Domain + " is " + addr
			}
			return ""
		}},
		{"MAC", "ip netns exec vm1 cat /sys/class/net/eth0/address", func(out string) string {
			a := s.vm.Addr.Addr().As4()
			if derived := fmt.Sprintf("fa:16:3e:%02x:%02x:%02x", a[1], a[2], a[3]); strings.TrimSpace(out) == derived {
				return derived + " = fa:16:3e, then the address's last three bytes"
			}
			return ""
		}},
	}
	said := 0
	var answers []string
	for _, w := range list {
		s.command("compute-1", w.ask)
		out, err := s.look(ctx, s.compute1, w.ask)
		if err != nil {
			return err
		}
		answer := w.say(out)
		if answer == "" {
			answer = s.paint(red, "does not know it")
		} else {
			said++
		}
		answers = append(answers, s.paint(bold, fmt.Sprintf("%-10s", w.name))+"  "+answer)
	}
	s.gap()
	s.output(strings.Join(answers, "\n"))
	s.gap()
	s.claim(said == len(list), "%d of %d witnesses agree on %s", said, len(list), addr)
	return nil
}
