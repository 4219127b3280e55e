package main

import (
	"context"
	"fmt"
	"strings"
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

// tree draws the node as it is: bridges, their ports, and what is at the far end of each.
func (s *story) tree(ctx context.Context, notes map[string]string) error {
	var links []link
	if err := s.lookJSON(ctx, &links, "ip -json address"); err != nil {
		return err
	}
	// Of each container's eth0: the far end is found by the index of the near one.
	far := map[int]string{}
	var spaces []struct{ Name string }
	if err := s.lookJSON(ctx, &spaces, "ip -json netns list"); err != nil {
		return err
	}
	for _, ns := range spaces {
		var inside []link
		if err := s.lookJSON(ctx, &inside, "ip -json -netns "+ns.Name+" address"); err != nil {
			return err
		}
		for _, l := range inside {
			if l.Peer != 0 {
				far[l.Peer] = fmt.Sprintf("%-8s %s  %-13s %s", ns.Name, l.Name, l.addrs(), l.MAC)
			}
		}
	}
	var bridges []link
	for _, l := range links {
		if l.Master == "" && l.Name != "lo" {
			bridges = append(bridges, l)
		}
	}
	fmt.Fprintf(s.w, "    %s\n", s.paint(bold, "node"))
	for i, br := range bridges {
		fork, trunk := "├──", "│  "
		if i == len(bridges)-1 {
			fork, trunk = "└──", "   "
		}
		fmt.Fprintf(s.w, "    %s %s %-14s %s  %s\n", fork, s.paint(bold, fmt.Sprintf("%-8s", br.Name)), br.addrs(), br.MAC, s.paint(dim, notes[br.Name]))
		var ports []link
		for _, l := range links {
			if l.Master == br.Name {
				ports = append(ports, l)
			}
		}
		for j, p := range ports {
			twig := "├──"
			if j == len(ports)-1 {
				twig = "└──"
			}
			fmt.Fprintf(s.w, "    %s %s %s ── %s\n", trunk, twig, p.Name, far[p.Index])
		}
	}
	s.gap()
	return nil
}
