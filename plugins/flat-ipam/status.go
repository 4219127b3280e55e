package main

import (
	"context"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/conf"
)

// status says whether an ADD could succeed: the store can be read and written, and the
// pool is not empty.
func (p *plugin) status(args *skel.CmdArgs) error {
	cfg, err := conf.Parse(args.StdinData, conf.FlatIPAM)
	if err != nil {
		return err
	}
	problems := conf.InTime(func(ctx context.Context) []conf.Problem {
		stats, err := ipam.OpenDir(cfg.DataDir).Store(cfg.Name).Ready(ctx)
		return conf.StoreProblems(cfg.Network, stats, err)
	})
	for _, problem := range problems {
		p.logf("STATUS: %s", problem.Text)
	}
	return conf.StatusError(problems)
}
