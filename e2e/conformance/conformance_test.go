package conformance

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

var (
	update     = flag.Bool("update", false, "write the matrices of testdata anew")
	pluginName = flag.String("plugin", "", "TestPlugin: the plugin's `type`, its file name in -plugin-dir")
	pluginDir  = flag.String("plugin-dir", "/opt/cni/bin", "TestPlugin: the `directory` of the plugin and of those it delegates to")
	configFile = flag.String("config", "", "TestPlugin: the `file` of the plugin's configuration, a template")
	knownFile  = flag.String("known", "", "TestPlugin: the `file` of known failures")
	ipamOnly   = flag.Bool("ipam", false, "TestPlugin: the plugin is an IPAM plugin")
	unready    = flag.String("unready", "", "TestPlugin: a shell `command` that makes every ADD on a host impossible")
	memory     = flag.String("memory", "", "TestPlugin: a `regexp` of lines of a host's state that may change for good")
)

// TestPlugin asks the plugin that the flags name.
func TestPlugin(t *testing.T) {
	if *pluginName == "" {
		t.Skip("no -plugin is given; see docs/conformance.md")
	}
	if *configFile == "" {
		t.Fatal("-config is missing: a file with the plugin's configuration; see docs/conformance.md")
	}
	target := Target{
		Name: *pluginName, Plugin: *pluginName, IPAM: *ipamOnly, Unready: *unready,
		Lab: lab.Options{CNIBin: *pluginDir}, Config: config(t, *configFile),
	}
	if *knownFile != "" {
		target.Known = known(t, *knownFile)
	}
	if *memory != "" {
		re, err := regexp.Compile(*memory)
		if err != nil {
			t.Fatalf("reading -memory: %v", err)
		}
		target.Memory = re
	}
	Run(t, target)
}

// noStore puts a file in the place of the data directory.
const noStore = "rm -rf /var/lib/flatdhcp && : >/var/lib/flatdhcp"

// TestFlatBridge is the matrix of ours.
func TestFlatBridge(t *testing.T) {
	runTarget(t, Target{Name: "flat-bridge", Plugin: "flat-bridge", Lab: labtest.Options(t), Unready: noStore})
}

// TestFlatIPAM is the IPAM plugin's, executed as a main plugin would.
func TestFlatIPAM(t *testing.T) {
	runTarget(t, Target{Name: "flat-ipam", Plugin: "flat-ipam", IPAM: true, Lab: labtest.Options(t), Unready: noStore})
}

// TestReference is the control: the same cases, asked of the reference plugins, fail where
// these are known to.
func TestReference(t *testing.T) {
	runTarget(t, Target{
		Name: "bridge", Plugin: "bridge", Lab: lab.Options{CNIBin: labtest.CNIBin(t)},
		Unready: "rm -rf /var/lib/cni/networks && : >/var/lib/cni/networks",
		// host-local remembers the address it gave last.
		Memory: regexp.MustCompile(`/last_reserved_ip\.\d+$`),
	})
}

// runTarget asks a target with the files of testdata that bear its name, and compares the
// matrix with the one kept there.
func runTarget(t *testing.T, target Target) {
	t.Helper()
	t.Parallel()
	file := func(kind string) string { return filepath.Join("testdata", target.Name+kind) }
	target.Config = config(t, file(".conf"))
	target.Known = known(t, file(".known"))
	got := Run(t, target)
	if got == "" {
		return // -run left cases out
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(file(".matrix"), []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file(".matrix"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" && !t.Failed() {
		t.Errorf("the matrix is not the one in %s (-update rewrites it):\n%s", file(".matrix"), diff)
	}
}

func config(t *testing.T, file string) func(Network) (string, error) {
	t.Helper()
	text, err := os.ReadFile(file) //nolint:gosec // a file that the caller names
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseConfig(string(text))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return c
}

func known(t *testing.T, file string) []Known {
	t.Helper()
	text, err := os.ReadFile(file) //nolint:gosec // a file that the caller names
	if err != nil {
		t.Fatal(err)
	}
	list, err := ParseKnown(string(text))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return list
}
