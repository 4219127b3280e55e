package ipam

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// benchSizes are the numbers of reservations at which costs are compared.
var benchSizes = []int{0, 1000, 60000}

// prefill makes n reservations, holders "fill-0" and up, in one transaction.
func prefill(t testing.TB, s *Store, n int) { prefillFrom(t, s, 0, n) }

func prefillFrom(t testing.TB, s *Store, from, n int) {
	t.Helper()
	if n == 0 {
		return
	}
	err := s.update(context.Background(), func(tx *txn) (bool, error) {
		for i := range n {
			name := fmt.Sprintf("fill-%d", from+i)
			if _, _, err := tx.reserve(request(name, name)); err != nil {
				return false, err
			}
		}
		return true, nil
	})
	if err != nil {
		t.Fatalf("filling the store: %v", err)
	}
}

// benchStore returns a store with n reservations in a /12.
func benchStore(b testing.TB, n int) *Store {
	s := mustConfigure(b, testDir(b), testNet("flat", "10.16.0.0/12"))
	prefill(b, s, n)
	return s
}

// flatness is how much the costs at different sizes may differ.
const flatness = 1.5

// operation is something whose cost must not depend on the number of reservations.
// It returns how long it took; what it needs around it is not counted.
type operation func(b *testing.B, s *Store, i int) time.Duration

func timed(b *testing.B, op func() error) time.Duration {
	start := time.Now()
	err := op()
	took := time.Since(start)
	if err != nil {
		b.Fatal(err)
	}
	return took
}

func reserveOnce(b *testing.B, s *Store, i int) time.Duration {
	cid := fmt.Sprintf("bench-%d", i)
	took := timed(b, func() error {
		_, err := s.Reserve(context.Background(), nil, request(cid, cid))
		return err
	})
	mustRelease(b, s, cid)
	return took
}

func releaseOnce(b *testing.B, s *Store, i int) time.Duration {
	cid := fmt.Sprintf("bench-%d", i)
	mustReserve(b, s, request(cid, cid))
	return timed(b, func() error {
		_, _, err := s.Release(context.Background(), cid, "eth0")
		return err
	})
}

// lookupOnce is a lookup by MAC as the daemon or a plugin does it: lock, open, look,
// close.
func lookupOnce(b *testing.B, s *Store, i int) time.Duration {
	mac := MAC{0xfa, 0x16, 0x3e, 0x1f, 0xff, 0xfe}
	if i == 0 { // one to be found, besides the others
		req := request("bench", "bench")
		req.Addr = addr("10.31.255.254")
		mustReserve(b, s, req)
	}
	return timed(b, func() error {
		return s.View(context.Background(), func(v *View) error {
			_, err := v.ByMAC(mac)
			return err
		})
	})
}

func BenchmarkReserve(b *testing.B) { benchSizesOf(b, reserveOnce) }
func BenchmarkRelease(b *testing.B) { benchSizesOf(b, releaseOnce) }
func BenchmarkLookup(b *testing.B)  { benchSizesOf(b, lookupOnce) }

// benchSizesOf measures an operation at each size, and then at all sizes in turn:
// whatever else the machine does meanwhile then weighs on all of them alike, and
// their medians can be compared. It says so if they are not flat.
func benchSizesOf(b *testing.B, op operation) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("reservations=%d", size), func(b *testing.B) {
			s := benchStore(b, size)
			var total time.Duration
			n := 0
			for ; b.Loop(); n++ {
				total += op(b, s, n)
			}
			b.ReportMetric(float64(total.Nanoseconds())/float64(n), "ns/op")
		})
	}
	b.Run("flat", func(b *testing.B) {
		stores := make([]*Store, len(benchSizes))
		for i, size := range benchSizes {
			stores[i] = benchStore(b, size)
		}
		took := make([][]time.Duration, len(stores))
		n := 0
		for ; b.Loop(); n++ {
			for i, s := range stores {
				took[i] = append(took[i], op(b, s, n))
			}
		}
		median := func(i int) float64 {
			slices.Sort(took[i])
			return float64(took[i][len(took[i])/2].Nanoseconds())
		}
		b.ReportMetric(0, "ns/op") // of three at once: says nothing
		for i, size := range benchSizes {
			ratio := median(i) / median(0)
			b.ReportMetric(median(i), fmt.Sprintf("ns-at-%d", size))
			if i == 0 {
				continue
			}
			b.ReportMetric(ratio, fmt.Sprintf("x-at-%d", size))
			if n >= 100 && ratio > flatness {
				b.Logf("at %d reservations it costs %.2f times as much as at none; %.1f is allowed", size, ratio, flatness)
			}
		}
	})
}

func BenchmarkIdent(b *testing.B) {
	s := benchStore(b, 1000)
	for b.Loop() {
		if _, err := s.Ident(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSnapshot(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("reservations=%d", size), func(b *testing.B) {
			s := benchStore(b, size)
			for b.Loop() {
				if _, err := s.Snapshot(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
