package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/spf13/cobra"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/conf"
)

// configInfo is what `flatctl config validate -o json` prints of one file. Nothing but
// file, valid, error and empty notices is there unless it is valid.
type configInfo struct {
	File       string       `json:"file"`
	Valid      bool         `json:"valid"`
	Error      *configError `json:"error,omitempty"`
	Name       string       `json:"name,omitempty"`
	CNIVersion string       `json:"cniVersion,omitempty"`
	Plugins    []string     `json:"plugins,omitempty"` // types, in the order of the file
	DataDir    string       `json:"dataDir,omitempty"`
	Pool       *ipam.Pool   `json:"pool,omitempty"`
	Bridge     *ipam.Bridge `json:"bridge,omitempty"` // absent if flat-ipam works under another plugin
	Notices    []string     `json:"notices"`          // keys that are accepted without effect
}

// configError is a CNI error as a plugin would print it; code 0: the file was not read.
type configError struct {
	Code    uint   `json:"code"`
	Message string `json:"msg"`
}

func (c *control) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Validate a configuration",
		Args:  cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{"a command is wanted: flatctl config validate FILE..."}
			}
			return usageError{fmt.Sprintf("unknown command %q: flatctl config validate FILE... is the one there is", args[0])}
		},
	}
	cmd.AddCommand(c.validateCommand())
	return cmd
}

func (c *control) validateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE...",
		Short: "Say whether files would be accepted, and what they mean with defaults filled in",
		Long: `Read conflists (or one plugin's configuration each; - is standard input) as apply does,
and print what is in force with them: every key with its effective value, and a notice
for each key that is accepted without effect.

Nothing is touched: no store is opened and the kernel is not asked, so that it needs no
root and works on any machine. What only the node can tell (another network with the
same bridge, reservations that a change would strand) is apply's to refuse.

Every file is read; exit code 1 says that one of them is not valid.`,
		Example: `  flatctl config validate /etc/cni/net.d/10-flat.conflist
  flatctl config validate -o json - <10-flat.conflist`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{"FILE is missing"}
			}
			if i := slices.Index(args, "-"); i >= 0 && slices.Contains(args[i+1:], "-") {
				return usageError{"standard input (-) can be read once"}
			}
			return nil
		},
		ValidArgsFunction: completeConflists,
		RunE:              action(func(_ context.Context, args []string) error { return c.validate(args) }),
	}
}

func (c *control) validate(files []string) error {
	infos := []configInfo{}
	var errs []error
	for _, file := range files {
		info, err := c.configInfo(file)
		if err != nil {
			errs = append(errs, err)
		}
		infos = append(infos, info)
		if c.output == "table" && err == nil {
			errs = append(errs, c.showConfig(info))
		}
	}
	if c.output == "json" {
		errs = append(errs, c.showJSON(infos))
	}
	return errors.Join(errs...)
}

func (c *control) configInfo(file string) (configInfo, error) {
	refused := func(code uint, err error) (configInfo, error) {
		return configInfo{File: file, Error: &configError{code, err.Error()}, Notices: []string{}}, fmt.Errorf("%s: %w", file, err)
	}
	text, err := c.read(file)
	if err != nil {
		return refused(0, fmt.Errorf("reading the configuration: %w", err))
	}
	cfg, err := conf.ParseList(text)
	if err != nil {
		var code uint
		if e := (*types.Error)(nil); errors.As(err, &e) {
			code = e.Code
		}
		return refused(code, err)
	}
	return configInfo{
		File: file, Valid: true, Name: cfg.Name, CNIVersion: cfg.CNIVersion, Plugins: cfg.Chain,
		DataDir: cfg.DataDir, Pool: &cfg.Network.Pool, Bridge: cfg.Network.Bridge, Notices: append([]string{}, cfg.Notices...),
	}, nil
}

// showConfig prints a valid file for people.
func (c *control) showConfig(i configInfo) error {
	if err := c.sayf("%s: network %s is valid (cniVersion %s, plugins: %s)", i.File, i.Name, i.CNIVersion, strings.Join(i.Plugins, ", ")); err != nil {
		return err
	}
	for _, notice := range i.Notices {
		if err := c.sayf("  notice: %s", notice); err != nil {
			return err
		}
	}
	rows := [][]string{{"  ipam.dataDir", i.DataDir}}
	rows = append(rows, effective(*i.Pool, "ipam.")...)
	if i.Bridge != nil {
		rows = append(rows, effective(*i.Bridge, "")...)
	}
	slices.SortFunc(rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	return c.show(nil, []string{"  KEY", "VALUE"}, rows, "")
}

// effective lists every key of a part of the record under the name that it has in a
// conflist, those too that JSON would leave out because they are off; "" is a key that is
// not given and has no default.
func effective(part any, prefix string) [][]string {
	var rows [][]string
	v := reflect.ValueOf(part)
	for i := range v.NumField() {
		key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		switch {
		case key == "name":
			key = "bridge"
		case key != "macPrefix": // a pool has it, flat-bridge reads it
			key = prefix + key
		}
		value := ""
		if f := v.Field(i); !f.IsZero() || f.Kind() == reflect.Bool {
			value = plain(f.Interface())
		}
		rows = append(rows, []string{"  " + key, value})
	}
	return rows
}

// plain is a value as a person reads it: JSON, and text without its quotes.
func plain(value any) string {
	raw, err := json.Marshal(value)
	if err != nil {
		return err.Error() // of a record that was just read: cannot be
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}

// completeConflists offers the files that may hold a configuration.
func completeConflists(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"conflist", "conf", "json"}, cobra.ShellCompDirectiveFilterFileExt
}
