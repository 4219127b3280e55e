package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// story is the demo: one chapter after the other, on one node.
type story struct {
	screen
	node *lab.Host

	before lab.State // the node before flatdhcp came to it
	web    attachment
	vm     attachment
	db     attachment
	lease  lab.Lease
	dhcpd  *lab.Process
}

const (
	conflist   = "/etc/cni/net.d/flat.conflist"
	vmConflist = "/etc/cni/vm.d/flat.conflist"
)

const conflistText = `{
  "cniVersion": "1.1.0",
  "name": "flat",
  "plugins": [
    {
      "type": "flat-bridge",
      "allowSameNetTraffic": true,
      "antiSpoofing": true,
      "addressing": "static",
      "ipam": { "type": "flat-ipam", "subnet": "10.0.0.0/24" }
    }
  ]
}
`

func (s *story) tell(ctx context.Context) error {
	for _, chapter := range []func(context.Context) error{
		s.theNode, s.aContainer, s.aVM, s.witnesses, s.theToggle, s.sameAddress, s.spoofing, s.cleanUp,
	} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

// conclude prints the verdict and returns the exit code.
func (s *story) conclude(took time.Duration) int {
	s.gap()
	if len(s.failed) > 0 {
		fmt.Fprintln(s.w, s.paint(red, fmt.Sprintf("%d of %d claims are not so:", len(s.failed), len(s.failed)+s.passed)))
		for _, f := range s.failed {
			fmt.Fprintln(s.w, "  ✗", f)
		}
		return 1
	}
	fmt.Fprintf(s.w, "%s in %.1f seconds. make lab leaves such a node up to play in.\n",
		s.paint(green, fmt.Sprintf("All %d claims hold,", s.passed)), took.Seconds())
	return 0
}

// theNode furnishes a node that others use already: what is theirs must not change.
func (s *story) theNode(ctx context.Context) error {
	s.title("flatdhcp: one fixed IP on one flat segment, seen alike by container, DHCP client and firewall")
	s.heading("A node")
	s.say(`It is made of network and mount namespaces: nothing outside them is touched. As on many
		machines Docker is there first, with a bridge, a container and its FORWARD policy DROP.`)
	const neighbours = `set -e
ip link add docker0 address 02:42:ac:11:00:01 type bridge
ip address add 172.17.0.1/16 dev docker0
ip netns add other
ip link add veth0 type veth peer name eth0 address 02:42:ac:11:00:02 netns other
ip link set veth0 master docker0 up
ip link set docker0 up
ip -netns other address add 172.17.0.2/16 dev eth0
ip -netns other link set eth0 up
sysctl -q net.ipv4.ip_forward=1
iptables -P INPUT ACCEPT
iptables -P OUTPUT ACCEPT
iptables -P FORWARD DROP
iptables -A FORWARD -i docker0 -j ACCEPT
iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
nft add table inet operator`
	if _, err := s.look(ctx, neighbours); err != nil {
		return err
	}
	if err := s.tree(ctx, map[string]string{"docker0": "somebody else's: must not change"}); err != nil {
		return err
	}
	// Their container answers before the snapshot: nothing is still coming up.
	if _, err := s.look(ctx, "ping -c 1 -w 5 172.17.0.2 && conntrack -D -d 172.17.0.2; true"); err != nil {
		return err
	}
	var err error
	if s.before, err = s.node.State(ctx); err != nil {
		return err
	}
	s.say("flatdhcp is two CNI plugins, a DHCP server, and one network configuration:")
	for path, text := range map[string]string{conflist: conflistText,
		vmConflist: strings.Replace(conflistText, `"static"`, `"dhcp"`, 1)} {
		if err := s.node.WriteFile(ctx, path, 0o644, text); err != nil {
			return err
		}
	}
	if _, err := s.shell(ctx, "cat "+conflist); err != nil {
		return err
	}
	s.gap()
	s.command("flat-dhcpd &")
	if s.dhcpd, err = s.node.StartDaemon(); err != nil {
		return err
	}
	line, _, err := waitLine(ctx, s.dhcpd, 0, "started")
	s.output(line)
	return err
}

// attach makes a container and adds it to the network, as the workload default/WORKLOAD.
func (s *story) attach(ctx context.Context, netns, workload, confDir string, show func(string) string) (attachment, error) {
	if _, err := s.shell(ctx, "ip netns add "+netns); err != nil {
		return attachment{}, err
	}
	where := ""
	if confDir != "/etc/cni/net.d" {
		where = "NETCONFPATH=" + confDir + " "
	}
	out, err := s.shellShowing(ctx, fmt.Sprintf("%sCNI_ARGS='K8S_POD_NAMESPACE=default;K8S_POD_NAME=%s' cnitool add flat /run/netns/%s",
		where, workload, netns), show)
	if err != nil {
		return attachment{}, err
	}
	return readResult(out)
}

func (s *story) aContainer(ctx context.Context) error {
	s.heading("A container joins")
	s.say(`A container is a network namespace; cnitool does what a container runtime would. The result says
		what the container got.`)
	var err error
	if s.web, err = s.attach(ctx, "web", "web", "/etc/cni/net.d", compact); err != nil {
		return err
	}
	s.gap()
	out, err := s.shell(ctx, "ip netns exec web ip -brief address show eth0")
	if err != nil {
		return err
	}
	s.claim(strings.Contains(out, s.web.Addr.String()), "the container has the address of the result, %s", s.web.Addr)
	out, err = s.shellShowing(ctx, "ip netns exec web ping -c 1 -W 5 10.0.0.1", grep("bytes from"))
	if err != nil {
		return err
	}
	s.claim(strings.Contains(out, " 0% packet loss"), "it reaches the gateway, which is the node itself")
	return nil
}

func (s *story) aVM(ctx context.Context) error {
	s.heading("A VM boots")
	s.say(`A VM asks for its address itself. Its port is made with "addressing": "dhcp": the result names an
		address, but nobody configures it.`)
	var err error
	if s.vm, err = s.attach(ctx, "vm1", "vm1", "/etc/cni/vm.d", addressOf); err != nil {
		return err
	}
	out, err := s.look(ctx, "ip netns exec vm1 ip -4 -brief address show eth0")
	if err != nil {
		return err
	}
	s.claim(out == "", "before it boots, nothing inside knows %s", s.vm.Addr)
	s.gap()
	if _, _, err := waitLine(ctx, s.dhcpd, 0, "sockets bound"); err != nil {
		return err
	}
	mark := s.dhcpd.Mark()
	const boot = "ip netns exec vm1 udhcpc -f -q -n -i eth0 -s /run/lab/udhcpc.sh"
	s.command(boot)
	lease, console, err := (&lab.VM{Container: s.node.Find("vm1")}).Boot(ctx, "eth0")
	fmt.Fprintf(s.w, "\n    %s\n", s.paint(bold, "console.log"))
	for line := range strings.Lines(console) {
		fmt.Fprintf(s.w, "    │ %s\n", strings.TrimRight(line, "\n"))
	}
	if err != nil {
		return err
	}
	s.lease = lease
	fmt.Fprintf(s.w, "    │ eth0: %s, router %s, domain %s, hostname %s, lease %s\n\n", lease.Addr, lease.Router, lease.Domain, lease.Hostname, lease.Time)
	s.claim(lease.Addr == s.vm.Addr, "its DHCP client received the very address that the CNI result named, %s", s.vm.Addr)
	if _, _, err := waitLine(ctx, s.dhcpd, mark, "DHCPACK"); err != nil {
		return err
	}
	s.gap()
	s.say("The DHCP server, meanwhile:")
	for _, line := range s.dhcpd.Lines()[mark:] {
		s.output(line)
	}
	s.gap()
	s.say("One more container, and the node is this:")
	if s.db, err = s.attach(ctx, "db", "db", "/etc/cni/net.d", addressOf); err != nil {
		return err
	}
	s.gap()
	if err := s.tree(ctx, map[string]string{"docker0": "somebody else's", "br100": "gateway, DHCP server"}); err != nil {
		return err
	}
	out, err = s.shellShowing(ctx, "ip netns exec vm1 ping -c 1 -W 5 "+s.db.Addr.Addr().String(), grep("bytes from"))
	if err != nil {
		return err
	}
	s.claim(strings.Contains(out, " 0% packet loss"), "VM and container are neighbours on one flat segment")
	return nil
}
