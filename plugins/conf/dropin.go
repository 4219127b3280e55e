package conf

import (
	"encoding/json"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// withoutEffect are the reference plugin's switches that have nothing to switch here,
// and why.
var withoutEffect = []struct{ key, why string }{
	{"promiscMode", "hairpinMode is what lets a workload reach itself"},
	{"forceAddress", "a bridge keeps the addresses it has, and gets the gateway's beside them"},
	{"enabledad", "it detects duplicates of IPv6 addresses, and the network has no IPv6"},
	{"preserveDefaultVlan", "the bridge's ports are in no VLAN"},
}

// readDropIn reads the keys that mean here what they mean to the reference bridge
// plugin, and those of its keys that mean nothing here. The notices name what was asked
// for by one of the latter.
func (o *object) readDropIn(b *ipam.Bridge) (notices []string, err error) {
	if b.IPMasq, err = o.boolean("ipMasq", b.IsGateway); err != nil {
		return nil, err
	}
	if b.HairpinMode, err = o.boolean("hairpinMode", false); err != nil {
		return nil, err
	}
	if b.MACSpoofCheck, err = o.boolean("macspoofchk", false); err != nil {
		return nil, err
	}
	if err := o.refuseNotHere(); err != nil {
		return nil, err
	}
	if _, given := o.raw("macspoofchk"); given && !b.MACSpoofCheck && b.AntiSpoofing {
		notices = append(notices, o.noEffect("macspoofchk", "antiSpoofing, which is true, checks MACs too"))
	}
	if b.LogDrops && b.Filter == ipam.FilterNone {
		notices = append(notices, o.noEffect("logDrops", `"filter": "none" leaves out the chains that drop`))
	}
	for _, k := range withoutEffect {
		on, err := o.boolean(k.key, false)
		if err != nil {
			return nil, err
		}
		if on { // false asks for nothing
			notices = append(notices, o.noEffect(k.key, k.why))
		}
	}
	return notices, nil
}

func (o *object) noEffect(key, why string) string {
	return shown(o.at(key), o.fields[key]) + " has no effect: " + why
}

// refuseNotHere refuses what a flat network does another way. What says that it is
// not wanted is accepted: generated conflists spell every key out.
func (o *object) refuseNotHere() error {
	const vlans = "it is not supported, for one bridge carries one network: give each VLAN a network and a bridge of its own"
	if raw, ok := o.raw("vlan"); ok {
		var id int
		if err := json.Unmarshal(raw, &id); err != nil {
			return o.invalid("vlan", "a number is wanted, and but 0 none is supported")
		}
		if id != 0 {
			return o.invalid("vlan", vlans)
		}
	}
	if trunk, err := o.list("vlanTrunk", "VLANs"); err != nil {
		return err
	} else if len(trunk) > 0 {
		return o.invalid("vlanTrunk", vlans)
	}
	if none, err := o.boolean("disableContainerInterface", false); err != nil {
		return err
	} else if none {
		return o.invalid("disableContainerInterface",
			`it is not supported, for every workload has an address: "addressing": "dhcp" leaves the interface up and unconfigured`)
	}
	backend, err := o.text("ipMasqBackend", "iptables")
	switch {
	case err != nil:
		return err
	case backend == "nftables":
		return o.invalid("ipMasqBackend",
			`it is not supported: "iptables" is, on nf_tables too if that is what the node's iptables works on`)
	case backend != "iptables":
		return o.invalid("ipMasqBackend", `"iptables" is wanted`)
	}
	return nil
}
