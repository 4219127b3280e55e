package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// attachment is what of a CNI result the demo talks about.
type attachment struct {
	Addr     netip.Prefix
	MAC      string
	HostPort string
}

func readResult(text string) (attachment, error) {
	var r struct {
		Interfaces []struct{ Name, Mac, Sandbox string }
		IPs        []struct{ Address string }
	}
	var a attachment
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return a, fmt.Errorf("reading the CNI result: %w", err)
	}
	for _, i := range r.Interfaces {
		switch {
		case i.Sandbox != "":
			a.MAC = i.Mac
		case strings.HasPrefix(i.Name, "fdp"):
			a.HostPort = i.Name
		}
	}
	if len(r.IPs) != 1 {
		return a, fmt.Errorf("reading the CNI result: %d addresses, one was expected", len(r.IPs))
	}
	var err error
	a.Addr, err = netip.ParsePrefix(r.IPs[0].Address)
	return a, err
}

// compact prints a CNI result with one line a list element instead of one a key.
func compact(text string) string {
	var top map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &top) != nil {
		return text
	}
	var b strings.Builder
	for _, key := range []string{"cniVersion", "interfaces", "ips", "routes", "dns"} {
		raw, ok := top[key]
		if !ok {
			continue
		}
		var list []json.RawMessage
		if json.Unmarshal(raw, &list) != nil {
			list = []json.RawMessage{raw}
		}
		label := key
		for _, e := range list {
			var one bytes.Buffer
			if json.Compact(&one, e) != nil {
				return text
			}
			fmt.Fprintf(&b, "%-11s %s\n", label, one.String())
			label = ""
		}
	}
	return b.String()
}

// addressOf and interfaceOf show the part of a result that is about the container.
func addressOf(text string) string   { return grep("ips ")(compact(text)) }
func interfaceOf(text string) string { return grep("sandbox", "ips ")(compact(text)) }

// briefly shortens what `flatctl apply` says it changed: it names each chain and each
// element of the guard.
func briefly(text string) string {
	var b strings.Builder
	count := map[string]int{}
	for line := range strings.Lines(text) {
		kind, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		if kind == "guard" || kind == "chains" {
			count[kind]++
			continue
		}
		b.WriteString(line)
	}
	if n := count["chains"] + count["guard"]; n > 0 {
		fmt.Fprintf(&b, "  (%d lines more: %d on chains, %d on elements of the guard)\n", n, count["chains"], count["guard"])
	}
	return b.String()
}
