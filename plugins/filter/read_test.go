package filter

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// readable are rules whose dispatch the readers must agree on, and what they are
// to make of them.
var readable = []struct {
	args string
	want seenRule
}{
	{"-d 10.0.0.0/8 -j FLAT-X", seenRule{dst: netip.MustParsePrefix("10.0.0.0/8"), jump: "FLAT-X", plain: true}},
	{"-d 10.16.0.0/12 -j FLAT-X", seenRule{dst: netip.MustParsePrefix("10.16.0.0/12"), jump: "FLAT-X", plain: true}},
	{"-d 10.16.0.0/16 -j FLAT-X", seenRule{dst: netip.MustParsePrefix("10.16.0.0/16"), jump: "FLAT-X", plain: true}},
	{"-d 10.0.1.128/25 -j FLAT-X", seenRule{dst: netip.MustParsePrefix("10.0.1.128/25"), jump: "FLAT-X", plain: true}},
	{"-d 10.0.0.2 -j FLAT-X", seenRule{dst: netip.MustParsePrefix("10.0.0.2/32"), jump: "FLAT-X", plain: true}},
	{"-j FLAT-X", seenRule{jump: "FLAT-X", plain: true}},
	{"-d 10.0.0.2 -m comment --comment flatdhcp -j FLAT-X", seenRule{dst: netip.MustParsePrefix("10.0.0.2/32"), jump: "FLAT-X", comment: "flatdhcp", plain: true}},
	{"! -d 10.0.0.2 -j FLAT-X", seenRule{dst: netip.MustParsePrefix("10.0.0.2/32"), jump: "FLAT-X"}},
	{"-d 10.0.0.2/255.0.255.0 -j FLAT-X", seenRule{jump: "FLAT-X"}},
	{"-s 10.0.0.2 -j FLAT-X", seenRule{jump: "FLAT-X"}},
	{"-s 10.0.0.0/28 -d 10.0.0.2 -j FLAT-X", seenRule{dst: netip.MustParsePrefix("10.0.0.2/32"), jump: "FLAT-X"}},
	{"-d 10.0.0.2 -i br100 -j FLAT-X", seenRule{dst: netip.MustParsePrefix("10.0.0.2/32"), jump: "FLAT-X"}},
	{"-d 10.0.0.2 -p tcp -m tcp --dport 80 -j FLAT-X", seenRule{dst: netip.MustParsePrefix("10.0.0.2/32"), jump: "FLAT-X"}},
	{"-d 10.0.0.2 -m conntrack --ctstate NEW -j FLAT-X", seenRule{dst: netip.MustParsePrefix("10.0.0.2/32"), jump: "FLAT-X"}},
	{"-d 10.0.0.2 -f -j FLAT-X", seenRule{dst: netip.MustParsePrefix("10.0.0.2/32"), jump: "FLAT-X"}},
	{"-m limit --limit 1/sec -j FLAT-X", seenRule{jump: "FLAT-X"}},
	{"-d 10.0.0.2 -g FLAT-X", seenRule{dst: netip.MustParsePrefix("10.0.0.2/32")}},
	{"-d 10.0.0.2 -j OTHER", seenRule{dst: netip.MustParsePrefix("10.0.0.2/32")}},
	{"-d 10.0.0.2 -j ACCEPT", seenRule{dst: netip.MustParsePrefix("10.0.0.2/32")}},
	{"-d 10.0.0.2 -j REJECT --reject-with tcp-reset -p tcp", seenRule{dst: netip.MustParsePrefix("10.0.0.2/32")}},
	{"-d 10.0.0.2 -m comment --comment x", seenRule{dst: netip.MustParsePrefix("10.0.0.2/32"), comment: "x"}},
}

