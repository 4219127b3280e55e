package main

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// hangsAfter is when a loop that does not turn is called hanging: STATUS's 60 s.
const hangsAfter = 60 * time.Second

// turns knows when the daemon's loop last turned, and tells the service manager: that it
// is ready, that it lives (its watchdog restarts what does not), that it stops. Outside a
// service manager that says nothing.
type turns struct {
	log      *slog.Logger
	last     atomic.Int64 // nanoseconds
	ready    bool
	watchdog <-chan time.Time // nil: there is none
	failed   bool
}

func newTurns(log *slog.Logger) *turns {
	t := &turns{log: log}
	t.last.Store(time.Now().UnixNano())
	every, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn(fmt.Sprintf("reading the service manager's watchdog time: %v", err))
	}
	if every > 0 {
		// Twice as often as is wanted, as sd_watchdog_enabled(3) recommends. It is never
		// stopped: it lives as long as the process.
		t.watchdog = time.NewTicker(every / 2).C
	}
	return t
}

// turn is to be called by the loop, after each look at the networks; ready says whether
// the daemon has found out what it has to do.
func (t *turns) turn(ready bool) {
	t.last.Store(time.Now().UnixNano())
	if ready && !t.ready {
		t.ready = true
		t.notify(systemd.SdNotifyReady)
	}
	if t.ready && t.watchdog != nil { // which counts from then on
		t.notify(systemd.SdNotifyWatchdog)
	}
}

// due is what the loop has to turn for beside its own reasons.
func (t *turns) due() <-chan time.Time { return t.watchdog }

func (t *turns) stopping() { t.notify(systemd.SdNotifyStopping) }

func (t *turns) notify(state string) {
	if _, err := systemd.SdNotify(false, state); err != nil && !t.failed {
		t.failed = true
		t.log.Warn(fmt.Sprintf("telling the service manager: %v", err))
	}
}

// alive returns an error if the loop hangs. It is safe for concurrent use.
func (t *turns) alive() error {
	if d := time.Since(time.Unix(0, t.last.Load())); d > hangsAfter {
		return fmt.Errorf("the daemon's loop has not turned for %s", d.Round(time.Second))
	}
	return nil
}
