package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/flatdhcp/flatdhcp/e2e/conformance/reply"
)

const (
	clauseResult = "ADD: it must output a result structure on standard out, of the version supplied on input: all interfaces created, IPs assigned, routes created."
	clauseTaken  = "ADD: if an interface of the requested name already exists in the container, the CNI plugin MUST return with an error."
	clauseDelAll = "A delete must still be executed even if the add fails; if a delegated plugin fails, the upper plugin should execute it again with DEL before returning failure."
	clauseNetNS  = "ADD: create the interface defined by CNI_IFNAME inside the container at CNI_NETNS, a path to the network namespace."
	clausePrev   = "ADD: if the plugin was supplied a prevResult, it MUST handle it by either passing it through, or modifying it appropriately."
)

// addCases are about ADD.
func addCases() []Case {
	return []Case{
		{
			Name: "ADD/result", Clause: clauseResult,
			run: func(t *trial) error {
				_, err := t.attach(home)
				return err
			},
		},
		{
			Name: "ADD/names-mtu", Clause: "Result: mtu (uint): the MTU of the interface (if applicable).", Since: "1.1.0", Links: true,
			run: func(t *trial) error {
				a, err := t.attach(home)
				if err != nil {
					return err
				}
				own, err := a.result.Own(a.ifName, a.c.Path())
				if err == nil && a.result.Interfaces[own].MTU == nil {
					err = errors.New("the result does not tell the MTU of the container's interface")
				}
				return err
			},
		},
		{
			Name: "ADD/frames-pass", Clause: "Interface plugins create a network interface inside the container and ensure it has connectivity.", Links: true,
			run: func(t *trial) error {
				a, err := t.attach(home)
				if err != nil {
					return err
				}
				return errors.Join(t.reaches(a, t.neighbours[0]), t.reaches(t.neighbours[0], a))
			},
		},
		{
			Name: "ADD/two-interfaces", Clause: "A given container ID may be added to a specific network more than once if each addition is done with a different interface name.",
			run: twoInterfaces,
		},
		{
			Name: "ADD/in-parallel", Clause: "The runtime is allowed to invoke parallel operations for different containers.", Spoils: true,
			run: inParallel,
		},
		{
			Name: "ADD/interface-taken", Clause: clauseTaken, Links: true,
			run: func(t *trial) error {
				a := t.unmade(home)
				if err := t.shellIn(a, "ip link add eth0 type veth peer name taken0"); err != nil {
					return err
				}
				before, err := t.before()
				if err != nil {
					return err
				}
				return errors.Join(t.do("ADD", a).refused(), t.same(before, "the refused ADD"), t.shellIn(a, "ip link del eth0"), t.retry(a))
			},
		},
		{
			Name: "ADD/again", Clause: clauseTaken, Links: true,
			run: func(t *trial) error {
				a, err := t.attach(home)
				if err != nil {
					return err
				}
				before, err := t.before()
				if err != nil {
					return err
				}
				return errors.Join(t.do("ADD", a).refused(), t.same(before, "the refused ADD"), t.verify(a))
			},
		},
		{
			Name: "ADD/netns-missing", Clause: clauseNetNS, Links: true, Quiet: true,
			run: func(t *trial) error {
				return t.fresh(home, func(a *attachment) error {
					return t.do("ADD", a, with("CNI_NETNS", "/run/netns/no-such")).refused()
				})
			},
		},
		{
			Name: "ADD/netns-is-none", Clause: clauseNetNS, Links: true, Quiet: true,
			run: func(t *trial) error {
				return t.fresh(home, func(a *attachment) error {
					return t.do("ADD", a, with("CNI_NETNS", "/etc/hostname")).refused()
				})
			},
		},
		{
			Name: "ADD/own-netns", Clause: "The runtime must create a new network namespace for the container before invoking any plugins; libcni's skeleton refuses the plugin's own.",
			run: func(t *trial) error {
				return t.fresh(home, func(a *attachment) error {
					return t.do("ADD", a, with("CNI_NETNS", t.host.NetNS())).refused()
				})
			},
		},
		{
			Name: "ADD/ipam-missing", Clause: clauseDelAll,
			run: func(t *trial) error {
				a := t.unmade(home)
				return errors.Join(t.do("ADD", a, missingIPAM).refused(), t.same(t.base, "the failed ADD"), t.retry(a))
			},
		},
		{Name: "ADD/pool-exhausted", Clause: clauseDelAll, Spoils: true, run: poolExhausted},
		{
			Name: "ADD/rule-programs-fail", Clause: clauseDelAll, Links: true,
			run: func(t *trial) error {
				return ruleProgramsFail(t, func(a *attachment) error {
					return errors.Join(t.same(t.base, "the failed ADD"), t.retry(a))
				})
			},
		},
		{
			Name: "ADD/rule-programs-fail-then-del", Clause: clauseDelAll, Links: true,
			run: func(t *trial) error {
				return ruleProgramsFail(t, func(a *attachment) error {
					return errors.Join(t.del(a).silent(), t.same(t.base, "the failed ADD and its DEL"), t.retry(a))
				})
			},
		},
		{Name: "ADD/bridge-name-taken", Clause: clauseDelAll, Links: true, Spoils: true, run: bridgeNameTaken},
		{
			Name: "ADD/wrong-type", Clause: "7: invalid network config.", Quiet: true,
			run: func(t *trial) error {
				return t.fresh(home, func(a *attachment) error { return t.do("ADD", a, key("ipam", 7)).refused() })
			},
		},
		{
			Name: "ADD/reserved-keys", Clause: "runtimeConfig, args and keys starting with cni.dev/ are used by the protocol.",
			run: func(t *trial) error {
				a, err := t.container(home)
				if err != nil {
					return err
				}
				return t.add(a, key("args", map[string]any{"cni": map[string]any{}, "org.example": 1}), key("runtimeConfig", map[string]any{"org.example": true}),
					key("capabilities", map[string]any{"portMappings": true}), key("cni.dev/future", 1))
			},
		},
		{
			Name: "ADD/cni-args", Clause: "CNI_ARGS: extra arguments passed in by the user. IgnoreUnknown=1 is every Kubernetes runtime's.",
			run: func(t *trial) error {
				a, err := t.container(home)
				if err != nil {
					return err
				}
				return t.add(a, with("CNI_ARGS", "IgnoreUnknown=1;ORG_EXAMPLE=1;K8S_POD_INFRA_CONTAINER_ID="+a.id))
			},
		},
		{
			Name: "ADD/no-cni-path", Clause: "ADD: optional environment parameters: CNI_ARGS, CNI_PATH.",
			run: func(t *trial) error {
				a, err := t.container(home)
				if err != nil {
					return err
				}
				return t.add(a, without("CNI_PATH"))
			},
		},
		{Name: "ADD/prev-result", Clause: clausePrev, Links: true, run: prevResult},
	}
}

