package ipam

import (
	"context"
	"errors"
	"fmt"

	"github.com/flatdhcp/flatdhcp/ipam/flock"
)

// Ready looks at the store as an ADD would need it, as a reader and without making
// anything: whether the directory can be written, and how the addresses stand. A
// network without a store yet is ready, with zero Stats: its first ADD makes it.
//
// ErrLocked, or the end of ctx, means that others were busy with it, and nothing else.
// Every other error lasts until a person mends it.
func (s *Store) Ready(ctx context.Context) (Stats, error) {
	if err := flock.Writable(s.dir.path); err != nil {
		return Stats{}, fmt.Errorf("data directory %s cannot be written: %w", s.dir.path, err)
	}
	var stats Stats
	err := s.View(ctx, func(v *View) (err error) {
		stats, err = v.Stats()
		return err
	})
	if errors.Is(err, ErrNoNetwork) {
		return Stats{}, nil
	}
	if err != nil {
		return Stats{}, fmt.Errorf("reading the store of network %s: %w", s.name, err)
	}
	return stats, nil
}

// Exhausted reports that no ADD without a reservation of its own can be given an
// address until a workload ends. Retained addresses are given once nothing else is
// left, and those in quarantine free themselves within reuseDelay.
func (s Stats) Exhausted() bool { return s.Size > 0 && s.Free == 0 && s.Retained == 0 }
