package conformance

import "errors"

const (
	clauseStale   = "GC: a plugin SHOULD remove as many stale resources as possible: any related to attachments not in the provided list."
	clauseValid   = "GC: cni.dev/valid-attachments: the list of still valid attachments to this network."
	clauseAbsent  = "GC: the key cni.dev/valid-attachments is what the runtime must provide; one that does not has said nothing of what is valid (cnitool)."
	clauseReady   = "STATUS: a plugin must exit with a zero return code if it is ready to service ADD requests."
	clauseUnready = "STATUS: if the plugin knows that it is not able to service ADD requests, it must exit with a non-zero return code and output an error on standard out: 50 or 51."
)

const validAttachments = "cni.dev/valid-attachments"

// valid is the list of GC.
func valid(list ...*attachment) []map[string]string {
	out := []map[string]string{}
	for _, a := range list {
		out = append(out, map[string]string{"containerID": a.id, "ifname": a.ifName})
	}
	return out
}

// gcCases are about GC. The environment is the least that the specification asks for.
// Containers that are not valid have lost their namespaces, as a plugin may assume.
func gcCases() []Case {
	list := []Case{}
	row := func(name, clause string, f func(t *trial, a, b *attachment) error) {
		list = append(list, Case{Name: "GC/" + name, Clause: clause, Since: "1.1.0", run: func(t *trial) error {
			if err := t.needs(spare); err != nil {
				return err
			}
			a, err := t.attach(spare)
			if err != nil {
				return err
			}
			b, err := t.container(spare)
			if err != nil {
				return err
			}
			return f(t, a, b)
		}})
	}
	// keeps adds b, lets GC run, and wants nothing changed.
	keeps := func(f func(t *trial, a, b *attachment) outcome) func(t *trial, a, b *attachment) error {
		return func(t *trial, a, b *attachment) error {
			if err := t.add(b); err != nil {
				return err
			}
			before, err := t.before()
			if err != nil {
				return err
			}
			return errors.Join(f(t, a, b).silent(), t.same(before, "GC"), t.verify(a), t.verify(b))
		}
	}
	// clears adds b, ends both containers, lets GC run, and wants nothing left.
	clears := func(edits ...edit) func(t *trial, a, b *attachment) error {
		return func(t *trial, a, b *attachment) error {
			if err := errors.Join(t.add(b), t.vanish(a), t.vanish(b)); err != nil {
				return err
			}
			return errors.Join(t.do("GC", a, edits...).silent(), t.same(t.base, "GC"))
		}
	}
	row("list-absent", clauseAbsent, func(t *trial, a, b *attachment) error {
		if err := t.add(b); err != nil {
			return err
		}
		before, err := t.before()
		if err != nil {
			return err
		}
		// To refuse is as good.
		o := t.do("GC", a)
		if o.err != nil {
			err = o.refused(7)
		} else {
			err = o.silent()
		}
		return errors.Join(err, t.same(before, "GC"), t.verify(a))
	})
	row("list-complete", clauseValid, keeps(func(t *trial, a, b *attachment) outcome {
		return t.do("GC", a, key(validAttachments, valid(a, b)))
	}))
	row("list-with-strangers", clauseValid, keeps(func(t *trial, a, b *attachment) outcome {
		stranger := &attachment{id: "never-seen", ifName: "eth0"}
		return t.do("GC", a, key(validAttachments, valid(stranger, b, a, t.neighbours[0])))
	}))
	row("of-another-network", clauseValid, keeps(func(t *trial, a, _ *attachment) outcome {
		elsewhere := *a
		elsewhere.net = home
		return t.do("GC", &elsewhere, key(validAttachments, valid(t.neighbours[0])))
	}))
	row("list-partial", clauseStale, func(t *trial, a, b *attachment) error {
		if err := t.vanish(b); err != nil {
			return err
		}
		before, err := t.before()
		if err != nil {
			return err
		}
		c, err := t.attach(spare)
		if err != nil {
			return err
		}
		if err := t.vanish(c); err != nil {
			return err
		}
		return errors.Join(t.do("GC", a, key(validAttachments, valid(a))).silent(), t.same(before, "the container that GC cleared up"), t.verify(a))
	})
	row("other-interface", clauseStale, func(t *trial, a, _ *attachment) error {
		before, err := t.before()
		if err != nil {
			return err
		}
		second := t.second(a, "net1")
		if err := t.add(second); err != nil {
			return err
		}
		if !t.target.IPAM {
			if err := t.shellIn(a, "ip link del net1"); err != nil {
				return err
			}
		}
		return errors.Join(t.do("GC", a, key(validAttachments, valid(a))).silent(), t.same(before, "the interface that GC cleared up"), t.verify(a))
	})
	row("list-empty", clauseStale, clears(key(validAttachments, valid())))
	row("list-null", clauseStale+" A nil list arrives as null (ocicni).", clears(key(validAttachments, nil)))
	return list
}

// statusCases are about STATUS, in the least environment; it must change nothing.
func statusCases() []Case {
	list := []Case{}
	row := func(name, clause string, spoils bool, f func(t *trial) error) {
		list = append(list, Case{Name: "STATUS/" + name, Clause: clause, Since: "1.1.0", Spoils: spoils, run: f})
	}
	row("ready", clauseReady, false, func(t *trial) error {
		return t.fresh(home, func(a *attachment) error { return t.do("STATUS", a).silent() })
	})
	row("new-network", clauseReady, false, func(t *trial) error {
		if err := t.needs(cold); err != nil {
			return err
		}
		return t.fresh(cold, func(a *attachment) error { return t.do("STATUS", a).silent() })
	})
	row("no-cni-path", "STATUS: optional environment parameters: CNI_PATH.", false, func(t *trial) error {
		return t.fresh(home, func(a *attachment) error { return t.do("STATUS", a, without("CNI_PATH")).silent() })
	})
	row("unready", clauseUnready, true, func(t *trial) error {
		if t.target.Unready == "" {
			return notApplicable("nobody said how to make it unready (-unready)")
		}
		a, err := t.container(home)
		if err != nil {
			return err
		}
		if err := errors.Join(t.do("STATUS", a).silent(), t.shell(t.target.Unready)); err != nil {
			return err
		}
		return errors.Join(t.do("STATUS", a).refused(50, 51), t.do("ADD", a).refused())
	})
	row("pool-exhausted", clauseUnready, true, func(t *trial) error {
		if err := t.needs(small); err != nil {
			return err
		}
		a, err := t.attach(small)
		if err != nil {
			return err
		}
		return t.do("STATUS", a).refused(50, 51)
	})
	row("ipam-missing", "STATUS: if a plugin relies on a delegated plugin, it must also execute a STATUS request to that plugin. If it returns an error, the executing plugin should.", false,
		func(t *trial) error {
			return t.fresh(home, func(a *attachment) error { return t.do("STATUS", a, missingIPAM).refused() })
		})
	return list
}
