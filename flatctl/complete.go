package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// completionDeadline keeps the TAB key from hanging on a busy store.
const completionDeadline = 500 * time.Millisecond

func (c *control) completeNetworks(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 && !strings.HasSuffix(cmd.Use, "...]") {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionDeadline)
	defer cancel()
	names, err := c.stores().Names(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(args, n) })
	return beginning(names, begun), cobra.ShellCompDirectiveNoFileComp
}

// completeWorkloads offers NAMESPACE/NAME where a workload has one, else its address.
func (c *control) completeWorkloads(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionDeadline)
	defer cancel()
	rows, err := c.rows(ctx, nil)
	if err != nil && len(rows) == 0 {
		return nil, cobra.ShellCompDirectiveError
	}
	var words []string
	for _, r := range rows {
		if w := r.Workload; w.Kind == ipam.KindPod {
			words = append(words, w.Namespace+"/"+w.Value+"\t"+r.Addr.String())
		}
		words = append(words, r.Addr.String()+"\t"+r.Workload.String())
	}
	return beginning(words, begun), cobra.ShellCompDirectiveNoFileComp
}

// completeUnreserved offers the network's pods that have their address from the pool: a
// workload that does not exist yet nobody can offer.
func (c *control) completeUnreserved(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), completionDeadline)
	defer cancel()
	var networks []string // all, as long as none is given
	if len(args) > 0 {
		networks = args[:1]
	}
	rows, err := c.rows(ctx, networks)
	if err != nil && len(rows) == 0 {
		return nil, cobra.ShellCompDirectiveError
	}
	var words []string
	for _, r := range rows {
		if w := r.Workload; w.Kind == ipam.KindPod && !r.Admin {
			words = append(words, w.Namespace+"/"+w.Value+"\t"+r.Addr.String())
		}
	}
	return beginning(words, begun), cobra.ShellCompDirectiveNoFileComp
}

func beginning(words []string, begun string) []string {
	var out []string
	for _, w := range words {
		if strings.HasPrefix(w, begun) {
			out = append(out, w)
		}
	}
	return out
}
