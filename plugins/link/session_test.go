package link

import (
	"context"
	"os"
	"strings"
	"testing"
)

// A session asks by the same sockets each time, is of the namespace that is meant, and
// leaves none.
func TestSession(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	w, other := newWorkload(t, 2).attach(ctx, t), newWorkload(t, 3).attach(ctx, t)
	before := sockets(t)
	opened := func() int { return sockets(t) - before }
	ask := func(ctx context.Context) {
		t.Helper()
		port, there, err := PortByName(ctx, w.spec.Name)
		ok(t, err)
		for _, w := range []*workload{w, other} {
			inside, thereToo, err := Inside(ctx, w.netns, "eth0")
			ok(t, err)
			if !there || !thereToo || inside.MAC != w.spec.MAC {
				t.Errorf("port %+v %t, inside %+v %t", port, there, inside, thereToo)
			}
		}
	}

	in, end := WithSession(ctx)
	ask(in)
	first := opened()
	if first == 0 {
		t.Error("the control: a session keeps no socket open")
	}
	for range 3 {
		ask(in)
		ok(t, PortUp(in, w.spec.Name))
		ok(t, AnnounceByKernel(in, w.netns, "eth0", w.spec.MAC))
		ok(t, Announce(in, w.netns, "eth0", w.spec.MAC, w.addr.Addr(), 1)) // from inside, which a session's socket to the node is not
	}
	if n := opened(); n != first {
		t.Errorf("%d sockets after the first questions, %d after more", first, n)
	}
	ask(WithoutSession(in))
	if n := opened(); n != first {
		t.Errorf("without the session %d sockets more stay open", n-first)
	}
	gone, cancel := context.WithCancel(in)
	cancel()
	if _, _, err := PortByName(gone, w.spec.Name); err == nil {
		t.Error("no error of a context that has ended")
	}
	ok(t, DeletePort(in, other.spec.Name))
	if _, there, err := PortByName(in, other.spec.Name); there || err != nil {
		t.Errorf("the port is still there: %v", err)
	}
	end()
	eventually(t, "the removal's own socket to be closed", func() bool { return opened() == 0 })
	again, end := WithSession(ctx)
	defer end()
	if _, there, err := PortByName(again, w.spec.Name); !there || err != nil {
		t.Errorf("a further session: %t, %v", there, err)
	}
}

// sockets counts those of this process.
func sockets(t *testing.T) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	ok(t, err)
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}
