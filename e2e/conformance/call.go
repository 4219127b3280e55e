package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"

	"github.com/flatdhcp/flatdhcp/e2e/conformance/reply"
	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// call is one execution of a plugin: its whole environment but for PATH, and its input.
type call struct {
	env    map[string]string
	config string
}

// edit changes a call that is otherwise as a good runtime makes it.
type edit func(*call) error

// without leaves a variable unset.
func without(variable string) edit {
	return func(c *call) error { delete(c.env, variable); return nil }
}

// with sets a variable.
func with(variable, value string) edit {
	return func(c *call) error { c.env[variable] = value; return nil }
}

// input replaces what the plugin reads.
func input(text string) edit {
	return func(c *call) error { c.config = text; return nil }
}

// key sets a key of the configuration; nil becomes null.
func key(name string, value any) edit {
	return change(func(o map[string]any) { o[name] = value })
}

// noKey takes a key out of the configuration.
func noKey(name string) edit {
	return change(func(o map[string]any) { delete(o, name) })
}

// missingIPAM names an IPAM plugin that does not exist.
func missingIPAM(c *call) error {
	var err error
	fix := change(func(o map[string]any) {
		ipam, ok := o["ipam"].(map[string]any)
		if !ok {
			err = notApplicable("the configuration has no ipam")
			return
		}
		ipam["type"] = "no-such-ipam"
	})
	return errors.Join(fix(c), err)
}

func change(f func(map[string]any)) edit {
	return func(c *call) error {
		var o map[string]any
		if err := json.Unmarshal([]byte(c.config), &o); err != nil {
			return fmt.Errorf("changing the configuration: %w", err)
		}
		f(o)
		b, err := json.Marshal(o)
		c.config = string(b)
		return err
	}
}

// outcome is what came of a call.
type outcome struct {
	what           string // the call, for messages
	stdout, stderr string
	err            error // of exec: nil for status 0
}

// execute runs the plugin on the host.
func execute(ctx context.Context, h *lab.Host, plugin string, c call) outcome {
	cmd := h.Command(ctx, "/opt/cni/bin/"+plugin)
	// What a call leaves out is unset, not empty.
	cmd.Env = slices.DeleteFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, "CNI_") })
	for _, name := range slices.Sorted(maps.Keys(c.env)) {
		cmd.Env = append(cmd.Env, name+"="+c.env[name])
	}
	cmd.Stdin = strings.NewReader(c.config)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	return outcome{what: c.env["CNI_COMMAND"] + " of " + plugin, stdout: stdout.String(), stderr: stderr.String(), err: err}
}

func (o outcome) errorf(format string, args ...any) error {
	return fmt.Errorf("%s: %w\nstdout: %s\nstderr: %s", o.what, fmt.Errorf(format, args...), o.stdout, o.stderr)
}

// succeeded is an error unless the plugin ended with status 0.
func (o outcome) succeeded() error {
	if o.err != nil {
		return o.errorf("failed: %w", o.err)
	}
	return nil
}

// silent is an error unless it succeeded and printed nothing on stdout: every verb but
// ADD and VERSION.
func (o outcome) silent() error {
	if err := o.succeeded(); err != nil {
		return err
	}
	if o.stdout != "" {
		return o.errorf("succeeded, but printed on stdout")
	}
	return nil
}

// refused is an error unless the plugin failed as the specification says a plugin fails:
// a status that is not 0 and one error object on stdout, with one of the codes if any are
// given.
func (o outcome) refused(codes ...int) error {
	_, err := o.failure(codes...)
	return err
}

func (o outcome) failure(codes ...int) (reply.Failure, error) {
	var exit *exec.ExitError
	if o.err == nil {
		return reply.Failure{}, o.errorf("succeeded, and should have failed")
	}
	if !errors.As(o.err, &exit) || !exit.Exited() {
		return reply.Failure{}, o.errorf("ended by other means than its status: %w", o.err)
	}
	f, err := reply.ParseFailure(o.stdout)
	if err != nil {
		return f, o.errorf("failed, but not in the form of an error object: %w", err)
	}
	if len(codes) > 0 && !slices.Contains(codes, f.Code) {
		return f, o.errorf("failed with code %d, want one of %v", f.Code, codes)
	}
	return f, nil
}

// refusedNaming is refused, and the message must contain text.
func (o outcome) refusedNaming(text string, codes ...int) error {
	f, err := o.failure(codes...)
	if err == nil && !strings.Contains(f.Msg, text) {
		return o.errorf("the error's msg does not name %s", text)
	}
	return err
}
