package conformance

import (
	"encoding/json"
	"errors"
)

const (
	clauseTwice  = "Plugins MUST accept multiple DEL calls for the same (CNI_CONTAINERID, CNI_IFNAME) pair, and return success if the interface in question, or any modifications added, are missing."
	clauseBest   = "DEL: plugins should always complete a DEL action without error to the fullest extent possible, even if some resources or state are missing."
	clauseNoNS   = "DEL: CNI_NETNS is optional; a bridge plugin should clean up its own resources even if the container network namespace and/or interface no longer exist."
	clauseNoPrev = "Plugins should still return without error if prevResult is empty for a DEL command."
	clauseTuple  = "An attachment may be uniquely identified by the (CNI_CONTAINERID, CNI_IFNAME) tuple, within its network."
)

// delCases are about DEL. Each begins with an attachment; unless it says otherwise, nothing
// may be left when it ends.
func delCases() []Case {
	list := []Case{}
	row := func(name, clause, since string, f func(t *trial, a *attachment) error) {
		list = append(list, Case{Name: "DEL/" + name, Clause: clause, Since: since, run: func(t *trial) error { return t.attachedOver(f) }})
	}
	row("after-add", "DEL: delete the interface defined by CNI_IFNAME inside the container, undo any modifications applied in ADD.", "",
		func(t *trial, a *attachment) error { return t.del(a).silent() })
	row("three-times", clauseTwice, "", func(t *trial, a *attachment) error {
		return errors.Join(t.del(a).silent(), t.del(a).silent(), t.del(a, without("CNI_NETNS")).silent())
	})
	row("without-netns", clauseNoNS, "", func(t *trial, a *attachment) error { return t.del(a, without("CNI_NETNS")).silent() })
	row("empty-netns", clauseNoNS, "", func(t *trial, a *attachment) error { return t.del(a, with("CNI_NETNS", "")).silent() })
	row("without-prev-result", clauseNoPrev, "0.4.0", func(t *trial, a *attachment) error { return t.del(a, noKey("prevResult")).silent() })
	row("null-prev-result", clauseNoPrev, "0.4.0", func(t *trial, a *attachment) error { return t.del(a, key("prevResult", nil)).silent() })
	row("corrupt-prev-result", clauseBest+" A cache that was cut off is libcni's habit.", "0.4.0", func(t *trial, a *attachment) error {
		return t.del(a, key("prevResult", map[string]any{"cniVersion": t.version, "ips": []any{map[string]any{"address": "10.", "interface": 9}}})).silent()
	})
	row("neighbours-prev-result", clauseTuple, "0.4.0", func(t *trial, a *attachment) error {
		return t.del(a, key("prevResult", t.neighbours[0].prevFor(t.version))).silent()
	})
	row("only-ids", clauseNoNS+" "+clauseNoPrev, "", func(t *trial, a *attachment) error {
		return t.del(a, without("CNI_NETNS"), noKey("prevResult")).silent()
	})
	return append(list, []Case{
		{
			Name: "DEL/netns-vanished", Clause: clauseNoNS,
			run: func(t *trial) error {
				return t.vanishedOver(func(a *attachment) error { return errors.Join(t.del(a).silent(), t.del(a).silent()) })
			},
		},
		{
			Name: "DEL/netns-vanished-and-empty", Clause: clauseNoNS,
			run: func(t *trial) error {
				return t.vanishedOver(func(a *attachment) error { return t.del(a, without("CNI_NETNS"), noKey("prevResult")).silent() })
			},
		},
		{
			Name: "DEL/interface-gone", Clause: clauseBest, Links: true,
			run: func(t *trial) error {
				return t.attachedOver(func(t *trial, a *attachment) error {
					return errors.Join(t.shellIn(a, "ip link del eth0"), t.del(a).silent())
				})
			},
		},
		{
			Name: "DEL/address-gone", Clause: clauseBest, Links: true,
			run: func(t *trial) error {
				return t.attachedOver(func(t *trial, a *attachment) error {
					return errors.Join(t.shellIn(a, "ip address flush dev eth0"), t.del(a).silent())
				})
			},
		},
		{
			Name: "DEL/reservation-gone", Clause: clauseBest,
			run: func(t *trial) error {
				return t.attachedOver(func(t *trial, a *attachment) error { return errors.Join(t.release(a), t.del(a).silent()) })
			},
		},
		{
			Name: "DEL/never-added", Clause: clauseBest,
			run: func(t *trial) error {
				return t.fresh(home, func(a *attachment) error {
					return errors.Join(t.del(a).silent(), t.del(a, without("CNI_NETNS")).silent())
				})
			},
		},
		{
			Name: "DEL/then-add", Clause: "DEL may be followed by ADD for the same (CNI_CONTAINERID, CNI_IFNAME): only a second ADD without an intervening DEL is ruled out.",
			run: func(t *trial) error {
				a, err := t.attach(home)
				if err != nil {
					return err
				}
				return errors.Join(t.del(a).silent(), t.add(a))
			},
		},
		{
			Name: "DEL/of-another-network", Clause: clauseTuple,
			run: func(t *trial) error {
				if err := t.needs(other); err != nil {
					return err
				}
				a, err := t.attach(home)
				if err != nil {
					return err
				}
				before, err := t.before()
				if err != nil {
					return err
				}
				elsewhere := *a
				elsewhere.net = other
				return errors.Join(t.del(&elsewhere, noKey("prevResult")).silent(), t.same(before, "DEL of another network"), t.verify(a))
			},
		},
		{
			Name: "DEL/of-a-predecessor", Clause: clauseTuple + " Runtimes use a namespace's path again, and send DEL late.",
			run: func(t *trial) error {
				a, err := t.attach(home)
				if err != nil {
					return err
				}
				old := *a
				if err := t.shellIn(a, "ip link del eth0 2>/dev/null || :"); err != nil {
					return err
				}
				a.id += "-new"
				t.own = append(t.own, &old)
				if err := t.add(a); err != nil {
					return err
				}
				return errors.Join(t.del(&old).silent(), t.verify(a))
			},
		},
	}...)
}

// attachedOver attaches a container, lets f detach it, and is an error if the host is then
// not as it was before.
func (t *trial) attachedOver(f func(t *trial, a *attachment) error) error {
	return t.fresh(home, func(a *attachment) error {
		if err := t.add(a); err != nil {
			return err
		}
		return f(t, a)
	})
}

// vanishedOver attaches a container, ends its namespace and lets f detach it.
func (t *trial) vanishedOver(f func(a *attachment) error) error {
	a, err := t.attach(home)
	if err != nil {
		return err
	}
	return errors.Join(t.vanish(a), f(a), t.same(t.base, "DEL"))
}

// prevFor is the attachment's result as one of the version, fit to be sent as prevResult.
func (a *attachment) prevFor(version string) json.RawMessage {
	var r map[string]any
	if json.Unmarshal(a.prev, &r) != nil {
		return a.prev
	}
	r["cniVersion"] = version
	ips, _ := r["ips"].([]any)
	for _, ip := range ips {
		if ip, ok := ip.(map[string]any); ok && !atLeast(version, "1.0.0") {
			ip["version"] = "4"
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		return a.prev
	}
	return b
}
