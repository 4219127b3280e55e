package ipam

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// fullFile makes a store of a few hundred rows and returns its path and bytes.
func fullFile(t *testing.T) (*Dir, []byte) {
	d := OpenDir(t.TempDir())
	d.noSync = true
	s := mustConfigure(t, d, testNet("flat", "10.0.0.0/22"))
	prefill(t, s, 300)
	for i := range 100 {
		mustRelease(t, s, fmt.Sprintf("fill-%d", 3*i))
	}
	b, err := os.ReadFile(s.file())
	if err != nil {
		t.Fatal(err)
	}
	return d, b
}

// everything runs each operation on the store and returns the errors by name.
func everything(d *Dir) map[string]error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s := d.Store("flat")
	n := testNet("flat", "10.0.0.0/22")
	n.Pool.Domain = "changed"
	errs := make(map[string]error)
	_, errs["Reserve"] = s.Reserve(ctx, nil, request("new", "new"))
	_, _, errs["Release"] = s.Release(ctx, "fill-1", "eth0")
	_, errs["GC"] = s.GC(ctx, func(r Reservation) bool { return r.HeldBy("fill-2", "eth0") })
	_, errs["ReserveAdmin"] = s.ReserveAdmin(ctx, AdminRequest{Workload: pod("admin")})
	_, errs["ReleaseAdmin"] = s.ReleaseAdmin(ctx, addr("10.0.0.2"))
	_, errs["ImportPeer"] = s.ImportPeer(ctx, "compute-1", nil, false)
	_, errs["Configure"] = s.Configure(ctx, n)
	_, errs["Snapshot"] = s.Snapshot(ctx)
	_, errs["Check"] = s.Check(ctx)
	_, errs["Networks"] = d.Networks(ctx)
	_, errs["Dir.Check"] = d.Check(ctx)
	errs["Remove"] = d.Remove(ctx, "flat")
	return errs
}

func TestDamagedFiles(t *testing.T) {
	d, good := fullFile(t)
	path := d.Store("flat").file()
	foreign := func(o *bbolt.Options) []byte {
		p := filepath.Join(t.TempDir(), "foreign.db")
		db, err := bbolt.Open(p, 0o600, o)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("theirs"))
			return err
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	spoiled := func(spoil func([]byte)) []byte {
		b := bytes.Clone(good)
		spoil(b)
		return b
	}
	m, err := readMeta(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"empty":          {},
		"zeroed":         make([]byte, len(good)),
		"text":           []byte(strings.Repeat("this is no store\n", 4000)),
		"foreign":        foreign(nil),
		"no free list":   foreign(&bbolt.Options{NoFreelistSync: true}),
		"zeroed headers": spoiled(func(b []byte) { clear(b[:2*m.pageSize]) }),
		"zeroed body":    spoiled(func(b []byte) { clear(b[2*m.pageSize:]) }),
		"zeroed list": spoiled(func(b []byte) {
			clear(b[m.freelist*uint64(m.pageSize) : (m.freelist+1)*uint64(m.pageSize)])
		}),
		"wrong list": spoiled(func(b []byte) { b[m.freelist*uint64(m.pageSize)+pageHeaderSize] ^= 0xff }),
		"random":     spoiled(func(b []byte) { _, _ = rand.New(rand.NewSource(1)).Read(b) }),
	}
	for _, n := range []int{1, 79, 80, 4095, 4096, 4097, 8191, 8192, 12288, 20000, 32768, int(m.pages-1) * int(m.pageSize), int(m.pages)*int(m.pageSize) - 1} {
		files[fmt.Sprintf("truncated to %d", n)] = good[:n]
	}
	for name, b := range files {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			for what, err := range everything(d) {
				if what == "Dir.Check" {
					continue // for it the damage is a defect
				}
				if reads := what == "Snapshot" || what == "Check" || what == "Networks" || what == "Remove"; reads && strings.HasSuffix(name, " list") {
					continue // the list of free pages matters to who writes
				}
				if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) ||
					!strings.Contains(err.Error(), "restore it from a copy, or move it away") {
					t.Errorf("%s: %v", what, err)
				}
			}
			if defects, err := d.Check(context.Background()); err != nil || len(defects) != 1 || defects[0].File != path {
				t.Errorf("Dir.Check = %v, %v", defects, err)
			}
			after, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(after, b) {
				t.Errorf("the file was changed, or is gone: %v", err)
			}
			if files := listDir(t, d.Path()); len(files) != 2 {
				t.Errorf("left behind: %v", files)
			}
		})
	}
	t.Run("a neighbour is damaged", func(t *testing.T) {
		ctx := context.Background()
		if err := os.WriteFile(path, good[:9000], 0o600); err != nil {
			t.Fatal(err)
		}
		other := testNet("other", "10.9.0.0/24")
		if _, err := d.Store("other").Configure(ctx, other); !errors.Is(err, ErrDamaged) {
			t.Errorf("a new subnet next to it: %v", err)
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		s := mustConfigure(t, d, other)
		if err := os.WriteFile(path, good[:9000], 0o600); err != nil {
			t.Fatal(err)
		}
		mustReserve(t, s, request("w", "w")) // one bad file stops nobody else
		nets, err := d.Networks(ctx)
		if !errors.Is(err, ErrDamaged) || len(nets) != 1 || nets[0].Name != "other" {
			t.Errorf("Networks = %v, %v", nets, err)
		}
		b := bytes.Clone(good)
		clear(b[4*m.pageSize:]) // deeper down
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		mustReserve(t, s, request("x", "x"))
		y := request("y", "y")
		y.MAC = MAC{2, 0, 0, 0, 0, 5}
		mustReserve(t, s, y)
		for _, cid := range []string{"w", "x", "y"} {
			mustRelease(t, s, cid)
		}
		if err := d.Remove(ctx, "other"); err != nil {
			t.Error(err)
		}
	})
	t.Run("restored", func(t *testing.T) {
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		postTest(t, d)
		if stats := viewStats(t, d.Store("flat")); stats.Used != 200 || stats.Retained != 100 {
			t.Errorf("Stats = %+v", stats)
		}
	})
}

