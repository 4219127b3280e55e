// Package lab makes test hosts out of network namespaces: each looks like a machine of
// its own (network, /run, /etc, /var/lib, /opt, host name), on which the programs under
// test run as they would in production. Tests, the demo, benchmarks and hack/lab use it.
//
// Nothing outside the hosts is touched: no link, rule, mount or file of the machine. A
// host ends with the process that made it, however that ends, and takes everything
// that ran in it along.
//
// It needs root, or a user namespace: see [Reexec].
package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Options say what a lab is made of. The zero value makes hosts without our programs.
type Options struct {
	// Bin is the directory of flat-bridge, flat-ipam, flat-dhcpd and flatctl. A host
	// has the plugins in /opt/cni/bin and the other two in its PATH.
	Bin string
	// CNIBin is the directory of cnitool and the reference plugins.
	CNIBin string
	// StateDir makes the lab persistent: it survives its maker, until [Lab.Close] is
	// called on what [Open] made of the directory. Empty: the lab ends with its maker.
	StateDir string
}

// Lab is a set of test hosts. Its methods may be called concurrently.
type Lab struct {
	opts  Options
	stage string

	mu    sync.Mutex
	hosts []*Host
}

// Start returns a lab without hosts. The error says in one line what is missing.
func Start(_ context.Context, opts Options) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("starting the lab: needs root, or lab.Reexec into a user namespace")
	}
	for _, dir := range []*string{&opts.Bin, &opts.CNIBin, &opts.StateDir} {
		if *dir == "" {
			continue
		}
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return nil, fmt.Errorf("starting the lab: %w", err)
		}
		if dir != &opts.StateDir {
			if abs, err = filepath.EvalSymlinks(abs); err != nil {
				return nil, fmt.Errorf("starting the lab: finding its programs: %w (make build)", err)
			}
		}
		*dir = abs
	}
	l := &Lab{opts: opts}
	var err error
	if l.stage, err = stageFor(opts.Bin, opts.CNIBin); err != nil {
		return nil, fmt.Errorf("starting the lab: %w", err)
	}
	if opts.StateDir != "" {
		if err := l.save(); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// stageFor finds a directory that each host can mount its private files on before it
// binds them to their places. It must exist on any machine, and hide no program.
func stageFor(programs ...string) (string, error) {
	candidates := []string{"/mnt", "/media", "/srv", "/home"}
	for _, dir := range candidates {
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			continue
		}
		hides := false
		for _, p := range programs {
			hides = hides || p == dir || strings.HasPrefix(p, dir+"/")
		}
		if !hides {
			return dir, nil
		}
	}
	return "", fmt.Errorf("none of %s is a directory that holds no program of ours", strings.Join(candidates, ", "))
}

// Host returns the host or switch of that name, nil if there is none.
func (l *Lab) Host(name string) *Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.hosts {
		if h.name == name {
			return h
		}
	}
	return nil
}

// Hosts returns the hosts in the order in which they were made, switches left out.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.hosts), func(h *Host) bool { return h.isSwitch })
}

// AddHost makes a host: its own network with nothing but lo, its own files. The
// context bounds the making only.
func (l *Lab) AddHost(ctx context.Context, name string) (*Host, error) {
	return l.add(ctx, name, false)
}

func (l *Lab) add(ctx context.Context, name string, isSwitch bool) (*Host, error) {
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("adding a host: %w", err)
	}
	if l.Host(name) != nil {
		return nil, fmt.Errorf("adding host %s: the lab has one already", name)
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, fmt.Errorf("adding host %s: drawing a machine ID: %w", name, err)
	}
	holder, err := startHolder(ctx, holderConfig{
		name: name, stage: l.stage, machineID: hex.EncodeToString(id),
		bin: l.opts.Bin, cniBin: l.opts.CNIBin, stateDir: l.opts.StateDir,
	})
	if err != nil {
		return nil, fmt.Errorf("adding host %s: %w", name, err)
	}
	h := &Host{name: name, holder: holder, isSwitch: isSwitch}
	if err := h.WriteFile(ctx, udhcpcScript, 0o755, udhcpcSource); err != nil {
		return nil, errors.Join(fmt.Errorf("adding host %s: %w", name, err), holder.close())
	}
	l.mu.Lock()
	l.hosts = append(l.hosts, h)
	l.mu.Unlock()
	if l.opts.StateDir != "" {
		if err := l.save(); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Link joins two hosts by a cable: a veth pair, named nameA on a and nameB on b, both up.
func (l *Lab) Link(ctx context.Context, a *Host, nameA string, b *Host, nameB string) error {
	return link(ctx, a, nameA, nil, b, nameB)
}

// link is Link with more to say of a's end when it is made, such as its MAC.
func link(ctx context.Context, a *Host, nameA string, of []string, b *Host, nameB string) error {
	add := append([]string{"ip", "link", "add", nameA}, of...)
	steps := []struct {
		host *Host
		argv []string
	}{
		{a, append(add, "type", "veth", "peer", "name", nameB, "netns", fmt.Sprint(b.holder.pid))},
		{a, []string{"ip", "link", "set", nameA, "up"}},
		{b, []string{"ip", "link", "set", nameB, "up"}},
	}
	for _, s := range steps {
		if _, _, err := s.host.Run(ctx, s.argv...); err != nil {
			return fmt.Errorf("linking %s of %s to %s of %s: %w", nameA, a.name, nameB, b.name, err)
		}
	}
	return nil
}

// Close ends every host and whatever runs in it, and returns when those processes are gone.
func (l *Lab) Close() error {
	l.mu.Lock()
	hosts := l.hosts
	l.hosts = nil
	l.mu.Unlock()
	var errs []error
	for _, h := range hosts {
		if err := h.holder.close(); err != nil {
			errs = append(errs, fmt.Errorf("closing host %s: %w", h.name, err))
		}
	}
	if l.opts.StateDir != "" && len(errs) == 0 {
		if err := os.RemoveAll(l.opts.StateDir); err != nil {
			errs = append(errs, fmt.Errorf("closing the lab: %w", err))
		}
	}
	return errors.Join(errs...)
}

// checkName keeps names fit for a host name, a path and a shell word.
func checkName(name string) error {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	if name == "" || len(name) > 63 || strings.Trim(name, allowed) != "" || name[0] == '.' || name[0] == '-' {
		return fmt.Errorf("name %q: letters, digits, -, _ and . are accepted", name)
	}
	return nil
}
