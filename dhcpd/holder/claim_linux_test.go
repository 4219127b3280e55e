package holder

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
)

func TestClaim(t *testing.T) {
	n := testnet.New(t)
	claim := func(bridge string) (c *Claim, err error) {
		n.Do(t, func() error { c, err = NewClaim(bridge); return nil })
		return c, err
	}
	first, err := claim("br100")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // whoever asks disturbs nobody
		_, err = claim("br100")
		var other *DaemonError
		if !errors.As(err, &other) || other.PID != os.Getpid() {
			t.Fatalf("a second claim: %v", err)
		}
		want := fmt.Sprintf("bridge br100 is served by another flat-dhcpd (process %d): two would both answer every client; stop one of them", os.Getpid())
		if err.Error() != want {
			t.Errorf("it says %q, want %q", err, want)
		}
	}
	second, err := claim("br101")
	if err != nil {
		t.Errorf("another bridge: %v", err)
	}
	elsewhere := testnet.New(t)
	var third *Claim
	elsewhere.Do(t, func() (err error) { third, err = NewClaim("br100"); return err })
	for _, c := range []*Claim{first, second, third} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if first, err = claim("br100"); err != nil {
		t.Fatalf("after the first has let go: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
}

// TestClaimOfAUser: the name in the hands of a user without privileges keeps nobody from
// serving.
func TestClaimOfAUser(t *testing.T) {
	n := testnet.New(t)
	var squatter net.Listener
	n.Do(t, func() error {
		done := make(chan error, 1)
		self, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer func() { _ = self.Close() }()
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with its user
			if err := unix.Setns(int(self.Fd()), unix.CLONE_NEWNET); err != nil {
				done <- err
				return
			}
			const nobody = 65534
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
				done <- errno
				return
			}
			squatter, err = net.Listen("unix", "@flat-dhcpd/br100")
			done <- err
		}()
		return <-done
	})
	defer func() { _ = squatter.Close() }()
	n.Do(t, func() error {
		c, err := NewClaim("br100")
		if err != nil {
			return fmt.Errorf("claiming what a user has: %w", err)
		}
		return c.Close()
	})
}

func TestDaemonErrorWithoutProcess(t *testing.T) {
	want := "bridge br100 is served by another flat-dhcpd: two would both answer every client; stop one of them"
	if got := (&DaemonError{Bridge: "br100"}).Error(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
