package server

import (
	"sync"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// holdDown is how long a declined address is not given to its client again. There is no
// other to give, so it is short: dnsmasq's ten minutes would be an outage.
const holdDown = 30 * time.Second

// maxHeld bounds who is remembered: a station that goes through the MACs of a peer's range
// would else be remembered under each.
const maxHeld = 4096

// holds remembers who declined its address a moment ago: known clients only, not for long,
// and not more than maxHeld. It may be lost without harm.
type holds struct {
	mu       sync.Mutex
	declined map[ipam.MAC]time.Time
}

func newHolds() *holds { return &holds{declined: map[ipam.MAC]time.Time{}} }

// decline notes that a client declined its address. While it is held another DECLINE
// does not start the time anew.
func (h *holds) decline(mac ipam.MAC, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for m, at := range h.declined {
		if now.Sub(at) >= holdDown {
			delete(h.declined, m)
		}
	}
	if _, held := h.declined[mac]; !held && len(h.declined) < maxHeld {
		h.declined[mac] = now
	}
}

// held reports whether a client declined its address a moment ago.
func (h *holds) held(mac ipam.MAC, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, ok := h.declined[mac]
	return ok && now.Sub(at) < holdDown
}
