package snapshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// loadTimeout bounds one read of a store: the daemon's deadline in design.md.
	loadTimeout = 2 * time.Second
	// restFactor keeps reloads that nobody waits for to a tenth of the time, also
	// while thousands of ADDs change a large store.
	restFactor = 9
)

// Network follows one network's store.
type Network struct {
	dir, name string
	path      string // of the store's file
	store     Store
	log       *slog.Logger
	changed   func() // called when the network's record (not merely a row) changed

	current atomic.Pointer[Copy]
	// turn holds one token: who has it may compare and reload. Everybody else waits
	// and then finds the copy already new, so waiting packets share one reload.
	turn  chan struct{}
	dirty chan struct{} // one token: the file changed
	bell  *bell         // rings when the file changes
	tried chan struct{} // closed when keep has read the store once, or could not

	failing string // the last error logged; guarded by turn

	replaced func(n *Network, old, current *Copy) // nil = nobody wants to know
	// Reloads counts the copies that were made, Failures the attempts that failed.
	Reloads, Failures atomic.Uint64
}

func newNetwork(dir, name string, store Store, log *slog.Logger, changed func()) *Network {
	n := &Network{
		dir: dir, name: name, path: filepath.Join(dir, name+storeSuffix), store: store, changed: changed,
		log:  log.With("network", name),
		turn: make(chan struct{}, 1), dirty: make(chan struct{}, 1), bell: newBell(), tried: make(chan struct{}),
	}
	n.turn <- struct{}{}
	return n
}

// Name returns the network's name; Dir the data directory it is in.
func (n *Network) Name() string { return n.name }

// Dir returns the path of the data directory.
func (n *Network) Dir() string { return n.dir }

// Copy returns the copy as it is, nil if the store could not be read so far.
func (n *Network) Copy() *Copy { return n.current.Load() }

// Stale reports whether the file has changed since c was made sure of; true as well if
// that cannot be known. It costs one system call.
func (n *Network) Stale(c *Copy) bool {
	// In this order: a renewal that ends between the two shows in the second.
	return n.bell.ringing() || n.current.Load() != c
}

// Fresh returns a copy that holds everything committed before the call. If the store
// cannot be read (locked, damaged, ctx done) it returns the old copy and false; the
// error is logged once.
func (n *Network) Fresh(ctx context.Context) (c *Copy, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	select {
	case <-n.turn:
		defer func() { n.turn <- struct{}{} }()
	case <-ctx.Done():
		return n.current.Load(), false
	}
	// Before the look, not after: a change during it must count as new. It counts also
	// if the store then cannot be read, since to try again for every packet would
	// help nobody.
	n.bell.begin(n.path)
	defer n.bell.end()
	old := n.current.Load()
	c, err := n.load(ctx, old)
	if err != nil {
		n.Failures.Add(1)
		n.failed(ctx, err)
		return old, false
	}
	if n.failing != "" {
		n.failing = ""
		n.log.Info(fmt.Sprintf("store of network %s can be read again", n.name))
	}
	if c != old {
		n.Reloads.Add(1)
		n.current.Store(c)
		if n.replaced != nil {
			n.replaced(n, old, c)
		}
		if old == nil || !reflect.DeepEqual(old.Network, c.Network) {
			n.changed()
		}
	}
	return c, true
}

// load returns old if the file is still the one it was read from.
func (n *Network) load(ctx context.Context, old *Copy) (*Copy, error) {
	id, err := n.store.Ident()
	if err != nil {
		return nil, err
	}
	if old != nil && old.Ident == id {
		return old, nil
	}
	s, err := n.store.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return NewCopy(s), nil
}

// failed logs an error when it is a new one: packets of unknown clients and a
// broken store would otherwise fill the log.
func (n *Network) failed(ctx context.Context, err error) {
	if errors.Is(ctx.Err(), context.Canceled) || err.Error() == n.failing {
		return
	}
	n.failing = err.Error()
	served := "nothing is served for it"
	if c := n.current.Load(); c != nil {
		served = fmt.Sprintf("serving its %d reservations as last read", c.Len())
	}
	n.log.Error(fmt.Sprintf("reading the store of network %s (%s): %v; %s",
		n.name, n.path, err, served))
}

// touch notes that the file changed.
func (n *Network) touch() {
	select {
	case n.dirty <- struct{}{}:
	default:
	}
}

// keep renews the copy whenever the file changed, until ctx is done.
func (n *Network) keep(ctx context.Context) {
	defer n.bell.close()
	first := sync.OnceFunc(func() { close(n.tried) })
	defer first()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.dirty:
		}
		start := time.Now()
		n.Fresh(ctx)
		first()
		rest := time.NewTimer(restFactor * time.Since(start))
		select {
		case <-ctx.Done():
			rest.Stop()
			return
		case <-rest.C:
		}
	}
}
