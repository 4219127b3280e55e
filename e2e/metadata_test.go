package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// metadata is what nova's API told an instance of a cirros image.
const metadataURL = "http://169.254.169.254/2009-04-04/"

// serveMetadata is a small metadata server: it tells who asks by the source address, and
// has no public key for anybody.
func serveMetadata(t *testing.T, in labtest.Place, at string, instances map[netip.Addr]string) {
	t.Helper()
	l := labtest.Listen(t, in, at)
	mux := http.NewServeMux()
	answer := func(path string, text func(who netip.Addr) string) {
		mux.HandleFunc("/2009-04-04/"+path, func(w http.ResponseWriter, r *http.Request) {
			who := netip.MustParseAddrPort(r.RemoteAddr).Addr()
			if instances[who] == "" {
				http.Error(w, "no instance has the address "+who.String(), http.StatusForbidden)
				return
			}
			_, _ = fmt.Fprint(w, text(who)) // a client that left shows at the client
		})
	}
	answer("meta-data/instance-id", func(who netip.Addr) string { return instances[who] })
	answer("meta-data/local-ipv4", netip.Addr.String)
	answer("user-data", func(who netip.Addr) string { return "#!/bin/sh\necho " + instances[who] + "\n" })
	server := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }() // says that it was closed
	t.Cleanup(func() { _ = server.Close(); <-done })
}

// fetch is what cirros runs to ask for its metadata.
func (w *workload) fetch(path string) (string, error) {
	w.n.t.Helper()
	out, _, err := w.Run(w.n.within(), "busybox", "wget", "-q", "-O", "-", metadataURL+path)
	return out, err
}

// bootsFromMetadata plays the steps of cirros' console: instance ID, user data, public key.
func (w *workload) bootsFromMetadata(instance string) {
	w.n.t.Helper()
	for _, step := range []struct{ path, want string }{
		{"meta-data/instance-id", instance},
		{"meta-data/local-ipv4", w.addr.String()},
		{"user-data", "#!/bin/sh\necho " + instance + "\n"},
	} {
		if got, err := w.fetch(step.path); err != nil || got != step.want {
			w.n.t.Errorf("%s of %s is %q, %v; want %q", step.path, w.addr, got, err, step.want)
		}
	}
	_, err := w.fetch("meta-data/public-keys/0/openssh-key")
	if err == nil || !strings.Contains(err.Error(), "404 Not Found") {
		w.n.t.Errorf("a public key that nobody gave %s: %v", w.addr, err)
	}
}

// F1: metadata on the gateway, whose INPUT drops, with forwarding off, by the default route
// and by a guest's own route for zeroconf, which asks for the address by ARP.
func TestMetadata(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, metadata, listens string }{
		{"an address of the node", "192.0.2.1:8775", "192.0.2.1:8775"},
		{"the node", "127.0.0.1:8775", "0.0.0.0:8775"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n, _ := newNodeWithOutside(t, keys{"metadata": c.metadata})
			vm, other := n.attach("vm", lab.CNIOptions{}), n.attach("other", lab.CNIOptions{})
			n.run("iptables", "-P", "INPUT", "DROP")
			n.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.0.0.0/8", "-j", "MASQUERADE")
			n.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
			serveMetadata(t, n, c.listens, map[netip.Addr]string{vm.addr: "i-00000009", other.addr: "i-0000000a"})
			vm.bootsFromMetadata("i-00000009")
			other.bootsFromMetadata("i-0000000a")
			if _, _, err := vm.Run(n.within(), "ip", "route", "add", "169.254.0.0/16", "dev", "eth0"); err != nil {
				t.Fatal(err)
			}
			vm.bootsFromMetadata("i-00000009")
			neighbour, _, err := vm.Run(n.within(), "ip", "neighbour", "show", "169.254.169.254")
			if err != nil || word(neighbour, "lladdr") != word(n.run("ip", "link", "show", "dev", "br100"), "link/ether") {
				t.Errorf("the guest's neighbour entry is %q, %v", neighbour, err)
			}
			vm.checked()

			n.apply(keys{"metadata": nil})
			flush := func() { n.run("conntrack", "-F") } // TCP's own memory of what has ended
			flush()
			without := n.state()
			if _, _, err := vm.Run(n.within(), "ip", "neighbour", "flush", "dev", "eth0"); err != nil {
				t.Fatal(err)
			}
			if _, err := vm.fetch("user-data"); err == nil || !strings.Contains(err.Error(), "No route to host") {
				t.Errorf("the control: without the key somebody answers ARP requests for the address: %v", err)
			}
			n.apply(keys{"metadata": c.metadata})
			other.bootsFromMetadata("i-0000000a")
			n.run("ip", "address", "del", "169.254.169.254/32", "dev", "lo")
			var failed *lab.RunError
			if _, err := n.CNI(n.within(), "check", n.network, vm.Container, vm.o); !errors.As(err, &failed) || !strings.Contains(failed.Error(), "no link has the metadata address") {
				t.Errorf("CHECK without the address on lo: %v", err)
			}
			n.apply(nil)
			vm.checked()
			n.apply(keys{"metadata": nil})
			flush()
			n.unchanged(without, "metadata that came and went")
		})
	}
}

