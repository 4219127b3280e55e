package conf

import (
	"strings"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// readUplink reads by which network card the bridge reaches the physical network, and what
// may be done for that. What only an uplink can have is refused without one: it would
// mean nothing.
func (o *object) readUplink(b *ipam.Bridge) (err error) {
	if b.FlatInterface, err = o.text("flatInterface", ""); err != nil {
		return err
	}
	if _, given := o.raw("flatInterface"); given {
		switch {
		case b.FlatInterface == "lo":
			return o.invalid("flatInterface", "the loopback device leads nowhere: name the network card that leads to the other nodes")
		case !isLinkName(b.FlatInterface):
			return o.invalid("flatInterface", linkNameWanted)
		case strings.HasPrefix(b.FlatInterface, portPrefix):
			return o.invalid("flatInterface", "names that begin with %q are those of workload ports", portPrefix)
		case strings.HasPrefix(b.FlatInterface, legPrefix), strings.HasPrefix(b.FlatInterface, legPortPrefix):
			return o.invalid("flatInterface", "names that begin with %q and %q are those of shared gateways", legPrefix, legPortPrefix)
		case b.FlatInterface == b.Name:
			return o.invalid("flatInterface", "it is the bridge itself: name the network card that is to be its port")
		}
	}
	if b.DetectConflict, err = o.withUplink(b, "detectConflict"); err != nil {
		return err
	}
	b.MoveAddresses, err = o.withUplink(b, "moveAddresses")
	return err
}

// withUplink reads a switch that is on by default where there is an uplink.
func (o *object) withUplink(b *ipam.Bridge, key string) (bool, error) {
	on, err := o.boolean(key, b.FlatInterface != "")
	if err == nil && on && b.FlatInterface == "" {
		err = o.invalid(key, "there is no uplink without flatInterface: give that, or leave this out")
	}
	return on, err
}
