package firewalld

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// The rest is tested with the real firewalld: e2e.
func TestWhatThereIsToDo(t *testing.T) {
	for _, c := range []struct {
		name string
		f    finding
		done bool
	}{
		{"firewalld does not run", finding{wanted: Zone}, true},
		{"in no zone", finding{running: true, wanted: Zone}, false},
		{"in ours", finding{running: true, wanted: Zone, current: Zone}, true},
		{"in ours, with a port closed", finding{running: true, wanted: Zone, current: Zone, closed: true}, false},
		{"in the uplink's", finding{running: true, wanted: "internal", current: "internal"}, true},
		{"the uplink is in a zone", finding{running: true, wanted: "internal"}, false},
		{"the uplink is in none", finding{running: true}, true},
		{"in ours, and an uplink came that is in a zone", finding{running: true, wanted: "internal", current: Zone}, false},
		{"in ours, and an uplink came that is in none", finding{running: true, current: Zone}, false},
		{"in an administrator's", finding{running: true, wanted: Zone, current: "work"}, true},
		{"in an administrator's, with an uplink", finding{running: true, wanted: "internal", current: "work"}, true},
	} {
		if got := c.f.done(); got != c.done {
			t.Errorf("%s: done %t, want %t", c.name, got, c.done)
		}
	}
}

func TestErrorsOfFirewalld(t *testing.T) {
	refused := fmt.Errorf("zone.addPort: %w", dbus.Error{Name: exception, Body: []any{"ALREADY_ENABLED: '8775:tcp' already in 'flatdhcp'"}})
	for _, c := range []struct {
		err  error
		want bool
	}{
		{refused, true},
		{dbus.Error{Name: exception, Body: []any{"NOT_ENABLED: x"}}, false},
		{dbus.Error{Name: "org.freedesktop.DBus.Error.NoReply", Body: []any{"ALREADY_ENABLED"}}, false},
		{errors.New("ALREADY_ENABLED"), false},
	} {
		if got := says(c.err, "ALREADY_ENABLED"); got != c.want {
			t.Errorf("%v: %t, want %t", c.err, got, c.want)
		}
	}
}

// Without a bus there is nothing to do; one that is no bus any more, or never answers,
// is not waited for.
func TestJoinWithoutABus(t *testing.T) {
	dir := t.TempDir()
	never := func(context.Context) (func() error, error) { return nil, errors.New("it would change something") }
	if change, err := Join(t.Context(), filepath.Join(dir, "none"), Member{Bridge: "br100"}, never); err != nil || len(change.Did) > 0 {
		t.Errorf("without a bus: %+v, %v", change, err)
	}
	silent := filepath.Join(dir, "silent")
	l, err := net.Listen("unix", silent)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), lookTime/10)
	defer cancel()
	if _, err := Join(ctx, silent, Member{Bridge: "br100"}, never); !errors.Is(err, ErrUnanswered) || !strings.Contains(err.Error(), "bridge br100") {
		t.Errorf("a bus that is silent: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Join(t.Context(), silent, Member{Bridge: "br100"}, never); !errors.Is(err, ErrUnanswered) {
		t.Errorf("a bus that has ended: %v", err)
	}
}
