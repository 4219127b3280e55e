package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testlog"
	"github.com/flatdhcp/flatdhcp/dhcpd/lease"
	"github.com/flatdhcp/flatdhcp/dhcpd/server"
	"github.com/flatdhcp/flatdhcp/dhcpd/snapshot"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// deaf is a Transport on which nothing comes.
type deaf struct {
	once   sync.Once
	closed chan struct{}
}

func (d *deaf) Receive([]byte) (server.Datagram, error) {
	<-d.closed
	return server.Datagram{}, net.ErrClosed
}
func (d *deaf) Route([]byte, netip.Addr) error { return nil }
func (d *deaf) Send([]byte) error              { return nil }
func (d *deaf) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

// TestSupervisor walks one network through what can happen to its bridge.
func TestSupervisor(t *testing.T) {
	dir := ipam.OpenDir(filepath.Join(t.TempDir(), "data"))
	if _, err := dir.Store("flat").Configure(t.Context(), network()); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	log := newLogger(&b, config{logFormat: "text"})
	follower := snapshot.NewFollower(newLogger(&testlog.Buffer{}, config{logFormat: "text"}), snapshot.Of(dir))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { follower.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	await(t, "the network", func() bool { return len(follower.Networks()) == 1 })

	var (
		binding          = server.Binding{Bridge: "br100", Index: 7, Addrs: []netip.Addr{gateway}}
		lookErr, openErr error
		opened           []*deaf
		now              = time.Unix(1000, 0)
	)
	s := supervisor{
		networks: follower.Networks, log: log, now: func() time.Time { return now },
		seen: &seen{book: lease.NewBook(time.Now, log), now: time.Now},
		look: func(string) (server.Binding, error) { return binding, lookErr },
		open: func(server.Binding) (server.Transport, error) {
			if openErr != nil {
				return nil, openErr
			}
			opened = append(opened, &deaf{closed: make(chan struct{})})
			return opened[len(opened)-1], nil
		},
	}
	t.Cleanup(s.stop)
	for _, step := range []struct {
		name    string
		change  func()
		serving int
		opened  int
		says    string // "" = nothing
	}{
		{"no bridge", func() { lookErr = absentError("there is no bridge br100") }, 0, 0, "network flat waits to be served: there is no bridge br100"},
		{"still none: said once", func() { now = now.Add(time.Second) }, 0, 0, ""},
		{"still none after a minute: said again", func() { now = now.Add(time.Minute) }, 0, 0, "network flat waits to be served"},
		{"asking fails", func() { lookErr = errors.New("looking up bridge br100: interrupted") }, 0, 0, "network flat waits to be served: looking up bridge br100: interrupted"},
		{"the port is taken", func() { lookErr, openErr = nil, errors.New("UDP port 67 is taken") }, 0, 0, "error: network flat is not served: UDP port 67 is taken"},
		{"the port is free", func() { openErr = nil }, 1, 1, "DHCP, static leases only on 10.0.0.2, lease time 2m\n"},
		{"nothing changes", func() {}, 1, 1, ""},
		{"another address", func() { binding.Addrs = append(binding.Addrs, netip.MustParseAddr("10.0.0.9")) }, 1, 1, ""},
		{"asking fails while it is served", func() { lookErr = errors.New("looking up bridge br100: interrupted") }, 1, 1, "warn: looking up bridge br100: interrupted; serving on as before"},
		{"another link by the same name", func() { lookErr = nil; binding.Index = 8 }, 1, 2, "DHCP on br100 stopped"},
		{"the gateway address goes", func() { binding.Addrs = nil }, 0, 2, "gateway address 10.0.0.1 is not on bridge br100"},
		{"and comes back", func() { binding.Addrs = []netip.Addr{gateway} }, 1, 3, "DHCP, sockets bound exclusively to interface br100"},
	} {
		b.Reset()
		step.change()
		s.reconcile(ctx)
		if len(s.serving) != step.serving || len(opened) != step.opened {
			t.Errorf("%s: %d served, %d opened, want %d and %d", step.name, len(s.serving), len(opened), step.serving, step.opened)
		}
		if said := b.String(); step.says == "" && said != "" || !strings.Contains(said, step.says) {
			t.Errorf("%s: said %q, want %q", step.name, said, step.says)
		}
		for _, d := range opened[:max(len(opened)-len(s.serving), 0)] {
			select {
			case <-d.closed:
			default:
				t.Errorf("%s: a transport that is no longer used is open", step.name)
			}
		}
	}
	s.stop()
	<-opened[2].closed
}