func twoInterfaces(t *trial) error {
	a, err := t.attach(home)
	if err != nil {
		return err
	}
	before, err := t.before()
	if err != nil {
		return err
	}
	b := t.second(a, "net1")
	if err := t.add(b); err != nil {
		return err
	}
	if a.result.IPs[0].Address == b.result.IPs[0].Address {
		return fmt.Errorf("both interfaces were given %s", b.result.IPs[0].Address)
	}
	return errors.Join(t.verify(a), t.del(b).silent(), t.same(before, "the second interface, added and deleted,"), t.verify(a))
}

// inParallel adds to a network that is new: whatever is made for all must be made once.
func inParallel(t *trial) error {
	if err := t.needs(cold); err != nil {
		return err
	}
	const number = 4
	list, errs := make([]*attachment, number), make([]error, number)
	for i := range list {
		a, err := t.container(cold)
		if err != nil {
			return err
		}
		list[i] = a
	}
	var wg sync.WaitGroup
	for i, a := range list {
		wg.Go(func() { errs[i] = t.addOnly(a) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	given := map[string]bool{}
	for i, a := range list {
		errs[i] = t.verifyOwn(a)
		addr := a.result.IPs[0].Address.String()
		if given[addr] {
			return fmt.Errorf("%s was given twice", addr)
		}
		given[addr] = true
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i, a := range list {
		wg.Go(func() { errs[i] = t.del(a).silent() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func poolExhausted(t *trial) error {
	if err := t.needs(small); err != nil {
		return err
	}
	if _, err := t.attach(small); err != nil {
		return err
	}
	return t.freshNow(small, func(a *attachment) error { return t.do("ADD", a).refused() })
}

// The programs that set firewall rules cannot be executed while they are covered. A bind
// mount hides them from every search path.
const (
	coverPrograms = `for p in iptables iptables-restore iptables-save ip6tables nft; do
		f=$(readlink -f "$(command -v $p)") && [ -x "$f" ] && mount --bind /dev/null "$f" || :; done`
	uncoverPrograms = `for p in iptables iptables-restore iptables-save ip6tables nft; do
		f=$(readlink -f "$(command -v $p || echo /usr/sbin/$p)"); while umount "$f" 2>/dev/null; do :; done; done`
)

// ruleProgramsFail makes an ADD fail late, when interface and address are there already;
// then is done when the programs run again.
func ruleProgramsFail(t *trial, then func(a *attachment) error) error {
	a := t.unmade(home)
	if err := t.shell(coverPrograms); err != nil {
		return err
	}
	o := t.do("ADD", a)
	if err := t.shell(uncoverPrograms); err != nil {
		return err
	}
	if o.err == nil {
		t.own = append(t.own, a)
		return notApplicable("ADD runs none of iptables, ip6tables and nft")
	}
	return errors.Join(o.refused(), then(a))
}

// retry adds what could not be added before.
func (t *trial) retry(a *attachment) error {
	t.own = append(t.own, a)
	return t.add(a)
}

// bridgeNameTaken has an interface in the bridge's place that is none.
func bridgeNameTaken(t *trial) error {
	if err := t.needs(cold); err != nil {
		return err
	}
	text, err := t.target.Config(cold)
	if err != nil {
		return err
	}
	var conf struct{ Bridge string }
	if err := json.Unmarshal([]byte(text), &conf); err != nil || conf.Bridge == "" {
		return notApplicable("the configuration names no bridge")
	}
	// Once used, the network has left what it leaves behind for good.
	a, err := t.attach(cold)
	if err != nil {
		return err
	}
	if err := errors.Join(t.del(a).silent(), t.shell("ip link del "+conf.Bridge+" 2>/dev/null || :")); err != nil {
		return err
	}
	if err := t.shell("ip link add " + conf.Bridge + " type veth peer name taken0"); err != nil {
		return err
	}
	return errors.Join(
		t.freshNow(cold, func(a *attachment) error { return t.do("ADD", a).refused() }),
		t.shell("ip link del "+conf.Bridge), t.retry(t.unmade(cold)))
}

// prevResult gives ADD the result of a plugin before it in the chain.
func prevResult(t *trial) error {
	a, err := t.container(home)
	if err != nil {
		return err
	}
	ip := map[string]any{"address": "192.0.2.9/24", "interface": 0}
	if !atLeast(t.version, "1.0.0") {
		ip["version"] = "4"
	}
	prev := map[string]any{
		"cniVersion": t.version,
		"interfaces": []any{map[string]any{"name": "before0", "mac": "02:00:00:00:00:09", "sandbox": a.c.Path()}},
		"ips":        []any{ip},
	}
	// The interface exists, as the plugin before would have made it.
	if err := t.shellIn(a, "ip link add before0 address 02:00:00:00:00:09 type veth peer name before1 && ip address add 192.0.2.9/24 dev before0 && ip link set before0 up"); err != nil {
		return err
	}
	o := t.do("ADD", a, key("prevResult", prev))
	if err := o.succeeded(); err != nil {
		return err
	}
	r, err := reply.ParseResult(o.stdout, t.version, t.target.IPAM)
	if err != nil {
		return o.errorf("succeeded, but its result is not right: %w", err)
	}
	at, err := r.Own("before0", a.c.Path())
	if err != nil {
		return o.errorf("dropped the previous result: %w", err)
	}
	for _, ip := range r.IPs {
		if ip.Address.String() == "192.0.2.9/24" && *ip.Interface == at {
			return nil
		}
	}
	return o.errorf("dropped the previous result's address, or gave it another interface")
}
