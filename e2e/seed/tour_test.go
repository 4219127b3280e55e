package seed

import (
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// metadataFiles are what the metadata server of the tour has: no public key, as the seed's.
var metadataFiles = map[string]string{
	"/run/metadata/latest/meta-data/instance-id": "i-00000009\n",
	"/run/metadata/latest/user-data":             "#!/bin/sh\n",
}

// cloudScript is what the image of the seed does once it has its address.
const cloudScript = `exec 2>&1
data=http://169.254.169.254/latest
iid=$(busybox wget -q -O - $data/meta-data/instance-id) && echo "cloud-setup: successful: iid=$iid"
busybox wget -q -O - $data/user-data >/dev/null && echo "user-data: read"
busybox wget -q -O - $data/meta-data/public-keys/0/openssh-key || echo "public key: none"
ip -4 -oneline address show eth0 | awk '{ print "local-ipv4: " $4 }'`

// TestTour: docs/tour.md is the seed's walk through controller and compute node, before the first VM and
// after. Its listings are what our programs and the system's print on the way.
func TestTour(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	p := openPage(t, "tour.md")
	s := newHosts(t, shapes[0], true, lab.Seed(2))
	for _, n := range s.nodes() {
		n.run("flatctl", "networks") // the first look makes the directory, which would be a difference
	}
	s.serveMetadata()

	// list makes a listing of commands and what they print.
	list := func(name string, at *node, commands ...string) {
		t.Helper()
		at.settled()
		var text strings.Builder
		for _, c := range commands {
			text.WriteString("root@" + at.Name() + ":~# " + c + "\n" + regular(at.run("sh", "-c", c)))
		}
		p.set(name, text.String())
	}
	const promiscuity = "ip -details link show eth2 | grep -o 'promiscuity .'"
	list("controller-addresses", s.controller, "ip address", promiscuity)
	list("controller-bridge", s.controller, "bridge link")
	list("controller-routes", s.controller, "busybox route -n", "sysctl net.ipv4.ip_forward")
	list("controller-configuration", s.controller, "cat "+lab.ConflistPath(network))
	list("controller-hosts", s.controller, "flatctl reservations -o dnsmasq")
	list("controller-filter", s.controller, "iptables -t filter -S")
	list("controller-nat", s.controller, "iptables -t nat -S")
	list("compute-addresses", s.compute1, "ip address", promiscuity)
	list("compute-bridge", s.compute1, "bridge link")
	list("compute-filter", s.compute1, "iptables -S", "iptables -t nat -S", "nft list tables")
	list("compute-hosts", s.compute1, "flatctl reservations -o dnsmasq")
	list("compute-routes", s.compute1, "busybox route -n")
	list("compute-configuration", s.compute1, "cat "+lab.ConflistPath(network))

	// A VM starts.
	before, err := s.controller.State(s.within())
	if err != nil {
		t.Fatal(err)
	}
	mark := s.controller.dhcpd.Mark()
	s.vm1 = s.compute1.attach("vm1", lab.CNIOptions{Args: "K8S_POD_NAMESPACE=default;K8S_POD_NAME=cirros"})
	client, err := s.vm1.Start("udhcpc", "-f", "-i", "eth0", "-s", "/run/lab/udhcpc.sh")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Kill() })
	if _, _, err := client.WaitLine(s.within(), 0, "event=bound"); err != nil {
		t.Fatal(err)
	}
	console := strings.Join(client.Lines(), "\n") + "\n" + s.inside(s.vm1, "sh", "-c", cloudScript)
	s.run(s.compute1.Host, "kill", "-USR1", strconv.Itoa(client.PID()))
	if _, _, err := client.WaitLine(s.within(), 0, "event=renew"); err != nil {
		t.Fatal(err)
	}
	list("controller-ping", s.controller, "ping -n -c 3 -i 0.2 -W 20 "+s.vm1.addr.String())

	list("controller-hosts-after", s.controller, "flatctl reservations -o dnsmasq", "flatctl leases")
	p.set("controller-syslog", s.daemonSays(mark))
	after, err := s.controller.State(s.within())
	if err != nil {
		t.Fatal(err)
	}
	unchanged := ""
	for _, section := range []string{"links", "addresses", "routes", "rules", "iptables", "nft", "fdb", "sysctl", "store", "mounts"} {
		if before.Section(section) == after.Section(section) {
			unchanged += section + ": as before\n"
		} else {
			unchanged += section + ": changed\n"
		}
	}
	p.set("controller-unchanged", unchanged)

	list("compute-addresses-after", s.compute1, "ip address show dev br100", "ip address show master br100", promiscuity)
	list("compute-bridge-after", s.compute1, "bridge link")
	list("compute-routes-after", s.compute1, "busybox route -n")
	p.set("console", regular(sequel(console)))
	list("compute-hosts-after", s.compute1, "flatctl reservations", "flatctl reservations -o dnsmasq")
	list("compute-filter-after", s.compute1, "iptables -S")
	list("compute-nat-after", s.compute1, "iptables -t nat -S")
	list("compute-guard", s.compute1, "flatctl rules default/cirros")

	s.tell()
	list("controller-told", s.controller, "flatctl reservations -o dnsmasq")

	inside := ""
	for _, c := range []string{"ip address", "busybox route -n"} {
		inside += "$ " + c + "\n" + regular(s.inside(s.vm1, "sh", "-c", c))
	}
	p.set("guest", inside)
	p.close()
}