// A server on another host is told of workloads' own addresses, so it needs a way back.
func TestMetadataOnAnotherHost(t *testing.T) {
	t.Parallel()
	n, outside := newNodeWithOutside(t, keys{"metadata": "192.0.2.2:8775"})
	n.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.0.0.0/8", "-j", "MASQUERADE")
	route := func(verb string) {
		t.Helper()
		if _, _, err := outside.Run(n.within(), "ip", "route", verb, "10.0.0.0/24", "via", nodeOutside.String()); err != nil {
			t.Fatal(err)
		}
	}
	const why = "192.0.2.2:8775 is on another host and does not answer 10.0.0.1"
	c := n.container("vm")
	if _, err := n.tryAttach(c, lab.CNIOptions{}); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("ADD with a server that has no way back: %v", err)
	}
	if out := n.run("ip", "-o", "link", "show", "type", "veth"); strings.Contains(out, "fdp") {
		t.Errorf("the ADD that was refused left %s", out)
	}
	route("add")
	vm := n.attachTo(c, lab.CNIOptions{}) // a server that is down is no reason not to
	serveMetadata(t, outside, "192.0.2.2:8775", map[netip.Addr]string{vm.addr: "i-00000009"})
	vm.bootsFromMetadata("i-00000009")
	n.attach("other", lab.CNIOptions{})
	n.apply(nil)
	route("del")
	if _, _, err := n.Run(n.within(), "flatctl", "apply", lab.ConflistPath(n.network)); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("flatctl apply with a server that has no way back: %v", err)
	}
}

// answerers returns the MACs that answer the workload's ARP requests for the metadata
// address, each request sent to everybody.
func (w *workload) answerers() (macs []string) {
	w.n.t.Helper()
	out, _, err := w.Run(w.n.within(), "arping", "-b", "-c", "3", "-I", "eth0", "169.254.169.254")
	if !strings.Contains(out, "Received") { // more than one answer is a failure to it, and none is, too
		w.n.t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if mac := strings.Trim(word(line, "169.254.169.254"), "[]"); strings.Contains(line, "reply from") && !slices.Contains(macs, strings.ToLower(mac)) {
			macs = append(macs, strings.ToLower(mac))
		}
	}
	return macs
}

// Where every node is a gateway a guest that asks for the metadata address by ARP is answered
// by its own and no other: each sends it to a server of its own.
func TestMetadataOfTheOwnGateway(t *testing.T) {
	t.Parallel()
	_, nodes := uplinked(t, 2, keys{"isGateway": true, "metadata": "127.0.0.1:8775"})
	a, b := nodes[0], nodes[1]
	b.configure(keys{"ipam.gateway": "10.0.0.254"})
	wa, wb := a.attach("a", lab.CNIOptions{}), b.attach("b", lab.CNIOptions{})
	serveMetadata(t, a, "0.0.0.0:8775", map[netip.Addr]string{wa.addr: "i-00000009"})
	serveMetadata(t, b, "0.0.0.0:8775", map[netip.Addr]string{wb.addr: "i-0000000a"})
	own := map[*workload]string{wa: word(a.link("br100"), "link/ether"), wb: word(b.link("br100"), "link/ether")}
	for w, mac := range own {
		before := w.n.guardCount("uplink_out_gateway")
		if got := w.answerers(); !slices.Equal(got, []string{mac}) {
			t.Errorf("%s is answered by %q, want %s alone", w.addr, got, mac)
		}
		if w.n.guardCount("uplink_out_gateway") == before {
			t.Errorf("the guard of %s counted no request at the uplink", w.n.Name())
		}
		if _, _, err := w.Run(w.n.within(), "ip", "route", "add", "169.254.0.0/16", "dev", "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	wa.bootsFromMetadata("i-00000009")
	wb.bootsFromMetadata("i-0000000a")
	for _, n := range nodes {
		n.apply(keys{"uplinkDHCP": "pass"})
	}
	if got := wa.answerers(); len(got) != 2 {
		t.Errorf("the control: where the uplink lets requests pass, %q answer", got)
	}
}

// Where one node is the gateway of all, with uplinkDHCP "pass", workloads of other nodes have
// their metadata from it, under their own addresses, by their default route and by zeroconf.
func TestMetadataOfASingleHost(t *testing.T) {
	t.Parallel()
	_, nodes := uplinked(t, 2, nil)
	controller, compute := nodes[0], nodes[1]
	controller.configure(keys{"isGateway": true, "uplinkDHCP": "pass", "metadata": "127.0.0.1:8775"})
	vm, local := compute.attach("vm", lab.CNIOptions{}), controller.attach("local", lab.CNIOptions{})
	controller.run("iptables", "-P", "INPUT", "DROP")
	serveMetadata(t, controller, "0.0.0.0:8775", map[netip.Addr]string{vm.addr: "i-00000009", local.addr: "i-0000000a"})
	vm.bootsFromMetadata("i-00000009")
	local.bootsFromMetadata("i-0000000a")
	if got, want := vm.answerers(), word(controller.link("br100"), "link/ether"); !slices.Equal(got, []string{want}) {
		t.Errorf("%s is answered by %q, want %s alone", vm.addr, got, want)
	}
	if _, _, err := vm.Run(compute.within(), "ip", "route", "add", "169.254.0.0/16", "dev", "eth0"); err != nil {
		t.Fatal(err)
	}
	vm.bootsFromMetadata("i-00000009")
}
