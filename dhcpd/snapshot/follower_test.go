package snapshot

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testlog"
	"github.com/flatdhcp/flatdhcp/ipam"
)

const patience = 20 * time.Second

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// fakeStore is a store in memory that counts who looks at it.
type fakeStore struct {
	mu     sync.Mutex
	rows   []ipam.Reservation
	bridge string
	tx     uint64
	file   ipam.Ident // what identifies it beside tx
	fail   error
	gate   chan struct{} // if set, Snapshot waits for a token

	looks, loads int
}

func (s *fakeStore) set(change func(*fakeStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *fakeStore) add(mac ipam.MAC) {
	s.set(func(s *fakeStore) {
		s.rows = append(s.rows, ipam.Reservation{MAC: mac, Addr: netip.AddrFrom4([4]byte{10, 0, mac[4], mac[5]})})
		s.tx++
	})
}

func (s *fakeStore) counts() (looks, loads int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.looks, s.loads
}

func (s *fakeStore) Ident() (ipam.Ident, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	return s.ident(), s.fail
}

func (s *fakeStore) ident() ipam.Ident {
	id := s.file
	id.TxID = s.tx
	return id
}

func (s *fakeStore) Snapshot(ctx context.Context) (*ipam.Snapshot, error) {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads++
	if s.fail != nil {
		return nil, s.fail
	}
	n := ipam.Network{Name: "flat", Bridge: &ipam.Bridge{Name: s.bridge}}
	return &ipam.Snapshot{Network: n, Rows: append([]ipam.Reservation(nil), s.rows...), Ident: s.ident()}, nil
}

func followed1(t *testing.T, s *fakeStore) (*Network, *testlog.Buffer, *int) {
	t.Helper()
	log, changes := &testlog.Buffer{}, new(int)
	return newNetwork("/data", "flat", s, log.Logger(), func() { *changes++ }), log, changes
}

func fresh(t testing.TB, n *Network) *Copy {
	t.Helper()
	c, ok := n.Fresh(t.Context())
	if !ok {
		t.Fatal("the store could not be read")
	}
	return c
}

var macs = []ipam.MAC{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 0, 3}}

func TestFreshReloadsOnlyWhatChanged(t *testing.T) {
	s := &fakeStore{bridge: "br100"}
	s.add(macs[0])
	n, _, changes := followed1(t, s)
	if n.Copy() != nil {
		t.Fatal("a copy before anything was read")
	}
	first := fresh(t, n)
	if first == nil || first.ByMAC(macs[0]) == nil || first.ByMAC(macs[1]) != nil || first.Len() != 1 {
		t.Fatalf("first copy: %+v", first)
	}
	for range 50 {
		if fresh(t, n) != first {
			t.Fatal("an unchanged store was copied again")
		}
	}
	if looks, loads := s.counts(); looks != 51 || loads != 1 {
		t.Errorf("%d looks and %d loads, want 51 and 1", looks, loads)
	}
	s.add(macs[1])
	if c := fresh(t, n); c.ByMAC(macs[1]) == nil || n.Copy() != c {
		t.Error("what was committed before the call is missing")
	}
	if first.ByMAC(macs[1]) != nil {
		t.Error("an old copy changed")
	}
	if *changes != 1 {
		t.Errorf("%d changes of the network's record, want 1: rows do not count", *changes)
	}
	s.set(func(s *fakeStore) { s.bridge, s.tx = "br200", s.tx+1 })
	if fresh(t, n); *changes != 2 {
		t.Errorf("%d changes of the network's record, want 2", *changes)
	}
}

// TestFreshTellsAnotherFileByAnythingOfIt: a file that was put in the old one's place
// may have as many transactions behind it.
func TestFreshTellsAnotherFileByAnythingOfIt(t *testing.T) {
	for name, change := range map[string]func(*ipam.Ident){
		"device":            func(id *ipam.Ident) { id.Dev++ },
		"inode":             func(id *ipam.Ident) { id.Ino++ },
		"size":              func(id *ipam.Ident) { id.Size++ },
		"modification time": func(id *ipam.Ident) { id.MTime++ },
		"transaction":       func(id *ipam.Ident) { id.TxID++ },
	} {
		s := &fakeStore{}
		n, _, _ := followed1(t, s)
		fresh(t, n)
		s.set(func(s *fakeStore) {
			id := s.ident()
			change(&id)
			s.file, s.tx = id, id.TxID
			s.rows = []ipam.Reservation{{MAC: macs[2], Addr: netip.MustParseAddr("10.0.0.2")}}
		})
		if fresh(t, n).ByMAC(macs[2]) == nil {
			t.Errorf("another %s alone was not noticed", name)
		}
	}
}

