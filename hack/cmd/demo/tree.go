package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// link is what of `ip -json address` the demo draws.
type link struct {
	Index    int    `json:"ifindex"`
	Name     string `json:"ifname"`
	Master   string `json:"master"`
	MAC      string `json:"address"`
	Peer     int    `json:"link_index"`
	AddrInfo []struct {
		Family string `json:"family"`
		Local  string `json:"local"`
		Len    int    `json:"prefixlen"`
	} `json:"addr_info"`
}

func (l link) addrs() string {
	var out []string
	for _, a := range l.AddrInfo {
		if a.Family == "inet" {
			out = append(out, fmt.Sprintf("%s/%d", a.Local, a.Len))
		}
	}
	if len(out) == 0 {
		return "no address"
	}
	return strings.Join(out, " ")
}

// tree draws the hosts as they are: NICs and bridges, the ports of these, and what is at
// the far end of each.
func (s *story) tree(ctx context.Context, notes map[string]string) error {
	for _, h := range s.hosts() {
		if err := s.branch(ctx, h, notes); err != nil {
			return err
		}
	}
	s.gap()
	return nil
}

// branch draws one host. Notes are by HOST LINK, or by LINK for all hosts.
func (s *story) branch(ctx context.Context, h *lab.Host, notes map[string]string) error {
	var links []link
	if err := s.lookJSON(ctx, h, &links, "ip -json address"); err != nil {
		return err
	}
	far, err := s.farEnds(ctx, h)
	if err != nil {
		return err
	}
	top := func(l link) bool { return l.Master == "" && l.Name != "lo" }
	fmt.Fprintf(s.w, "    %s\n", s.paint(bold, h.Name()))
	for i, l := range links {
		if !top(l) {
			continue
		}
		fork, trunk := "├──", "│  "
		if !slices.ContainsFunc(links[i+1:], top) {
			fork, trunk = "└──", "   "
		}
		note := cmp.Or(notes[h.Name()+" "+l.Name], notes[l.Name])
		fmt.Fprintf(s.w, "    %s %s %-18s %s  %s\n", fork, s.paint(bold, fmt.Sprintf("%-8s", l.Name)), l.addrs(), l.MAC, s.paint(dim, note))
		under := func(p link) bool { return p.Master == l.Name }
		for j, p := range links {
			if !under(p) {
				continue
			}
			twig := "├──"
			if !slices.ContainsFunc(links[j+1:], under) {
				twig = "└──"
			}
			end := far[p.Index]
			if end == "" {
				end = s.paint(dim, cmp.Or(notes[p.Name], "another host"))
			}
			fmt.Fprintf(s.w, "    %s %s %-15s ── %s\n", trunk, twig, p.Name, end)
		}
	}
	return nil
}

// farEnds are the containers' ends of cables, by the index of the host's end.
func (s *story) farEnds(ctx context.Context, h *lab.Host) (map[int]string, error) {
	far := map[int]string{}
	var spaces []struct{ Name string }
	out, err := s.look(ctx, h, "ip -json netns list")
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(out) == "" { // no container
		return far, nil
	}
	if err := json.Unmarshal([]byte(out), &spaces); err != nil {
		return nil, fmt.Errorf("reading the containers of %s: %w", h.Name(), err)
	}
	for _, ns := range spaces {
		var inside []link
		if err := s.lookJSON(ctx, h, &inside, "ip -json -netns "+ns.Name+" address"); err != nil {
			return nil, err
		}
		for _, l := range inside {
			if l.Peer != 0 {
				far[l.Peer] = fmt.Sprintf("%-8s %s  %-13s %s", ns.Name, l.Name, l.addrs(), l.MAC)
			}
		}
	}
	return far, nil
}
