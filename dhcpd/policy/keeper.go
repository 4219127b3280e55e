// Package policy puts changed configuration in force while workloads live: it follows
// a directory of conflists, writes what they say into the store, brings up the bridges
// of gateways, and plans and applies chains and guard anew wherever a network's
// record is another one than before, whoever changed it.
package policy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

const (
	// stepTimeout bounds one network's step: as long as an ADD may take.
	stepTimeout = 10 * time.Second
	// againAfter is when what failed is tried again, and everything looked at although
	// nothing was notified.
	againAfter = 10 * time.Second
	// repeatAfter is when the same trouble is logged again.
	repeatAfter = 10 * time.Minute
)

// Key names a network: names are unique in a data directory only.
type Key struct{ DataDir, Name string }

// Counters counts since the Keeper was made. Each is read by itself.
type Counters struct {
	Configured atomic.Uint64 // records written
	Refused    atomic.Uint64 // edits of conflists that were not taken
	Applied    atomic.Uint64 // reconciliations that ended well
	Changed    atomic.Uint64 // of these, such as found something to change
	Failed     atomic.Uint64 // attempts to make a bridge ready or to apply that failed
}

// Keeper keeps records, bridges and rules in line. Its fields are set before Run.
type Keeper struct {
	// ConfDir is the directory of conflists; empty = none, and then the records in the
	// store are the only source.
	ConfDir string
	// DataDirs are those whose networks are served; a conflist must have one of them.
	DataDirs []string
	// Records returns the records as they are in the stores.
	Records func() map[Key]ipam.Network
	// Flushed has a token when somebody may have taken rules away: then everything is
	// applied anew. Nil = nobody says so.
	Flushed  <-chan struct{}
	Node     Node
	Now      func() time.Time
	Log      *slog.Logger
	Counters Counters

	refused map[string]refusal // by path, while the file is as it was refused
	applied map[Key][]byte     // the record that is in force
	told    map[string]complaint
	inForce map[string]string // path -> the network last taken from it
}

type refusal struct {
	text []byte
	why  string
}

type complaint struct {
	text string
	at   time.Time
}

// step looks at everything once. It is to be called after every change and from time to
// time: what failed is tried again then.
func (k *Keeper) step(ctx context.Context) {
	if k.applied == nil {
		k.refused, k.applied = map[string]refusal{}, map[Key][]byte{}
		k.told, k.inForce = map[string]complaint{}, map[string]string{}
	}
	records := k.Records()
	given := map[Key]bool{}
	if k.ConfDir != "" {
		for key, n := range k.take(ctx, records) {
			records[key] = n
			given[key] = true
		}
	}
	bridges := map[string]bool{}
	for _, key := range k.order(records) {
		if ctx.Err() != nil {
			return
		}
		n := records[key]
		if n.Bridge == nil || bridges[n.Bridge.Name] {
			continue // whoever serves says that a bridge carries another network
		}
		bridges[n.Bridge.Name] = true
		k.enforce(ctx, key, n, given[key])
	}
	for key := range k.applied {
		if _, ok := records[key]; !ok {
			delete(k.applied, key)
		}
	}
}

// order returns the networks in the order in which they are served: of two with one bridge
// the first has it.
func (k *Keeper) order(records map[Key]ipam.Network) []Key {
	at := func(key Key) int {
		return slices.IndexFunc(k.DataDirs, func(d string) bool { return filepath.Clean(d) == filepath.Clean(key.DataDir) })
	}
	return slices.SortedFunc(maps.Keys(records), func(a, b Key) int {
		return cmp.Or(cmp.Compare(at(a), at(b)), strings.Compare(a.Name, b.Name))
	})
}

// take brings the store in line with the conflists and returns the networks that they
// give and whose record says so.
func (k *Keeper) take(ctx context.Context, records map[Key]ipam.Network) map[Key]ipam.Network {
	files, err := readDir(k.ConfDir, func(path string) bool { _, ok := k.inForce[path]; return ok })
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w; the records in the store stay in force", err)
		}
		k.tell(k.ConfDir, slog.LevelWarn, err.Error())
		return nil
	}
	delete(k.told, k.ConfDir)
	taken := map[Key]ipam.Network{}
	for _, f := range files {
		key, err := k.takeFile(ctx, f, records)
		if err != nil {
			if ctx.Err() == nil {
				k.refuse(f, err)
			}
			continue
		}
		delete(k.refused, f.path)
		k.inForce[f.path] = key.Name
		taken[key] = f.config.Network
	}
	for path, name := range k.inForce {
		if !slices.ContainsFunc(files, func(f file) bool { return f.path == path }) {
			delete(k.inForce, path)
			delete(k.refused, path)
			k.Log.Info(fmt.Sprintf("%s is gone: network %s stays as it was last configured (`flatctl network rm %s` removes it)", path, name, name), "network", name)
		}
	}
	return taken
}

