package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
)

const (
	clauseMissing = "CHECK: the plugin should return an error if a resource included in the result (interface, address or route) was created by the plugin, and is listed in prevResult, but is missing or in an invalid state."
	clauseUntold  = "CHECK: the plugin should return an error if other resources not tracked in the result are missing or in an invalid state: firewall rules, IP reservations, etc."
	clauseUnreach = "CHECK: the plugin should return an error if it is aware of a condition where the container is generally unreachable."
	clauseChained = "CHECK: the plugin must allow for a later chained plugin to have modified networking resources, e.g. routes, on ADD."
	clauseAtOnce  = "CHECK: the plugin must handle CHECK being called immediately after an ADD."
	clauseConsult = "CHECK: the plugin must consult the prevResult to determine the expected interfaces and addresses; a runtime must include it."
)

// checkCases are about what CHECK must find. Each attaches a container, sees CHECK pass,
// does one damage, and wants CHECK to fail; DEL must then still leave nothing.
func checkCases() []Case {
	list := []Case{}
	row := func(name, clause string, links bool, damage func(t *trial, a *attachment) error) {
		list = append(list, Case{Name: "CHECK/" + name, Clause: clause, Since: "0.4.0", Links: links, Forgives: true, run: func(t *trial) error {
			a, err := t.attach(home)
			if err != nil {
				return err
			}
			// Else what fails below might fail anyway.
			if err := t.check(a).silent(); err != nil {
				return err
			}
			if err := damage(t, a); err != nil {
				return err
			}
			return t.check(a).refused()
		}})
	}
	inside := func(script string) func(t *trial, a *attachment) error {
		return func(t *trial, a *attachment) error { return t.shellIn(a, script) }
	}
	row("interface-down", clauseMissing, true, inside("ip link set eth0 down"))
	row("interface-gone", clauseMissing, true, inside("ip link del eth0"))
	row("address-removed", clauseMissing, true, inside("ip address flush dev eth0"))
	row("route-removed", clauseMissing, true, func(t *trial, a *attachment) error {
		for _, r := range a.result.Routes {
			if r.Dst.Bits() == 0 {
				return t.shellIn(a, "ip route del default")
			}
		}
		return notApplicable("ADD sets no default route")
	})
	row("netns-gone", clauseMissing, true, func(t *trial, a *attachment) error { return t.vanish(a) })
	row("port-off-bridge", clauseUnreach, true, func(t *trial, a *attachment) error {
		port, err := t.port(a)
		if err != nil {
			return err
		}
		return t.shell("ip link set " + port + " nomaster")
	})
	row("port-down", clauseUnreach, true, func(t *trial, a *attachment) error {
		port, err := t.port(a)
		if err != nil {
			return err
		}
		return t.shell("ip link set " + port + " down")
	})
	row("reservation-gone", clauseUntold, false, (*trial).release)
	list = append(list, Case{
		Name: "CHECK/rules-flushed", Clause: clauseUntold, Since: "0.4.0", Links: true, Spoils: true, run: rulesFlushed,
	})
	return append(list, []Case{
		{
			Name: "CHECK/without-prev-result", Clause: clauseConsult, Since: "0.4.0",
			run: func(t *trial) error {
				a, err := t.attach(home)
				if err != nil {
					return err
				}
				return t.check(a, noKey("prevResult")).refused()
			},
		},
		{
			Name: "CHECK/other-address", Clause: clauseConsult, Since: "0.4.0",
			run: func(t *trial) error {
				a, err := t.attach(home)
				if err != nil {
					return err
				}
				wrong, err := a.changed(func(r map[string]any) error {
					ip, err := first(r, "ips")
					if err != nil {
						return err
					}
					addr := t.neighbours[0].result.IPs[0].Address
					ip["address"] = addr.String()
					return nil
				})
				if err != nil {
					return err
				}
				return t.check(a, key("prevResult", wrong)).refused()
			},
		},
		{
			Name: "CHECK/changes-nothing", Clause: "CHECK is a way for a runtime to probe the status of an existing container.", Since: "0.4.0", Forgives: true,
			run: func(t *trial) error {
				a, err := t.attach(home)
				if err != nil {
					return err
				}
				before, err := t.before()
				if err != nil {
					return err
				}
				if err := errors.Join(t.check(a).silent(), t.same(before, "a CHECK that passed"), t.release(a)); err != nil {
					return err
				}
				if before, err = t.before(); err != nil {
					return err
				}
				return errors.Join(t.check(a).refused(), t.same(before, "a CHECK that failed"))
			},
		},
		{
			Name: "CHECK/never-added", Clause: clauseMissing, Since: "0.4.0",
			run: func(t *trial) error {
				return t.fresh(home, func(a *attachment) error {
					return t.check(a, key("prevResult", t.neighbours[0].prevFor(t.version))).refused()
				})
			},
		},
	}...)
}

// port is the host's end of the attachment: the interface of the result that is on the host
// and on a bridge.
func (t *trial) port(a *attachment) (string, error) {
	for _, ifc := range a.result.Interfaces {
		if ifc.Sandbox != "" {
			continue
		}
		kernel, err := link(t.ctx, t.host, ifc.Name)
		if err != nil {
			return "", err
		}
		if kernel.Master != "" {
			return ifc.Name, nil
		}
	}
	return "", notApplicable("the result names no bridge port")
}

