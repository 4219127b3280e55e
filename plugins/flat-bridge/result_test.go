package main

import (
	"encoding/json"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/plugins/conf"
)

// aResult is what an ADD makes, with little in it.
func aResult() *types100.Result {
	return &types100.Result{
		CNIVersion: "1.1.0",
		Interfaces: []*types100.Interface{{Name: "br100", Mtu: 1500}, {Name: "fdp1", Mtu: 1500}, {Name: "eth0", Mtu: 1500, Sandbox: "/ns"}},
		IPs:        []*types100.IPConfig{{Interface: types100.Int(2)}},
	}
}

// A result has the keys of its own version: the MTU came with 1.1.0.
func TestAnswerTellsTheMTUFromItsVersionOn(t *testing.T) {
	for version, want := range map[string]int{"0.3.1": 0, "0.4.0": 0, "1.0.0": 0, "1.1.0": 1500} {
		for i, ifc := range answer(&conf.Config{CNIVersion: version}, aResult()).Interfaces {
			if ifc.Mtu != want {
				t.Errorf("%s: interfaces[%d] has MTU %d, want %d", version, i, ifc.Mtu, want)
			}
		}
	}
}

// A previous result is passed on behind ours, with its addresses still at their interfaces.
func TestAnswerPassesThePreviousResultOn(t *testing.T) {
	prev := &types100.Result{
		Interfaces: []*types100.Interface{{Name: "host0"}, {Name: "net0", Sandbox: "/ns"}},
		IPs:        []*types100.IPConfig{{Interface: types100.Int(1)}, {}},
		Routes:     []*types.Route{{Priority: 7}},
		DNS:        types.DNS{Domain: "before"},
	}
	got := answer(&conf.Config{CNIVersion: "1.1.0", PrevResult: prev}, aResult())
	want := aResult()
	want.Interfaces = append(want.Interfaces, &types100.Interface{Name: "host0"}, &types100.Interface{Name: "net0", Sandbox: "/ns"})
	want.IPs = append(want.IPs, &types100.IPConfig{Interface: types100.Int(4)}, &types100.IPConfig{})
	want.Routes = []*types.Route{{Priority: 7}}
	want.DNS = types.DNS{Domain: "before"}
	if diff := cmp.Diff(text(t, want), text(t, got)); diff != "" {
		t.Error(diff)
	}
	if at := *prev.IPs[0].Interface; at != 1 {
		t.Errorf("the previous result itself was changed: its address is now at interface %d", at)
	}
	ours := aResult()
	ours.DNS.Domain = "ours"
	if got := answer(&conf.Config{CNIVersion: "1.1.0", PrevResult: prev}, ours); got.DNS.Domain != "ours" {
		t.Errorf("the network's own DNS settings gave way to %v", got.DNS)
	}
}

func text(t *testing.T, r *types100.Result) string {
	t.Helper()
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
