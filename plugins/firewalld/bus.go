// Package firewalld puts a bridge into one of firewalld's zones, where that runs. With its
// nftables back end (the default) it has base chains of its own, which drop what ours have
// accepted: no rule of iptables can accept for them.
package firewalld

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// SystemBus is the socket by which firewalld is reached.
const SystemBus = "/run/dbus/system_bus_socket"

// ErrUnanswered says that nobody knows whether firewalld runs, or what it does: the bus or
// firewalld itself hangs.
var ErrUnanswered = errors.New("firewalld, or the D-Bus by which it is reached, does not answer")

// ErrRefused says that firewalld drops what a bridge carries and lets nobody change that.
var ErrRefused = errors.New("firewalld refuses it, and drops what the bridge carries")

const (
	// lookTime bounds finding out what there is, which takes milliseconds.
	lookTime = 2 * time.Second
	// changeTime bounds a change: where the zone must be made firewalld reads all of its
	// configuration anew, which takes seconds.
	changeTime = 6 * time.Second
)

// Names of firewalld's on the bus (man firewalld.dbus).
const (
	service       = "org.fedoraproject.FirewallD1"
	runtimePath   = "/org/fedoraproject/FirewallD1"
	permanentPath = "/org/fedoraproject/FirewallD1/config"

	ifMain       = service
	ifZone       = service + ".zone"
	ifConfig     = service + ".config"
	ifConfigZone = service + ".config.zone"

	exception     = service + ".Exception"
	unknownMethod = "org.freedesktop.DBus.Error.UnknownMethod"
)

// conn is a connection to the bus whose calls end with a context.
type conn struct {
	bus *dbus.Conn
	ctx context.Context
}

// dial connects to the bus. It returns nil without error if firewalld does not run here:
// there is no bus, nobody has its name, or it is another network namespace's.
func dial(ctx context.Context, socket string) (c *conn, err error) {
	if _, err := os.Stat(socket); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	bus, err := dbus.Connect("unix:path="+socket, dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", socket, err)
	}
	c = &conn{bus: bus, ctx: ctx}
	running, err := c.running()
	if err != nil || !running {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *conn) close() { _ = c.bus.Close() } // nothing is buffered

// running asks the bus, which never starts firewalld for that, and compares namespaces: a
// rootless runtime, or a test, may reach the machine's.
func (c *conn) running() (bool, error) {
	var owned bool
	err := c.bus.BusObject().CallWithContext(c.ctx, "org.freedesktop.DBus.NameHasOwner", 0, service).Store(&owned)
	if err != nil || !owned {
		return false, err
	}
	var pid uint32
	if err := c.bus.BusObject().CallWithContext(c.ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0, service).Store(&pid); err != nil {
		return false, err
	}
	// The link ns/net would say so plainly, but not to a process with fewer capabilities.
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/net/dev", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		return false, nil // of another PID namespace, and so of nobody that could be told
	}
	if err != nil {
		return false, err
	}
	own, err := os.Stat("/proc/thread-self/net/dev")
	return err == nil && os.SameFile(theirs, own), err
}

// call calls a method of firewalld's and stores what it returns.
func (c *conn) call(path dbus.ObjectPath, method string, args []any, results ...any) error {
	call := c.bus.Object(service, path).CallWithContext(c.ctx, method, dbus.FlagNoAutoStart, args...)
	if err := call.Store(results...); err != nil {
		return fmt.Errorf("%s: %w", strings.TrimPrefix(method, service+"."), err)
	}
	return nil
}

// says reports whether firewalld refused with one of its error codes.
func says(err error, codes ...string) bool {
	var e dbus.Error
	if !errors.As(err, &e) || e.Name != exception {
		return false
	}
	for _, code := range codes {
		if strings.HasPrefix(e.Error(), code) {
			return true
		}
	}
	return false
}
