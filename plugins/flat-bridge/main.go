// flat-bridge is the CNI plugin that attaches containers to a flat bridged network:
// a veth port on a Linux bridge, a fixed address, an iptables chain and a guard.
package main

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/flatdhcp/flatdhcp/plugins/attach"
	"github.com/flatdhcp/flatdhcp/plugins/conf"
	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

// version is set by the linker.
var version = "dev"

const (
	// deadline bounds ADD, DEL and CHECK; runtimes kill a plugin that takes much longer.
	deadline = 10 * time.Second
	// gcDeadline bounds GC, which may have many attachments to delete. CRI-O waits 30 s;
	// what was deleted by then stays deleted.
	gcDeadline = time.Minute
)

func main() {
	runtime.GOMAXPROCS(processors(os.Getenv("CNI_COMMAND")))
	p := plugin{log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    p.add,
		Del:    p.del,
		Check:  p.check,
		GC:     p.gc,
		Status: p.status,
	}, cniversion.PluginSupports(conf.Versions()...), "flat-bridge "+version+
		": attaches containers to a flat bridged network (https://www.cni.dev, type flat-bridge)")
}

// processors is how many of them Go is to use. A verb does one thing after the other; with
// more than one the runtime wakes threads at each netlink answer, which find nothing to do: a
// seventh of a verb's CPU time. But beside DEL, of which GC does many, the kernel's freeing of
// port and rules is waited for, and a thread that waits in the kernel keeps its processor for a
// while.
func processors(verb string) int {
	if verb == "DEL" || verb == "GC" {
		return 2
	}
	return 1
}

// plugin carries what every verb needs.
type plugin struct{ log *slog.Logger }

func (p plugin) node(dataDir string) (*attach.Node, error) {
	if err := attach.Privileged(); err != nil {
		return nil, err
	}
	return p.look(dataDir)
}

// look is node for STATUS, which names a lack of privileges among the rest.
func (p plugin) look(dataDir string) (*attach.Node, error) {
	return attach.NewNode(rundir.FromEnv(os.Getenv), dataDir, p.log)
}

func withDeadline(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	return f(ctx)
}
