package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

const (
	// floodRounds of floodRound strangers: what the daemon's receive buffer holds, however
	// late it comes to read it.
	floodRounds, floodRound = 20, 1000
	// floodHosts are reserved, and floodClients of them ask in each round.
	floodHosts, floodClients = 10000, 10
	// floodMemory is the daemon's peak that docs/dhcp.md states, in MiB.
	floodMemory = 128
)

// floodMAC and floodAddr are those of the i-th reserved host.
func floodAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte(16 + i>>8), byte(i)})
}

func floodMAC(i int) net.HardwareAddr {
	a := floodAddr(i).As4()
	return net.HardwareAddr{0xfa, 0x16, 0x3e, a[1], a[2], a[3]}
}

// dhcpFrame is a client's message as it goes on the wire, by broadcast.
func dhcpFrame(t *testing.T, mac net.HardwareAddr, mods ...dhcpv4.Modifier) (frame []byte, id dhcpv4.TransactionID) {
	t.Helper()
	m, err := dhcpv4.NewDiscovery(mac, mods...)
	if err != nil {
		t.Fatal(err)
	}
	return lab.Ethernet(lab.Broadcast, mac, 0x0800, lab.UDP(netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), m.ToBytes())), m.TransactionID
}

// While strangers flood a node with 10,000 reserved hosts and ADDs go on, a known client
// sends each of its messages once and is answered; no message is lost in the receive
// buffer, every stranger's is counted, and memory stays within the bound.
func TestFloodWhileADDsGoOn(t *testing.T) {
	n := newNode(t, keys{"addressing": "dhcp", "ipam.subnet": "10.0.0.0/16"})
	var hosts strings.Builder
	for i := range floodHosts {
		fmt.Fprintf(&hosts, "%s,h%d,%s\n", floodMAC(i), i, floodAddr(i))
	}
	if err := n.WriteFile(n.within(), "/run/hosts", 0o600, hosts.String()); err != nil {
		t.Fatal(err)
	}
	n.attach("first", lab.CNIOptions{}).detach() // makes the bridge
	n.run("flatctl", "import", "--from", "dnsmasq", "/run/hosts")
	d := n.daemon("--listen", ":9100")
	n.serving(d)
	// A port that is none of ours, as an uplink is: on a workload's the guard stops strangers.
	n.run("sh", "-ec", "ip link add flood0 type veth peer name flood1; ip link set flood0 master br100; ip link set flood0 up; ip link set flood1 up")
	n.eventually("the port to forward", func() bool {
		return strings.Contains(n.run("bridge", "link", "show", "dev", "flood0"), "state forwarding")
	})
	port, err := n.Tap("flood1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = port.Close() }()

	added := n.container("added")
	comeAndGo := func() (time.Duration, error) {
		begin := time.Now()
		_, err := n.CNI(n.within(), "add", network, added, lab.CNIOptions{})
		if err == nil {
			_, err = n.CNI(n.within(), "del", network, added, lab.CNIOptions{})
		}
		return time.Since(begin), err
	}
	var quiet, busy time.Duration // for people: a busy machine makes both of any length
	for range floodRounds {
		took, err := comeAndGo()
		if err != nil {
			t.Fatal(err)
		}
		quiet += took
	}
	for round := range floodRounds {
		add := make(chan error, 1)
		go func() {
			took, err := comeAndGo()
			busy += took
			add <- err
		}()
		var frames [][]byte
		for i := range floodRound {
			mac := binary.BigEndian.AppendUint32([]byte{2, byte(round)}, uint32(i))
			f, _ := dhcpFrame(t, mac)
			frames = append(frames, f)
		}
		// In the middle of the strangers the clients begin, and each goes on when it is
		// answered.
		asked := map[dhcpv4.TransactionID]int{}
		for k := range floodClients {
			i := (round*floodClients + k) * (floodHosts / floodRounds / floodClients)
			f, id := dhcpFrame(t, floodMAC(i))
			asked[id] = i
			frames = slices.Insert(frames, floodRound/2, f)
		}
		if err := port.Send(frames...); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck} {
			answered := replies(n.within(), t, port, asked, kind)
			clear(asked)
			if kind == dhcpv4.MessageTypeAck {
				break
			}
			for _, i := range answered {
				f, id := dhcpFrame(t, floodMAC(i), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
					dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(floodAddr(i).AsSlice())), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(gateway.AsSlice())))
				asked[id] = i
				if err := port.Send(f); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := <-add; err != nil {
			t.Fatalf("ADD and DEL in round %d: %v", round+1, err)
		}
	}

	metric := func(name string) (sum int) {
		t.Helper()
		for line := range strings.Lines(n.run("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:9100/metrics")) {
			if rest, ok := strings.CutPrefix(line, name+" "); ok {
				v, err := strconv.Atoi(strings.TrimSpace(rest))
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
		}
		t.Fatalf("no metric %s", name)
		return 0
	}
	n.eventually("every stranger to be counted", func() bool {
		return metric(`flatdhcp_dhcp_client_messages_total{network="flat",client="unknown"}`)+metric(`flatdhcp_dhcp_lost_total{network="flat",where="queue"}`) == floodRounds*floodRound
	})
	n.eventually("a copy of the store without the last of those that went", func() bool { return metric(`flatdhcp_reservations{network="flat"}`) == floodHosts })
	for name, want := range map[string]int{
		`flatdhcp_dhcp_client_messages_total{network="flat",client="known"}`: 2 * floodRounds * floodClients,
		`flatdhcp_dhcp_lost_total{network="flat",where="overflow"}`:          0,
	} {
		if got := metric(name); got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
	peak := 0
	for line := range strings.Lines(n.run("cat", fmt.Sprintf("/proc/%d/status", d.PID()))) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			if _, err := fmt.Sscanf(rest, "%d kB", &peak); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("the daemon's memory was %d MiB at most; ADD and DEL took %s, during the flood %s", peak>>10, quiet/floodRounds, busy/floodRounds)
	if peak == 0 || peak>>10 > floodMemory {
		t.Errorf("the daemon's memory was %d KiB at most, more than the %d MiB of docs/dhcp.md", peak, floodMemory)
	}
}

// replies waits until every client that asked has its one answer of a kind, and returns
// them in the order of the answers.
func replies(ctx context.Context, t *testing.T, port *lab.Tap, asked map[dhcpv4.TransactionID]int, want dhcpv4.MessageType) (answered []int) {
	t.Helper()
	const headers = 14 + 20 + 8
	for len(answered) < len(asked) {
		f, err := port.Receive(ctx)
		if err != nil {
			t.Fatalf("%d of %d clients have their %v: %v", len(answered), len(asked), want, err)
		}
		if len(f) < headers || f[12] != 8 || f[13] != 0 || f[23] != 17 || f[35] != 67 {
			continue
		}
		m, err := dhcpv4.FromBytes(f[headers:])
		if err != nil {
			t.Fatal(err)
		}
		i, ok := asked[m.TransactionID]
		if !ok || m.MessageType() != want || !m.YourIPAddr.Equal(floodAddr(i).AsSlice()) || slices.Contains(answered, i) {
			t.Fatalf("an answer that nobody waits for: %s", m.Summary())
		}
		answered = append(answered, i)
	}
	return answered
}
