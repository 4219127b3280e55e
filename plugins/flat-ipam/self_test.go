package main

import (
	"errors"
	"io/fs"
	"net/netip"
	"testing"

	"github.com/flatdhcp/flatdhcp/ipam"
)

func mustAddr(t *testing.T, s string) netip.Addr {
	t.Helper()
	a, err := netip.ParseAddr(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// In doubt a holder lives: two workloads with one address is the worse end.
func TestAlive(t *testing.T) {
	there := func(string) (uint64, error) { return 7, nil }
	for name, tc := range map[string]struct {
		holder  ipam.Holder
		inodeOf func(string) (uint64, error)
		want    string
	}{
		"same namespace":             {ipam.Holder{BootID: "b", NetNS: "/n", NetNSInode: 7}, there, "its network namespace /n exists"},
		"another namespace":          {ipam.Holder{BootID: "b", NetNS: "/n", NetNSInode: 8}, there, ""},
		"no such path":               {ipam.Holder{BootID: "b", NetNS: "/n", NetNSInode: 7}, func(string) (uint64, error) { return 0, fs.ErrNotExist }, ""},
		"a path that cannot be seen": {ipam.Holder{BootID: "b", NetNS: "/n", NetNSInode: 7}, func(string) (uint64, error) { return 0, fs.ErrPermission }, "its network namespace cannot be looked at (permission denied)"},
		"another boot":               {ipam.Holder{BootID: "a", NetNS: "/n", NetNSInode: 7}, there, ""},
		"unknown boot":               {ipam.Holder{NetNS: "/n", NetNSInode: 7}, there, "its network namespace /n exists"},
		"nothing known":              {ipam.Holder{BootID: "b"}, there, "nothing tells its end but another boot"},
		"unknown inode":              {ipam.Holder{BootID: "b", NetNS: "/n"}, there, "nothing tells its end but another boot"},
		"a port, namespace gone":     {ipam.Holder{BootID: "b", NetNS: "/n", NetNSInode: 8, Ported: true}, there, "flat-bridge made its port, and only flat-bridge can say that it is gone"},
		"a port of an earlier boot":  {ipam.Holder{BootID: "a", Ported: true}, there, ""},
	} {
		t.Run(name, func(t *testing.T) {
			here := self{bootID: "b", inodeOf: tc.inodeOf}
			if got := here.alive(tc.holder); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestNetNSInode(t *testing.T) {
	if _, err := netnsInode(t.TempDir() + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing path: %v", err)
	}
	if n, err := netnsInode("/proc/self/ns/net"); err != nil || n == 0 {
		t.Errorf("got %d, %v", n, err)
	}
}
