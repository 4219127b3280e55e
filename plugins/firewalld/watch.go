package firewalld

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/godbus/dbus/v5"
)

// watchAgain is the pause before the bus is tried again.
const watchAgain = 10 * time.Second

// Watch puts a token into reloaded whenever firewalld has read its configuration anew or has
// been started, until ctx is done: it may have taken our rules away, and forgotten its
// bridges. Several events may make one token. Without a bus it waits for one.
func Watch(ctx context.Context, socket string, reloaded chan<- struct{}, log *slog.Logger) {
	told := ""
	for ctx.Err() == nil {
		err := watchOnce(ctx, socket, reloaded)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil && err.Error() != told {
			told = err.Error()
			log.Warn(fmt.Sprintf("watching firewalld: %v; if it runs, its reloads go unnoticed until the bus answers", err))
		}
		t := time.NewTimer(watchAgain)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// watchOnce returns when the connection ends.
func watchOnce(ctx context.Context, socket string, reloaded chan<- struct{}) error {
	if _, err := os.Stat(socket); err != nil {
		return err
	}
	// The connection lives as long as ctx, but greeting must not take for ever.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	greeting := time.AfterFunc(lookTime, cancel)
	bus, err := dbus.Connect("unix:path="+socket, dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", socket, err)
	}
	defer func() { _ = bus.Close() }()
	signals := make(chan *dbus.Signal, 16)
	bus.Signal(signals)
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(service), dbus.WithMatchInterface(ifMain), dbus.WithMatchMember("Reloaded")},
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, service)},
	} {
		if err := bus.AddMatchSignalContext(ctx, match...); err != nil {
			return fmt.Errorf("subscribing at %s: %w", socket, err)
		}
	}
	if !greeting.Stop() {
		return fmt.Errorf("%s took longer than %s to answer", socket, lookTime)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case s, ok := <-signals:
			if !ok {
				return fmt.Errorf("the connection to %s ended", socket)
			}
			if s.Name == "org.freedesktop.DBus.NameOwnerChanged" && len(s.Body) == 3 && s.Body[2] == "" {
				continue // firewalld ended
			}
			select {
			case reloaded <- struct{}{}:
			default:
			}
		}
	}
}
