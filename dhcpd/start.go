package main

import (
	"errors"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/holder"
	"github.com/flatdhcp/flatdhcp/dhcpd/server"
)

const (
	// startPhase is how long a daemon that serves nothing yet counts as starting.
	startPhase = 10 * time.Second
	// yieldTime is how long it waits for another that may be ending.
	yieldTime = 2 * time.Second
)

// starting decides whether a daemon goes on that finds its bridges served by another.
//
// A second daemon by mistake would reconcile the node's rules beside the first, under
// locks of its own if its run directory is another: so one that could serve nothing
// because of that ends while it starts, where a person or a service manager looks. One
// that serves something goes on, whoever comes: its networks' clients matter more.
type starting struct {
	began time.Time
	since time.Time // when it first was refused; zero = it is not
	over  bool
}

// look is to be called after every look at the networks: refusal says why nothing is
// served, nil if another daemon is not the reason, and serving whether anything is. It
// returns when to look again at the latest, 0 for no need, or an error if the daemon
// has to end.
func (s *starting) look(now time.Time, refusal error, serving bool) (again time.Duration, err error) {
	if serving || s.since.IsZero() && now.Sub(s.began) >= startPhase {
		s.over = true
	}
	if s.over || refusal == nil {
		s.since = time.Time{}
		return 0, nil
	}
	if s.since.IsZero() {
		s.since = now
	}
	if left := yieldTime - now.Sub(s.since); left > 0 {
		return left, nil
	}
	return 0, refusal
}

// openClaimed opens the transport of a bridge that no other daemon serves; a
// holder.DaemonError if one does.
func openClaimed(b server.Binding) (server.Transport, error) {
	claim, err := holder.NewClaim(b.Bridge)
	if err != nil {
		return nil, err
	}
	t, err := server.Open(b)
	if err != nil {
		return nil, errors.Join(err, claim.Close())
	}
	return claimed{t, claim}, nil
}

// claimed is the transport of a bridge with this daemon's claim on it.
type claimed struct {
	server.Transport
	claim *holder.Claim
}

// Close implements server.Transport. The claim goes first: who hears from the transport
// that it is closed may open the bridge anew at once.
func (c claimed) Close() error { return errors.Join(c.claim.Close(), c.Transport.Close()) }
