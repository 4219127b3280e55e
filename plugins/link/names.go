// Package link makes what a network is on a node: the bridge, one veth port a
// workload, the address inside the container, and the announcement of it. It
// speaks netlink only: no program is run and sysfs is never read (a process
// started with `nsenter --net` sees the sysfs of another namespace). Sysctls have
// no other door, so those few go by /proc/sys of the calling thread.
//
// Every function works in the network namespace of the calling thread, which for
// a plugin is the host's; what belongs inside a container names its namespace by
// path. Functions may be called from several goroutines and processes at once,
// and every one that undoes something may come twice.
package link

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// PortPrefix starts the name of every workload port on the host. The guard drops
// by it, so a bridge or an uplink must never be so named.
const PortPrefix = "fdp"

const (
	maxName  = 15  // IFNAMSIZ less its NUL
	maxAlias = 255 // IFALIASZ less its NUL
)

// PortName returns the name of the host side of an attachment: PortPrefix and 12
// hex digits of SHA-256(containerID, NUL, ifName). It needs nothing but what DEL is
// given, so that DEL finds the port without namespace or previous result.
func PortName(containerID, ifName string) string {
	sum := sha256.Sum256([]byte(containerID + "\x00" + ifName))
	return PortPrefix + hex.EncodeToString(sum[:6])
}

// Alias returns the interface alias that says whose port it is:
// "flatdhcp NETWORK CONTAINERID IFNAME". The kernel takes 255 bytes; a longer
// container ID is cut, which ends in "~".
func Alias(network, containerID, ifName string) string {
	s := "flatdhcp " + network + " " + containerID + " " + ifName
	over := len(s) - maxAlias
	if over <= 0 {
		return s
	}
	if keep := len(containerID) - over - 1; keep >= 0 {
		return "flatdhcp " + network + " " + containerID[:keep] + "~ " + ifName
	}
	return s[:maxAlias]
}

// AliasNetwork returns the network that an alias names; false = it is none of ours.
func AliasNetwork(alias string) (string, bool) {
	network, _, _, ok := ParseAlias(alias)
	return network, ok
}

// ParseAlias is the inverse of Alias, but for a container ID that was cut; false = the
// alias is none of ours.
func ParseAlias(alias string) (network, containerID, ifName string, ok bool) {
	words := strings.Split(alias, " ")
	if len(words) != 4 || words[0] != "flatdhcp" {
		return "", "", "", false
	}
	return words[1], words[2], words[3], true
}

// checkName refuses what the kernel would refuse, in words.
func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%q is no interface name", name)
	case len(name) > maxName:
		return fmt.Errorf("interface name %q is %d bytes long: the kernel takes at most %d", name, len(name), maxName)
	case strings.ContainsAny(name, "/: \t\n\v\f\r"):
		return fmt.Errorf("interface name %q has a slash, colon or blank in it", name)
	}
	return nil
}

func checkPortName(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if !strings.HasPrefix(name, PortPrefix) {
		return fmt.Errorf("%q is no port of ours: those start with %q", name, PortPrefix)
	}
	return nil
}
