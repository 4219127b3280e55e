package uplink

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files, with a state of the lab's kernel")

// recorded is a state that was read from a kernel: testdata/furnished.json, a NIC with all
// that can be moved and a bridge without ports.
func recorded(t testing.TB) (s State) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "furnished.json"))
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// record reads the state that the planner's tests start from out of the lab's kernel.
func record(t *testing.T) {
	t.Helper()
	inLab(t)
	s := newSite(t)
	s.furnish()
	now, err := read("eth1", "br100")
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(now, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", "furnished.json"), append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Plans of recorded states, as text: testdata/plans.txt.
func TestPlans(t *testing.T) {
	if *update {
		record(t)
	}
	full := recorded(t)
	u := Uplink{NIC: "eth1", Bridge: "br100", BootID: "this"}
	noted := u.record(full)
	noted.absorb(full.NIC)
	bare := func() State {
		s := full
		s.NIC.Addresses, s.NIC.Routes, s.NIC.Connected, s.NIC.Neighbours = nil, nil, nil, nil
		s.NIC.Up, s.NIC.Carrier = false, false
		return s
	}()
	// joined is what a state is once a plan for it has been carried out, but for what the
	// kernel does by itself.
	joined := func(s State) State {
		moved := s
		moved.Bridge.MAC, moved.Bridge.MTU, moved.Bridge.IPv6 = s.NIC.MAC, s.NIC.MTU, s.NIC.IPv6
		moved.Bridge.Addresses, moved.Bridge.Neighbours = s.NIC.Addresses, s.NIC.Neighbours
		moved.Bridge.Routes = nil
		for _, r := range s.NIC.Routes {
			r.Raw = r.request(s.Bridge.Index)
			r.Link = s.Bridge.Index
			moved.Bridge.Routes = append(moved.Bridge.Routes, r)
		}
		moved.NIC.Addresses, moved.NIC.Routes, moved.NIC.Connected, moved.NIC.Neighbours = nil, nil, nil, nil
		moved.NIC.Up, moved.NIC.Master, moved.NIC.MasterName = true, s.Bridge.Index, "br100"
		return moved
	}
	half := func() State { // a move that died when the bridge had joined, before anything left the NIC
		s := joined(full)
		s.NIC = full.NIC
		s.NIC.Master, s.NIC.MasterName = full.Bridge.Index, "br100"
		return s
	}()
	own := netip.MustParsePrefix("10.0.0.1/24")
	gateway, err := newAddress(full.NIC.Addresses[0].Raw)
	if err != nil {
		t.Fatal(err)
	}
	gateway.Raw = []byte(strings.ReplaceAll(string(gateway.Raw), "\xc0\x00\x02\x05", "\x0a\x00\x00\x01"))
	if gateway, err = newAddress(gateway.Raw); err != nil || gateway.prefix() != own {
		t.Fatalf("%s, %v", gateway.Text, err)
	}
	withGateway := joined(full)
	withGateway.Bridge.Addresses = append([]Address{gateway}, withGateway.Bridge.Addresses...)
	gone := joined(full)
	gone.Bridge = Link{}
	gone.NIC.Master = 0
	noNote := u.record(bare)

	var text strings.Builder
	for _, tc := range []struct {
		name    string
		changes []Change
	}{
		{"a card without addresses, down", Forward(noNote, bare)},
		{"its way back", Back(noNote, joined(bare), nil)},
		{"a card with everything", Forward(noted, full)},
		{"the same again", Forward(noted, joined(full))},
		{"a move that died when the card had joined", Forward(noted, half)},
		{"the way back from there", Back(noted, half, nil)},
		{"the way back, the gateway's address stays", Back(noted, withGateway, []netip.Prefix{own})},
		{"the way back when somebody has deleted the bridge", Back(noted, gone, nil)},
		{"the way back of a card that is back already", Back(noted, full, nil)},
	} {
		text.WriteString(tc.name + "\n")
		for _, c := range tc.changes {
			text.WriteString("\t" + c.String() + "\n")
		}
	}
	file := filepath.Join("testdata", "plans.txt")
	if *update {
		if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text.String() != string(want) {
		t.Errorf("%s differs:\n%s", file, lineDiff(string(want), text.String()))
	}
}

// What a kernel could send, and what a damaged record could hold, is an error or a message
// that can be sent.
func FuzzMessages(f *testing.F) {
	s := recorded(f)
	for _, a := range s.NIC.Addresses {
		f.Add(a.Raw)
	}
	for _, r := range s.NIC.Routes {
		f.Add(r.Raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if a, err := newAddress(raw); err == nil {
			again, err := newAddress(a.request(Device{Index: 7, Name: "br100"}, "eth1", 0))
			if err != nil || !again.same(a) {
				t.Errorf("address %q moved is %q, %v", a.Text, again.Text, err)
			}
			_ = a.lasting(a).kernelMade()
		}
		list, err := routesTo(s.NIC.Index, raw)
		if err != nil {
			return
		}
		for _, r := range list {
			moved, err := routesTo(7, r.request(7))
			if err != nil || len(moved) != 1 || !moved[0].same(r) {
				t.Errorf("route %q moved is %v, %v", r.Text, moved, err)
			}
			_ = r.kernelMade(s.NIC.Addresses)
		}
	})
}