// Both readers see the same in the same table: what is plain, and of plain rules
// every part.
func TestReadersAgree(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		k.ipt("-N FLAT-X")
		k.ipt("-N FLAT-EMPTY")
		k.ipt("-N OTHER")
		for i, c := range readable {
			chain := fmt.Sprintf("FLAT-C%d", i)
			k.ipt("-N " + chain)
			k.ipt("-A " + chain + " " + c.args)
		}
		k.ipt("-A INPUT -s 192.0.2.1 -j FLAT-X")
		k.ipt("-A INPUT -j FLAT-X")
		table, none := k.table(), netip.Prefix{}
		for _, level := range []depth{some, whole, text} {
			names := []string{"INPUT", "FLAT-X", "FLAT-EMPTY", "FLAT-ABSENT"}
			for i := range readable {
				names = append(names, fmt.Sprintf("FLAT-C%d", i))
			}
			var s *seen
			k.must(func(ctx context.Context) (err error) {
				s, err = table.read(ctx, k.place(), level, names, nil)
				return err
			})
			if !s.has("FLAT-EMPTY") || s.has("FLAT-ABSENT") || s.has("OTHER") {
				t.Errorf("depth %d: chains %v", level, sortedKeys(s.chains))
			}
			if count, first := s.jumps("INPUT", "FLAT-X"); count != 1 || first {
				t.Errorf("depth %d: %d jumps in INPUT, first: %v", level, count, first)
			}
			for i, c := range readable {
				got := s.chains[fmt.Sprintf("FLAT-C%d", i)]
				if len(got) != 1 {
					t.Errorf("depth %d: %q was read as %d rules", level, c.args, len(got))
					continue
				}
				if known := got[0].handle != 0; known != (k.backend == BackendNFT && level < text) {
					t.Errorf("depth %d: %q has handle %d", level, c.args, got[0].handle)
				}
				got[0].spec, got[0].handle = "", 0
				if !c.want.plain { // then only this, and the comment, matters
					got[0].dst, got[0].jump, c.want.dst, c.want.jump = none, "", none, ""
				}
				if got[0] != c.want {
					t.Errorf("depth %d: %q was read as %+v, not %+v", level, c.args, got[0], c.want)
				}
			}
		}
	})
}

func TestReadingAnUnusedTable(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		for _, level := range []depth{some, whole, text} {
			k.must(func(ctx context.Context) error {
				s, err := k.table().read(ctx, k.place(), level, []string{"INPUT", "FLAT-INPUT"}, nil)
				if err == nil && s.has(chainInput) {
					t.Errorf("depth %d: chains %v", level, sortedKeys(s.chains))
				}
				return err
			})
		}
	})
}

func TestSaveThatIsNone(t *testing.T) {
	for _, out := range []string{
		"garbage\n", "*filter\n-A FLAT-X -j ACCEPT\nCOMMIT\n", "iptables-save: command not found\n",
	} {
		if _, err := parseSave([]byte(out)); err == nil || !strings.Contains(err.Error(), "iptables-save") {
			t.Errorf("%q: error %v", out, err)
		}
	}
}

func FuzzParseSave(f *testing.F) {
	f.Add([]byte(PlanAll([]Held{{everything(), rowsOf("10.0.0.2")}}).String()))
	f.Add([]byte("*filter\n:INPUT ACCEPT [1:2]\n:FLAT-T-0a000000-28 - [0:0]\n-A FLAT-T-0a000000-28 -d 10.0.0.2/32 -m comment --comment \"a \\\"b\\\\ c\" -j FLAT-WL-1\nCOMMIT\n"))
	f.Add([]byte("*filter\n:FLAT-X - [0:0]\n-A FLAT-X -m comment --comment \"open\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		s, err := parseSave(out)
		if err != nil {
			return
		}
		for chain, rules := range s.chains {
			if !wanted(tableOf(chain), chain) {
				t.Errorf("kept chain %q", chain)
			}
			for _, r := range rules {
				if r.plain && !strings.HasPrefix(r.jump, ourPrefix) {
					t.Errorf("%q: plain, but jumps to %q", r.spec, r.jump)
				}
				if !r.plain || r.comment != "" || !r.dst.IsValid() || strings.ContainsAny(r.jump, "\" \\") {
					continue
				}
				// What the applier writes back must mean what was read.
				if again := parseSpec(r.nodeSpec()); again.dst != r.dst || again.jump != r.jump || !again.plain {
					t.Errorf("%q was read as %+v, and that as %+v", r.spec, r, again)
				}
			}
		}
	})
}

