package ipam

import (
	"bytes"
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestKeysSortAsAddressesDo(t *testing.T) {
	for _, family := range [][]string{
		{"0.0.0.0", "9.255.255.255", "10.0.0.0", "10.0.0.9", "10.0.0.10", "10.0.1.0", "127.0.0.1", "128.0.0.0", "255.255.255.255"},
		{"::", "::1", "fd00::9", "fd00::a", "fd00::10", "fd00::1:0", "fd00:0:0:1::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	} {
		for i, s := range family {
			a := addr(s)
			back, err := parseAddrKey(addrKey(a))
			if err != nil || back != a {
				t.Errorf("%s comes back as %s, %v", a, back, err)
			}
			if i > 0 && bytes.Compare(addrKey(addr(family[i-1])), addrKey(a)) >= 0 {
				t.Errorf("the key of %s does not come after that of %s", a, family[i-1])
			}
		}
	}
	if _, err := parseAddrKey([]byte{1, 2, 3}); err == nil {
		t.Error("three bytes are an address")
	}
}

func TestReleasedKeysSortByTime(t *testing.T) {
	a := addr("10.0.0.2")
	times := []time.Time{time.Unix(-5, 0), time.Unix(0, 0), time.Unix(0, 1), time.Unix(1, 0), time.Unix(1<<33, 999)}
	for i, at := range times {
		back, b, err := parseReleasedKey(releasedKey(at, a))
		if err != nil || b != a || !back.Equal(at) {
			t.Errorf("%v comes back as %v, %v, %v", at, back, b, err)
		}
		if i > 0 && bytes.Compare(releasedKey(times[i-1], addr("255.0.0.0")), releasedKey(at, a)) >= 0 {
			t.Errorf("%v does not come after %v", at, times[i-1])
		}
	}
}

func TestRangeSize(t *testing.T) {
	tests := []struct {
		start, end string
		want       uint64
	}{
		{"10.0.0.0", "10.0.0.0", 1},
		{"10.0.0.255", "10.0.1.0", 2},
		{"0.0.0.0", "255.255.255.255", 1 << 32},
		{"fd00::", "fd00::ff", 256},
		{"fd00::ffff:ffff:ffff:ffff", "fd00:0:0:1::", 2},
		{"fd00::", "fd00::ffff:ffff:ffff:ffff", math.MaxUint64},
		{"::", "ffff::", math.MaxUint64},
	}
	for _, tt := range tests {
		if got := (Range{addr(tt.start), addr(tt.end)}).size(); got != tt.want {
			t.Errorf("%s-%s has %d addresses, want %d", tt.start, tt.end, got, tt.want)
		}
	}
}

func TestPoolIntervals(t *testing.T) {
	r := func(a, b string) Range { return Range{addr(a), addr(b)} }
	tests := []struct {
		name   string
		change func(*Pool)
		want   []Range
	}{
		{"default", func(*Pool) {}, []Range{r("10.0.0.2", "10.0.0.14")}},
		{"gateway in the middle", func(p *Pool) { p.Gateway = addr("10.0.0.8") },
			[]Range{r("10.0.0.1", "10.0.0.7"), r("10.0.0.9", "10.0.0.14")}},
		{"whole subnet", func(p *Pool) { p.RangeStart, p.RangeEnd = addr("10.0.0.0"), addr("10.0.0.15") },
			[]Range{r("10.0.0.2", "10.0.0.14")}},
		{"overlapping exclusions", func(p *Pool) {
			p.Exclude = []Range{r("10.0.0.9", "10.0.0.11"), r("10.0.0.4", "10.0.0.6"), r("10.0.0.5", "10.0.0.9"), r("10.0.0.14", "10.0.0.15")}
		}, []Range{r("10.0.0.2", "10.0.0.3"), r("10.0.0.12", "10.0.0.13")}},
		{"exclusion below the range", func(p *Pool) {
			p.RangeStart = addr("10.0.0.8")
			p.Exclude = []Range{r("10.0.0.2", "10.0.0.8")}
		}, []Range{r("10.0.0.9", "10.0.0.14")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := testNet("flat", "10.0.0.0/28").Pool
			tt.change(&p)
			if diff := cmp.Diff(tt.want, p.intervals(), equal); diff != "" {
				t.Errorf("intervals (-want +got):\n%s", diff)
			}
			if got := p.First(); got != tt.want[0].Start {
				t.Errorf("first is %s", got)
			}
			for a := p.Subnet.Addr(); p.Subnet.Contains(a); a = a.Next() {
				in := false
				for _, r := range tt.want {
					in = in || r.Contains(a)
				}
				if p.gives(a) != in {
					t.Errorf("gives(%s) = %v", a, !in)
				}
			}
		})
	}
	t.Run("IPv6", func(t *testing.T) {
		p := testNet("flat", "fd00::/124").Pool
		p.RangeEnd = addr("fd00::f") // no broadcast there
		if diff := cmp.Diff([]Range{r("fd00::2", "fd00::f")}, p.intervals(), equal); diff != "" {
			t.Errorf("intervals (-want +got):\n%s", diff)
		}
	})
}

func TestDerivesFrom(t *testing.T) {
	for subnet, addrs := range map[string][]string{
		"10.0.0.0/8":    {"10.0.0.5", "10.255.1.2"},
		"10.16.0.0/20":  {"10.16.15.254"},
		"10.0.0.128/25": {"10.0.0.200"},
	} {
		p := testNet("flat", subnet).Pool
		for _, s := range addrs {
			if a, ok := p.derivesFrom(DeriveMAC(p.MACPrefix, addr(s))); !ok || a != addr(s) {
				t.Errorf("%s: %s comes back as %s, %v", subnet, s, a, ok)
			}
		}
	}
	p := testNet("flat", "10.0.0.128/25").Pool
	for _, s := range []string{"fa:16:3e:00:00:05", "02:00:00:00:00:81"} {
		m, err := ParseMAC(s)
		if err != nil {
			t.Fatal(err)
		}
		if a, ok := p.derivesFrom(m); ok {
			t.Errorf("%s is derived from %s", s, a)
		}
	}
}

func FuzzParseWorkload(f *testing.F) {
	for _, s := range []string{"default/pod:web-0/eth0", "/cid:abc/eth0", "//:/", "a/b:c:d/e", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		w, err := ParseWorkload(s)
		if err != nil {
			return
		}
		if w.String() != s {
			t.Errorf("%q comes back as %q", s, w)
		}
	})
}

func FuzzParseMAC(f *testing.F) {
	for _, s := range []string{"fa:16:3e:00:00:02", "FA-16-3E-00-00-02", "fa16.3e00.0002", "fa:16:3e", "00:00:00:00:fe:80:00:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMAC(s)
		if err != nil {
			return
		}
		if back, err := ParseMAC(m.String()); err != nil || back != m {
			t.Errorf("%q: %s comes back as %s, %v", s, m, back, err)
		}
	})
}

