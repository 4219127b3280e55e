package link

import (
	"context"
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestDumpAsksAgainWhenInterrupted(t *testing.T) {
	other := errors.New("no memory")
	tests := []struct {
		name      string
		answers   func(try int) error
		wantTries int
		want      error
	}{
		{"consistent at once", func(int) error { return nil }, 1, nil},
		{"interrupted three times", func(try int) error {
			if try <= 3 {
				return netlink.ErrDumpInterrupted
			}
			return nil
		}, 4, nil},
		{"interrupted for ever", func(int) error { return netlink.ErrDumpInterrupted }, dumpTries, netlink.ErrDumpInterrupted},
		{"another error", func(int) error { return other }, 1, other},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tries := 0
			got, err := dump(context.Background(), "links", func() ([]int, error) {
				tries++
				return []int{tries}, tt.answers(tries)
			})
			if tries != tt.wantTries || !errors.Is(err, tt.want) {
				t.Errorf("%d tries, %v; want %d, %v", tries, err, tt.wantTries, tt.want)
			}
			if err == nil && (len(got) != 1 || got[0] != tries) {
				t.Errorf("got %v, want the last answer", got)
			}
		})
	}
}

func TestDumpEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	_, err := dump(ctx, "links", func() ([]int, error) {
		cancel()
		return nil, netlink.ErrDumpInterrupted
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}
