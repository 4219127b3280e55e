package uplink

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/flatdhcp/flatdhcp/ipam"
)

var (
	// ErrCarries says that a NIC has addresses or routes, which may not be moved.
	ErrCarries = errors.New("it carries addresses or routes of the node")
	// ErrReturned says that somebody asked for the NIC back (`flatctl uplink restore`).
	ErrReturned = errors.New("it was given back by `flatctl uplink restore`: " +
		"`flatctl apply` the conflist to make it an uplink again, or take flatInterface out of it")
)

// Fault is called before and after each change, by name: tests make it fail there.
type Fault func(change string, after bool) error

// Uplink is a NIC that is to be a port of a bridge.
type Uplink struct {
	NIC, Bridge string
	// Path is the file of the Record, one for each bridge.
	Path   string
	BootID string
	// MoveAddresses lets the NIC's addresses and routes go along. Else one that has any is
	// ErrCarries.
	MoveAddresses bool
	// Admit refuses IPv4 addresses that the bridge must not have; nil = none.
	Admit func([]netip.Prefix) error
	// PlainMAC is the MAC that the bridge has without an uplink.
	PlainMAC ipam.MAC
	// Own are the bridge's own addresses, which never go to the NIC.
	Own   []netip.Prefix
	Fault Fault // nil = none
}

// Taken is what Take did.
type Taken struct {
	Device
	Joined bool     // by this call
	Moved  []string // addresses and routes that went along, for people
	// Leased are those of Moved that somebody renews, such as a DHCP client.
	Leased []string
}

// undoTime bounds a roll-back: what calls for one is often that the time is up.
const undoTime = 5 * time.Second

// Ready says whether the NIC is the bridge's port, or could become it: ErrMissing,
// ErrUnfit, ErrCarries, ErrReturned. It changes nothing.
func (u Uplink) Ready() (Device, error) {
	d, err := Look(u.NIC)
	if err != nil {
		return d, fmt.Errorf("flatInterface %w: name a network card that this machine has (`ip link`)", err)
	}
	r, recorded, err := load(u.Path, u.BootID)
	if err != nil {
		return d, err
	}
	if recorded && r.Returned && r.NIC == u.NIC {
		return d, fmt.Errorf("flatInterface %s: %w", u.NIC, ErrReturned)
	}
	if d.Master != 0 && d.MasterName == u.Bridge {
		return d, nil
	}
	if d, err = lookClosely(u.NIC); err != nil {
		return d, err
	}
	if err := d.Refuse(u.Bridge); err != nil {
		return d, err
	}
	now, err := read(u.NIC, u.Bridge)
	if err != nil {
		return d, err
	}
	return d, u.mayTake(now)
}

func (u Uplink) mayTake(now State) error {
	if u.MoveAddresses {
		for _, rt := range now.NIC.Routes {
			if p, _ := rt.parse(); p.object {
				return fmt.Errorf("flatInterface %s: moving route %s: %w: make it an ordinary route, or move it yourself with moveAddresses false", u.NIC, rt.Text, ErrNextHop)
			}
		}
		if u.Admit == nil {
			return nil
		}
		var moving []netip.Prefix
		for _, a := range now.NIC.Addresses {
			if !a.ipv6() {
				moving = append(moving, a.prefix())
			}
		}
		if err := u.Admit(moving); err != nil {
			return fmt.Errorf("flatInterface %s: %w", u.NIC, err)
		}
		return nil
	}
	if !carries(now.NIC) {
		return nil
	}
	return fmt.Errorf("flatInterface %s: %w (%s): a bridge's port receives nothing for itself, so they would stop working; "+
		"with moveAddresses true they go to bridge %s, or take them away or name another card", u.NIC, ErrCarries, strings.Join(now.NIC.carried(), ", "), u.Bridge)
}

// Take makes the NIC a port of the bridge, with all that the node has on it, and finishes
// what an interrupted call began. Idempotent, and cheap when there is nothing to do. If it
// fails, everything is as it was.
func (u Uplink) Take(ctx context.Context) (t Taken, err error) {
	r, recorded, err := load(u.Path, u.BootID)
	if err != nil {
		return t, err
	}
	if recorded && r.NIC != u.NIC {
		if err := u.giveBack(ctx, r, false); err != nil {
			return t, fmt.Errorf("giving the uplink before this one back: %w", err)
		}
		recorded = false
	}
	if t.Device, err = u.Ready(); err != nil {
		return t, err
	}
	recorded = recorded && r.NICIndex == t.Index
	in := t.MasterName == u.Bridge
	if in && (!recorded || r.Done) {
		if !t.Up {
			err = apply(ctx, []Change{{Op: setUp, Link: Link{Device: t.Device}}}, u.fault())
		}
		return t, err
	}
	now, err := read(u.NIC, u.Bridge)
	if err != nil {
		return t, err
	}
	if now.Bridge.Index == 0 {
		return t, fmt.Errorf("making %s a port of bridge %s: %w", u.NIC, u.Bridge, ErrMissing)
	}
	if err := u.mayTake(now); err != nil && !in {
		return t, err
	}
	if !recorded || r.Done && !in && carries(now.NIC) {
		r = u.record(now)
	}
	if u.MoveAddresses {
		r.absorb(now.NIC)
	}
	r.Done, r.Returned = false, false
	if err := r.save(u.Path); err != nil {
		return t, err
	}
	if err := apply(ctx, Forward(r, now), u.fault()); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		err = fmt.Errorf("making %s a port of bridge %s: %w", u.NIC, u.Bridge, err)
		return t, errors.Join(err, u.giveBack(ctx, r, false))
	}
	r.Done = true
	if err := r.save(u.Path); err != nil {
		return t, err
	}
	if t.Device, err = Look(u.NIC); err != nil {
		return t, err
	}
	t.Joined = true
	for _, a := range r.Addresses {
		t.Moved = append(t.Moved, a.Text)
		if p, _ := a.parse(); p.valid != forever {
			t.Leased = append(t.Leased, p.prefix.String())
		}
	}
	for _, rt := range r.Routes {
		t.Moved = append(t.Moved, "route "+rt.Text)
	}
	return t, nil
}

