package filter

import (
	"context"
	"fmt"
	"testing"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// BenchmarkAttachDetach is the time of one ADD and one DEL, with the given number
// of workloads in.
func BenchmarkAttachDetach(b *testing.B) {
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		for _, count := range []int{0, 1000, 4000} {
			b.Run(fmt.Sprintf("%s/%d", backend, count), func(b *testing.B) {
				k := newKernel(b, backend)
				table := k.table()
				flat := network("flat", "10.0.0.0/16", "br100")
				var rows []ipam.Reservation
				for i := range count {
					rows = append(rows, row(fmt.Sprintf("10.0.%d.%d", 1+i/200, 1+i%200)))
				}
				k.must(func(ctx context.Context) error {
					_, err := table.Apply(ctx, networksOf(flat), "flat", aliveRows(rows...))
					return err
				})
				own := row("10.0.200.7")
				for b.Loop() {
					k.attach(table, networksOf(flat), flat, own)
					k.detach(table, flat, own)
				}
			})
		}
	}
}
