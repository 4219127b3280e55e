package conf

import (
	"fmt"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// ResultDNS returns what a result says of DNS: the conflist's dns key, else what the
// file named by ipam.resolvConf says, as with bridge and host-local. It is the one
// function here that opens a file.
func ResultDNS(n ipam.Network) (types.DNS, error) {
	if n.Bridge != nil {
		d := types.DNS{Domain: n.Bridge.DNS.Domain, Search: n.Bridge.DNS.Search, Options: n.Bridge.DNS.Options}
		for _, a := range n.Bridge.DNS.Nameservers {
			d.Nameservers = append(d.Nameservers, a.String())
		}
		if !d.IsEmpty() {
			return d, nil
		}
	}
	if n.Pool.ResolvConf == "" {
		return types.DNS{}, nil
	}
	text, err := os.ReadFile(n.Pool.ResolvConf)
	if err != nil {
		return types.DNS{}, fmt.Errorf("reading the file that ipam.resolvConf names: %w", err)
	}
	return parseResolvConf(string(text)), nil
}

// parseResolvConf reads resolv.conf(5) the way host-local does: unknown lines are
// skipped, and several search or options lines add up.
func parseResolvConf(text string) types.DNS {
	var d types.DNS
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			d.Nameservers = append(d.Nameservers, fields[1])
		case "domain":
			d.Domain = fields[1]
		case "search":
			d.Search = append(d.Search, fields[1:]...)
		case "options":
			d.Options = append(d.Options, fields[1:]...)
		}
	}
	return d
}