// FuzzDecodeRow: whatever stands in a row, decoding it ends, and what it accepts is
// written and read again as the same.
func FuzzDecodeRow(f *testing.F) {
	h := holder("c1")
	good, err := json.Marshal(Reservation{Addr: addr("10.0.0.2"), MAC: MAC{2}, Workload: pod("w"), Holder: &h})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{10, 0, 0, 2}, good)
	f.Add([]byte{10, 0, 0, 3}, good)
	f.Add([]byte{}, []byte(`{"addr":""}`))
	f.Add(addrKey(addr("fd00::1")), []byte(`{"addr":"fd00::1","mac":"02:00:00:00:00:01","workload":"/cid:x/e","since":"2026-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		r, err := decodeRow(key, value)
		if err != nil {
			return
		}
		b, err := encode(r)
		if err != nil {
			t.Skip() // a workload the JSON does not name, say
		}
		back, err := decodeRow(key, b)
		if err != nil && r.Workload != (Workload{}) {
			t.Fatalf("reading %s again: %v", b, err)
		}
		if err == nil && !cmp.Equal(r, back, equal) {
			t.Errorf("rows differ:\n%s", cmp.Diff(r, back, equal))
		}
	})
}

// FuzzMeta: whatever stands in a file's header pages, reading them ends.
func FuzzMeta(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0}, 8192))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readMeta(bytes.NewReader(b))
		if err != nil {
			return
		}
		_ = m.verifyFreelist(bytes.NewReader(b))
		if err := m.verify(int64(len(b))); err == nil && uint64(m.pageSize)*m.pages > uint64(len(b)) {
			t.Errorf("accepted with %d pages in %d bytes", m.pages, len(b))
		}
	})
}
