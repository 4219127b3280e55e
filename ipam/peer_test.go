package ipam

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// peeredNet is the network whose own range is 10.0.0.2 to 10.0.0.63, with two peers.
func peeredNet() Network {
	n := testNet("flat", "10.0.0.0/24")
	n.Pool.RangeStart, n.Pool.RangeEnd = addr("10.0.0.2"), addr("10.0.0.63")
	n.Pool.Peers = []Peer{
		{Node: "compute-1", RangeStart: addr("10.0.0.64"), RangeEnd: addr("10.0.0.127")},
		{Node: "compute-2", RangeStart: addr("10.0.0.128"), RangeEnd: addr("10.0.0.191")},
	}
	return n
}

func TestValidatePeers(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(p []Peer) []Peer
		want  string // behind `key "peers": value `; empty = valid
	}{
		{"as they are", func(p []Peer) []Peer { return p }, ""},
		{"one address", func(p []Peer) []Peer { p[0].RangeEnd = p[0].RangeStart; return p }, ""},
		{"no name", func(p []Peer) []Peer { p[0].Node = ""; return p },
			`" 10.0.0.64-10.0.0.127": accepted is a host name as node: letters, digits and inner dashes, dots between them`},
		{"a name with a colon", func(p []Peer) []Peer { p[0].Node = "a:b"; return p },
			`"a:b 10.0.0.64-10.0.0.127": accepted is a host name as node: letters, digits and inner dashes, dots between them`},
		{"outside", func(p []Peer) []Peer { p[1].RangeEnd = addr("10.0.1.1"); return p },
			`"compute-2 10.0.0.128-10.0.1.1": accepted is a range inside subnet 10.0.0.0/24`},
		{"no range", func(p []Peer) []Peer { return []Peer{{Node: "compute-1"}} },
			`"compute-1 invalid IP": accepted is a range inside subnet 10.0.0.0/24`},
		{"backwards", func(p []Peer) []Peer { p[0].RangeStart, p[0].RangeEnd = p[0].RangeEnd, p[0].RangeStart; return p },
			`"compute-1 10.0.0.127-10.0.0.64": accepted is a range inside subnet 10.0.0.0/24 that does not end before it starts`},
		{"in the own range", func(p []Peer) []Peer { p[0].RangeStart = addr("10.0.0.63"); return p },
			`"compute-1 10.0.0.63-10.0.0.127": accepted is a range outside this node's own, 10.0.0.2-10.0.0.63`},
		{"with the gateway", func(p []Peer) []Peer {
			return []Peer{{Node: "compute-1", RangeStart: addr("10.0.0.1"), RangeEnd: addr("10.0.0.1")}}
		}, `"compute-1 10.0.0.1": accepted is a range without 10.0.0.1: it is the gateway's`},
		{"with the network", func(p []Peer) []Peer {
			return []Peer{{Node: "compute-1", RangeStart: addr("10.0.0.0"), RangeEnd: addr("10.0.0.0")}}
		}, `"compute-1 10.0.0.0": accepted is a range without 10.0.0.0: it is the network's own address`},
		{"with the broadcast", func(p []Peer) []Peer { p[1].RangeEnd = addr("10.0.0.255"); return p },
			`"compute-2 10.0.0.128-10.0.0.255": accepted is a range without 10.0.0.255: it is the broadcast address`},
		{"one node twice", func(p []Peer) []Peer { p[1].Node = "compute-1"; return p },
			`"compute-1 10.0.0.128-10.0.0.191": accepted is one range a node: this node has 10.0.0.64-10.0.0.127 already`},
		{"one range twice", func(p []Peer) []Peer { p[1].RangeStart, p[1].RangeEnd = p[0].RangeStart, p[0].RangeEnd; return p },
			`"compute-2 10.0.0.64-10.0.0.127": accepted is a range that is no other node's: compute-1 has 10.0.0.64-10.0.0.127`},
		{"overlapping", func(p []Peer) []Peer { p[1].RangeStart = addr("10.0.0.127"); return p },
			`"compute-2 10.0.0.127-10.0.0.191": accepted is a range that is no other node's: compute-1 has 10.0.0.64-10.0.0.127`},
		{"out of order", func(p []Peer) []Peer { slices.Reverse(p); return p },
			`"compute-1 10.0.0.64-10.0.0.127": accepted is an order by rangeStart: compute-2 10.0.0.128-10.0.0.191 comes after it`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := peeredNet()
			n.Pool.Peers = tc.spoil(n.Pool.Peers)
			err := n.Validate()
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, ErrConfig) || !strings.HasSuffix(err.Error(), `key "peers": value `+tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestPeerOf(t *testing.T) {
	p := peeredNet().Pool
	for a, want := range map[string]string{
		"10.0.0.2": "", "10.0.0.63": "", "10.0.0.64": "compute-1", "10.0.0.100": "compute-1", "10.0.0.127": "compute-1",
		"10.0.0.128": "compute-2", "10.0.0.191": "compute-2", "10.0.0.192": "", "10.0.0.254": "", "10.9.0.64": "",
	} {
		if peer, ok := p.PeerOf(addr(a)); peer.Node != want || ok != (want != "") {
			t.Errorf("%s is %q's, want %q", a, peer.Node, want)
		}
	}
	if _, ok := testNet("flat", "10.0.0.0/24").Pool.PeerOf(addr("10.0.0.64")); ok {
		t.Error("without peers it is somebody's")
	}
}

// TestPeersAddressesAreNeverGiven: neither on their own nor when asked for, to nobody
// here, nor their MACs; and no node's to another.
func TestPeersAddressesAreNeverGiven(t *testing.T) {
	ctx := context.Background()
	d := testDir(t)
	s := mustConfigure(t, d, peeredNet())
	pool := peeredNet().Pool
	for i := range 62 { // all of the own range
		name := fmt.Sprintf("w%d", i)
		if g := mustReserve(t, s, request(name, name)); !pool.gives(g.Addr) {
			t.Fatalf("%s was given", g.Addr)
		}
	}
	if _, err := s.Reserve(ctx, nil, request("one more", "x")); !errors.As(err, new(*ExhaustedError)) {
		t.Errorf("with the own range full: %v", err)
	}
	asked := func(change func(*Request)) error {
		req := request("new", "new")
		change(&req)
		_, err := s.Reserve(ctx, nil, req)
		return err
	}
	theirs := MAC{0xfa, 0x16, 0x3e, 0, 0, 66}
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"by address": {asked(func(r *Request) { r.Addr = addr("10.0.0.66") }),
			"address 10.0.0.66: it is peer compute-1's to give (peers, 10.0.0.64-10.0.0.127)"},
		"by MAC": {asked(func(r *Request) { r.MAC = theirs }),
			"MAC fa:16:3e:00:00:42 names address 10.0.0.66, which is peer compute-1's to give"},
		"by the administrator": {reserveAdmin(s, AdminRequest{Workload: pod("new"), Addr: addr("10.0.0.130")}),
			"address 10.0.0.130: it is peer compute-2's to give (peers, 10.0.0.128-10.0.0.191)"},
		"by the administrator, the MAC": {reserveAdmin(s, AdminRequest{Workload: pod("new"), Addr: addr("10.0.0.200"), MAC: theirs}),
			"MAC fa:16:3e:00:00:42 names address 10.0.0.66, which is peer compute-1's to give"},
		"one peer's to another": {reserveAdmin(s, AdminRequest{Workload: pod("new").OnPeer("compute-2"), Addr: addr("10.0.0.66")}),
			"address 10.0.0.66: it is peer compute-1's to give (peers, 10.0.0.64-10.0.0.127), not peer compute-2's"},
		"our own to a peer": {reserveAdmin(s, AdminRequest{Workload: pod("new").OnPeer("compute-2"), Addr: addr("10.0.0.200")}),
			"address 10.0.0.200: it is outside the range that peer compute-2 gives (peers)"},
		"the next free one to a peer": {reserveAdmin(s, AdminRequest{Workload: pod("new").OnPeer("compute-2")}),
			"workload default/peer:compute-2:pod:new/eth0 is peer compute-2's, who gives it its address: an address is wanted"},
	} {
		if !errors.Is(tc.err, ErrRefused) || !strings.HasSuffix(tc.err.Error(), tc.want) {
			t.Errorf("%s:\ngot  %v\nwant %s", name, tc.err, tc.want)
		}
	}
	// The control: what is nobody's may be had.
	if err := reserveAdmin(s, AdminRequest{Workload: pod("new"), Addr: addr("10.0.0.200")}); err != nil {
		t.Error(err)
	}
}

// TestPeersMustNotStrand: an address in use here cannot become a peer's, nor a peer's row
// stay behind when the address is no more that peer's.
func TestPeersMustNotStrand(t *testing.T) {
	ctx := context.Background()
	d := testDir(t)
	n := peeredNet()
	n.Pool.Peers = nil
	s := mustConfigure(t, d, n)
	if err := reserveAdmin(s, AdminRequest{Workload: pod("w"), Addr: addr("10.0.0.66")}); err != nil {
		t.Fatal(err)
	}
	configure := func(n Network) error { _, err := s.Configure(ctx, n); return err }
	var stranded *StrandedError
	if err := configure(peeredNet()); !errors.As(err, &stranded) || stranded.Why != "it is peer compute-1's to give (peers, 10.0.0.64-10.0.0.127)" {
		t.Errorf("err = %v", err)
	}
	if _, err := s.ReleaseAdmin(ctx, addr("10.0.0.66")); err != nil {
		t.Fatal(err)
	}
	if err := configure(peeredNet()); err != nil {
		t.Fatal(err)
	}
	if err := reserveAdmin(s, AdminRequest{Workload: pod("w").OnPeer("compute-1"), Addr: addr("10.0.0.66")}); err != nil {
		t.Fatal(err)
	}
	if err := configure(n); !errors.As(err, &stranded) || stranded.Why != "it is outside the range that peer compute-1 gives (peers)" {
		t.Errorf("err = %v", err)
	}
	swapped := peeredNet()
	swapped.Pool.Peers[0].Node, swapped.Pool.Peers[1].Node = "compute-2", "compute-1"
	if err := configure(swapped); !errors.As(err, &stranded) || stranded.Why != "it is peer compute-2's to give (peers, 10.0.0.64-10.0.0.127), not peer compute-1's" {
		t.Errorf("err = %v", err)
	}
	if _, err := s.ReleaseAdmin(ctx, addr("10.0.0.66")); err != nil {
		t.Fatal(err)
	}
	if err := configure(n); err != nil {
		t.Error(err)
	}
}

// TestPeersWorkloadIsAnothers: a workload of the same name here is another one, with an
// address of its own.
func TestPeersWorkloadIsAnothers(t *testing.T) {
	s := mustConfigure(t, testDir(t), peeredNet())
	if err := reserveAdmin(s, AdminRequest{Workload: pod("web").OnPeer("compute-1"), Addr: addr("10.0.0.66")}); err != nil {
		t.Fatal(err)
	}
	if g := mustReserve(t, s, request("web", "web")); g.Addr != addr("10.0.0.2") {
		t.Errorf("got %s", g.Addr)
	}
}

func TestWorkloadOnPeer(t *testing.T) {
	for _, w := range []Workload{pod("web"), {Kind: KindName, Value: "web", IfName: "eth0"}, {Namespace: "n", Kind: KindMAC, Value: "fa:16:3e:00:00:02", IfName: "net1"}} {
		on := w.OnPeer("compute-1.example")
		read, err := ParseWorkload(on.String())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(on, read); diff != "" || on.Peer() != "compute-1.example" || w.Peer() != "" {
			t.Errorf("%s, peer %q and %q:\n%s", on, on.Peer(), w.Peer(), diff)
		}
		if why := validWorkload(on); why != "" {
			t.Error(why)
		}
	}
	for _, bad := range []Workload{{Kind: KindPeer, Value: "", IfName: "eth0"}, {Kind: KindPeer, Value: ":pod:web", IfName: "eth0"}, {Kind: KindPeer, Value: "a b:pod:web", IfName: "eth0"}} {
		if validWorkload(bad) == "" {
			t.Errorf("%q is taken for a workload", bad)
		}
	}
}

func reserveAdmin(s *Store, req AdminRequest) error {
	_, err := s.ReserveAdmin(context.Background(), req)
	return err
}

// TestImportPeer: what a node has is made what it says, with whatever changed places; its
// own names and those of others stay apart.
func TestImportPeer(t *testing.T) {
	ctx := context.Background()
	c := newClock()
	s := mustConfigure(t, testDir(t, WithClock(c.now)), peeredNet())
	here := mustReserve(t, s, request("vm", "vm")).Reservation
	row := func(workload, address string, last byte) Reservation {
		return Reservation{Addr: addr(address), MAC: MAC{2, 0, 0, 0, 0, last}, Hostname: workload, Workload: pod(workload), Since: c.now()}
	}
	a, b, other := row("vm", "10.0.0.66", 1), row("b", "10.0.0.67", 2), row("vm", "10.0.0.130", 3)
	held := b
	h := holder("b")
	held.Holder = &h // there, not here
	for _, step := range []struct {
		name  string
		node  string
		rows  []Reservation
		trial bool
		made  int
		gone  int
		kept  int
		want  []string // "ADDRESS LAST-OF-MAC WORKLOAD"
	}{
		{"a trial", "compute-1", []Reservation{a, held}, true, 2, 0, 0, nil},
		{"first", "compute-1", []Reservation{held, a}, false, 2, 0, 0, []string{"10.0.0.66 1 peer:compute-1:pod:vm", "10.0.0.67 2 peer:compute-1:pod:b"}},
		{"again", "compute-1", []Reservation{a, b}, false, 0, 0, 2, []string{"10.0.0.66 1 peer:compute-1:pod:vm", "10.0.0.67 2 peer:compute-1:pod:b"}},
		{"another node", "compute-2", []Reservation{other}, false, 1, 0, 0,
			[]string{"10.0.0.66 1 peer:compute-1:pod:vm", "10.0.0.67 2 peer:compute-1:pod:b", "10.0.0.130 3 peer:compute-2:pod:vm"}},
		{"changed places", "compute-1", []Reservation{row("vm", "10.0.0.67", 1), row("b", "10.0.0.66", 2)}, false, 2, 0, 0,
			[]string{"10.0.0.66 2 peer:compute-1:pod:b", "10.0.0.67 1 peer:compute-1:pod:vm", "10.0.0.130 3 peer:compute-2:pod:vm"}},
		{"one moved", "compute-1", []Reservation{row("vm", "10.0.0.68", 1)}, false, 1, 2, 0,
			[]string{"10.0.0.68 1 peer:compute-1:pod:vm", "10.0.0.130 3 peer:compute-2:pod:vm"}},
		{"none left", "compute-1", nil, false, 0, 1, 0, []string{"10.0.0.130 3 peer:compute-2:pod:vm"}},
	} {
		t.Run(step.name, func(t *testing.T) {
			done, err := s.ImportPeer(ctx, step.node, step.rows, step.trial)
			if err != nil {
				t.Fatal(err)
			}
			if len(done.Made) != step.made || len(done.Gone) != step.gone || done.Kept != step.kept {
				t.Errorf("%d made, %d gone, %d kept, want %d, %d, %d", len(done.Made), len(done.Gone), done.Kept, step.made, step.gone, step.kept)
			}
			snap, err := s.Snapshot(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(here, snap.Rows[0], equal); diff != "" {
				t.Errorf("the workload of the same name here:\n%s", diff)
			}
			var got []string
			for _, r := range snap.Rows[1:] {
				got = append(got, fmt.Sprintf("%s %d %s:%s", r.Addr, r.MAC[5], r.Workload.Kind, r.Workload.Value))
				if r.Holder != nil || !r.MACRequested {
					t.Errorf("row %+v", r)
				}
			}
			if diff := cmp.Diff(step.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	// The last of two is refused: neither comes, and what was there stays.
	if _, err := s.ImportPeer(ctx, "compute-2", []Reservation{row("new", "10.0.0.131", 4), row("bad", "10.0.0.132", 3), {Addr: addr("10.0.0.133"), MAC: here.MAC, Hostname: "x", Workload: pod("x")}}, false); !errors.Is(err, ErrRefused) {
		t.Errorf("err = %v", err)
	}
	if snap, err := s.Snapshot(ctx); err != nil || len(snap.Rows) != 2 || snap.Rows[1].Addr != other.Addr {
		t.Errorf("%v, %v", snap.Rows, err)
	}
}
