package conf

import (
	"slices"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// readNAT reads how ipMasq, which has been read, masquerades.
func (o *object) readNAT(n ipam.Network) (err error) {
	b := n.Bridge
	if !b.IPMasq {
		// Left out in silence it would be believed in.
		for _, key := range []string{"natAddress", "publicInterface", "nonMasqueradeCIDRs"} {
			if raw, given := o.raw(key); given && !isEmptyList(raw) {
				return o.invalid(key, "ipMasq is false here, so that nothing is masqueraded: leave it out")
			}
		}
		return nil
	}
	if err := o.readNATAddress(n); err != nil {
		return err
	}
	if b.PublicInterface, err = o.text("publicInterface", ""); err != nil {
		return err
	}
	if _, given := o.raw("publicInterface"); given && !isLinkName(b.PublicInterface) {
		return o.invalid("publicInterface", linkNameWanted)
	}
	if err := o.notOurs("publicInterface", b.PublicInterface); err != nil {
		return err
	}
	return o.readNonMasquerade(b)
}

// readNATAddress takes any address that the world outside may answer to. Whether it does is
// its routers' affair: the node need not have the address, answers need only come here.
func (o *object) readNATAddress(n ipam.Network) error {
	s, err := o.text("natAddress", "")
	if _, given := o.raw("natAddress"); err != nil || !given {
		return err
	}
	a, err := asAddr4(o.at("natAddress"), s)
	switch {
	case err != nil:
		return err
	case !a.IsGlobalUnicast():
		return o.invalid("natAddress", "nobody can answer to it: an address of this node is wanted, or one that is routed to it")
	case n.Pool.Subnet.Contains(a) && a != n.Pool.Gateway:
		return o.invalid("natAddress", "it is of subnet %s, and so a workload's or nobody's: an address of this node is wanted, or one that is routed to it", n.Pool.Subnet)
	}
	n.Bridge.NATAddress = a
	return nil
}

func (o *object) readNonMasquerade(b *ipam.Bridge) error {
	return o.eachText("nonMasqueradeCIDRs", "IPv4 networks", func(item element, s string) error {
		p, err := asPrefix4(item.path, s)
		switch {
		case err != nil:
			return err
		case p.Bits() == 0:
			return invalid(item.path, item.raw, `it is every destination, of which "ipMasq": false is the word`)
		case slices.Contains(b.NonMasqueradeCIDRs, p):
			return invalid(item.path, item.raw, "it is listed twice")
		}
		b.NonMasqueradeCIDRs = append(b.NonMasqueradeCIDRs, p)
		return nil
	})
}
