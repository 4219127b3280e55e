package uplink

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Record says what a NIC and a bridge were before the NIC was made its port. It is written
// before anything is touched, and kept until the NIC has everything back.
//
// It survives a crash of who wrote it, and not the machine's: with the machine the kernel's
// state goes as well, and the NIC comes back as the distribution sets it up. So it lies in
// the run directory, and one of another boot counts for nothing.
type Record struct {
	BootID   string `json:"bootID"`
	NIC      string `json:"nic"`
	NICIndex int    `json:"nicIndex"` // another card of the name has another one
	Bridge   string `json:"bridge"`

	WasUp     bool      `json:"wasUp"` // the NIC
	Addresses []Address `json:"addresses,omitempty"`
	Routes    []Route   `json:"routes,omitempty"`
	// BridgeMAC and the rest is what the bridge gets back.
	BridgeMAC  ipam.MAC          `json:"bridgeMAC"`
	BridgeMTU  int               `json:"bridgeMTU"`
	BridgeIPv6 map[string]string `json:"bridgeIPv6,omitempty"`

	// Done: the NIC is the bridge's port, with all that goes with it.
	Done bool `json:"done"`
	// Returned: somebody asked for the NIC back, and is not to lose it again unasked.
	Returned bool `json:"returned,omitempty"`
}

// moves reports whether addresses or routes go along with the NIC.
func (r Record) moves() bool { return len(r.Addresses)+len(r.Routes) > 0 }

func (r Record) movesIPv6() bool {
	return slices.ContainsFunc(r.Addresses, Address.ipv6) || slices.ContainsFunc(r.Routes, Route.ipv6)
}

// absorb notes what the NIC has to be moved. Link-local IPv6 addresses go along if there is
// other IPv6: the bridge needs them then, and else has no use for them.
func (r *Record) absorb(nic Link) {
	for _, rt := range nic.Routes {
		if !slices.ContainsFunc(r.Routes, rt.same) {
			r.Routes = append(r.Routes, rt)
		}
	}
	for _, own := range []bool{true, false} {
		for _, a := range nic.Addresses {
			if a.kernelMade() != own && (!a.kernelMade() || r.movesIPv6()) && !has(r.Addresses, a) {
				r.Addresses = append(r.Addresses, a)
			}
		}
	}
}

// carries reports whether somebody has given the NIC addresses or routes.
func carries(nic Link) bool {
	return len(nic.Routes) > 0 || slices.ContainsFunc(nic.Addresses, func(a Address) bool { return !a.kernelMade() })
}

// load reads the record at path; false = there is none, or one of another boot.
func load(path, bootID string) (r Record, ok bool, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, false, fmt.Errorf("reading what was noted of the uplink in %s: %w", path, err)
	}
	for _, a := range r.Addresses {
		if _, err := a.parse(); err != nil {
			return r, false, fmt.Errorf("reading what was noted of the uplink in %s: %w", path, err)
		}
	}
	for _, rt := range r.Routes {
		if _, err := rt.parse(); err != nil {
			return r, false, fmt.Errorf("reading what was noted of the uplink in %s: %w", path, err)
		}
	}
	return r, r.BootID == bootID, nil
}

// save replaces the record at path, whole or not at all. It need not survive the machine.
func (r Record) save(path string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = os.WriteFile(path+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("noting what uplink %s was: %w", r.NIC, err)
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing what was noted of the uplink: %w", err)
	}
	return nil
}