func (k *Keeper) takeFile(ctx context.Context, f file, records map[Key]ipam.Network) (Key, error) {
	if f.err != nil {
		return Key{}, f.err
	}
	key := Key{filepath.Clean(f.config.DataDir), f.config.Name}
	if !slices.ContainsFunc(k.DataDirs, func(d string) bool { return filepath.Clean(d) == key.DataDir }) {
		return key, fmt.Errorf("its store is in ipam.dataDir %s, which is not followed: start flat-dhcpd with --data-dir %s as well", f.config.DataDir, f.config.DataDir)
	}
	if old, ok := records[key]; ok && bytes.Equal(text(old), text(f.config.Network)) {
		return key, nil
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	changed, err := k.Node.Configure(ctx, key.DataDir, f.config.Network)
	if err != nil {
		return key, err
	}
	if changed {
		// Also if it is the record of before: an ADD with an older file may have come
		// between and made rules by it.
		delete(k.applied, key)
		k.Counters.Configured.Add(1)
		k.Log.Info(fmt.Sprintf("read %s: network %s is configured", f.path, key.Name), "network", key.Name)
		for _, notice := range f.config.Notices {
			k.Log.Warn(fmt.Sprintf("%s: %s", f.path, notice), "network", key.Name)
		}
	}
	return key, nil
}

// refuse logs and counts an edit once, however often it is looked at; a reason that
// changes without an edit (a store that was locked) is worth a line.
func (k *Keeper) refuse(f file, err error) {
	old, known := k.refused[f.path]
	edited := !known || !bytes.Equal(old.text, f.text)
	if edited {
		k.Counters.Refused.Add(1)
	}
	if !edited && old.why == err.Error() {
		return
	}
	k.refused[f.path] = refusal{f.text, err.Error()}
	k.Log.Error(fmt.Sprintf("%s is refused: %v; what was last configured stays in force", f.path, err))
}

// enforce brings up the gateway's side of a network, for which there need be no workload,
// and applies the network's policy if its record is not the one in force, or if its bridge
// had to be made. What it sees for the first time it applies as well, wherever there is a
// bridge that workloads can be on: record and rules may have changed while nobody looked.
func (k *Keeper) enforce(ctx context.Context, key Key, n ipam.Network, given bool) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if n.Bridge.IsGateway {
		notices, err := k.Node.Bridge(ctx, key.DataDir, n)
		for _, notice := range notices {
			k.Log.Info(notice, "network", n.Name)
		}
		if len(notices) > 0 {
			delete(k.applied, key) // the rules may have gone with what was removed
		}
		if err != nil {
			k.failed(ctx, "bridge of "+key.DataDir+"/"+key.Name, fmt.Sprintf("network %s: %v", n.Name, err))
			// Who lives on a bridge that is not as it should be needs rules all the same.
			if here, err := k.Node.Here(ctx, n.Bridge.Name); err != nil || !here {
				return
			}
		} else {
			delete(k.told, "bridge of "+key.DataDir+"/"+key.Name)
		}
	}
	record := text(n)
	old, seen := k.applied[key]
	if !seen && !given && !n.Bridge.IsGateway {
		here, err := k.Node.Here(ctx, n.Bridge.Name)
		if err != nil {
			k.failed(ctx, "rules of "+key.DataDir+"/"+key.Name, fmt.Sprintf("network %s: %v; trying again", n.Name, err))
			return
		}
		if !here {
			k.applied[key] = record // whoever makes the bridge goes by the record
			return
		}
	}
	if bytes.Equal(old, record) {
		return
	}
	report, err := k.Node.Apply(ctx, key.DataDir, key.Name)
	if err != nil {
		k.failed(ctx, "rules of "+key.DataDir+"/"+key.Name, fmt.Sprintf("network %s is configured, but not yet in force for living workloads: %v; trying again", n.Name, err))
		return
	}
	delete(k.told, "rules of "+key.DataDir+"/"+key.Name)
	k.applied[key] = record
	k.Counters.Applied.Add(1)
	if changes := slices.Concat(report.Chains, report.Guard); len(changes) > 0 || report.Cut > 0 {
		k.Counters.Changed.Add(1)
		k.Log.Info(fmt.Sprintf("network %s is in force for living workloads (%d): %d changes, %d connections cut", n.Name, report.Workloads, len(changes), report.Cut),
			"network", n.Name)
		k.Log.Debug(strings.Join(changes, "; "), "network", n.Name)
	}
}

func (k *Keeper) failed(ctx context.Context, what, why string) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return // the daemon stops
	}
	k.Counters.Failed.Add(1)
	k.tell(what, slog.LevelError, why)
}

// tell logs a lasting trouble once and then every ten minutes.
func (k *Keeper) tell(what string, level slog.Level, text string) {
	now := k.Now()
	if old := k.told[what]; old.text == text && now.Sub(old.at) < repeatAfter {
		return
	}
	k.told[what] = complaint{text, now}
	k.Log.Log(context.Background(), level, text)
}

// text is a record as the store has it, to compare by: nil and empty lists are one.
func text(n ipam.Network) []byte {
	b, err := json.Marshal(n)
	if err != nil {
		return nil // a record that was just read or parsed always can be
	}
	return b
}
