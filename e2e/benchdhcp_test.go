package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// `make bench-dhcp` works, on a small scale and without other servers: what it measures is no
// test's to judge, but for what must not depend on the machine.
func TestBenchDHCP(t *testing.T) {
	labtest.RequireRoot(t)
	cmd := exec.CommandContext(labtest.Within(t, imagePatience), filepath.Join(labtest.Repository(t), "bin", "benchdhcp"),
		"-contenders", "flat-dhcpd,echo", "-reservations", "50", "-modes", "unicast,broadcast,relay", "-repetitions", "1",
		"-duration", "300ms", "-window", "8", "-storm", "50", "-flood", "4000", "-json")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v (make bin/benchdhcp builds it): %s", err, stderr.String())
	}
	type burst struct {
		Clients, ClientsWithoutLease, Strangers int
		P99Milliseconds, ServerMegabytes        float64
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
	if len(report.Populations) != 1 || report.Populations[0].Reservations != 50 || len(report.Populations[0].Servers) != 2 {
		t.Fatalf("it reports %s", out)
	}
	for _, s := range report.Populations[0].Servers {
		for _, mode := range []string{"unicast", "broadcast", "relay"} {
			if x := s.Exchanges[mode]; x.ExchangesPerSecond <= 0 || x.P99Milliseconds <= 0 {
				t.Errorf("%s, %s: %+v", s.Name, mode, x)
			}
		}
		if len(s.Storms) != 1 || s.Storms[0].Clients != 50 || s.Storms[0].ClientsWithoutLease != 0 {
			t.Errorf("%s: storms %+v", s.Name, s.Storms)
		}
		// Strangers in numbers cost known clients no lease.
		if len(s.Floods) != 1 || s.Floods[0].Clients != 50 || s.Floods[0].ClientsWithoutLease != 0 || s.Floods[0].Strangers != 4000 || s.Floods[0].ServerMegabytes <= 0 {
			t.Errorf("%s: floods %+v", s.Name, s.Floods)
		}
	}
}