// TestSpoiledPages: whatever page is wiped or overwritten, an operation either
// succeeds or says that the file is damaged; nothing panics, hangs or faults.
func TestSpoiledPages(t *testing.T) {
	d, good := fullFile(t)
	path := d.Store("flat").file()
	rnd := rand.New(rand.NewSource(1))
	m, err := readMeta(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	try := func(what string, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		for op, err := range everything(d) {
			if errors.Is(err, ErrDamaged) {
				seen++
			} else if errors.Is(err, ErrLocked) {
				t.Errorf("%s: %s left a lock: %v", what, op, err)
			}
		}
	}
	size := int(m.pageSize)
	for p := 2; p < int(m.pages); p++ {
		b := bytes.Clone(good)
		clear(b[p*size : (p+1)*size])
		try(fmt.Sprintf("page %d wiped", p), b)
		b = bytes.Clone(good)
		_, _ = rnd.Read(b[p*size+8 : (p+1)*size]) // its own number stays: bbolt looks at that
		try(fmt.Sprintf("page %d overwritten", p), b)
	}
	if seen == 0 {
		t.Error("no damage was noticed at all")
	}
}

// A file that shrinks while it is mapped faults at the next look.
func TestTruncatedWhileRead(t *testing.T) {
	d, good := fullFile(t)
	s := d.Store("flat")
	err := s.View(context.Background(), func(v *View) error {
		if err := os.Truncate(s.file(), 4096); err != nil {
			t.Fatal(err)
		}
		for _, err := range v.All() {
			if err != nil {
				return err
			}
		}
		return nil
	})
	if !errors.Is(err, ErrDamaged) {
		t.Errorf("err = %v", err)
	}
	if err := os.WriteFile(s.file(), good, 0o600); err != nil {
		t.Fatal(err)
	}
	mustReserve(t, s, request("w", "w")) // no lock was left
}

func TestNoRegularFile(t *testing.T) {
	for name, make := range map[string]func(string) error{
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"FIFO":      func(p string) error { return syscall.Mkfifo(p, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			d := OpenDir(t.TempDir())
			if err := make(d.Store("flat").file()); err != nil {
				t.Fatal(err)
			}
			for what, err := range everything(d) {
				if what != "Dir.Check" && !errors.Is(err, ErrDamaged) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

func TestNewerSchema(t *testing.T) {
	d, _ := fullFile(t)
	s := d.Store("flat")
	err := s.update(context.Background(), func(tx *txn) (bool, error) {
		return true, tx.put(bucketMeta, []byte(keySchema), []byte("2"))
	})
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(s.file())
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range everything(d) {
		if what == "Dir.Check" {
			continue
		}
		if !errors.Is(err, ErrNewerSchema) || !strings.Contains(err.Error(), s.file()+" has schema 2, this one knows 1") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if after, err := os.ReadFile(s.file()); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed: %v", err)
	}
}

func TestRenamedStore(t *testing.T) {
	d, _ := fullFile(t)
	if err := os.Rename(d.Store("flat").file(), d.Store("other").file()); err != nil {
		t.Fatal(err)
	}
	_, err := d.Store("other").Reserve(context.Background(), nil, request("w", "w"))
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), `it holds network "flat": was it renamed?`) {
		t.Errorf("err = %v", err)
	}
}

func TestHalfMadeStoreIsMadeAnew(t *testing.T) {
	d := testDir(t)
	if err := os.Mkdir(d.Path(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.Path(), "flat"+newSuffix), []byte("died here"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustConfigure(t, d, testNet("flat", "10.0.0.0/24"))
	if files := listDir(t, d.Path()); len(files) != 2 {
		t.Errorf("files = %v", files)
	}
}

func TestChecksFindDefects(t *testing.T) {
	ctx := context.Background()
	tests := map[string]struct {
		spoil func(*txn) error
		want  string // bucket and key
	}{
		"row without index":    {func(x *txn) error { return x.del(bucketMACs, []byte{0xfa, 0x16, 0x3e, 0, 0, 2}) }, bucketMACs},
		"index without row":    {func(x *txn) error { return x.put(bucketHolders, []byte("a\x00b"), []byte{10, 0, 0, 9}) }, bucketHolders},
		"index of another row": {func(x *txn) error { return x.put(bucketHolders, []byte("a\x00eth0"), []byte{10, 0, 0, 3}) }, bucketHolders},
		"free and used":        {func(x *txn) error { return x.put(bucketFree, []byte{10, 0, 0, 2}, []byte{10, 0, 0, 2}) }, "addresses"},
		"split interval":       {func(x *txn) error { return x.put(bucketFree, []byte{10, 0, 0, 99}, []byte{10, 0, 0, 5}) }, bucketFree},
		"lost address":         {func(x *txn) error { return x.put(bucketFree, []byte{10, 0, 0, 254}, []byte{10, 0, 0, 10}) }, "addresses"},
		"counters":             {func(x *txn) error { x.c.Used++; return nil }, bucketMeta},
		"history without time": {func(x *txn) error { return x.del(bucketReleased, releasedKey(newClock().now(), addr("10.0.0.4"))) }, bucketReleased},
		"time without history": {func(x *txn) error {
			return x.put(bucketReleased, releasedKey(newClock().now(), addr("10.0.0.9")), nil)
		}, bucketReleased},
		"row on the gateway": {func(x *txn) error {
			r, _, err := x.row(addr("10.0.0.2"))
			r.Addr = addr("10.0.0.1")
			return errors.Join(err, x.putJSON(bucketRows, addrKey(r.Addr), r))
		}, bucketRows + " 10.0.0.1"},
		"nobody's row": {func(x *txn) error {
			r, _, err := x.row(addr("10.0.0.2"))
			r.Holder = nil
			return errors.Join(err, x.putJSON(bucketRows, addrKey(r.Addr), r))
		}, bucketRows + " 10.0.0.2"},
		"a peer's workload with an address of ours": {func(x *txn) error {
			r, _, err := x.row(addr("10.0.0.2"))
			r.Workload = r.Workload.OnPeer("compute-1")
			return errors.Join(err, x.putJSON(bucketRows, addrKey(r.Addr), r))
		}, bucketRows + " 10.0.0.2"},
		"impossible network": {func(x *txn) error {
			x.net.Pool.Gateway = addr("10.0.9.1")
			return x.putJSON(bucketMeta, []byte(keyNetwork), x.net)
		}, bucketMeta},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := OpenDir(t.TempDir(), WithClock(newClock().now))
			s := mustConfigure(t, d, testNet("flat", "10.0.0.0/24"))
			for _, cid := range []string{"a", "b", "c"} {
				mustReserve(t, s, request(cid, cid))
			}
			mustRelease(t, s, "c")
			if defects, err := s.Check(ctx); err != nil || len(defects) > 0 {
				t.Fatalf("before: %v, %v", defects, err)
			}
			if err := s.update(ctx, func(x *txn) (bool, error) { return true, tt.spoil(x) }); err != nil {
				t.Fatal(err)
			}
			defects, err := s.Check(ctx)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, defect := range defects {
				found = found || defect.Where == tt.want
			}
			if !found {
				t.Errorf("no defect in %q among %v", tt.want, defects)
			}
		})
	}
	t.Run("between networks", func(t *testing.T) {
		d := OpenDir(t.TempDir())
		a := mustConfigure(t, d, testNet("a", "10.16.0.0/24"))
		mustReserve(t, a, request("w", "w"))
		b := OpenDir(t.TempDir())
		mustReserve(t, mustConfigure(t, b, testNet("b", "10.16.0.0/24")), request("w", "w"))
		if err := os.Rename(b.Store("b").file(), d.Store("b").file()); err != nil {
			t.Fatal(err)
		}
		defects, err := d.Check(ctx)
		if err != nil || len(defects) != 2 {
			t.Errorf("Check = %v, %v; want the subnet and the MAC", defects, err)
		}
	})
}

func TestFullDisk(t *testing.T) {
	cmd := helper("fulldisk", t.TempDir())
	inOwnMounts(t, cmd)
	runHelper(t, cmd)
}

// helpFullDisk MOUNTPOINT: in a mount namespace of its own.
func helpFullDisk(args []string) error {
	ctx := context.Background()
	dir := args[0]
	if err := mountTmpfs(dir, "size=512k"); err != nil {
		return err
	}
	d := OpenDir(filepath.Join(dir, "data"))
	n := testNet("flat", "10.0.0.0/22")
	s := d.Store("flat")
	if _, err := s.Reserve(ctx, &n, request("0", "0")); err != nil {
		return err
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("filling the disk: %w", err)
	}
	held := map[string]bool{"0": true}
	var full error
	for i := 1; full == nil; i++ {
		cid := fmt.Sprint(i)
		if _, full = s.Reserve(ctx, nil, request(cid, cid)); full == nil {
			held[cid] = true
		}
		if i > 2000 {
			return errors.New("the disk never filled up")
		}
	}
	if want := "no space left on device: nothing was changed: make room and try again"; !strings.HasSuffix(full.Error(), want) {
		return fmt.Errorf("reserving: %w\nwant %s", full, want)
	}
	other := testNet("other", "10.9.0.0/24")
	if _, err := d.Store("other").Configure(ctx, other); err == nil || !strings.Contains(err.Error(), "no space left") {
		return fmt.Errorf("a new network on a full disk: %w", err)
	}
	intact := func() error {
		if names, err := d.Names(ctx); err != nil || len(names) != 1 {
			return fmt.Errorf("Names = %v, %w", names, err)
		}
		if defects, err := d.Check(ctx); err != nil || len(defects) > 0 {
			return fmt.Errorf("Check = %v, %w", defects, err)
		}
		snap, err := s.Snapshot(ctx)
		if err != nil {
			return err
		}
		if len(snap.Rows) != len(held) {
			return fmt.Errorf("%d rows, %d were acknowledged", len(snap.Rows), len(held))
		}
		return nil
	}
	if err := intact(); err != nil {
		return fmt.Errorf("on the full disk: %w", err)
	}
	if err := os.Remove(ballast); err != nil {
		return err
	}
	if _, err := s.Reserve(ctx, nil, request("after", "after")); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	held["after"] = true
	if err := intact(); err != nil {
		return err
	}
	fmt.Println("ok")
	return nil
}

func TestReadOnlyFileSystem(t *testing.T) {
	cmd := helper("readonly", t.TempDir())
	inOwnMounts(t, cmd)
	runHelper(t, cmd)
}

// helpReadOnly MOUNTPOINT: in a mount namespace of its own.
func helpReadOnly(args []string) error {
	ctx := context.Background()
	dir := args[0]
	if err := mountTmpfs(dir, ""); err != nil {
		return err
	}
	d := OpenDir(filepath.Join(dir, "data"))
	n := testNet("flat", "10.0.0.0/24")
	s := d.Store("flat")
	if _, err := s.Reserve(ctx, &n, request("w", "w")); err != nil {
		return err
	}
	remount := func(flags uintptr) error {
		return syscall.Mount("", dir, "", syscall.MS_REMOUNT|flags, "")
	}
	if err := remount(syscall.MS_RDONLY); err != nil {
		return err
	}
	if snap, err := s.Snapshot(ctx); err != nil || len(snap.Rows) != 1 {
		return fmt.Errorf("reading: %v, %w", snap, err)
	}
	_, _, err := s.Release(ctx, "w", "eth0")
	want := "releasing what container w, interface eth0 holds in network flat: open " + s.file() +
		": read-only file system: the data directory must be writable: remount it, or name another dataDir"
	if err == nil || err.Error() != want {
		return fmt.Errorf("writing: %w\nwant %s", err, want)
	}
	other := testNet("other", "10.9.0.0/24")
	if _, err := d.Store("other").Configure(ctx, other); !errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("a new network: %w", err)
	}
	if _, err := OpenDir(filepath.Join(dir, "new")).Store("flat").Configure(ctx, n); !errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("a new data directory: %w", err)
	}
	if err := remount(0); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(d.Path(), lockName)); err != nil {
		return err
	}
	if err := remount(syscall.MS_RDONLY); err != nil {
		return err
	}
	_, err = s.Snapshot(ctx)
	want = "the data directory is on a read-only file system and has no lock file: make it writable once, or name another dataDir"
	if !errors.Is(err, syscall.EROFS) || !strings.HasSuffix(err.Error(), want) {
		return fmt.Errorf("reading without a lock file: %w\nwant %s", err, want)
	}
	fmt.Println("ok")
	return nil
}

func TestAnotherUsersStore(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root: becomes another user")
	}
	base, err := os.MkdirTemp("", "ipam")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(base); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	d := OpenDir(filepath.Join(base, "data"))
	mustConfigure(t, d, testNet("flat", "10.0.0.0/24"))
	runHelper(t, helper("stranger", d.Path()))
	// A directory that anybody may enter, as somebody's chmod left it.
	if err := os.Chmod(d.Path(), 0o755); err != nil {
		t.Fatal(err)
	}
	runHelper(t, helper("stranger", d.Path()))
}

// helpStranger DATADIR: as nobody.
func helpStranger(args []string) error {
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534)); err != nil {
		return err
	}
	ctx := context.Background()
	s := OpenDir(args[0]).Store("flat")
	_, err := s.Snapshot(ctx)
	_, _, err2 := s.Release(ctx, "c", "eth0")
	for _, err := range []error{err, err2} {
		if !errors.Is(err, fs.ErrPermission) || !strings.HasSuffix(err.Error(), "belongs to another user: run as its owner (root)") {
			return fmt.Errorf("err = %w", err)
		}
	}
	fmt.Println("ok")
	return nil
}

func mountTmpfs(dir, options string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	return syscall.Mount("tmpfs", dir, "tmpfs", 0, options)
}
