package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/flatdhcp/flatdhcp/dhcpd/server"
	"github.com/flatdhcp/flatdhcp/ipam"
	flatlink "github.com/flatdhcp/flatdhcp/plugins/link"
)

const (
	// dumpTries: a dump is interrupted when addresses change meanwhile.
	dumpTries = 10
	// watchAgain is the pause before a lost netlink subscription is renewed.
	watchAgain = 100 * time.Millisecond
)

// absentError says that a bridge is known not to be there, with the words for the log.
type absentError string

func (e absentError) Error() string { return string(e) }

// lookBridge reads a bridge's link and IPv4 addresses.
func lookBridge(name string) (server.Binding, error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return server.Binding{}, absentError("there is no bridge " + name)
	}
	if err != nil {
		return server.Binding{}, fmt.Errorf("looking up bridge %s: %w", name, err)
	}
	if link.Type() != "bridge" {
		return server.Binding{}, absentError(name + " is not a bridge but a link of type " + link.Type())
	}
	a := link.Attrs()
	if len(a.HardwareAddr) != len(ipam.MAC{}) {
		return server.Binding{}, absentError("bridge " + name + " has no Ethernet address")
	}
	b := server.Binding{Bridge: name, Index: a.Index, MAC: ipam.MAC(a.HardwareAddr)}
	var list []netlink.Addr
	for range dumpTries {
		list, err = netlink.AddrList(link, netlink.FAMILY_V4)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return server.Binding{}, fmt.Errorf("listing the addresses of %s: %w", name, err)
	}
	for _, addr := range list {
		if ip, ok := netip.AddrFromSlice(addr.IP); ok {
			b.Addrs = append(b.Addrs, ip.Unmap())
		}
	}
	// A shared gateway's address is on a leg of the bridge; what is sent to it comes in by
	// the bridge all the same.
	leg, err := flatlink.Addresses(context.Background(), flatlink.LegName(name))
	if err != nil {
		return server.Binding{}, err
	}
	b.Addrs = append(b.Addrs, leg...)
	return b, nil
}

// watchLinks puts a token into wake after every change of a bridge or an address,
// until ctx is done. Several changes may make one token.
func watchLinks(ctx context.Context, wake chan<- struct{}, log *slog.Logger) {
	poke := func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	for ctx.Err() == nil {
		err := watchOnce(ctx, poke)
		// What changed while nobody listened is found by looking.
		poke()
		if err != nil {
			log.Warn(fmt.Sprintf("watching links and addresses: %v; watching anew", err))
		}
		t := time.NewTimer(watchAgain)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// watchOnce returns when a subscription ends (the kernel drops messages when its
// buffer is full) or ctx is done.
func watchOnce(ctx context.Context, poke func()) error {
	done := make(chan struct{})
	defer close(done)
	failed := make(chan error, 2)
	note := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	links := make(chan netlink.LinkUpdate)
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: note}); err != nil {
		return fmt.Errorf("subscribing to links: %w", err)
	}
	// Its goroutine waits for somebody to take the message it has in hand.
	defer drain(links)
	addrs := make(chan netlink.AddrUpdate)
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: note}); err != nil {
		return fmt.Errorf("subscribing to addresses: %w", err)
	}
	defer drain(addrs)
	poke()
	last := errors.New("the subscription ended")
	for {
		select {
		case <-ctx.Done():
			return nil
		case last = <-failed:
			// One message that could not be understood, or the end: then a channel is
			// closed too.
			poke()
		case u, ok := <-links:
			if !ok {
				return last
			}
			// A node's ports come and go by the thousand and do not matter here.
			if u.Type() == "bridge" {
				poke()
			}
		case _, ok := <-addrs:
			if !ok {
				return last
			}
			poke()
		}
	}
}

func drain[T any](ch <-chan T) {
	go func() {
		for range ch {
		}
	}()
}
