package e2e

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// Two hundred ADDs at once, then as many DELs, with neighbours that must not notice.
func TestTwoHundredAtOnce(t *testing.T) {
	const many = 200
	n := newNode(t, nil)
	n.neighbours()
	n.run("sh", "-c", fmt.Sprintf("for i in $(seq %d); do ip netns add w$i; done", many))
	before := n.state()

	var mu sync.Mutex
	seen := map[netip.Addr]string{}
	var attached []*workload
	n.atOnce(many, func(c *lab.Container) error {
		w, err := n.tryAttach(c, lab.CNIOptions{})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if other, taken := seen[w.addr]; taken {
			return fmt.Errorf("%s and %s both have %s", other, c.Name(), w.addr)
		}
		seen[w.addr] = c.Name()
		attached = append(attached, w)
		return nil
	})
	if t.Failed() {
		return
	}
	n.run("flatctl", "check")
	for _, w := range attached[:10] {
		n.protected(w, "after 200 ADDs")
		if !answered(n, n.exec, w.addr) {
			t.Errorf("%s is not reached", w.addr)
		}
	}
	n.atOnce(many, func(c *lab.Container) error {
		_, err := n.CNI(n.within(), "del", network, c, lab.CNIOptions{})
		return err
	})
	n.unchanged(before, "200 ADDs and 200 DELs")
	n.run("flatctl", "check")
}

// atOnce does something for containers w1 to wN at the same time.
func (n *node) atOnce(many int, do func(*lab.Container) error) {
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			if err := do(n.Find(fmt.Sprintf("w%d", i+1))); err != nil {
				n.t.Errorf("w%d: %v", i+1, err)
			}
		})
	}
	wg.Wait()
}
