package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/conformance/reply"
	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// trial is one case in one version, on a stage that is its own meanwhile.
type trial struct {
	ctx context.Context
	*stage
	target  Target
	version string
	known   bool // to fail
	quiet   bool // nothing may be done, and the host is looked at later
	asWas   bool // the host was seen to be as before the case
	own     []*attachment
}

// attachment is a container's interface on a network, or what is to become one.
type attachment struct {
	net    Network
	id     string // CNI_CONTAINERID
	c      *lab.Container
	ifName string

	prev   json.RawMessage // the result, as printed
	result reply.Result
	gone   bool // the container's namespace does not exist any more
}

// needs is notApplicable if the target's configuration cannot make the network.
func (t *trial) needs(n Network) error {
	theirs, err := t.target.Config(n)
	if err != nil {
		return err
	}
	ours, err := t.target.Config(home)
	if err == nil && ours == theirs {
		return notApplicable("the configuration does not tell networks apart ({{.N}})")
	}
	if n.OneAddress {
		n.OneAddress = false
		plain, err := t.target.Config(n)
		if err == nil && plain == theirs {
			return notApplicable("the configuration does not know {{.OneAddress}}")
		}
	}
	return err
}

// container makes a container that is to join the network; nothing is called.
func (t *trial) container(n Network) (*attachment, error) {
	a := t.unmade(n)
	var err error
	if a.c, err = t.host.Container(t.ctx, fmt.Sprintf("c%d", t.made)); err != nil {
		return nil, err
	}
	t.own = append(t.own, a)
	return a, nil
}

// unmade is an attachment to be, in the idle container.
func (t *trial) unmade(n Network) *attachment {
	t.made++
	return &attachment{net: n, id: fmt.Sprintf("%s-c%d", t.host.Name(), t.made), c: t.idle, ifName: "eth0"}
}

// second is another interface for the container of a.
func (t *trial) second(a *attachment, ifName string) *attachment {
	b := &attachment{net: a.net, id: a.id, c: a.c, ifName: ifName}
	t.own = append(t.own, b)
	return b
}

// attach makes a container and adds it.
func (t *trial) attach(n Network) (*attachment, error) {
	a, err := t.container(n)
	if err != nil {
		return nil, err
	}
	return a, t.add(a)
}

// prepare makes the call that a good runtime makes.
func (t *trial) prepare(verb string, a *attachment, edits ...edit) (call, error) {
	c := call{env: map[string]string{"CNI_COMMAND": verb}}
	if verb != "VERSION" {
		c.env["CNI_PATH"] = "/opt/cni/bin"
	}
	var err error
	if c.config, err = t.target.Config(a.net); err != nil {
		return c, err
	}
	standard := []edit{key("cniVersion", t.version), key("name", a.net.name())}
	switch verb {
	case "ADD", "DEL", "CHECK":
		c.env["CNI_CONTAINERID"], c.env["CNI_NETNS"], c.env["CNI_IFNAME"] = a.id, a.c.Path(), a.ifName
		// DEL has it from 0.4.0 on.
		if verb != "ADD" && a.prev != nil && atLeast(t.version, "0.4.0") {
			standard = append(standard, key("prevResult", a.prev))
		}
	}
	for _, e := range append(standard, edits...) {
		if err := e(&c); err != nil {
			return c, err
		}
	}
	return c, nil
}

// do executes the plugin.
func (t *trial) do(verb string, a *attachment, edits ...edit) outcome {
	c, err := t.prepare(verb, a, edits...)
	if err != nil {
		return outcome{what: "preparing " + verb, err: err}
	}
	return execute(t.ctx, t.host, t.target.Plugin, c)
}

func (t *trial) del(a *attachment, edits ...edit) outcome   { return t.do("DEL", a, edits...) }
func (t *trial) check(a *attachment, edits ...edit) outcome { return t.do("CHECK", a, edits...) }