// TestNothingIsRememberedAboutAStranger: a MAC that was not found is found as soon as
// its row is committed.
func TestNothingIsRememberedAboutAStranger(t *testing.T) {
	s := &fakeStore{}
	n, _, _ := followed1(t, s)
	for i := range 100 {
		mac := ipam.MAC{2, 0, 0, 0, 1, byte(i)}
		if fresh(t, n).ByMAC(mac) != nil {
			t.Fatal("found before it was there")
		}
		s.add(mac)
		if fresh(t, n).ByMAC(mac) == nil {
			t.Fatal("not found after it was there")
		}
	}
}

func TestWaitersShareOneReload(t *testing.T) {
	s := &fakeStore{}
	n, _, _ := followed1(t, s)
	fresh(t, n)
	s.add(macs[0])
	s.set(func(s *fakeStore) { s.gate = make(chan struct{}) })
	const waiters = 50
	found := make(chan bool, waiters)
	for range waiters {
		go func() {
			c, ok := n.Fresh(context.Background())
			found <- ok && c.ByMAC(macs[0]) != nil
		}()
	}
	s.gate <- struct{}{} // one load, and only one, may pass
	for range waiters {
		if !<-found {
			t.Error("a waiter got an old copy")
		}
	}
	if _, loads := s.counts(); loads != 2 {
		t.Errorf("%d loads for %d waiters, want one (and one before them)", loads, waiters)
	}
}

func TestOldCopyServesWhileTheStoreCannotBeRead(t *testing.T) {
	s := &fakeStore{}
	s.add(macs[0])
	n, log, _ := followed1(t, s)
	old := fresh(t, n)
	s.set(func(s *fakeStore) { s.fail = ipam.ErrDamaged })
	for range 20 {
		if c, ok := n.Fresh(t.Context()); ok || c != old || n.Copy() != old {
			t.Fatal("the old copy is gone")
		}
	}
	want := "reading the store of network flat (/data/flat.db): store is damaged; serving its 1 reservations as last read"
	if got := strings.Count(log.String(), want); got != 1 {
		t.Errorf("logged %d times, want once:\n%s", got, log)
	}
	s.set(func(s *fakeStore) { s.fail = nil })
	s.add(macs[1])
	if fresh(t, n).ByMAC(macs[1]) == nil {
		t.Error("not read again once it can be")
	}
	if !strings.Contains(log.String(), "store of network flat can be read again") {
		t.Error("the recovery is not logged")
	}
	// Another failure is news again.
	s.set(func(s *fakeStore) { s.fail, s.tx = ipam.ErrLocked, s.tx+1 })
	if _, ok := n.Fresh(t.Context()); ok {
		t.Error("a busy store counts as read")
	}
	if !strings.Contains(log.String(), "store is busy") {
		t.Error("a new failure is not logged")
	}
}

func TestFreshEndsWithItsContext(t *testing.T) {
	s := &fakeStore{}
	s.add(macs[0])
	n, log, _ := followed1(t, s)
	old := fresh(t, n)
	s.add(macs[1])
	s.set(func(s *fakeStore) { s.gate = make(chan struct{}) }) // nothing passes
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan *Copy, 2)
	for range 2 { // one loads, one waits for it
		go func() {
			c, ok := n.Fresh(ctx)
			if ok {
				t.Error("counts as read")
			}
			done <- c
		}()
	}
	cancel()
	for range 2 {
		select {
		case c := <-done:
			if c != old {
				t.Error("not the old copy")
			}
		case <-time.After(patience):
			t.Fatal("Fresh does not end")
		}
	}
	if log.String() != "" {
		t.Errorf("the end of the daemon is no error: %s", log)
	}
}

