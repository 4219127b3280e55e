package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// stateFile is the file in Options.StateDir that says what a persistent lab is made of.
const stateFile = "lab.json"

type savedLab struct {
	Bin    string      `json:"bin,omitempty"`
	CNIBin string      `json:"cniBin,omitempty"`
	Hosts  []savedHost `json:"hosts"`
}

type savedHost struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	// MntNS tells the holder from a later process of the same number.
	MntNS  string `json:"mntNS"`
	Switch bool   `json:"switch,omitempty"`
}

// ErrNoLab is returned by Open for a directory in which no lab is up.
var ErrNoLab = errors.New("no lab is up")

func (l *Lab) save() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := savedLab{Bin: l.opts.Bin, CNIBin: l.opts.CNIBin, Hosts: []savedHost{}}
	for _, h := range l.hosts {
		s.Hosts = append(s.Hosts, savedHost{Name: h.name, PID: h.holder.pid, MntNS: h.holder.mntNS, Switch: h.isSwitch})
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = os.MkdirAll(l.opts.StateDir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(l.opts.StateDir, stateFile), append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("saving the lab's state: %w", err)
	}
	return nil
}

// Open returns the persistent lab that was started with this StateDir, [ErrNoLab] if there
// is none. Hosts that died (a reboot) are left out.
func Open(_ context.Context, stateDir string) (*Lab, error) {
	s, err := readState(stateDir)
	if err != nil {
		return nil, err
	}
	l := &Lab{opts: Options{Bin: s.Bin, CNIBin: s.CNIBin, StateDir: stateDir}}
	if l.stage, err = stageFor(s.Bin, s.CNIBin); err != nil {
		return nil, fmt.Errorf("opening the lab: %w", err)
	}
	for _, sh := range s.Hosts {
		holder := &holder{pid: sh.PID, mntNS: sh.MntNS, fifo: filepath.Join(stateDir, sh.Name+".hold")}
		if holder.alive() {
			l.hosts = append(l.hosts, &Host{name: sh.Name, holder: holder, isSwitch: sh.Switch})
		}
	}
	return l, nil
}

func readState(stateDir string) (savedLab, error) {
	var s savedLab
	data, err := os.ReadFile(filepath.Join(stateDir, stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return s, ErrNoLab
	}
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return s, fmt.Errorf("reading the lab's state: %w", err)
	}
	return s, nil
}

// HolderPID returns the process that holds the namespaces of a host of the persistent lab
// in stateDir; who is not root enters its user namespace by it. An empty name means any.
func HolderPID(stateDir, name string) (int, error) {
	s, err := readState(stateDir)
	if err != nil {
		return 0, err
	}
	for _, h := range s.Hosts {
		if name == "" || h.Name == name {
			return h.PID, nil
		}
	}
	return 0, fmt.Errorf("host %q: %w", name, ErrNoLab)
}
