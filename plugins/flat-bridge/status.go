package main

import (
	"context"
	"errors"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/flatdhcp/flatdhcp/plugins/conf"
)

// status says whether an ADD could succeed. Whatever it finds it logs; an error is only
// what stops every ADD here and only a person can mend, and an empty pool unless
// statusOnExhaustion says otherwise.
func (p plugin) status(args *skel.CmdArgs) error {
	cfg, err := conf.Parse(args.StdinData, conf.FlatBridge)
	if err != nil {
		return err
	}
	node, err := p.look(cfg.DataDir)
	if err != nil {
		return cniError("preparing STATUS", err)
	}
	// The node comes first: that is quick, and a store may take all the time there is.
	problems := conf.InTime(
		func(ctx context.Context) []conf.Problem { return nodeProblems(node.Status(ctx, cfg.Network)) },
		func(ctx context.Context) []conf.Problem {
			stats, err := node.Data.Store(cfg.Name).Ready(ctx)
			return conf.StoreProblems(cfg.Network, stats, err)
		})
	for _, problem := range problems {
		p.log.Warn("STATUS: "+problem.Text, "network", cfg.Name, "code", problem.Code)
	}
	return conf.StatusError(problems)
}

// nodeProblems gives what the node lacks its code; that it is busy has none.
func nodeProblems(errs []error) (problems []conf.Problem) {
	for _, err := range errs {
		problem := conf.Problem{Text: err.Error(), Code: types.ErrPluginNotAvailable}
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
			problem.Code = 0
		}
		problems = append(problems, problem)
	}
	return problems
}
