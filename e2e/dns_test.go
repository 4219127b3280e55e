package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// lookUp asks the gateway with busybox's resolver, which prints what it got.
func (w *workload) lookUp(name string) string {
	w.n.t.Helper()
	out, _, err := w.Run(w.n.within(), "busybox", "nslookup", name, gateway.String())
	if err != nil && !strings.Contains(out, "NXDOMAIN") {
		return err.Error() + "\n" + out
	}
	return out
}

// resolves says whether the workload gets what it should of the zone, and nothing of what
// is not there.
func (w *workload) resolves(host, addr string) {
	w.n.t.Helper()
	for _, q := range []struct{ name, want string }{
		{host + ".novalocal", "Name:\t" + host + ".novalocal\nAddress: " + addr},
		{addr, "name = " + host + ".novalocal"},
		{"gateway.novalocal", "Address: " + gateway.String()},
		{"nobody.novalocal", "can't find nobody.novalocal: NXDOMAIN"},
	} {
		if got := w.lookUp(q.name); !strings.Contains(got, q.want) {
			w.n.t.Errorf("looking up %s: no %q in\n%s", q.name, q.want, got)
		}
	}
}

// dns waits until the daemon answers DNS.
func (n *node) dns(p *lab.Process) {
	n.t.Helper()
	if _, _, err := p.WaitLine(n.within(), 0, "DNS on 10.0.0.1, domain novalocal"); err != nil {
		n.t.Fatal(err)
	}
}

// A1's DNS: a VM with its lease resolves names by the server that the lease names, toggle on
// or off, whatever INPUT's policy. Without our rule that policy drops the question.
func TestClientResolvesByTheServerOfItsLease(t *testing.T) {
	combinations(t, leaseKeys, func(t *testing.T, n *node, _ bool) {
		d := n.daemon()
		w, vm := n.vm("vm1", lab.CNIOptions{})
		n.serving(d)
		n.dns(d)
		lease := w.boot(vm)
		wantLease(t, w, lease)
		n.run("iptables", "-P", "INPUT", "DROP")
		w.resolves(lease.Hostname, w.addr.String())
		line := ""
		for l := range strings.Lines(n.run("iptables", "-S", "FLAT-INPUT")) {
			if strings.Contains(l, "--dport 53") && strings.Contains(l, "-p udp") {
				line = strings.TrimSpace(l)
			}
		}
		if !strings.HasPrefix(line, "-A FLAT-INPUT -d 10.0.0.1/32 -i br100 -p udp -m udp --dport 53 ") {
			t.Fatalf("no rule for DNS in FLAT-INPUT: %q", line)
		}
		n.run("sh", "-c", "iptables "+strings.Replace(line, "-A", "-D", 1))
		if got := w.lookUp(lease.Hostname + ".novalocal"); strings.Contains(got, w.addr.String()+"\n") {
			t.Errorf("resolved without the rule, so it was not needed:\n%s", got)
		}
		n.run("flatctl", "apply", lab.ConflistPath(network))
		w.resolves(lease.Hostname, w.addr.String())
	})
}

// With static addressing a name is there when ADD returns, and the result names the
// gateway as name server if the daemon lives, only then and only where nothing else is said.
func TestResultNamesTheGatewayIfTheDaemonLives(t *testing.T) {
	n := newNode(t, nil)
	first := n.attach("first", lab.CNIOptions{})
	if !first.result.DNS.IsEmpty() {
		t.Errorf("without a daemon the result says %+v", first.result.DNS)
	}
	d := n.daemon()
	n.dns(d)
	for _, name := range []string{"second", "third"} {
		w := n.attach(name, lab.CNIOptions{})
		host := "host-" + strings.ReplaceAll(w.addr.String(), ".", "-")
		// Of a neighbour, so that the first question comes right after the ADD.
		if got := first.lookUp(host + ".novalocal"); !strings.Contains(got, "Address: "+w.addr.String()) {
			t.Errorf("right after its ADD:\n%s", got)
		}
		w.resolves(host, w.addr.String())
		if got := w.result.DNS; !slices.Equal(got.Nameservers, []string{gateway.String()}) || got.Domain != "novalocal" || !slices.Equal(got.Search, []string{"novalocal"}) {
			t.Errorf("result says %+v", got)
		}
		w.checked()
	}
	n.configure(keys{"dns": keys{"enabled": false}})
	if got := n.attach("fourth", lab.CNIOptions{}).result.DNS; !got.IsEmpty() {
		t.Errorf("turned off, the result says %+v", got)
	}
}

// What the node's /etc/hosts says is the node's own: in the zone it is no name, and
// of another zone it is not what workloads are told.
func TestHostsFileOfTheNodeIsItsOwn(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.run("sh", "-ec", "echo 10.9.9.9 secret.novalocal secret.example >/run/hosts; ln -sf /run/hosts /etc/hosts")
	for _, name := range []string{"secret.novalocal", "secret.example"} {
		if got := n.run("getent", "hosts", name); !strings.HasPrefix(got, "10.9.9.9 ") {
			t.Fatalf("the control: the node itself finds %s at %s", name, got)
		}
	}
	w := n.attach("w", lab.CNIOptions{})
	n.dns(n.daemon())
	w.resolves("host-"+strings.ReplaceAll(w.addr.String(), ".", "-"), w.addr.String())
	if got := w.lookUp("secret.novalocal"); !strings.Contains(got, "can't find secret.novalocal: NXDOMAIN") {
		t.Errorf("secret.novalocal:\n%s", got)
	}
	// The node has no name server to ask.
	if got := w.lookUp("secret.example"); !strings.Contains(got, "SERVFAIL") && !strings.Contains(got, "REFUSED") || strings.Contains(got, "10.9.9.9") {
		t.Errorf("secret.example:\n%s", got)
	}
}
