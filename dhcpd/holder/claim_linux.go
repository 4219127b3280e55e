package holder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// askTimeout bounds the question whose a claim is: its holder may be stopped.
const askTimeout = time.Second

// DaemonError says that another flat-dhcpd serves a bridge.
type DaemonError struct {
	Bridge string
	PID    int // 0: it runs where this process cannot see it, such as in a container
}

func (e *DaemonError) Error() string {
	who := "another flat-dhcpd"
	if e.PID != 0 {
		who = fmt.Sprintf("another flat-dhcpd (process %d)", e.PID)
	}
	return fmt.Sprintf("bridge %s is served by %s: two would both answer every client; stop one of them", e.Bridge, who)
}

// Claim is what a daemon holds while it serves a bridge, for others to see who it is.
type Claim struct {
	listener *net.UnixListener
	done     chan struct{}
}

// NewClaim claims a bridge of the calling thread's network namespace among daemons. If it
// is another's the error is a DaemonError.
//
// The claim is a listening socket with an abstract name: the kernel keeps such names by
// network namespace, as it does bridges, whatever run and data directories a daemon has
// and whichever processes it can see, and lets go of them however a daemon ends. Anybody
// may take the name, so a claim counts only if it is root's; where somebody else has it
// the Claim is an empty one, and UDP port 67, which the caller takes next, has to do.
func NewClaim(bridge string) (*Claim, error) {
	addr := &net.UnixAddr{Net: "unix", Name: "@flat-dhcpd/" + bridge}
	l, err := net.ListenUnix("unix", addr)
	if errors.Is(err, unix.EADDRINUSE) {
		if pid, ok := claimant(addr); ok {
			return nil, &DaemonError{bridge, pid}
		}
		return &Claim{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("claiming bridge %s among the daemons of this node: %w", bridge, err)
	}
	c := &Claim{l, make(chan struct{})}
	go c.serve()
	return c, nil
}

// serve hangs up on everybody: who asks has its answer from the kernel by then.
func (c *Claim) serve() {
	defer close(c.done)
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return // closed; after any other error the claim is as good, until its queue is full
		}
		_ = conn.Close()
	}
}

// Close lets go of the bridge.
func (c *Claim) Close() error {
	if c.listener == nil {
		return nil
	}
	err := c.listener.Close()
	<-c.done
	return err
}

// claimant returns the process that listens at addr; false if that is not root's.
func claimant(addr *net.UnixAddr) (pid int, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", addr.Name)
	if err != nil {
		return 0, false // it has let go, or is nobody's that would answer
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, false
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil || err != nil {
		return 0, false
	}
	return int(cred.Pid), cred.Uid == 0
}