// message builds the attributes of a rule out of expressions.
func message(t testing.TB, exprs ...expr.Any) []byte {
	t.Helper()
	var list []netlink.Attribute
	for _, e := range exprs {
		data, err := expr.Marshal(unix.AF_INET, e)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: data})
	}
	nested, err := netlink.MarshalAttributes(list)
	if err != nil {
		t.Fatal(err)
	}
	data, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NLA_F_NESTED | unix.NFTA_RULE_EXPRESSIONS, Data: nested}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func dispatchExprs(mask []byte) []expr.Any {
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: daddrOffset, Len: 4}
	exprs := []expr.Any{load}
	if mask != nil {
		exprs = append(exprs, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)})
	}
	return append(exprs, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{10, 0, 0, 16}}, &expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictJump, Chain: "FLAT-X"})
}

func TestDecodeRule(t *testing.T) {
	other := func(change func([]expr.Any) []expr.Any) []expr.Any {
		return change(dispatchExprs([]byte{255, 255, 255, 240}))
	}
	cases := []struct {
		name  string
		exprs []expr.Any
		want  seenRule
	}{
		{"dispatch", dispatchExprs([]byte{255, 255, 255, 240}), seenRule{dst: netip.MustParsePrefix("10.0.0.16/28"), jump: "FLAT-X", plain: true}},
		{"whole address", dispatchExprs(nil), seenRule{dst: netip.MustParsePrefix("10.0.0.16/32"), jump: "FLAT-X", plain: true}},
		{"mask with a hole", dispatchExprs([]byte{255, 0, 255, 240}), seenRule{jump: "FLAT-X"}},
		{"another register", other(func(e []expr.Any) []expr.Any {
			e[2].(*expr.Cmp).Register = 2
			return e
		}), seenRule{jump: "FLAT-X"}},
		{"not equal", other(func(e []expr.Any) []expr.Any {
			e[2].(*expr.Cmp).Op = expr.CmpOpNeq
			return e
		}), seenRule{jump: "FLAT-X"}},
		{"xor", other(func(e []expr.Any) []expr.Any {
			e[1].(*expr.Bitwise).Xor = []byte{1, 0, 0, 0}
			return e
		}), seenRule{jump: "FLAT-X"}},
		{"loaded, never compared", other(func(e []expr.Any) []expr.Any { return append(e[:2], e[3:]...) }), seenRule{jump: "FLAT-X"}},
		{"a condition that is unknown here", other(func(e []expr.Any) []expr.Any {
			return append(e, &expr.Rt{Register: 1, Key: expr.RtTCPMSS})
		}), seenRule{dst: netip.MustParsePrefix("10.0.0.16/28"), jump: "FLAT-X"}},
		{"goto", []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: "FLAT-X"}}, seenRule{}},
		{"verdict", []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}, seenRule{}},
		{"nothing", nil, seenRule{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := decodeRule(message(t, c.exprs...))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(seenRule{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCommentInUserData(t *testing.T) {
	for _, c := range []struct{ data, want string }{
		{"\x00\x09flatdhcp\x00", "flatdhcp"},
		{"\x01\x02xx\x00\x02a\x00", "a"},
		{"\x00\x09short", ""}, {"\x00", ""}, {"", ""}, {"\x05\x00", ""},
	} {
		if got := userComment([]byte(c.data)); got != c.want {
			t.Errorf("%q: %q, not %q", c.data, got, c.want)
		}
	}
}

func FuzzDecodeRule(f *testing.F) {
	f.Add(message(f, dispatchExprs(nil)...))
	f.Add(message(f, dispatchExprs([]byte{255, 255, 255, 240})...))
	f.Add(message(f, &expr.Verdict{Kind: expr.VerdictAccept}))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRule(data)
		if err != nil || !r.plain {
			return
		}
		if !strings.HasPrefix(r.jump, ourPrefix) {
			t.Errorf("plain, but jumps to %q", r.jump)
		}
		if again := parseSpec(r.nodeSpec()); r.dst.IsValid() && !strings.ContainsAny(r.jump, "\" \\") && (again.dst != r.dst || again.jump != r.jump) {
			t.Errorf("%+v was written as %+v", r, again)
		}
	})
}
