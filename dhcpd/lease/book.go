package lease

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

const (
	// writeAfter is how long a change waits for more before it is written.
	writeAfter = 2 * time.Second
	// restFactor keeps writing to a small part of the time, however many clients renew.
	restFactor = 20
)

// Book is the lease state of all networks. It is safe for concurrent use.
type Book struct {
	now   func() time.Time
	log   *slog.Logger
	after time.Duration // writeAfter but in tests
	dirty chan struct{} // one token: something is to be written

	mu       sync.Mutex
	networks map[key]*page
}

type key struct{ dataDir, network string }

type page struct {
	table
	changed bool
	failing string // the last error of writing that was logged
}

// NewBook returns a Book that reads a network's file when it is first told of it.
func NewBook(now func() time.Time, log *slog.Logger) *Book {
	return &Book{now: now, log: log, after: writeAfter, dirty: make(chan struct{}, 1), networks: map[key]*page{}}
}

// Open has the state of a network read from its file, if that has not been done.
func (b *Book) Open(dataDir, network string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open(key{dataDir, network})
}

func (b *Book) open(k key) *page {
	p, ok := b.networks[k]
	if !ok {
		t, err := load(k.dataDir, k.network)
		if err != nil {
			b.log.Warn(fmt.Sprintf("%v; it is begun anew, which changes no answer", err), "network", k.network)
		}
		p = &page{table: *t}
		b.networks[k] = p
	}
	return p
}

// Note takes an event in.
func (b *Book) Note(e Event) {
	b.mu.Lock()
	p := b.open(key{e.DataDir, e.Network})
	if p.note(e) {
		p.changed = true
	}
	changed := p.changed
	b.mu.Unlock()
	if changed {
		select {
		case b.dirty <- struct{}{}:
		default:
		}
	}
}

// Forget drops a network that is gone, with its file.
func (b *Book) Forget(dataDir, network string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.networks, key{dataDir, network})
	if err := os.Remove(path(dataDir, network)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.log.Warn(fmt.Sprintf("removing lease state: %v", err), "network", network)
	}
}

// List returns all leases as they are now, by network and address.
func (b *Book) List() []Lease {
	now := b.now()
	b.mu.Lock()
	all := []Lease{}
	for _, p := range b.networks {
		all = append(all, p.list(now)...)
	}
	b.mu.Unlock()
	sortLeases(all)
	return all
}

// Count returns how many leases of each network are in each state.
func (b *Book) Count() map[string]map[State]int {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	counts := map[string]map[State]int{}
	for k, p := range b.networks {
		c := counts[k.network]
		if c == nil {
			c = map[State]int{StateOffered: 0, StateBound: 0, StateExpired: 0, StateReleased: 0, StateDeclined: 0}
			counts[k.network] = c
		}
		for _, l := range p.leases {
			c[l.at(now).State]++
		}
	}
	return counts
}

// Run writes what changed, some time after it did, until ctx is done; then what is left.
func (b *Book) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			b.write()
			return
		case <-b.dirty:
		}
		wait(ctx, b.after)
		start := time.Now()
		b.write()
		wait(ctx, restFactor*time.Since(start))
	}
}

// write writes every page that changed.
func (b *Book) write() {
	b.mu.Lock()
	type work struct {
		key
		leases []Lease
	}
	var todo []work
	for k, p := range b.networks {
		if p.changed {
			p.changed = false
			// As they are kept, not as they are now: expiry is told from the time.
			todo = append(todo, work{k, p.list(time.Time{})})
		}
	}
	b.mu.Unlock()
	for _, w := range todo {
		err := save(w.dataDir, w.network, w.leases)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the network was removed, or its directory
		}
		b.mu.Lock()
		p, ok := b.networks[w.key]
		if ok && err != nil {
			p.changed = true // tried again with the next event
			if p.failing != err.Error() {
				p.failing = err.Error()
				b.log.Warn(fmt.Sprintf("%v; the daemon serves on without it", err), "network", w.network)
			}
		} else if ok {
			p.failing = ""
		}
		b.mu.Unlock()
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
