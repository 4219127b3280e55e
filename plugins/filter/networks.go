package filter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// current returns the networks as they are now, and the one of n's name.
func current(ctx context.Context, networks Networks, n ipam.Network) ([]ipam.Network, ipam.Network, error) {
	known, err := networks(ctx)
	if err != nil {
		return nil, n, err
	}
	i := slices.IndexFunc(known, func(o ipam.Network) bool { return o.Name == n.Name })
	if i < 0 {
		known = append(slices.Clone(known), n)
		i = len(known) - 1
	}
	n = known[i]
	if n.Bridge == nil {
		return nil, n, fmt.Errorf("network %s has no bridge of ours, so no rules: %w", n.Name, ipam.ErrNoNetwork)
	}
	return known, n, checkNetworks(known)
}

// isLinkName says whether rules can name a link so. iptables takes a + at the end
// for a wildcard, and its input is text: the name must not carry more than a name.
func isLinkName(name string) bool {
	for _, r := range name {
		alphanumeric := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !alphanumeric && !strings.ContainsRune("_.-", r) {
			return false
		}
	}
	return name != "" && len(name) < unix.IFNAMSIZ
}

func checkNetworks(networks []ipam.Network) error {
	for _, n := range networks {
		if n.Bridge == nil {
			continue
		}
		if !isLinkName(n.Bridge.Name) {
			return fmt.Errorf("network %s: no rules can name bridge %q: letters, digits, '_', '.' and '-' are wanted", n.Name, n.Bridge.Name)
		}
		if out := n.Bridge.PublicInterface; out != "" && !isLinkName(out) {
			return fmt.Errorf("network %s: no rules can name interface %q: letters, digits, '_', '.' and '-' are wanted", n.Name, out)
		}
		if p := n.Pool.Subnet; !p.IsValid() || !p.Addr().Is4() || p != p.Masked() {
			return fmt.Errorf("network %s: no rules can name subnet %s: an IPv4 prefix is wanted", n.Name, p)
		}
	}
	return nil
}

func checkRow(n ipam.Network, r ipam.Reservation) error {
	if !n.Pool.Subnet.Contains(r.Addr) {
		return fmt.Errorf("address %s is not in %s", r.Addr, n.Pool.Subnet)
	}
	return nil
}

// needsProgram says whether a network cannot do without iptables. A gateway's lines that
// only accept, against others' policies, can be left out: without the program there are
// no others.
func needsProgram(a Attached) bool { return NeedsIPTables(a.Network) }

// NeedsIPTables reports whether n, which has a bridge, cannot work here without iptables.
func NeedsIPTables(n ipam.Network) bool {
	return n.Filtered() || n.Bridge.IPMasq || n.ServesMetadata()
}
