package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// imagePatience bounds the image test: it copies some 20 MB a few times.
const imagePatience = 5 * time.Minute

// builder is a host with buildah and nothing else: no network but lo, so no registry, and
// mounts, storage and settings that end with it.
type builder struct {
	*lab.Host
	t *testing.T
}

func newBuilder(t *testing.T) *builder {
	t.Helper()
	labtest.RequireRoot(t)
	if _, err := exec.LookPath("buildah"); err != nil {
		if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
			t.Fatalf("%v: hack/deps test installs it", err)
		}
		t.Skipf("%v: hack/deps test installs it", err)
	}
	b := &builder{labtest.AddHost(t, labtest.New(t, lab.Options{}), "builder"), t}
	ctx := labtest.Within(t, patience)
	for name, text := range map[string]string{
		"containers.conf": "",
		"storage.conf":    "[storage]\ndriver = \"vfs\"\ngraphroot = \"/var/lib/image\"\nrunroot = \"/run/image/storage\"\n",
		"registries.conf": "",
		"policy.json":     `{"default": [{"type": "insecureAcceptAnything"}]}`,
	} {
		if err := b.WriteFile(ctx, "/run/image/"+name, 0o644, text); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// buildah runs buildah with nothing of the machine's settings, and returns what it printed
// on standard output.
func (b *builder) buildah(args ...string) (string, error) {
	cmd := b.Command(labtest.Within(b.t, imagePatience), append([]string{"buildah"}, args...)...)
	cmd.Env = append(cmd.Env, "TMPDIR=/run/image", "CONTAINERS_CONF=/run/image/containers.conf",
		"CONTAINERS_STORAGE_CONF=/run/image/storage.conf", "CONTAINERS_REGISTRIES_CONF=/run/image/registries.conf")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("buildah %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

func (b *builder) must(args ...string) string {
	b.t.Helper()
	out, err := b.buildah(args...)
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// The image has the four programs and nothing else, and run without arguments it installs
// the plugins into the directory that is mounted where the Dockerfile says.
func TestImageInstallsThePlugins(t *testing.T) {
	b := newBuilder(t)
	const image, policy = "localhost/flatdhcp:test", "--signature-policy=/run/image/policy.json"
	repository := labtest.Repository(t)
	built := map[string]string{}
	for _, name := range []string{"flat-bridge", "flat-ipam", "flat-dhcpd", "flatctl"} {
		data, err := os.ReadFile(filepath.Join(repository, "bin", name))
		if err != nil {
			t.Fatalf("%v: make build first, or make test", err)
		}
		built[name] = sum(data)
	}
	b.must("build", policy, "--isolation=chroot", "--tag="+image, repository)

	oci := filepath.Join(t.TempDir(), "oci")
	b.must("push", policy, image, "oci:"+oci)
	config, files := readImage(t, oci)
	want := map[string]string{"bin": "directory drwxr-xr-x"}
	for name, sum := range built {
		want["bin/"+name] = "0:0 -rwxr-xr-x " + sum
	}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("the image's files: %s", diff)
	}
	if config.OS != "linux" || config.Architecture != runtime.GOARCH || config.Config.User != "" {
		t.Errorf("the image is for %s/%s, user %q", config.OS, config.Architecture, config.Config.User)
	}
	command := append(slices.Clone(config.Config.Entrypoint), config.Config.Cmd...)
	if diff := cmp.Diff([]string{"/bin/flatctl", "install-plugins", "/host/opt/cni/bin"}, command); diff != "" {
		t.Fatalf("the image's command: %s", diff)
	}

	container := b.must("from", policy, "--pull-never", image)
	target := t.TempDir()
	run := func(flags []string, command ...string) (string, error) {
		return b.buildah(slices.Concat([]string{"run", "--isolation=chroot"}, flags, []string{container, "--"}, command)...)
	}
	// Without the node's directory it must not install to nowhere and call that done. (First:
	// buildah makes the place of a mount, and it stays.)
	out, err := run(nil, command...)
	if err == nil || !strings.Contains(err.Error(), "there is no such directory") {
		t.Errorf("without the volume: %q, %v", out, err)
	}
	mounted := []string{"--volume=" + target + ":" + config.Config.Cmd[0]}
	for _, what := range []string{"installed", "is there already"} {
		out, err := run(mounted, command...)
		if err != nil {
			t.Fatal(err)
		}
		for _, plugin := range []string{"flat-bridge", "flat-ipam"} {
			if !strings.Contains(out, config.Config.Cmd[0]+"/"+plugin+": version ") || strings.Count(out, " "+what+"\n") != 2 {
				t.Errorf("it says %q, want %s %s", out, plugin, what)
			}
		}
		wantInstalled := map[string]string{"flat-bridge": built["flat-bridge"], "flat-ipam": built["flat-ipam"]}
		if diff := cmp.Diff(wantInstalled, contents(t, target)); diff != "" {
			t.Errorf("%s, but: %s", what, diff)
		}
	}

	// The daemon is in it for who names it.
	if out, err := run(nil, "/bin/flat-dhcpd", "--version"); err != nil || !strings.HasPrefix(out, "flat-dhcpd ") {
		t.Errorf("flat-dhcpd says %q, %v", out, err)
	}
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// contents returns every file of a directory, by the sum of what it has.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = sum(data)
	}
	return out
}

// imageConfig is what is read of an OCI image configuration.
type imageConfig struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Config       struct {
		User            string
		Entrypoint, Cmd []string
	} `json:"config"`
}

// descriptor names a blob of an OCI image.
type descriptor struct {
	Digest string `json:"digest"`
}

// readImage reads an image in the OCI layout: its configuration, and every file with
// owner, mode and sum.
func readImage(t *testing.T, dir string) (config imageConfig, files map[string]string) {
	t.Helper()
	blob := func(d descriptor) []byte {
		data, err := os.ReadFile(filepath.Join(dir, "blobs", strings.ReplaceAll(d.Digest, ":", "/")))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	decode := func(data []byte, v any) {
		if err := json.Unmarshal(data, v); err != nil {
			t.Fatalf("decoding %s: %v", data, err)
		}
	}
	var index struct{ Manifests []descriptor }
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if decode(data, &index); len(index.Manifests) != 1 {
		t.Fatalf("the index has %d manifests", len(index.Manifests))
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	decode(blob(index.Manifests[0]), &manifest)
	decode(blob(manifest.Config), &config)
	files = map[string]string{}
	for _, layer := range manifest.Layers {
		of, err := readLayer(blob(layer))
		if err != nil {
			t.Fatalf("reading layer %s: %v", layer.Digest, err)
		}
		maps.Copy(files, of)
	}
	return config, files
}

func readLayer(data []byte) (map[string]string, error) {
	zipped, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for archive := tar.NewReader(zipped); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		name, mode := strings.Trim(strings.TrimPrefix(h.Name, "./"), "/"), h.FileInfo().Mode()
		if mode.IsDir() {
			files[name] = "directory " + mode.String()
			continue
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			return nil, err
		}
		files[name] = fmt.Sprintf("%d:%d %s %s", h.Uid, h.Gid, mode, sum(content))
	}
}
