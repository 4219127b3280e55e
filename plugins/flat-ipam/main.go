// flat-ipam is a CNI IPAM plugin: it gives containers addresses from flatdhcp's
// store under any main plugin. flat-bridge does the same in its own process.
package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/containernetworking/cni/pkg/skel"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/flatdhcp/flatdhcp/plugins/conf"
	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

// version is set by the linker.
var version = "dev"

func main() {
	runtime.GOMAXPROCS(1) // as flat-bridge does, and for its reason
	p := &plugin{
		run:    rundir.FromEnv(os.Getenv),
		stdout: os.Stdout,
		logf: func(format string, args ...any) {
			// stdout is the result's alone; what stderr says the runtime logs.
			fmt.Fprintf(os.Stderr, "flat-ipam: "+format+"\n", args...)
		},
	}
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    p.add,
		Del:    p.del,
		Check:  p.check,
		GC:     p.gc,
		Status: p.status,
	}, cniversion.PluginSupports(conf.Versions()...), "CNI plugin flat-ipam "+version)
}
