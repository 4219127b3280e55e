package attach

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/flatdhcp/flatdhcp/ipam"
)

func TestAlive(t *testing.T) {
	// Any file will do: a namespace is known by its inode.
	path := filepath.Join(t.TempDir(), "ns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	there := ipam.Holder{ContainerID: "c1", IfName: "eth0", NetNS: path, NetNSInode: inodeOf(info), BootID: "this"}
	with := func(change func(*ipam.Holder)) ipam.Holder {
		h := there
		change(&h)
		return h
	}
	tests := []struct {
		name   string
		holder ipam.Holder
		want   string
	}{
		{"namespace there", there, "its network namespace " + path + " exists"},
		{"namespace gone", with(func(h *ipam.Holder) { h.NetNS += "x" }), ""},
		{"another namespace", with(func(h *ipam.Holder) { h.NetNSInode++ }), ""},
		{"another boot", with(func(h *ipam.Holder) { h.BootID = "that" }), ""},
		{"its port is not here", with(func(h *ipam.Holder) { h.Ported = true }), ""},
		{"nothing known of its end", with(func(h *ipam.Holder) { h.NetNSInode = 0 }), "nothing tells its end but another boot"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Alive(t.Context(), tt.holder, "this")
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func inodeOf(info os.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }
