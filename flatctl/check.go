package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// defectInfo is an element of `flatctl check -o json`.
type defectInfo struct {
	File  string `json:"file"`
	Where string `json:"where"` // bucket and key
	What  string `json:"what"`
}

func (c *control) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [NETWORK...]",
		Short: "Check the stores: every invariant of every row",
		Long: `Check the stores of the named networks, or of all with what holds between them (no
MAC, subnet or bridge twice). Nothing is changed. Exit code 3 says that defects were found.`,
		Example: `  flatctl check
  flatctl check flat -o json`,
		ValidArgsFunction: c.completeNetworks,
		RunE:              action(c.check),
	}
}

func (c *control) check(ctx context.Context, names []string) error {
	var defects []ipam.Defect
	if len(names) == 0 {
		found, err := c.stores().Check(ctx)
		if err != nil {
			return fmt.Errorf("checking the stores in %s: %w", c.dataDir, err)
		}
		defects = found
	}
	for _, name := range names {
		if err := c.known(ctx, name); err != nil {
			return err
		}
		found, err := c.stores().Store(name).Check(ctx)
		if errors.Is(err, ipam.ErrDamaged) {
			// As in a check of all: what cannot be read is the defect.
			found, err = []ipam.Defect{{File: filepath.Join(c.dataDir, name+".db"), Where: "file", What: err.Error()}}, nil
		}
		if err != nil {
			return err
		}
		defects = append(defects, found...)
	}
	infos := []defectInfo{}
	for _, d := range defects {
		infos = append(infos, defectInfo(d))
	}
	if c.output == "json" {
		if err := c.showJSON(infos); err != nil {
			return err
		}
	}
	for _, d := range defects {
		if err := c.sayf("%s", d); err != nil {
			return err
		}
	}
	if len(defects) > 0 {
		return defectsError{len(defects)}
	}
	return c.sayf("no defects")
}
