package snapshot

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// rescanEvery is how often the directories are looked at although nothing was
// notified: the net under inotify (queue overflows, file systems without it).
const rescanEvery = 10 * time.Second

// storeSuffix is what the store adds to a network's name.
const storeSuffix = ".db"

// Follower keeps a copy of every network in some data directories, which need not
// exist yet.
type Follower struct {
	dirs    []Dir
	log     *slog.Logger
	changed chan struct{}
	ready   chan struct{}
	// Replaced may be set before Run. It is told of every new copy of a network, one at a
	// time for each; old is nil for the first. Packets wait meanwhile: it must be quick.
	Replaced func(n *Network, old, current *Copy)
	// Gone may be set before Run. It is told of networks whose store was removed.
	Gone func(dir, name string)

	mu   sync.Mutex
	nets map[key]followed
}

type key struct{ dir, name string }

type followed struct {
	*Network
	stop context.CancelFunc
}

// NewFollower returns a Follower of dirs; nothing is read before Run.
func NewFollower(log *slog.Logger, dirs ...Dir) *Follower {
	return &Follower{dirs: dirs, log: log, changed: make(chan struct{}, 1), ready: make(chan struct{}), nets: map[key]followed{}}
}

// Changed delivers a token after networks came, went or had their record changed;
// several changes may make one token.
func (f *Follower) Changed() <-chan struct{} { return f.changed }

// Ready is closed once Run has tried to read every store that was there.
func (f *Follower) Ready() <-chan struct{} { return f.ready }

// Networks returns the networks whose store could be read, by directory (in the
// order given to NewFollower) and name.
func (f *Follower) Networks() []*Network {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []*Network
	for _, n := range f.nets {
		if n.Copy() != nil {
			list = append(list, n.Network)
		}
	}
	order := func(n *Network) int {
		return slices.IndexFunc(f.dirs, func(d Dir) bool { return d.Path() == n.dir })
	}
	slices.SortFunc(list, func(a, b *Network) int {
		if d := order(a) - order(b); d != 0 {
			return d
		}
		return strings.Compare(a.name, b.name)
	})
	return list
}

// Run follows the directories until ctx is done. Without inotify (the kernel's limits
// may forbid it) it looks around every ten seconds; what a client asks for is found
// at once even then.
func (f *Follower) Run(ctx context.Context) {
	var keepers sync.WaitGroup
	defer keepers.Wait()
	watch := watches{log: f.log}
	defer watch.close()
	rescan := func() {
		watch.arm(f.dirs)
		for _, d := range f.dirs {
			f.scan(ctx, d, &keepers)
		}
	}
	rescan()
	keepers.Go(func() { f.awaitFirst(ctx) })
	tick := time.NewTicker(rescanEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case ev := <-watch.events():
			if !f.touch(ev) {
				rescan()
			}
		case err := <-watch.errors():
			f.log.Warn(fmt.Sprintf("watching the data directories: %v; looking at them anew", err))
			rescan()
		case <-tick.C:
			rescan()
		}
	}
}

// awaitFirst closes ready.
func (f *Follower) awaitFirst(ctx context.Context) {
	f.mu.Lock()
	list := slices.Collect(maps.Values(f.nets))
	f.mu.Unlock()
	for _, n := range list {
		select {
		case <-n.tried:
		case <-ctx.Done():
			return
		}
	}
	close(f.ready)
}

// touch handles an event about a store that is followed; false = look around.
func (f *Follower) touch(ev fsnotify.Event) bool {
	name, isStore := strings.CutSuffix(filepath.Base(ev.Name), storeSuffix)
	f.mu.Lock()
	n, known := f.nets[key{filepath.Dir(ev.Name), name}]
	_, isDir := f.dirOf(ev.Name)
	inDir := false
	if !isDir {
		_, inDir = f.dirOf(filepath.Dir(ev.Name))
	}
	f.mu.Unlock()
	switch {
	case inDir && !isStore:
		return true // the lock file, an editor's temporary file
	case isStore && known && ev.Has(fsnotify.Write):
		n.touch()
		return true
	case isStore && known && ev.Op == fsnotify.Chmod:
		return true
	}
	return false
}

func (f *Follower) dirOf(path string) (Dir, bool) {
	i := slices.IndexFunc(f.dirs, func(d Dir) bool { return filepath.Clean(d.Path()) == path })
	if i < 0 {
		return nil, false
	}
	return f.dirs[i], true
}

// scan brings the set of networks in line with what the directory holds.
func (f *Follower) scan(ctx context.Context, d Dir, keepers *sync.WaitGroup) {
	list, err := d.Names(ctx)
	if err != nil {
		if ctx.Err() == nil {
			f.log.Error(fmt.Sprintf("listing the networks in %s: %v; those known go on being served", d.Path(), err))
		}
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, n := range f.nets {
		if k.dir == filepath.Clean(d.Path()) && !slices.Contains(list, k.name) {
			n.stop()
			delete(f.nets, k)
			f.log.Info(fmt.Sprintf("network %s is gone from %s", k.name, k.dir), "network", k.name)
			if f.Gone != nil {
				f.Gone(n.dir, n.name)
			}
			f.signal()
		}
	}
	for _, name := range list {
		k := key{filepath.Clean(d.Path()), name}
		n, ok := f.nets[k]
		if !ok {
			nctx, stop := context.WithCancel(ctx)
			n = followed{newNetwork(d.Path(), name, d.Store(name), f.log, f.signal), stop}
			n.replaced = f.Replaced
			f.nets[k] = n
			keepers.Go(func() { n.keep(nctx) })
		}
		// Also for known ones: comparing costs little, and an event may be lost.
		n.touch()
	}
}

func (f *Follower) signal() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}
