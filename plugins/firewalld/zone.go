package firewalld

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/godbus/dbus/v5"
)

// Member is a bridge as firewalld is to treat it.
type Member struct {
	Bridge string
	// Uplink is the NIC that the bridge takes the place of; empty = none. Who came in by it
	// comes in by the bridge, so that goes into the same zone.
	Uplink string
	// DNS says that workloads ask the node for names, at port 53.
	DNS bool
	// Ports are further TCP ports of the node's at which workloads are served.
	Ports []uint16
}

// Change is what Join did.
type Change struct {
	Did []string
	// Notices tell what a zone that is not ours keeps workloads from.
	Notices []string
	// Joined: the bridge is in another zone than before.
	Joined bool
	// Reloaded: firewalld has read its configuration anew, for which some of its back ends
	// take everybody's rules away.
	Reloaded bool
}

// Join puts a bridge into the zone of its uplink, else into Zone, now and for good. A
// bridge that an administrator has put into a zone stays there, and an uplink that is in
// none, and so in the default one, leaves its bridge there as well. Idempotent. Where
// firewalld does not run there is nothing to do.
//
// Changes are made under lock, of which many callers at once are the reason: each would
// have firewalld read its configuration anew. It returns what unlocks.
//
// ErrUnanswered means that nothing was found out, in bounded time; ErrRefused that a change
// which is needed did not come about.
func Join(ctx context.Context, socket string, m Member, lock func(context.Context) (func() error, error)) (change Change, err error) {
	found, notices, err := look(ctx, socket, m)
	change.Notices = notices
	if err != nil || found.done() {
		return change, err
	}
	unlock, err := lock(ctx)
	if err != nil {
		return change, fmt.Errorf("putting bridge %s into firewalld's zone %s: %w", m.Bridge, named(found.wanted), err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if found, _, err = look(ctx, socket, m); err != nil || found.done() {
		return change, err
	}
	err = within(ctx, changeTime, socket, func(c *conn) error {
		if found.current == found.wanted {
			return c.openPorts(m)
		}
		return c.move(m, found.current, found.wanted, &change)
	})
	change.Joined = found.current != found.wanted
	if err != nil {
		return change, fmt.Errorf("putting bridge %s into firewalld's zone %s: %w: %w", m.Bridge, named(found.wanted), ErrRefused, err)
	}
	return change, nil
}

// finding is how firewalld has a bridge.
type finding struct {
	running         bool
	wanted, current string // zones; empty = none, which stands for the default one
	closed          bool   // a port in Zone is
}

// done reports whether there is nothing to change.
func (f finding) done() bool {
	return !f.running || f.current != "" && f.current != Zone || f.current == f.wanted && !f.closed
}

// look finds out, without a change, and returns notices about a zone that stays and is not
// ours.
func look(ctx context.Context, socket string, m Member) (f finding, notices []string, err error) {
	err = within(ctx, lookTime, socket, func(c *conn) error {
		f.running = true
		if f.wanted, f.current, err = c.zones(m); err != nil {
			return err
		}
		switch {
		case f.current == Zone && f.wanted == Zone:
			f.closed, err = c.closed(m)
		case f.done():
			notices, err = c.notices(m, f.current)
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("finding out firewalld's zone of bridge %s: %w: %w", m.Bridge, ErrUnanswered, err)
	}
	return f, notices, err
}

// Leave takes a bridge out of Zone, which stays.
func Leave(ctx context.Context, socket, bridge string) error {
	err := within(ctx, changeTime, socket, func(c *conn) error {
		_, current, err := c.zones(Member{Bridge: bridge})
		if err != nil || current != Zone {
			return err
		}
		return c.leave(bridge)
	})
	if err != nil {
		return fmt.Errorf("taking bridge %s out of firewalld's zone %s: %w", bridge, Zone, err)
	}
	return nil
}

// within runs f with a connection, and not for longer than d whatever the bus does. It does
// not run it where firewalld does not run.
func within(ctx context.Context, d time.Duration, socket string, f func(*conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	c, err := dial(ctx, socket)
	if err == nil && c != nil {
		err = f(c)
		c.close()
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("no answer within %s (%w)", d, err)
	}
	return err
}

// zones returns the zone that m's bridge is to be in and the one that it is in; empty =
// none, which stands for the default one.
func (c *conn) zones(m Member) (wanted, current string, err error) {
	if err := c.call(runtimePath, ifZone+".getZoneOfInterface", []any{m.Bridge}, &current); err != nil {
		return "", "", err
	}
	if m.Uplink == "" {
		return Zone, current, nil
	}
	err = c.call(runtimePath, ifZone+".getZoneOfInterface", []any{m.Uplink}, &wanted)
	return wanted, current, err
}

// move changes the zone of a bridge that is in none or in ours.
func (c *conn) move(m Member, current, wanted string, change *Change) error {
	if wanted == Zone {
		if err := c.ensureZone(m.Bridge, change); err != nil {
			return err
		}
		// With the zone made just now the bridge may be in it.
		if err := c.call(runtimePath, ifZone+".getZoneOfInterface", []any{m.Bridge}, &current); err != nil {
			return err
		}
		if current != Zone {
			if err := c.put(m.Bridge, Zone); err != nil {
				return err
			}
			change.Did = append(change.Did, fmt.Sprintf("bridge %s is in firewalld's zone %s now", m.Bridge, Zone))
		}
		return c.openPorts(m)
	}
	if current == Zone {
		if err := c.leave(m.Bridge); err != nil {
			return err
		}
	}
	if wanted != "" {
		if err := c.putForGood(m.Bridge, wanted); err != nil {
			return err
		}
		if err := c.put(m.Bridge, wanted); err != nil {
			return err
		}
	}
	change.Did = append(change.Did, fmt.Sprintf("bridge %s is in firewalld's zone %s now, as its uplink %s", m.Bridge, named(wanted), m.Uplink))
	return nil
}

func named(zone string) string {
	if zone == "" {
		return "by default"
	}
	return zone
}

// ensureZone makes Zone and its policies, with the bridge in it, in the permanent
// configuration and then, by having that read anew, in the running one: it makes no zone.
func (c *conn) ensureZone(bridge string, change *Change) error {
	var zones, running, known []string
	if err := c.call(permanentPath, ifConfig+".getZoneNames", nil, &zones); err != nil {
		return err
	}
	if !slices.Contains(zones, Zone) {
		var made dbus.ObjectPath
		if err := c.call(permanentPath, ifConfig+".addZone2", []any{Zone, zoneSettings()}, &made); err != nil && !says(err, "NAME_CONFLICT") {
			return err
		}
	}
	if err := c.putForGood(bridge, Zone); err != nil {
		return err
	}
	if err := c.call(permanentPath, ifConfig+".getPolicyNames", nil, &known); err != nil {
		if !isUnknownMethod(err) {
			return err
		}
		known = []string{"flatdhcp-out", "flatdhcp-in"} // before 0.9 zones were not apart
	}
	missing := false
	for name, s := range policies() {
		if slices.Contains(known, name) {
			continue
		}
		missing = true
		var made dbus.ObjectPath
		if err := c.call(permanentPath, ifConfig+".addPolicy", []any{name, s}, &made); err != nil && !says(err, "NAME_CONFLICT") {
			return err
		}
	}
	if err := c.call(runtimePath, ifZone+".getZones", nil, &running); err != nil {
		return err
	}
	if !missing && slices.Contains(running, Zone) {
		return nil
	}
	if err := c.reload(); err != nil {
		return err
	}
	change.Reloaded = true
	change.Did = append(change.Did, fmt.Sprintf("firewalld has zone %s now, with bridge %s, and was reloaded for that", Zone, bridge))
	return nil
}

// reload lets firewalld read its configuration anew, and gives interfaces and sources that
// were bound to zones for the time being (NetworkManager's are) what they lose by that.
func (c *conn) reload() error {
	before, after := map[string]map[string][]string{}, map[string]map[string][]string{}
	if err := c.call(runtimePath, ifZone+".getActiveZones", nil, &before); err != nil {
		return err
	}
	if err := c.call(runtimePath, ifMain+".reload", nil); err != nil {
		return err
	}
	if err := c.call(runtimePath, ifZone+".getActiveZones", nil, &after); err != nil {
		return err
	}
	for zone, bound := range before {
		for kind, add := range map[string]string{"interfaces": ".addInterface", "sources": ".addSource"} {
			for _, name := range bound[kind] {
				if slices.ContainsFunc(slices.Collect(maps.Values(after)), func(b map[string][]string) bool { return slices.Contains(b[kind], name) }) {
					continue
				}
				var in string
				if err := c.call(runtimePath, ifZone+add, []any{zone, name}, &in); err != nil && !says(err, "ZONE_ALREADY_SET", "ZONE_CONFLICT", "ALREADY_ENABLED") {
					return err
				}
			}
		}
	}
	return nil
}

// put binds a bridge to a zone of the running configuration.
func (c *conn) put(bridge, zone string) error {
	var in string
	return c.call(runtimePath, ifZone+".changeZoneOfInterface", []any{zone, bridge}, &in)
}

// putForGood does so in the permanent one, unless that has another zone for it.
func (c *conn) putForGood(bridge, zone string) error {
	var in string
	if err := c.call(permanentPath, ifConfig+".getZoneOfInterface", []any{bridge}, &in); err != nil || in != "" {
		return err
	}
	at, err := c.permanent(zone)
	if err != nil {
		return err
	}
	return c.call(at, ifConfigZone+".addInterface", []any{bridge})
}

func (c *conn) permanent(zone string) (at dbus.ObjectPath, err error) {
	err = c.call(permanentPath, ifConfig+".getZoneByName", []any{zone}, &at)
	return at, err
}

// leave takes a bridge out of Zone, in both configurations.
func (c *conn) leave(bridge string) error {
	at, err := c.permanent(Zone)
	if err != nil {
		return err
	}
	if err := c.call(at, ifConfigZone+".removeInterface", []any{bridge}); err != nil && !says(err, "NOT_ENABLED") {
		return err
	}
	var in string
	if err := c.call(runtimePath, ifZone+".removeInterface", []any{Zone, bridge}, &in); err != nil && !says(err, "UNKNOWN_INTERFACE", "NOT_ENABLED") {
		return err
	}
	return nil
}

// closed reports whether a port of m's is closed in Zone.
func (c *conn) closed(m Member) (bool, error) {
	for _, p := range m.Ports {
		open := false
		if err := c.call(runtimePath, ifZone+".queryPort", []any{Zone, strconv.Itoa(int(p)), "tcp"}, &open); err != nil || !open {
			return true, err
		}
	}
	return false, nil
}

// openPorts opens the node's further ports to Zone, in both configurations.
func (c *conn) openPorts(m Member) error {
	for _, p := range m.Ports {
		port := strconv.Itoa(int(p))
		at, err := c.permanent(Zone)
		if err != nil {
			return err
		}
		if err := c.call(at, ifConfigZone+".addPort", []any{port, "tcp"}); err != nil && !says(err, "ALREADY_ENABLED") {
			return err
		}
		var in string
		if err := c.call(runtimePath, ifZone+".addPort", []any{Zone, port, "tcp", int32(0)}, &in); err != nil && !says(err, "ALREADY_ENABLED") {
			return err
		}
	}
	return nil
}

// notices tells what a zone that is not ours does to a bridge's workloads.
func (c *conn) notices(m Member, zone string) (notices []string, err error) {
	if zone == "" {
		if err := c.call(runtimePath, ifMain+".getDefaultZone", nil, &zone); err != nil {
			return nil, err
		}
	}
	s := settings{}
	if err := c.call(runtimePath, ifZone+".getZoneSettings2", []any{zone}, &s); err != nil {
		return nil, err
	}
	var target string
	var forward bool
	var services []string
	for key, to := range map[string]any{"target": &target, "forward": &forward, "services": &services} {
		if v, given := s[key]; given {
			if err := v.Store(to); err != nil {
				return nil, fmt.Errorf("reading the settings of firewalld's zone %s: %s: %w", zone, key, err)
			}
		}
	}
	if target == "ACCEPT" {
		return nil, nil
	}
	if !forward {
		notices = append(notices, fmt.Sprintf("firewalld's zone %s, in which bridge %s is, does not forward between its interfaces: it drops what workloads send each other "+
			"(`firewall-cmd --permanent --zone=%s --add-forward` and `firewall-cmd --reload`)", zone, m.Bridge, zone))
	}
	if m.DNS && !slices.Contains(services, "dns") {
		notices = append(notices, fmt.Sprintf("firewalld's zone %s, in which bridge %s is, refuses workloads' DNS "+
			"(`firewall-cmd --permanent --zone=%s --add-service=dns` and `firewall-cmd --reload`)", zone, m.Bridge, zone))
	}
	return notices, nil
}

func isUnknownMethod(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == unknownMethod
}
