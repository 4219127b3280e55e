package uplink

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// runDir is where network managers keep what they know.
const runDir = "/run"

// Managed says, a line each, which network manager of this machine has a device for its own,
// and what to tell it: it would give the device addresses again, or take it away.
func Managed(d Device, bridge string) ([]string, error) { return managed(runDir, d, bridge) }

func managed(run string, d Device, bridge string) (notices []string, err error) {
	index := strconv.Itoa(d.Index)
	link, err := readKeys(filepath.Join(run, "systemd/netif/links", index))
	if err != nil {
		return nil, err
	}
	switch link["ADMIN_STATE"] {
	case "", "unmanaged", "initialized", "pending":
	default:
		notices = append(notices, fmt.Sprintf("systemd-networkd manages %s (%s, by %s) and may give it addresses that a bridge's port cannot use: "+
			"give it a .network file that sorts before with [Match] Name=%s and [Link] Unmanaged=yes, or [Network] Bridge=%s if it is to make the bridge as well, "+
			"and `networkctl reload`", d.Name, link["ADMIN_STATE"], orUnknown(link["NETWORK_FILE"]), d.Name, bridge))
	}
	device, err := readKeys(filepath.Join(run, "NetworkManager/devices", index))
	if err != nil {
		return nil, err
	}
	if device["managed"] == "true" {
		notices = append(notices, fmt.Sprintf("NetworkManager manages %s (connection %s) and may take it out of bridge %s: "+
			"write [keyfile] and unmanaged-devices=interface-name:%s;interface-name:%s;interface-name:fdp*;interface-name:fgw*;interface-name:fgp* into /etc/NetworkManager/conf.d/flatdhcp.conf and `nmcli general reload`",
			d.Name, orUnknown(device["connection-uuid"]), bridge, d.Name, bridge))
	}
	return notices, nil
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// readKeys reads the KEY=VALUE lines of a file; none if there is no such file.
func readKeys(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for network managers: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	keys := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if k, v, ok := strings.Cut(strings.TrimSpace(lines.Text()), "="); ok {
			keys[k] = v
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("looking for network managers: reading %s: %w", path, err)
	}
	return keys, nil
}