// add attaches, and holds the result against the kernel's word.
func (t *trial) add(a *attachment, edits ...edit) error {
	if err := t.addOnly(a, edits...); err != nil {
		return err
	}
	return t.verify(a)
}

// addOnly attaches, and reads the result alone.
func (t *trial) addOnly(a *attachment, edits ...edit) error {
	o := t.do("ADD", a, edits...)
	if err := o.succeeded(); err != nil {
		return err
	}
	var err error
	if a.result, err = reply.ParseResult(o.stdout, t.version, t.target.IPAM); err != nil {
		return o.errorf("succeeded, but its result is not right: %w", err)
	}
	a.prev = json.RawMessage(o.stdout)
	return nil
}

// shell runs a script on the host, which must succeed.
func (t *trial) shell(script string) error {
	_, stderr, err := t.host.Run(t.ctx, "sh", "-c", script)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, stderr)
	}
	return nil
}

// shellIn runs a script in a container.
func (t *trial) shellIn(a *attachment, script string) error {
	_, stderr, err := a.c.Run(t.ctx, "sh", "-c", script)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, stderr)
	}
	return nil
}

// endLinks removes all links; with one end of a pair that is inside both are gone.
const endLinks = `for link in $(ip -brief link show | sed 's/[@ ].*//'); do
	[ "$link" = lo ] || ip link del "$link" 2>/dev/null || ! ip link show "$link" 2>/dev/null || exit 1
done`

// vanish ends the container's namespace. Its links go first, because the kernel ends a
// namespace some time later, and with it the other ends of its pairs.
func (t *trial) vanish(a *attachment) error {
	if a.gone || a.c == t.idle {
		return nil
	}
	for _, b := range t.own {
		b.gone = b.gone || b.c == a.c
	}
	a.gone = true
	return errors.Join(
		t.shellIn(a, endLinks),
		a.c.Delete(t.ctx))
}

// before is the stage as it is now, with what the case has made so far.
func (t *trial) before() (snapshot, error) { return t.settled(t.ctx) }

// same is an error unless the host is as it was, at once or within a moment: some of what
// the kernel does, it does after the call.
func (t *trial) same(before snapshot, what string) error {
	grace := 5 * time.Second
	if t.known {
		grace = 0 // it is expected to differ
	}
	var drop func(string) bool
	if t.target.Memory != nil {
		drop = t.target.Memory.MatchString
	}
	for end, wait := time.Now().Add(grace), 20*time.Millisecond; ; wait *= 2 {
		now, err := t.look(t.ctx)
		if err != nil {
			return err
		}
		diff := before.diff(now, drop)
		if diff == "" {
			return nil
		}
		if !time.Now().Before(end) {
			return fmt.Errorf("%s left a difference:\n%s", what, diff)
		}
		time.Sleep(wait)
	}
}

// fresh lets f call the plugin for the idle container; what f attaches it must detach. It
// is an error if that changes anything, on the host or inside.
func (t *trial) fresh(n Network, f func(a *attachment) error) error {
	err := f(t.unmade(n))
	if t.quiet {
		return err
	}
	left := t.same(t.base, "the call")
	t.asWas = left == nil
	return errors.Join(err, left)
}

// freshNow is fresh for a host that is not as it was before the case.
func (t *trial) freshNow(n Network, f func(a *attachment) error) error {
	before, err := t.before()
	if err != nil {
		return err
	}
	return errors.Join(f(t.unmade(n)), t.same(before, "the call"))
}

// end takes away what the case made, as a runtime does, and compares the host with what it
// was before the case.
func (t *trial) end() error {
	var errs []error
	for _, a := range t.own {
		if err := t.del(a).silent(); err != nil {
			errs = append(errs, fmt.Errorf("clearing up: %w", err))
		}
		if err := t.vanish(a); err != nil {
			errs = append(errs, fmt.Errorf("clearing up: %w", err))
		}
	}
	if !t.asWas || len(t.own) > 0 {
		errs = append(errs, t.same(t.base, "the case, all its containers deleted,"))
	}
	return errors.Join(errs...)
}
