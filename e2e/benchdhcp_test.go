package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// `make bench-dhcp` works, on a small scale and without other servers. How fast is no test's to
// judge, but for what does not depend on the machine: a storm that is more than a socket's
// usual buffer holds, and a flood of strangers that is less than ours does, cost no known
// client a single message.
func TestBenchDHCP(t *testing.T) {
	labtest.RequireRoot(t)
	cmd := exec.CommandContext(labtest.Within(t, imagePatience), filepath.Join(labtest.Repository(t), "bin", "benchdhcp"),
		"-contenders", "flat-dhcpd,echo", "-reservations", "200", "-modes", "unicast,broadcast,relay", "-repetitions", "1",
		"-duration", "300ms", "-window", "8", "-storm", "200", "-flood", "4000", "-json")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v (make bin/benchdhcp builds it): %s", err, stderr.String())
	}
	type burst struct {
		Clients, MessagesRepeated, ClientsWithoutLease, Strangers int
		P99Milliseconds, ServerMegabytes                          float64
	}
	var report struct {
		Populations []struct {
			Reservations int
			Servers      []struct {
				Name      string
				Exchanges map[string]struct{ ExchangesPerSecond, P99Milliseconds float64 }
				Storms    []burst
				Floods    []burst
			}
		}
	}
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("decoding %s: %v", out, err)
	}
	if len(report.Populations) != 1 || report.Populations[0].Reservations != 200 || len(report.Populations[0].Servers) != 2 {
		t.Fatalf("it reports %s", out)
	}
	for _, s := range report.Populations[0].Servers {
		for _, mode := range []string{"unicast", "broadcast", "relay"} {
			if x := s.Exchanges[mode]; x.ExchangesPerSecond <= 0 || x.P99Milliseconds <= 0 {
				t.Errorf("%s, %s: %+v", s.Name, mode, x)
			}
		}
		if len(s.Storms) != 1 || len(s.Floods) != 1 || s.Floods[0].Strangers != 4000 || s.Floods[0].ServerMegabytes <= 0 {
			t.Fatalf("%s: storms %+v, floods %+v", s.Name, s.Storms, s.Floods)
		}
		for _, b := range []burst{s.Storms[0], s.Floods[0]} {
			if b.Clients != 200 || b.MessagesRepeated != 0 || b.ClientsWithoutLease != 0 || b.P99Milliseconds <= 0 {
				t.Errorf("%s: %+v", s.Name, b)
			}
		}
	}
}
