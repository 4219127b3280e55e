package guard

import (
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Ports and what comes with them go in one transaction, or nothing does.
func TestDetachWith(t *testing.T) {
	l := newTable(t)
	ports := somePorts()
	l.attach(ports...)
	l.run("nft", "add", "table", "inet", "another")
	more, err := netfilterMessage(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE, unix.NFPROTO_INET, 0, 0,
		func(ae *netlink.AttributeEncoder) { ae.String(unix.NFTA_TABLE_NAME, "another") })
	if err != nil {
		t.Fatal(err)
	}
	detach := func(names []string, more ...netlink.Message) (err error) {
		l.do(func() { err = DetachWith(t.Context(), names, more) })
		return err
	}
	holds := func(when string, another bool, left ...Port) {
		t.Helper()
		list := l.run("nft", "list", "ruleset")
		if strings.Contains(list, "table inet another") != another {
			t.Errorf("%s the other table is there: %t", when, !another)
		}
		for _, p := range ports {
			want := false
			for _, l := range left {
				want = want || l.Name == p.Name
			}
			if strings.Contains(list, p.Name) != want {
				t.Errorf("%s %s is there: %t", when, p.Name, !want)
			}
		}
	}
	holds("before", true, ports...)
	gone := []string{ports[0].Name, ports[1].Name}
	if err := detach(gone, more); err != nil {
		t.Error(err)
	}
	holds("after it", false, ports[2:]...)
	if err := detach(gone); err != nil {
		t.Errorf("nothing to detach: %v", err)
	}
	// The other table is not there any more, which fails the whole of it.
	if err := detach([]string{ports[2].Name}, more); err == nil {
		t.Error("no error although the other change is refused")
	}
	holds("after a refusal", false, ports[2:]...)
	if err := detach([]string{ports[2].Name, "eth0"}); err == nil {
		t.Error("no error of a name that is no port's")
	}
	holds("after a bad name", false, ports[2:]...)
	if err := DetachWith(t.Context(), nil, nil); err != nil {
		t.Errorf("nothing at all: %v", err)
	}
}