// record is a network for the real store.
func record(name string, octet byte, bridge string) ipam.Network {
	addr := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, octet, 0, last}) }
	return ipam.Network{
		Name: name,
		Pool: ipam.Pool{
			Subnet: netip.PrefixFrom(addr(0), 24), RangeStart: addr(1), RangeEnd: addr(254), Gateway: addr(1),
			Domain: "novalocal", MACPrefix: ipam.DefaultMACPrefix,
		},
		Bridge: &ipam.Bridge{Name: bridge, IsGateway: true, Fallback: ipam.FallbackDrop, Addressing: ipam.AddressingDHCP},
	}
}

func reserve(t testing.TB, d *ipam.Dir, n ipam.Network, host string) ipam.Grant {
	t.Helper()
	g, err := tryReserve(d, n, host)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func tryReserve(d *ipam.Dir, n ipam.Network, host string) (ipam.Grant, error) {
	return d.Store(n.Name).Reserve(context.Background(), &n, ipam.Request{
		Workload: ipam.Workload{Kind: ipam.KindName, Value: host, IfName: "eth0"},
		Holder:   ipam.Holder{ContainerID: host, IfName: "eth0", BootID: "test"},
	})
}

func follow(t testing.TB, dirs ...*ipam.Dir) (*Follower, *testlog.Buffer) {
	t.Helper()
	log := &testlog.Buffer{}
	list := make([]Dir, len(dirs))
	for i, d := range dirs {
		list[i] = Of(d)
	}
	f := NewFollower(log.Logger(), list...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("Run does not end")
		}
		if t.Failed() {
			t.Logf("log:\n%s", log)
		}
	})
	return f, log
}

func names(f *Follower) string {
	var s []string
	for _, n := range f.Networks() {
		s = append(s, filepath.Base(n.Dir())+"/"+n.Name())
	}
	return strings.Join(s, " ")
}

