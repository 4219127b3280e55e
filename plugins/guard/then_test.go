package guard

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
)

// What comes next runs once, finds the ports gone, and may change nf_tables itself; not
// at all if a port cannot be detached.
func TestDetachThen(t *testing.T) {
	l := newTable(t)
	ports := somePorts()
	l.attach(ports...)
	gone := []string{ports[0].Name, ports[1].Name}
	failed := errors.New("the next step failed")
	// On the lab's thread already, which l.run would wait for.
	nft := func(args ...string) string {
		out, err := exec.Command("nft", args...).CombinedOutput()
		if err != nil {
			t.Errorf("nft %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	for _, want := range []error{nil, failed} { // the second time nothing is there
		calls := 0
		l.do(func() {
			err := DetachThen(t.Context(), gone, func() error {
				calls++
				list := nft("list", "table", "bridge", "flatdhcp")
				for _, name := range gone {
					if strings.Contains(list, name) {
						t.Errorf("%s is still there when the next step runs", name)
					}
				}
				nft("add", "table", "inet", "another")
				nft("delete", "table", "inet", "another")
				return want
			})
			if !errors.Is(err, want) || calls != 1 {
				t.Errorf("error %v after %d calls, want %v", err, calls, want)
			}
		})
	}
	if list := l.run("nft", "list", "table", "bridge", "flatdhcp"); !strings.Contains(list, ports[2].Name) {
		t.Errorf("the other port is gone as well:\n%s", list)
	}
	for _, names := range [][]string{{"eth0"}, {ports[2].Name, "eth0"}} {
		l.do(func() {
			if err := DetachThen(t.Context(), names, func() error { return failed }); err == nil || errors.Is(err, failed) {
				t.Errorf("%v: error is %v", names, err)
			}
		})
	}
	if err := DetachThen(t.Context(), nil, func() error { return failed }); !errors.Is(err, failed) {
		t.Errorf("no port: error is %v", err)
	}
}
