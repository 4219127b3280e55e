package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/containernetworking/cni/pkg/ns"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// bootIDFile changes with every boot of the machine.
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// self is where and when this verb runs.
type self struct {
	bootID string
	inode  uint64 // of the container's network namespace; 0 = unknown
	// inodeOf is netnsInode; tests replace it.
	inodeOf func(path string) (uint64, error)
}

func findSelf(netns string) (self, error) {
	b, err := os.ReadFile(bootIDFile)
	if err != nil {
		return self{}, fmt.Errorf("reading the boot ID: %w", err)
	}
	s := self{bootID: strings.TrimSpace(string(b)), inodeOf: netnsInode}
	// A main plugin may well give its IPAM plugin a namespace that cannot be seen from
	// here. The reservation is then only known dead after another boot.
	if inode, err := netnsInode(netns); err == nil {
		s.inode = inode
	}
	return s, nil
}

// netnsInode returns the inode behind a namespace's path; it is the namespace's
// identity, which a path used again is not.
func netnsInode(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("no inode for %s", path)
	}
	return st.Ino, nil
}

// alive returns why h must be taken for alive, or "" if it is proven dead: another
// boot, or, without a port of ours, a namespace that is gone or another one. In doubt
// it lives: two workloads with one address is worse than an ADD to be tried again.
func (s self) alive(h ipam.Holder) string {
	if h.BootID != "" && h.BootID != s.bootID {
		return ""
	}
	if h.Ported {
		return "flat-bridge made its port, and only flat-bridge can say that it is gone"
	}
	if h.NetNS == "" || h.NetNSInode == 0 {
		return "nothing tells its end but another boot"
	}
	inode, err := s.inodeOf(h.NetNS)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ""
	case err != nil:
		return fmt.Sprintf("its network namespace cannot be looked at (%v)", err)
	case inode != h.NetNSInode:
		return ""
	}
	return "its network namespace " + h.NetNS + " exists"
}

// refuseOwnNamespace finds before anything is reserved what skel only finds after the
// result is printed, which leaves two documents on stdout and a reservation behind.
func refuseOwnNamespace(args *skel.CmdArgs) error {
	if override := strings.ToLower(args.NetnsOverride); override == "1" || override == "true" {
		return nil
	}
	same, err := ns.CheckNetNS(args.Netns)
	if err != nil {
		return err
	}
	if same {
		return types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("CNI_NETNS %q is the plugin's own network namespace", args.Netns),
			"give the container a namespace of its own")
	}
	return nil
}