// release lets the IPAM plugin forget the address, behind the plugin's back.
func (t *trial) release(a *attachment) error {
	c, err := t.prepare("DEL", a, noKey("prevResult"))
	if err != nil {
		return err
	}
	var conf struct{ IPAM struct{ Type string } }
	if err := json.Unmarshal([]byte(c.config), &conf); err != nil || conf.IPAM.Type == "" {
		return notApplicable("the configuration has no ipam")
	}
	return execute(t.ctx, t.host, conf.IPAM.Type, c).silent()
}

// rulesFlushed takes every rule away, as a firewall that is reloaded does.
func rulesFlushed(t *trial) error {
	before, err := t.before()
	if err != nil {
		return err
	}
	a, err := t.attach(home)
	if err != nil {
		return err
	}
	after, err := t.before()
	if err != nil {
		return err
	}
	if before.host.Section("nft") == after.host.Section("nft") {
		return notApplicable("ADD adds no firewall rules")
	}
	if err := errors.Join(t.check(a).silent(), t.shell("nft flush ruleset")); err != nil {
		return err
	}
	return t.check(a).refused()
}

// checkPassCases are about what CHECK must let pass.
func checkPassCases() []Case {
	list := []Case{}
	row := func(name, clause string, links bool, f func(t *trial, a *attachment) (json.RawMessage, error)) {
		list = append(list, Case{Name: "CHECK/" + name, Clause: clause, Since: "0.4.0", Links: links, Forgives: true, run: func(t *trial) error {
			a, err := t.attach(home)
			if err != nil {
				return err
			}
			prev, err := f(t, a)
			if err != nil {
				return err
			}
			return t.check(a, key("prevResult", prev)).silent()
		}})
	}
	row("after-add", clauseAtOnce, false, func(_ *trial, a *attachment) (json.RawMessage, error) { return a.prev, nil })
	row("beside-another", clauseAtOnce, true, func(t *trial, a *attachment) (json.RawMessage, error) {
		return a.prev, t.add(t.second(a, "net1"))
	})
	row("mtu-changed", clauseChained, true, func(t *trial, a *attachment) (json.RawMessage, error) {
		prev, err := a.changed(func(r map[string]any) error {
			own, err := a.result.Own(a.ifName, a.c.Path())
			if err != nil {
				return err
			}
			list, _ := r["interfaces"].([]any)
			if ifc, ok := list[own].(map[string]any); ok && ifc["mtu"] != nil {
				ifc["mtu"] = 1400
			}
			return nil
		})
		return prev, errors.Join(err, t.shellIn(a, "ip link set eth0 mtu 1400"))
	})
	row("mac-changed", clauseChained, true, func(t *trial, a *attachment) (json.RawMessage, error) {
		const mac = "02:00:00:00:00:77"
		prev, err := a.changed(func(r map[string]any) error {
			own, err := a.result.Own(a.ifName, a.c.Path())
			if err != nil {
				return err
			}
			list, _ := r["interfaces"].([]any)
			if ifc, ok := list[own].(map[string]any); ok {
				ifc["mac"] = mac
			}
			return nil
		})
		return prev, errors.Join(err, t.shellIn(a, "ip link set eth0 address "+mac))
	})
	row("route-added", clauseChained, true, func(t *trial, a *attachment) (json.RawMessage, error) {
		prev, err := a.changed(func(r map[string]any) error {
			list, _ := r["routes"].([]any)
			r["routes"] = append(list, map[string]any{"dst": "198.51.100.0/24"})
			return nil
		})
		return prev, errors.Join(err, t.shellIn(a, "ip route add 198.51.100.0/24 dev eth0"))
	})
	row("routes-taken", clauseChained, true, func(t *trial, a *attachment) (json.RawMessage, error) {
		// As sbr does, which moves them to a table of its own.
		prev, err := a.changed(func(r map[string]any) error { delete(r, "routes"); return nil })
		return prev, errors.Join(err, t.shellIn(a, "ip route del default 2>/dev/null || :"))
	})
	row("interface-added", clauseChained, true, func(t *trial, a *attachment) (json.RawMessage, error) {
		prev, err := a.changed(func(r map[string]any) error {
			list, _ := r["interfaces"].([]any)
			ips, _ := r["ips"].([]any)
			ip := map[string]any{"address": "192.0.2.9/24", "interface": len(list)}
			if !atLeast(t.version, "1.0.0") {
				ip["version"] = "4"
			}
			r["interfaces"] = append(list, map[string]any{"name": "later0", "mac": "02:00:00:00:00:09", "sandbox": a.c.Path()})
			r["ips"] = append(ips, ip)
			return nil
		})
		return prev, errors.Join(err, t.shellIn(a,
			"ip link add later0 address 02:00:00:00:00:09 type veth peer name later1 && ip address add 192.0.2.9/24 dev later0 && ip link set later0 up"))
	})
	row("port-joined", "CHECK looks at what is the attachment's, whoever comes or goes after it.", true, func(t *trial, a *attachment) (json.RawMessage, error) {
		b, err := t.attach(home)
		if err != nil {
			return nil, err
		}
		return a.prev, t.del(b).silent()
	})
	return list
}

// changed returns the attachment's result with a change that a later plugin made.
func (a *attachment) changed(f func(map[string]any) error) (json.RawMessage, error) {
	var r map[string]any
	if err := json.Unmarshal(a.prev, &r); err != nil {
		return nil, err
	}
	if err := f(r); err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

func first(r map[string]any, list string) (map[string]any, error) {
	l, _ := r[list].([]any)
	if len(l) > 0 {
		if o, ok := l[0].(map[string]any); ok {
			return o, nil
		}
	}
	return nil, fmt.Errorf("the result has no %s", list)
}
