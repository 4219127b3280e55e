package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/plugins/conf/dropin"
)

// refused are the published lists that do not work with only their types changed, and what
// the error names.
var refused = map[string][]string{
	"cni-10-mynet.conf":                     {"0.2.0", "0.3.1"},
	"cni.dev-bridge-l2.conf":                {"ipam.type"},
	"cni.dev-host-local.conf":               {"ipam.ranges[1]", "2001:db8:1::/64"},
	"containerd-10-containerd-net.conflist": {"ipam.ranges[1]", "2001:4860:4860::/64"},
	"crio-10-crio-bridge.conflist":          {"ipam.ranges[1]", "1100:200::/24"},
}

// A published bridge conflist with nothing but its two types changed does what the
// unchanged one does with the reference plugins, as far as anybody can notice, and DEL
// takes it away again; or it is refused with an error that names why.
func TestPublishedConflists(t *testing.T) {
	t.Parallel()
	lists, err := dropin.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, published := range lists {
		if names := refused[published.Name]; names != nil {
			whole := published
			t.Run(published.Name, func(t *testing.T) {
				t.Parallel()
				newList(t, published.Name, whole.Converted()).refused(names)
			})
			if names[0] != "ipam.ranges[1]" || !strings.Contains(string(published.Text), `"bridge"`) {
				continue
			}
			published.Text = withoutIPv6(t, published.Text)
		}
		t.Run(published.Name+" that works", func(t *testing.T) {
			t.Parallel()
			ours := newList(t, published.Name, published.Converted())
			theirs := newList(t, published.Name, published.Text)
			got := ours.comesAndGoes()
			want := theirs.meansToTwo()
			if !want.ForeignMAC {
				t.Error("the control: a foreign MAC does not pass the reference plugin, which does not look")
			}
			want.ForeignMAC = false // antiSpoofing is our default
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the converted list differs from the reference plugins' (-theirs +ours):\n%s", diff)
			}
			if strings.Contains(string(published.Text), `"promiscMode": true`) {
				if link := ours.run("ip", "link", "show", "dev", strings.Fields(got.Bridge)[0]); strings.Contains(link, "PROMISC") {
					t.Errorf("promiscMode is documented to be without effect: %s", link)
				}
			}
			t.Logf("%+v", got)
		})
	}
}

// withoutIPv6 takes out what the documentation says to take out: the second range set, and
// the route to ::/0.
func withoutIPv6(t *testing.T, text []byte) []byte {
	t.Helper()
	var list struct {
		CNIVersion string `json:"cniVersion"`
		Name       string `json:"name"`
		Plugins    []keys `json:"plugins"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	ipam := list.Plugins[0]["ipam"].(map[string]any)
	ipam["ranges"] = ipam["ranges"].([]any)[:1]
	ipam["routes"] = slices.DeleteFunc(ipam["routes"].([]any), func(r any) bool { return r.(map[string]any)["dst"] == "::/0" })
	text, err := json.MarshalIndent(list, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// refused fails the test unless ADD fails, names all that, and changes nothing.
func (l *list) refused(names []string) {
	l.t.Helper()
	c := l.container("w")
	before := l.state()
	var err error
	var said string
	if strings.Contains(string(l.text), `"flat-bridge"`) {
		_, err = l.CNI(l.within(), "add", l.network, c, publish)
		said = fmt.Sprint(err)
	} else { // of flat-ipam alone
		said, err = l.Plugin(l.within(), lab.PluginCall{Plugin: "flat-ipam", Command: "ADD", ContainerID: "w", NetNS: c.Path(), Stdin: string(l.text)})
	}
	for _, name := range names {
		if err == nil || !strings.Contains(said, name) {
			l.t.Errorf("the error does not name %q: %v %s", name, err, said)
		}
	}
	l.unchanged(before, "a list that was refused")
}

// meansToTwo attaches two workloads and measures.
func (l *list) meansToTwo() meaning {
	l.t.Helper()
	return l.measure(l.attach("w", publish), l.attach("neighbour", lab.CNIOptions{}))
}

// comesAndGoes is meansToTwo, and then lets the workload go and come again: CHECK passes
// after each ADD, and nothing is left of it.
func (l *list) comesAndGoes() meaning {
	l.t.Helper()
	w := l.attach("w", publish)
	l.check(w)
	neighbour := l.attach("neighbour", lab.CNIOptions{})
	l.check(neighbour)
	m := l.measure(w, neighbour)
	w.detach()
	// Chained plugins keep the chains that all share, and what comes first changes once.
	l.attach("w", publish).detach()
	before := l.state()
	again := l.attach("w", publish)
	l.check(again)
	again.detach()
	l.unchangedBut(neighbour, before, "a workload of the list")
	return m
}

// check is CHECK, where the list's version has it.
func (l *list) check(w *workload) {
	l.t.Helper()
	var version struct{ CNIVersion string }
	if err := json.Unmarshal(l.text, &version); err != nil {
		l.t.Fatal(err)
	}
	if version.CNIVersion != "0.3.1" {
		w.checked()
	}
}
