package conf

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// ResultDNS returns what a result says of DNS: the conflist's dns key, else what the
// file named by ipam.resolvConf says, as with bridge and host-local. Where neither names a
// server, and the daemon is there to answer (alive), it is the gateway, and the zone's
// names are found without their domain. It is the one function here that opens a file.
func ResultDNS(n ipam.Network, alive bool) (types.DNS, error) {
	if n.Bridge != nil {
		d := types.DNS{Domain: n.Bridge.DNS.Domain, Search: n.Bridge.DNS.Search, Options: n.Bridge.DNS.Options}
		for _, a := range n.Bridge.DNS.Nameservers {
			d.Nameservers = append(d.Nameservers, a.String())
		}
		given := !d.IsEmpty()
		if len(d.Nameservers) == 0 && n.ServesDNS() && alive && (given || n.Pool.ResolvConf == "") {
			d.Nameservers = []string{n.Pool.Gateway.String()}
			d.Domain = cmp.Or(d.Domain, n.Zone())
			if len(d.Search) == 0 {
				d.Search = []string{n.Zone()}
			}
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

func (o *object) readDNS(b *ipam.Bridge) error {
	b.DNS.Enabled = b.IsGateway
	dns, ok, err := o.object("dns")
	if err != nil || !ok {
		return err
	}
	if err := dns.checkKeys(dnsKeys); err != nil {
		return err
	}
	if err := dns.eachText("nameservers", "addresses", func(item element, s string) error {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return invalid(item.path, item.raw, "a name server's address is wanted, such as \"10.0.0.1\"")
		}
		b.DNS.Nameservers = append(b.DNS.Nameservers, a)
		return nil
	}); err != nil {
		return err
	}
	if b.DNS.Domain, err = dns.text("domain", ""); err != nil {
		return err
	}
	if b.DNS.Domain != "" && !isDomain(b.DNS.Domain) {
		return dns.invalid("domain", "a DNS domain is wanted")
	}
	if err := dns.eachText("search", "DNS domains", func(item element, s string) error {
		if !isDomain(s) {
			return invalid(item.path, item.raw, "a DNS domain is wanted")
		}
		b.DNS.Search = append(b.DNS.Search, s)
		return nil
	}); err != nil {
		return err
	}
	if b.DNS.Options, err = dns.texts("options", "resolv.conf options"); err != nil {
		return err
	}
	return dns.readResolver(b)
}

// readResolver reads what the daemon's DNS server does; the rest of dns is the
// specification's, for the container.
func (o *object) readResolver(b *ipam.Bridge) (err error) {
	if b.DNS.Enabled, err = o.boolean("enabled", b.IsGateway); err != nil {
		return err
	}
	if b.DNS.Enabled && !b.IsGateway {
		return o.invalid("enabled", "DNS is answered at the gateway address, which isGateway: false keeps off this node")
	}
	return o.eachText("forwarders", "DNS servers", func(item element, s string) error {
		server, err := parseServer(s)
		if a := server.Addr(); err != nil || a.IsUnspecified() || a.IsMulticast() || server.Port() == 0 {
			return invalid(item.path, item.raw, "a DNS server's address is wanted, such as \"9.9.9.9\", or with a port \"10.0.0.9:5353\"")
		}
		b.DNS.Forwarders = append(b.DNS.Forwarders, server)
		return nil
	})
}

// checkForwarders refuses a server that would ask itself.
func (o *object) checkForwarders(n ipam.Network) error {
	for i, f := range n.Bridge.DNS.Forwarders {
		if n.ServesDNS() && f == netip.AddrPortFrom(n.Pool.Gateway, dnsPort) {
			return invalid(fmt.Sprintf("dns.forwarders[%d]", i), quoted(f.Addr().String()), "it is the gateway, where the network's own DNS is answered: name another server")
		}
	}
	return nil
}

// dnsPort is where DNS servers are unless they say otherwise.
const dnsPort = 53

// parseServer reads ADDR or ADDR:PORT (of IPv6 [ADDR]:PORT).
func parseServer(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a.Unmap(), dnsPort), nil
	}
	p, err := netip.ParseAddrPort(s)
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port()), err
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
