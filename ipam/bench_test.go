package ipam

import (
	"context"
	"fmt"
	"testing"
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

func BenchmarkReserve(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("reservations=%d", size), func(b *testing.B) {
			s := benchStore(b, size)
			benchReserve(b, s)
		})
	}
}

// benchReserve releases what it reserved, untimed, so that the size stays.
func benchReserve(b *testing.B, s *Store) {
	for i := 0; b.Loop(); i++ {
		cid := fmt.Sprintf("bench-%d", i)
		mustReserve(b, s, request(cid, cid))
		b.StopTimer()
		mustRelease(b, s, cid)
		b.StartTimer()
	}
}

func BenchmarkRelease(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("reservations=%d", size), func(b *testing.B) {
			s := benchStore(b, size)
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				cid := fmt.Sprintf("bench-%d", i)
				mustReserve(b, s, request(cid, cid))
				b.StartTimer()
				mustRelease(b, s, cid)
			}
		})
	}
}

// BenchmarkLookup is a lookup by MAC as the daemon or a plugin does it: lock, open,
// look, close.
func BenchmarkLookup(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("reservations=%d", size), func(b *testing.B) {
			s := benchStore(b, size)
			mac := mustReserve(b, s, request("looked-up", "looked-up")).MAC
			for b.Loop() {
				err := s.View(context.Background(), func(v *View) error {
					_, err := v.ByMAC(mac)
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
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
