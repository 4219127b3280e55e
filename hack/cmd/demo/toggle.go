package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// theToggle closes the network between neighbours under a running ping, and opens it again.
func (s *story) theToggle(ctx context.Context) error {
	target := s.db.Addr.Addr().String()
	s.heading("The same-net toggle stops a running ping, and resumes it")
	s.say(`With "allowSameNetTraffic" off nobody on the network reaches a neighbour, not even by a connection
		that is open already; the gateway still does. Web, on compute-1, pings db, whose chain is on compute-2:`)
	s.command("compute-1", "ip netns exec web ping -i 0.2 "+target+" &")
	ping, err := s.compute1.Find("web").Start("ping", "-i", "0.2", target)
	if err != nil {
		return err
	}
	defer func() { _ = ping.Kill() }()
	next := 0
	for range 3 {
		var reply string
		if reply, next, err = waitLine(ctx, ping, next, "bytes from"); err != nil {
			return err
		}
		s.output(reply)
	}
	s.gap()
	if err := s.edit(ctx, s.compute2, `"allowSameNetTraffic": true`, `"allowSameNetTraffic": false`); err != nil {
		return err
	}
	// Five pings dropped by the named rule, and no reply while that went on.
	var dropped rule
	mark := -1
	var from uint64
	err = until(ctx, "the drop rule has counted five pings", func() (bool, error) {
		if dropped, err = s.lastRule(ctx, s.compute2, "default/db"); err != nil {
			return false, err
		}
		if mark < 0 && dropped.Packets > 0 {
			mark, from = ping.Mark(), dropped.Packets
		}
		return mark >= 0 && dropped.Packets >= from+5, nil
	})
	if err != nil {
		return err
	}
	replies := grep("bytes from")(strings.Join(ping.Lines()[mark:], "\n"))
	s.claim(replies == "", "five more pings were sent, and no reply came back")
	s.gap()
	out, err := s.shell(ctx, s.compute2, "flatctl rules default/db | grep -B 1 FLAT-DROP")
	if err != nil {
		return err
	}
	s.claim(strings.HasSuffix(dropped.Rule, "-j FLAT-DROP") && strings.Contains(out, "-j FLAT-DROP"),
		"the rule that dropped them is the last one of db's own chain, %s", dropped.chain)
	if err := s.answered(ctx, s.controller, "ping -c 1 -W 5 "+target, "the gateway still reaches db"); err != nil {
		return err
	}
	s.gap()
	if err := s.edit(ctx, s.compute2, `"allowSameNetTraffic": false`, `"allowSameNetTraffic": true`); err != nil {
		return err
	}
	s.gap()
	s.say("The ping is still running:")
	after := ping.Mark()
	for range 3 {
		var reply string
		if reply, after, err = waitLine(ctx, ping, after, "bytes from"); err != nil {
			s.claim(false, "replies resume")
			return err
		}
		s.output(reply)
	}
	s.claim(true, "replies resume")
	return stopPing(ctx, ping)
}

// stopPing ends a ping as Ctrl-C would.
func stopPing(ctx context.Context, ping *lab.Process) error {
	if err := ping.Signal(os.Interrupt); err != nil {
		return fmt.Errorf("stopping the ping: %w", err)
	}
	_ = ping.Wait(ctx) // status 1 says that packets were lost, as they were
	return nil
}

// edit changes a host's conflist as a person would, and puts it in force.
func (s *story) edit(ctx context.Context, on *lab.Host, from, to string) error {
	if _, err := s.shell(ctx, on, fmt.Sprintf("sed -i 's/%s/%s/' %s", from, to, conflist)); err != nil {
		return err
	}
	_, err := s.shellShowing(ctx, on, "flatctl apply "+conflist, briefly)
	return err
}

// rule is one rule of `flatctl rules -o json`.
type rule struct {
	Rule, Why      string
	Packets, Bytes uint64

	chain string
}

// lastRule is the rule that ends a workload's chain.
func (s *story) lastRule(ctx context.Context, on *lab.Host, workload string) (rule, error) {
	var info struct {
		Chain string
		Rules []rule
	}
	if err := s.lookJSON(ctx, on, &info, "flatctl rules -o json "+workload); err != nil {
		return rule{}, err
	}
	if len(info.Rules) == 0 {
		return rule{}, fmt.Errorf("the chain of %s has no rules", workload)
	}
	last := info.Rules[len(info.Rules)-1]
	last.chain = info.Chain
	return last, nil
}
