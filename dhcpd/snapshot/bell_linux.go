package snapshot

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// bell tells at once, and without waiting for anybody's turn, whether a file changed:
// the kernel queues the event while the writer still writes, so whoever asks after a
// commit has returned hears of it. (A stat would not do: two commits can share a tick
// of the clock. A look at the transaction ID would, at ten times the cost.)
type bell struct {
	mu    sync.Mutex
	fd    int // -1: none, because the kernel's limits forbid it or it is closed
	watch int
	rang  bool // the file changed and nobody has begun to look
	look  bool // somebody looks because it rang, and is not done
	buf   [4096]byte
}

func newBell() *bell {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		fd = -1
	}
	return &bell{fd: fd, watch: -1, rang: true}
}

// begin is to be called before a look at the file at path: what changes after it
// rings anew, what changed before is there to be seen. Until end the bell goes on
// ringing if it rang.
func (b *bell) begin(path string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fd < 0 {
		return
	}
	// ATTRIB: the last name of the file is gone, another one may be there instead.
	watch, err := unix.InotifyAddWatch(b.fd, path, unix.IN_MODIFY|unix.IN_ATTRIB|unix.IN_MOVE_SELF|unix.IN_DELETE_SELF)
	if err != nil {
		watch = -1
	}
	if b.watch >= 0 && b.watch != watch {
		// An error means that the watch went with its file.
		_, _ = unix.InotifyRmWatch(b.fd, uint32(b.watch))
	}
	b.watch = watch
	if b.drain() {
		b.rang = true
	}
	b.look = b.look || b.rang
	b.rang = watch < 0
}

// end is to be called when what the look found is there for everybody to see.
func (b *bell) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.look = false
}

// ringing reports whether the file changed and the change has not been seen to the
// end; true as well if that cannot be known.
func (b *bell) ringing() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fd < 0 {
		return true
	}
	if b.drain() {
		b.rang = true
	}
	return b.rang || b.look
}

// drain empties the queue and reports whether there was something in it.
func (b *bell) drain() (some bool) {
	for {
		n, err := unix.Read(b.fd, b.buf[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return some
		}
		some = true
	}
}

func (b *bell) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fd >= 0 {
		_ = unix.Close(b.fd)
		b.fd = -1
	}
}
