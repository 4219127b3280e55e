package firewalld

import "github.com/godbus/dbus/v5"

// Zone is the zone of bridges that have no uplink. It lets workloads ask for DHCP and DNS, and
// forwards between them; what workloads do to each other and what reaches them is our
// chains' affair, hence the policies. It is not "trusted", by which the node would be
// open to whoever comes by the bridge.
const Zone = "flatdhcp"

// settings are those of one zone or policy, as firewalld's D-Bus interface takes them.
type settings map[string]dbus.Variant

func zoneSettings() settings {
	return settings{
		"short":       dbus.MakeVariant("flatdhcp"),
		"description": dbus.MakeVariant("Bridges of flatdhcp's workloads. Made by flatdhcp, and its to judge who reaches them."),
		"target":      dbus.MakeVariant("default"),
		"services":    dbus.MakeVariant([]string{"dhcp", "dns"}),
		"forward":     dbus.MakeVariant(true),
	}
}

// policies let traffic between the zone and every other pass, in both directions.
func policies() map[string]settings {
	between := func(from, to string) settings {
		return settings{
			"short":         dbus.MakeVariant("flatdhcp"),
			"description":   dbus.MakeVariant("What is routed from " + from + " to " + to + ": flatdhcp's own chains judge it."),
			"target":        dbus.MakeVariant("ACCEPT"),
			"ingress_zones": dbus.MakeVariant([]string{from}),
			"egress_zones":  dbus.MakeVariant([]string{to}),
		}
	}
	return map[string]settings{
		"flatdhcp-out": between(Zone, "ANY"),
		"flatdhcp-in":  between("ANY", Zone),
	}
}
