package conf

import (
	"slices"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/ipam/dhcpoption"
)

func (o *object) readLeaseTime(b *ipam.Bridge) (err error) {
	if b.LeaseTime, err = o.duration("leaseTime", defaultLeaseTime, ipam.MinLeaseTime); err != nil {
		return err
	}
	if why := ipam.CheckLeaseTime(time.Duration(b.LeaseTime)); why != "" {
		return o.invalid("leaseTime", "%s", why)
	}
	return nil
}

// readDHCPOptions reads dhcpOptions: values by option number, each of the form that its
// number takes, so that what is wrong shows here and not at a client.
func (o *object) readDHCPOptions(b *ipam.Bridge) error {
	list, ok, err := o.object("dhcpOptions")
	if err != nil || !ok {
		return err
	}
	for _, number := range sortedKeys(list.fields) {
		raw, given := list.raw(number)
		if !given {
			continue
		}
		option, err := dhcpoption.ParseJSON(number, raw)
		if err != nil {
			return list.invalid(number, "%v", err)
		}
		b.DHCPOptions = b.DHCPOptions.With(option)
	}
	return nil
}

// readDHCP reads dhcp, what the DHCP server does beyond the usual.
func (o *object) readDHCP(b *ipam.Bridge) error {
	sub, ok, err := o.object("dhcp")
	if err != nil || !ok {
		return err
	}
	if err := sub.checkKeys(dhcpKeys); err != nil {
		return err
	}
	if b.DHCP.RapidCommit, err = sub.boolean("rapidCommit", false); err != nil {
		return err
	}
	return sub.eachText("relays", "IPv4 addresses", func(item element, s string) error {
		a, err := asAddr4(item.path, s)
		if err != nil {
			return err
		}
		if !a.IsGlobalUnicast() {
			return invalid(item.path, item.raw, "a relay agent's own address is wanted, such as \"10.0.0.9\"")
		}
		if slices.Contains(b.DHCP.Relays, a) {
			return invalid(item.path, item.raw, "it is listed twice")
		}
		b.DHCP.Relays = append(b.DHCP.Relays, a)
		return nil
	})
}
