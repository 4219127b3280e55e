package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// podAnnotations is the capability by which a runtime sends a pod's annotations.
const podAnnotations = "io.kubernetes.cri.pod-annotations"

// pod is what a Kubernetes runtime sends with a pod of a namespace.
func pod(namespace, name string, annotations map[string]string) lab.CNIOptions {
	o := lab.CNIOptions{Args: fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s", namespace, name)}
	if annotations != nil {
		text, err := json.Marshal(keys{podAnnotations: annotations})
		if err != nil {
			panic(err) // strings always can be
		}
		o.CapArgs = string(text)
	}
	return o
}

// row is the reservation of an address, as flatctl shows it to programs.
func (n *node) row(w *workload) ipam.Reservation {
	n.t.Helper()
	var rows []ipam.Reservation
	if err := json.Unmarshal([]byte(n.run("flatctl", "reservations", "-o", "json")), &rows); err != nil {
		n.t.Fatal(err)
	}
	for _, r := range rows {
		if r.Addr == w.addr {
			return r
		}
	}
	n.t.Fatalf("no reservation of %s", w.addr)
	return ipam.Reservation{}
}

// A pod gets what it asks for by annotations that the operator lists, through cnitool
// and the conflist's capability, and nothing of another's.
func TestPodAsksByAnnotation(t *testing.T) {
	n := newNode(t, keys{"capabilities": keys{podAnnotations: true}})
	n.neighbours()
	asks := map[string]string{
		"flatdhcp.io/ip": "10.9.9.9, 10.0.0.77", "flatdhcp.io/mac": "02:00:00:00:00:77", "flatdhcp.io/hostname": "mail",
		"flatdhcp.io/identity": "db", "flatdhcp.io/allow-same-net-traffic": "false", // unlisted by default
	}
	web := n.attach("web", pod("shop", "web-0", asks))
	row := n.row(web)
	got := fmt.Sprintf("%s %s %s %s toggle %v", web.addr, web.mac, row.Hostname, row.Workload, row.AllowSameNetTraffic != nil)
	if want := "10.0.0.77 02:00:00:00:00:77 mail shop/mac:02:00:00:00:00:77/eth0 toggle false"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if !answered(n, n.exec, web.addr) {
		t.Error("it is not reached at the address it asked for")
	}

	thief := n.container("thief")
	before := n.state()
	for name, annotations := range map[string]map[string]string{
		"another's address":  {"flatdhcp.io/ip": web.addr.String()},
		"another's MAC":      {"flatdhcp.io/mac": web.mac.String()},
		"the gateway":        {"flatdhcp.io/ip": "10.0.0.1"},
		"what does not read": {"flatdhcp.io/hostname": "a\nb"},
	} {
		_, err := n.tryAttach(thief, pod("evil", "mallory", annotations))
		for key := range annotations {
			if err == nil || !strings.Contains(err.Error(), "annotation "+key) {
				t.Errorf("%s: %v, want an error that names %s", name, err, key)
			}
		}
		n.unchanged(before, name)
	}

	// With the operator's leave an identity counts, within the pod's namespace.
	n.configure(keys{"annotations": []string{"identity", "allow-same-net-traffic"}})
	db := n.attach("db", pod("shop", "db-x7", asks))
	if row := n.row(db); row.Workload.String() != "shop/id:db/eth0" || row.AllowSameNetTraffic == nil || *row.AllowSameNetTraffic {
		t.Errorf("got %s, toggle %v", row.Workload, row.AllowSameNetTraffic)
	}
	db.detach()
	if again := n.attach("db2", pod("shop", "db-k2", asks)); again.addr != db.addr {
		t.Errorf("the identity came back to %s, had %s", again.addr, db.addr)
	}
	if other := n.attachTo(thief, pod("evil", "mallory", asks)); other.addr == db.addr || n.row(other).Workload.Namespace != "evil" {
		t.Errorf("the same identity in another namespace got %s as %s", other.addr, n.row(other).Workload)
	}

	// A runtime sends annotations only if the conflist has the capability.
	n.configure(keys{"capabilities": keys{}, "annotations": []string{"ip"}})
	if plain := n.attach("plain", pod("shop", "plain", map[string]string{"flatdhcp.io/ip": "10.0.0.99"})); plain.addr.String() == "10.0.0.99" {
		t.Error("an annotation counts without the capability")
	}
}
