package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

const (
	cniVersion = "1.1.0"
	ifName     = "eth0"
	// measured is the namespace of the workload that comes and goes.
	measured = "/run/netns/measured"
)

// setup is a plugin and its configuration.
type setup struct {
	name   string // as it is reported
	host   string
	plugin string // file name
	conf   map[string]any
}

// setups are ours and the two that it is compared with, the first and second of the list.
func setups(data string) []setup {
	const subnet = "10.0.0.0/16"
	reference := func(host string, masquerade bool) map[string]any {
		return map[string]any{
			"type": "bridge", "bridge": "br100", "isGateway": true, "ipMasq": masquerade,
			"ipam": map[string]any{"type": "host-local", "subnet": subnet, "dataDir": filepath.Join(data, host)},
		}
	}
	return []setup{
		{"flat-bridge", "ours", "flat-bridge", map[string]any{
			"type": "flat-bridge",
			"ipam": map[string]any{"type": "flat-ipam", "subnet": subnet, "dataDir": filepath.Join(data, "ours")},
		}},
		{"bridge + host-local", "bare", "bridge", reference("bare", false)},
		{"bridge + host-local, ipMasq", "masq", "bridge", reference("masq", true)},
	}
}

// contender is a setup on a host of its own.
type contender struct {
	setup
	host     *lab.Host
	stations []*station // one a CPU; the first is that which measures
	scratch  string
	attached []attachment
}

type attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

func newContender(ctx context.Context, l *lab.Lab, s setup, data string) (*contender, error) {
	h, err := l.AddHost(ctx, s.host)
	if err != nil {
		return nil, err
	}
	c := &contender{setup: s, host: h, scratch: data}
	for range runtime.NumCPU() {
		st, err := newStation(h)
		if err != nil {
			return nil, err
		}
		c.stations = append(c.stations, st)
	}
	_, err = h.Container(ctx, filepath.Base(measured))
	return c, err
}

// close ends its threads; the lab ends the host.
func (c *contender) close() {
	for _, st := range c.stations {
		st.close()
	}
}

// call is one execution of the plugin.
type call struct {
	verb, id, netns string
	extra           map[string]any // further keys of its configuration
	under           []string       // a program that runs it, and its arguments
}

// cost is what one execution took.
type cost struct {
	wall time.Duration
	cpu  time.Duration // user and system, of the plugin and the programs that it ran
}

// execute runs the plugin as a runtime does and returns what it printed.
func (c *contender) execute(ctx context.Context, st *station, k call) (out []byte, took cost, err error) {
	conf := map[string]any{"cniVersion": cniVersion, "name": "bench"}
	for _, keys := range []map[string]any{c.conf, k.extra} {
		for key, v := range keys {
			conf[key] = v
		}
	}
	text, err := json.Marshal(conf)
	if err != nil {
		return nil, cost{}, err
	}
	st.do(func() { out, took, err = c.onStation(ctx, k, text) })
	if err != nil {
		err = fmt.Errorf("%s of %s for %s: %w", k.verb, c.name, k.id, err)
	}
	return out, took, err
}

// onStation is the part of execute that runs on the host's thread.
func (c *contender) onStation(ctx context.Context, k call, conf []byte) (out []byte, took cost, err error) {
	// Files, not pipes: no goroutine of ours copies while the clock runs.
	stdin, err := c.file(conf)
	if err != nil {
		return nil, cost{}, err
	}
	defer func() { err = errors.Join(err, stdin.Close()) }()
	stdout, err := c.file(nil)
	if err != nil {
		return nil, cost{}, err
	}
	defer func() { err = errors.Join(err, stdout.Close()) }()
	argv := append(append([]string{}, k.under...), "/opt/cni/bin/"+c.plugin)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "CNI_PATH=/opt/cni/bin",
		"CNI_COMMAND=" + k.verb, "CNI_CONTAINERID=" + k.id, "CNI_NETNS=" + k.netns, "CNI_IFNAME=" + ifName,
	}
	cmd.Stdin, cmd.Stdout = stdin, stdout
	start := time.Now()
	err = cmd.Run()
	took.wall = time.Since(start)
	if state := cmd.ProcessState; state != nil {
		took.cpu = state.UserTime() + state.SystemTime()
	}
	said, readErr := os.ReadFile(stdout.Name())
	if err != nil {
		return nil, took, fmt.Errorf("%w: %s", err, bytes.TrimSpace(said))
	}
	return said, took, readErr
}

// file makes a file with a content, at its beginning, in the scratch directory.
func (c *contender) file(content []byte) (*os.File, error) {
	f, err := os.CreateTemp(c.scratch, "io-")
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(content); err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		_ = f.Close()
	}
	return f, err
}

// populate attaches workloads until there are n, as many at a time as there are CPUs.
func (c *contender) populate(ctx context.Context, n int) error {
	first := len(c.attached)
	if first >= n {
		return nil
	}
	if _, _, err := c.host.Run(ctx, "sh", "-ec", fmt.Sprintf(`for i in $(seq %d %d); do ip netns add w$i; done`, first, n-1)); err != nil {
		return err
	}
	ids := make(chan int)
	errs := make(chan error, len(c.stations))
	var workers sync.WaitGroup
	for _, st := range c.stations {
		workers.Go(func() {
			for i := range ids {
				if _, _, err := c.execute(ctx, st, call{verb: "ADD", id: fmt.Sprintf("w%d", i), netns: fmt.Sprintf("/run/netns/w%d", i)}); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	var failed error
	for i := first; i < n && failed == nil; i++ {
		select {
		case ids <- i:
			c.attached = append(c.attached, attachment{fmt.Sprintf("w%d", i), ifName})
		case failed = <-errs:
		}
	}
	close(ids)
	workers.Wait()
	close(errs)
	return errors.Join(failed, <-errs)
}

// describe says on what the figures were measured.
func describe(ctx context.Context, h *lab.Host, data string) (string, error) {
	script := `printf '%s, Linux %s, %s CPUs, %s, stores on %s' \
		"$(flatctl --version | sed s/flatctl/flatdhcp/)" "$(uname -r)" "$(nproc)" "$(iptables --version)" "$(stat -f -c %T "$1")"`
	out, _, err := h.Run(ctx, "sh", "-c", script, "sh", data)
	return strings.TrimSpace(out), err
}
