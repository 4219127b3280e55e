package attach

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

// What the tickets of verbs, some of them killed, make whoever has the filter lock do,
// and which of them are left then.
func TestTickets(t *testing.T) {
	known := ipam.Network{Name: "flat", Bridge: &ipam.Bridge{Name: "br100"}}
	known.Pool.MACPrefix = ipam.DefaultMACPrefix
	change := func(container string, in bool) ruleChange {
		return ruleChange{In: in, Network: known, Row: ipam.Reservation{MAC: ipam.MAC{2, 0, 0, 0, 0, 1}, Workload: ipam.Workload{Kind: ipam.KindCID, Value: container, IfName: "eth0"}, Holder: &ipam.Holder{ContainerID: container, IfName: "eth0"}}}
	}
	unknown := change("c9", true)
	unknown.Network.Name = "gone"
	tests := []struct {
		name    string
		left    []ruleChange // in this order
		half    string       // container whose verb was killed while it wrote
		waiting []string     // what own finds to do
		files   int          // beside own's
	}{
		{name: "none"},
		{name: "others wait", left: []ruleChange{change("c1", true), change("c2", false)}, waiting: []string{"c1 in", "c2 out"}, files: 2},
		{name: "a killed ADD, then its DEL", left: []ruleChange{change("c1", true), change("c1", false)}, waiting: []string{"c1 out"}, files: 1},
		{name: "a killed DEL, then an ADD", left: []ruleChange{change("c1", false), change("c1", true)}, waiting: []string{"c1 in"}, files: 1},
		{name: "own's killed DEL", left: []ruleChange{change("own", false)}},
		{name: "own's killed write", half: "own"},
		{name: "another's write under way", half: "c1", files: 1},
		{name: "an ADD to a network that is gone", left: []ruleChange{unknown}, files: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := &Node{Run: rundir.Dir(t.TempDir())}
			if err := os.MkdirAll(n.ticketDir(), 0o700); err != nil {
				t.Fatal(err)
			}
			for _, c := range tt.left {
				if _, err := n.leaveTicket(c); err != nil {
					t.Fatal(err)
				}
			}
			if tt.half != "" {
				half := filepath.Join(n.ticketDir(), change(tt.half, true).port()+".00000000000000000001")
				if err := os.WriteFile(half, []byte("{"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			own := change("own", true)
			var err error
			if own.file, err = n.leaveTicket(own); err != nil {
				t.Fatal(err)
			}
			var waiting []string
			for _, c := range n.tickets(own, []ipam.Network{known}) {
				what := " out"
				if c.In {
					what = " in"
				}
				waiting = append(waiting, c.Row.Holder.ContainerID+what)
			}
			if diff := cmp.Diff(tt.waiting, waiting); diff != "" {
				t.Errorf("waiting (-want +got):\n%s", diff)
			}
			if _, err := os.Stat(own.file); err != nil {
				t.Error(err)
			}
			files, err := os.ReadDir(n.ticketDir())
			if err != nil || len(files)-1 != tt.files {
				t.Errorf("%d files beside own's, %v; want %d: %v", len(files)-1, err, tt.files, files)
			}
		})
	}
}
