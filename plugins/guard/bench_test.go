package guard

import (
	"fmt"
	"net/netip"
	"testing"
)

func manyPorts(n int) []Port {
	ports := make([]Port, n)
	for i := range ports {
		ports[i] = Port{
			Name: fmt.Sprintf("fdp%012x", i), CheckSource: true, Closed: i%2 == 0,
			MAC:   [6]byte{0xfa, 0x16, 0x3e, 1, byte(i >> 8), byte(i)},
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})},
		}
	}
	return ports
}

// BenchmarkAttachAndDetach shows that neither costs more among more ports.
func BenchmarkAttachAndDetach(b *testing.B) {
	for _, n := range []int{0, 1000, 4000} {
		b.Run(fmt.Sprintf("among=%d", n), func(b *testing.B) {
			do, _ := inNewNetNS(b)
			p := Port{Name: "fdpbench", MAC: mac(2), Addrs: []netip.Addr{addr(2)}, CheckSource: true}
			do(func() {
				if _, err := Apply(b.Context(), segments(), manyPorts(n), nil); err != nil {
					b.Error(err)
				}
				for b.Loop() {
					if err := Attach(b.Context(), segment(), p); err != nil {
						b.Error(err)
					}
					if err := Detach(b.Context(), p.Name); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