// TestFollow goes through the life of data directories, notified by inotify: the
// regular look around comes too late for any step but the last.
func TestFollow(t *testing.T) {
	root := t.TempDir()
	a, b := ipam.OpenDir(filepath.Join(root, "deep", "er", "a")), ipam.OpenDir(filepath.Join(root, "b"))
	f, log := follow(t, a, b)
	within := func(what string, ok func() bool) {
		t.Helper()
		begin := time.Now()
		await(t, what, ok)
		if d := time.Since(begin); d > rescanEvery/2 {
			t.Errorf("%s: seen after %v only, so not by notification", what, d)
		}
	}
	signalled := func(what string) {
		t.Helper()
		select {
		case <-f.Changed():
		case <-time.After(patience):
			t.Fatalf("no signal: %s", what)
		}
	}
	if err := os.MkdirAll(a.Path(), 0o700); err != nil {
		t.Fatal(err)
	}
	one := record("one", 1, "br1")
	g := reserve(t, a, one, "w1")
	signalled("a network came")
	within("the first network", func() bool { return names(f) == "a/one" })
	n := f.Networks()[0]
	if r := n.Copy().ByMAC(g.MAC); r == nil || r.Addr != g.Addr || r.Hostname != g.Hostname {
		t.Errorf("row of %v: %+v", g.MAC, r)
	}
	g2 := reserve(t, a, one, "w2")
	within("a second row", func() bool { return n.Copy().ByMAC(g2.MAC) != nil })
	if _, ok, err := a.Store("one").Release(t.Context(), "w2", "eth0"); err != nil || !ok {
		t.Fatal(ok, err)
	}
	within("the row's release", func() bool { return n.Copy().ByMAC(g2.MAC) == nil })

	reserve(t, b, record("two", 2, "br2"), "w1")
	reserve(t, b, record("a-third", 3, "br3"), "w1")
	within("networks in the second directory", func() bool { return names(f) == "a/one b/a-third b/two" })

	for len(f.Changed()) > 0 {
		<-f.Changed()
	}
	one.Bridge.Name = "br9"
	if _, err := a.Store("one").Configure(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	signalled("a record changed")
	within("the changed record", func() bool { return n.Copy().Network.Bridge.Name == "br9" })

	if _, ok, err := b.Store("two").Release(t.Context(), "w1", "eth0"); err != nil || !ok {
		t.Fatal(ok, err)
	}
	if err := b.Remove(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	within("a removed network", func() bool { return names(f) == "a/one b/a-third" })

	// A directory that is removed, with all above it, and made again.
	if err := os.RemoveAll(filepath.Join(root, "deep")); err != nil {
		t.Fatal(err)
	}
	within("the removed directory", func() bool { return names(f) == "b/a-third" })
	g = reserve(t, ipam.OpenDir(filepath.Join(root, "elsewhere")), record("one", 1, "br1"), "w7")
	if err := os.MkdirAll(filepath.Join(root, "deep", "er"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(root, "elsewhere"), a.Path()); err != nil {
		t.Fatal(err)
	}
	within("the directory made again", func() bool { return names(f) == "a/one b/a-third" })
	if f.Networks()[0].Copy().ByMAC(g.MAC) == nil {
		t.Error("the row of the new store is missing")
	}
	// And after all that it still hears of single rows.
	n = f.Networks()[0]
	g2 = reserve(t, a, record("one", 1, "br1"), "w8")
	within("a row in the directory made again", func() bool { return n.Copy().ByMAC(g2.MAC) != nil })

	if err := os.WriteFile(filepath.Join(b.Path(), "broken.db"), []byte("this is no store at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	within("the broken store to be reported", func() bool {
		return strings.Contains(log.String(), "reading the store of network broken") && strings.Contains(log.String(), "nothing is served for it")
	})
	if got := names(f); got != "a/one b/a-third" {
		t.Errorf("networks are %s", got)
	}
}

// TestStaleAsSoonAsCommitted: no notification is needed to know that a copy is old.
func TestStaleAsSoonAsCommitted(t *testing.T) {
	d := ipam.OpenDir(filepath.Join(t.TempDir(), "data"))
	rec := record("flat", 0, "br100")
	reserve(t, d, rec, "first")
	n := newNetwork(d.Path(), "flat", Of(d).Store("flat"), (&testlog.Buffer{}).Logger(), func() {})
	if !n.Stale(n.Copy()) {
		t.Error("a copy that was never made is not stale")
	}
	for i := range 100 {
		fresh(t, n)
		if n.Stale(n.Copy()) {
			t.Fatalf("round %d: stale though nothing happened", i)
		}
		reserve(t, d, rec, fmt.Sprintf("w%d", i))
		if !n.Stale(n.Copy()) {
			t.Fatalf("round %d: not stale after a commit", i)
		}
	}
	old := fresh(t, n)
	if err := os.Remove(filepath.Join(d.Path(), "flat.db")); err != nil {
		t.Fatal(err)
	}
	if !n.Stale(n.Copy()) {
		t.Error("not stale after the file went")
	}
	if _, ok := n.Fresh(t.Context()); ok {
		t.Error("a store that is gone counts as read")
	}
	reserve(t, d, rec, "anew")
	if !n.Stale(n.Copy()) {
		t.Error("not stale after another file came")
	}
	if fresh(t, n); n.Stale(n.Copy()) {
		t.Error("stale though nothing happened to the new file")
	}
	if !n.Stale(old) {
		t.Error("a copy that has been replaced is not stale")
	}
	reserve(t, d, rec, "anew-too")
	if !n.Stale(n.Copy()) {
		t.Error("not stale after a commit to the new file")
	}
	n.bell.close()
	if fresh(t, n); !n.Stale(n.Copy()) {
		t.Error("without a bell every copy must count as old")
	}
}

// TestFollowWhileADDsGoOn: whatever the order of notifications, in the end the copy is
// the store, and at no time is a committed row missing from a fresh copy.
func TestFollowWhileADDsGoOn(t *testing.T) {
	d := ipam.OpenDir(filepath.Join(t.TempDir(), "data"))
	rec := record("flat", 0, "br100")
	reserve(t, d, rec, "first")
	f, _ := follow(t, d)
	await(t, "the network", func() bool { return len(f.Networks()) == 1 })
	n := f.Networks()[0]
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 25 {
				g, err := tryReserve(d, rec, fmt.Sprintf("w%d-%d", i, j))
				if err != nil {
					t.Error(err)
					return
				}
				c, ok := n.Fresh(context.Background())
				if r := c.ByMAC(g.MAC); !ok || r == nil || r.Addr != g.Addr {
					t.Errorf("a committed row is missing: %v", g.MAC)
				}
			}
		})
	}
	wg.Wait()
	await(t, "the copy to hold everything", func() bool { return n.Copy().Len() == 101 })
}