// serveMetadata starts a metadata server on the controller, until the test ends.
func (s *scene) serveMetadata() {
	s.t.Helper()
	for file, text := range metadataFiles {
		if err := s.controller.WriteFile(s.within(), file, 0o644, text); err != nil {
			s.t.Fatal(err)
		}
	}
	httpd, err := s.controller.Start("busybox", "httpd", "-f", "-p", s.controller.metadata(), "-h", "/run/metadata")
	if err != nil {
		s.t.Fatal(err)
	}
	s.whole.Cleanup(func() { _ = httpd.Kill() })
	for {
		err := s.controller.Do(func() error {
			c, err := net.Dial("tcp4", s.controller.metadata())
			if err == nil {
				err = c.Close()
			}
			return err
		})
		if err == nil {
			return
		}
		if !httpd.Running() {
			s.t.Fatalf("the metadata server has ended: %v\n%s", err, strings.Join(httpd.Lines(), "\n"))
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// inside runs a program in a workload.
func (s *scene) inside(w *workload, argv ...string) string {
	s.t.Helper()
	out, stderr, err := w.Run(s.within(), argv...)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, stderr)
	}
	return out
}

// settled waits until no address of the node is being checked for duplicates.
func (n *node) settled() {
	n.s.t.Helper()
	if _, err := n.State(n.s.within()); err != nil {
		n.s.t.Fatal(err)
	}
}

// sequel leaves out lines that only repeat the one before: a client that asks again.
func sequel(text string) string {
	var b strings.Builder
	last := ""
	for line := range strings.Lines(text) {
		if line != last {
			b.WriteString(line)
		}
		last = line
	}
	return b.String()
}

var dhcpLine = regexp.MustCompile(`DHCP\w+\(br100\)|static leases only`)

// daemonSays is what the controller's daemon said of DHCP on br100 since a mark, until vm1's
// second ACK, that of the renewal.
func (s *scene) daemonSays(mark int) string {
	s.t.Helper()
	for range 2 {
		var err error
		if _, mark, err = s.controller.dhcpd.WaitLine(s.within(), mark, "DHCPACK(br100) "+s.vm1.addr.String()); err != nil {
			s.t.Fatal(err)
		}
	}
	var said, lease []string
	for _, line := range s.controller.dhcpd.Lines()[:mark] {
		// A client that hears nothing at once says the same again.
		if line = regular(line); dhcpLine.MatchString(line) && !slices.Contains(lease, line) {
			said, lease = append(said, line), append(lease, line)
		}
		if strings.Contains(line, "DHCPACK") {
			lease = nil
		}
	}
	return strings.Join(said, "\n") + "\n"
}
