package main

import (
	"context"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/conf"
)

// status says whether an ADD could succeed: the store can be read and written, there can be
// locks, and the pool is not empty.
func (p *plugin) status(args *skel.CmdArgs) error {
	cfg, err := conf.Parse(args.StdinData, conf.FlatIPAM)
	if err != nil {
		return err
	}
	problems := conf.InTime(
		func(context.Context) []conf.Problem {
			if err := p.run.Writable(); err != nil {
				return []conf.Problem{{Text: err.Error(), Code: types.ErrPluginNotAvailable}}
			}
			return nil
		},
		func(ctx context.Context) []conf.Problem {
			stats, err := ipam.OpenDir(cfg.DataDir).Store(cfg.Name).Ready(ctx)
			return conf.StoreProblems(cfg.Network, stats, err)
		})
	for _, problem := range problems {
		p.logf("STATUS: %s", problem.Text)
	}
	return conf.StatusError(problems)
}
