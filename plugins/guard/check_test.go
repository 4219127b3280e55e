package guard

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whether the guard can be had is found out without putting anything in.
func TestSupported(t *testing.T) {
	l := newTable(t)
	ask := func() { l.mustDo("asking", func() error { return Supported(t.Context()) }) }
	generation := func() (id uint32) {
		l.mustDo("reading the generation", func() error {
			return retry(t.Context(), func(c *conn) (err error) {
				id, err = c.generation()
				return err
			})
		})
		return id
	}
	before := generation()
	ask()
	if after := generation(); after != before {
		t.Errorf("the ruleset's generation went from %d to %d", before, after)
	}
	if got := l.run("nft", "list", "ruleset"); got != "" {
		t.Errorf("it left\n%s", got)
	}
	l.attach(somePorts()...)
	ask()
	l.check(somePorts()...)

	// What this kernel has not is found out the same way.
	err := inNetNS(l.ns, func() error {
		return retry(t.Context(), func(c *conn) error {
			var b batch
			b.addTable()
			b.addChain(chain{name: "strange", hook: &hook{name: "nowhere", number: 99}})
			return c.rehearse(&b)
		})
	})
	if !errors.Is(err, ErrUnsupported) {
		t.Errorf("a hook that no kernel has: %v, want ErrUnsupported", err)
	}
}

// Each single defect is named, and nothing else; looking mends nothing.
func TestCheck(t *testing.T) {
	p := Port{Name: "fdp0", MAC: mac(2), Addrs: []netip.Addr{addr(2)}, CheckSource: true}
	for _, tc := range []struct {
		name, damage string
		want         []string
	}{
		{"nothing", "", nil},
		{"a neighbour's element", `delete element bridge flatdhcp macs { "fdp00000000000a" . fa:16:3e:00:00:02 }`, nil},
		{"no table", `delete table bridge flatdhcp`, []string{"the guard's table bridge flatdhcp is not what it should be: the table was missing"}},
		{"a rule in front", `insert rule bridge flatdhcp from_port accept`, []string{"the guard's table bridge flatdhcp is not what it should be: its rules were not this version's"}},
		{"port", `delete element bridge flatdhcp ports { "fdp0" }`, []string{`the guard lacks element of set ports: "fdp0" comment "fa:16:3e:00:00:02 10.0.0.2"`}},
		{"mac", `delete element bridge flatdhcp macs { "fdp0" . fa:16:3e:00:00:02 }`, []string{`the guard lacks element of set macs: "fdp0" . fa:16:3e:00:00:02`}},
		{"source", `delete element bridge flatdhcp sources { "fdp0" . fa:16:3e:00:00:02 . 10.0.0.2 }`,
			[]string{`the guard lacks element of set sources: "fdp0" . fa:16:3e:00:00:02 . 10.0.0.2`}},
		{"address", `delete element bridge flatdhcp addresses { "fdp0" . 10.0.0.2 }`, []string{`the guard lacks element of set addresses: "fdp0" . 10.0.0.2`}},
		{"gateway", `delete element bridge flatdhcp gateways { 10.0.0.1 }`, []string{`the guard lacks element of set gateways: 10.0.0.1`}},
		{"unchecked", `add element bridge flatdhcp unchecked { "fdp0" }`, []string{`the guard has a foreign element of set unchecked: "fdp0"`}},
		{"another's address", `add element bridge flatdhcp sources { "fdp0" . fa:16:3e:00:00:02 . 10.0.0.3 }`,
			[]string{`the guard has a foreign element of set sources: "fdp0" . fa:16:3e:00:00:02 . 10.0.0.3`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newTable(t)
			l.attach(append(somePorts()[:1:1], p)...)
			if tc.damage != "" {
				l.load(tc.damage)
			}
			listed := func() string { return l.run("nft", "list", "ruleset") }
			before := listed()
			var got []string
			l.mustDo("checking", func() (err error) {
				got, err = Check(t.Context(), segment(), p)
				return err
			})
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("defects (-want +got):\n%s", diff)
			}
			if after := listed(); after != before {
				t.Errorf("checking changed the table:\n%s", cmp.Diff(before, after))
			}
		})
	}
}

func TestPortsOfEverySet(t *testing.T) {
	l := newTable(t)
	list := func() string {
		var names []string
		l.mustDo("listing", func() (err error) {
			names, err = Ports(t.Context())
			return err
		})
		return strings.Join(names, " ")
	}
	if got := list(); got != "" {
		t.Errorf("without a table: %s", got)
	}
	l.attach(somePorts()...)
	l.load(`add element bridge flatdhcp addresses { "fdp-left" . 10.0.0.9 }`)
	if got, want := list(), "fdp-left fdp00000000000a fdp00000000000b fdp00000000000c fdp00000000000d fdp00000000000e"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