// record notes what NIC and bridge are.
func (u Uplink) record(now State) Record {
	r := Record{
		BootID: u.BootID, NIC: u.NIC, NICIndex: now.NIC.Index, Bridge: u.Bridge, WasUp: now.NIC.Up,
		BridgeMAC: now.Bridge.MAC, BridgeMTU: now.Bridge.MTU, BridgeIPv6: now.Bridge.IPv6,
	}
	if r.BridgeMAC == now.NIC.MAC && !u.PlainMAC.IsZero() {
		r.BridgeMAC = u.PlainMAC // it was made with the NIC's a moment ago
	}
	return r
}

// GiveBack gives the NIC everything back, also what an interrupted Take has moved by then,
// and reports which one; "" = there was nothing to give back. If it is asked for by a person
// (returned), Take refuses to take it again until Forget is called.
func (u Uplink) GiveBack(ctx context.Context, returned bool) (nic string, err error) {
	r, recorded, err := load(u.Path, u.BootID)
	if err != nil || !recorded {
		return "", err
	}
	return r.NIC, u.giveBack(ctx, r, returned)
}

func (u Uplink) giveBack(ctx context.Context, r Record, returned bool) error {
	now, err := read(r.NIC, r.Bridge)
	if errors.Is(err, ErrMissing) || err == nil && now.NIC.Index != r.NICIndex {
		// It was pulled out. What the bridge has of it stays: it is all that the node has.
		return remove(u.Path)
	}
	if err != nil {
		return err
	}
	if r.Done || returned != r.Returned {
		r.Done, r.Returned = false, returned
		if err := r.save(u.Path); err != nil {
			return err
		}
	}
	if err := apply(ctx, Back(r, now, u.Own), u.fault()); err != nil {
		return fmt.Errorf("giving %s back what it had: %w: %s says what that was", r.NIC, err, u.Path)
	}
	if !returned {
		return remove(u.Path)
	}
	// There is nothing more to give back, should it be asked for twice.
	return Record{BootID: r.BootID, NIC: r.NIC, NICIndex: r.NICIndex, Bridge: r.Bridge, WasUp: true, Returned: true,
		BridgeMAC: r.BridgeMAC, BridgeMTU: r.BridgeMTU}.save(u.Path)
}

func (u Uplink) fault() Fault {
	if u.Fault == nil {
		return func(string, bool) error { return nil }
	}
	return u.Fault
}

// carrierWait bounds how long a NIC that was down may take to find its carrier.
const carrierWait = 3 * time.Second

// Wake sets the NIC up if it is down, so that it can be asked by, and reports whether it
// has a carrier. The caller calls sleep if the NIC is not to be taken after all.
func (u Uplink) Wake(ctx context.Context) (carrier bool, sleep func() error, err error) {
	sleep = func() error { return nil }
	d, err := Look(u.NIC)
	if err != nil || d.Carrier || d.Up {
		return d.Carrier, sleep, err
	}
	nic := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: d.Index}}
	if err := netlink.LinkSetUp(nic); err != nil {
		return false, sleep, fmt.Errorf("setting %s up: %w", u.NIC, err)
	}
	sleep = func() error { return netlink.LinkSetDown(nic) }
	ctx, cancel := context.WithTimeout(ctx, carrierWait)
	defer cancel()
	err = poll(ctx, func() (bool, error) {
		d, err := Look(u.NIC)
		return d.Carrier, err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return false, sleep, nil // a cable that is not there yet
	}
	return err == nil, sleep, err
}

// Carried lists what somebody has put on the NIC although, as a bridge's port, it receives
// nothing for itself.
func (u Uplink) Carried() ([]string, error) {
	now, err := read(u.NIC, u.Bridge)
	if err != nil {
		return nil, err
	}
	return now.NIC.carried(), nil
}

// carried lists what somebody has given the NIC, for people.
func (l Link) carried() (list []string) {
	for _, a := range l.Addresses {
		if !a.kernelMade() {
			list = append(list, a.Text)
		}
	}
	for _, rt := range l.Routes {
		list = append(list, "route "+rt.Text)
	}
	return list
}

// Forget lets Take have a NIC again that somebody asked for back, and reports whether there
// was one.
func (u Uplink) Forget() (bool, error) {
	r, recorded, err := load(u.Path, u.BootID)
	if err != nil || !recorded || !r.Returned {
		return false, err
	}
	return true, remove(u.Path)
}
