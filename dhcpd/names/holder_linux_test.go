package names

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestListenNamesWhoHasThePort: this very process, whose sockets anybody of its user
// may see.
func TestListenNamesWhoHasThePort(t *testing.T) {
	r := run(t, newSource(record(local)))
	addr := r.sockets.Addr()
	_, err := Listen(addr)
	var taken *TakenError
	if !errors.As(err, &taken) {
		t.Fatalf("listening twice: %v", err)
	}
	comm, cerr := os.ReadFile("/proc/self/comm")
	if cerr != nil {
		t.Fatal(cerr)
	}
	want := fmt.Sprintf("%s (process %d)", strings.TrimSpace(string(comm)), os.Getpid())
	if taken.Holder != want {
		t.Errorf("holder is %q, want %q", taken.Holder, want)
	}
	for _, part := range []string{addr.Addr().String(), fmt.Sprint(addr.Port()), want, "address already in use", "dns.enabled"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error without %q: %v", part, err)
		}
	}
}
