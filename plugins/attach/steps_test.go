package attach

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// table returns three steps that write down what is done and undone, and of which
// the one named fails.
func table(trace *[]string, failing string) []step {
	var steps []step
	for _, name := range []string{"one", "two", "three"} {
		steps = append(steps, step{
			name: name,
			do: func(context.Context) error {
				*trace = append(*trace, "do "+name)
				if name == failing {
					return errors.New("broken")
				}
				return nil
			},
			undo: func(ctx context.Context) error {
				*trace = append(*trace, "undo "+name)
				return ctx.Err()
			},
		})
	}
	return steps
}

func TestRunUndoesInReverse(t *testing.T) {
	tests := []struct {
		name, failing string
		stopAt        int // the call of stop that answers with an error; 0 = none
		want          []string
		wantErr       string
	}{
		{name: "all well", want: []string{"do one", "do two", "do three"}},
		{
			name: "the failing step is undone too", failing: "two",
			want:    []string{"do one", "do two", "undo two", "undo one"},
			wantErr: "ADD: two: broken",
		},
		{
			name: "stopped between two steps", stopAt: 3,
			want:    []string{"do one", "do two", "undo three", "undo two", "undo one"},
			wantErr: "ADD: three: " + ErrCancelled.Error(),
		},
		{
			name: "stopped after the last step", stopAt: 4,
			want:    []string{"do one", "do two", "do three", "undo three", "undo two", "undo one"},
			wantErr: "ADD: " + ErrCancelled.Error(),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var trace []string
			calls := 0
			err := run(t.Context(), "ADD", table(&trace, tt.failing), func() error {
				if calls++; calls == tt.stopAt {
					return ErrCancelled
				}
				return nil
			})
			if diff := cmp.Diff(tt.want, trace); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			if got := message(err); got != tt.wantErr {
				t.Errorf("error %q, want %q", got, tt.wantErr)
			}
		})
	}
}

func TestRunUndoesAfterItsDeadline(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var trace []string
	steps := table(&trace, "")
	steps[1].do = func(context.Context) error { cancel(); return nil }
	err := run(ctx, "ADD", steps, never)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
	if diff := cmp.Diff([]string{"do one", "undo three", "undo two", "undo one"}, trace); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if strings.Contains(message(err), "undoing") {
		t.Errorf("an undo met the verb's own deadline: %v", err)
	}
}

func TestUndoStopsWhereItFails(t *testing.T) {
	// A port that cannot be taken away keeps its rules and its row.
	var trace []string
	steps := table(&trace, "three")
	steps[1].undo = func(context.Context) error { return errors.New("stuck") }
	err := run(t.Context(), "ADD", steps, never)
	if diff := cmp.Diff([]string{"do one", "do two", "do three", "undo three"}, trace); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if want := "ADD: undoing two (left for DEL): stuck"; !strings.Contains(message(err), want) {
		t.Errorf("error %q does not say %q", message(err), want)
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
