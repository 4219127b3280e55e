package conformance

import (
	"errors"
	"fmt"
	"slices"

	"github.com/flatdhcp/flatdhcp/e2e/conformance/reply"
)

// since is the first version of each verb.
var since = map[string]string{"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}

// protocolCases are about how a plugin is called, whatever it does.
func protocolCases() []Case {
	list := []Case{
		{
			Name:   "VERSION/lists",
			Quiet:  true,
			Clause: "VERSION: the plugin should output supportedVersions, a list of supported specification versions.",
			run: func(t *trial) error {
				s, err := t.versions(`{"cniVersion": "` + t.version + `"}`)
				if err == nil && !slices.Contains(s.Versions, t.version) {
					err = fmt.Errorf("%s is not among the supported versions %v any more", t.version, s.Versions)
				}
				return err
			},
		},
		{
			Name:   "VERSION/of-the-future",
			Quiet:  true,
			Clause: "VERSION probes the plugin's version support, so it is asked with versions the plugin does not have.",
			run: func(t *trial) error {
				_, err := t.versions(`{"cniVersion": "99.0.0"}`)
				return err
			},
		},
		{
			Name:   "VERSION/echoes-version",
			Quiet:  true,
			Clause: "VERSION: cniVersion: the value of cniVersion specified on input.",
			run: func(t *trial) error {
				s, err := t.versions(`{"cniVersion": "` + t.version + `"}`)
				if err == nil && s.CNIVersion != t.version {
					err = fmt.Errorf("cniVersion is %q, the input's is %q", s.CNIVersion, t.version)
				}
				return err
			},
		},
		{
			Name:   "COMMAND/unknown",
			Quiet:  true,
			Clause: "4: invalid necessary environment variables, like CNI_COMMAND. The error message must contain the names of invalid variables.",
			run: func(t *trial) error {
				return t.fresh(home, func(a *attachment) error {
					return t.do("ADD", a, with("CNI_COMMAND", "FLY")).refusedNaming("CNI_COMMAND", 4)
				})
			},
		},
		{
			Name:   "ERROR/names-version",
			Clause: "Error: cniVersion: the protocol version in use.",
			run: func(t *trial) error {
				return t.fresh(home, func(a *attachment) error {
					f, err := t.do("ADD", a, key("ipam", 7)).failure()
					if err == nil && f.CNIVersion != t.version {
						err = fmt.Errorf("the error's cniVersion is %q, the configuration's is %q", f.CNIVersion, t.version)
					}
					return err
				})
			},
		},
	}
	for _, verb := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS"} {
		list = append(list, inputCases(verb)...)
	}
	for _, verb := range []string{"ADD", "DEL", "CHECK"} {
		list = append(list, parameterCases(verb)...)
	}
	return list
}

// versions asks for the supported versions with nothing but CNI_COMMAND in the environment.
func (t *trial) versions(stdin string) (reply.Support, error) {
	o := t.do("VERSION", &attachment{net: home}, input(stdin))
	if err := o.succeeded(); err != nil {
		return reply.Support{}, err
	}
	return reply.ParseSupport(o.stdout)
}

// inputCases are about what a verb reads.
func inputCases(verb string) []Case {
	tests := []struct {
		fault, clause string
		code          int
		edits         []edit
	}{
		{
			"undecodable", "6: failed to decode content.", 6, []edit{input(`{"cniVersion": "1.0.0", "name":`)},
		},
		{
			"empty-input", "6: failed to decode content.", 6, []edit{input("")},
		},
		{
			"unknown-version", "1: incompatible CNI version.", 1, []edit{key("cniVersion", "99.0.0")},
		},
		{
			"no-name", "name (string): network name. 7: invalid network config.", 7, []edit{noKey("name")},
		},
		{
			"bad-name", "name must not contain characters disallowed in file paths. 7: invalid network config.", 7, []edit{key("name", "../net")},
		},
	}
	var list []Case
	for _, tt := range tests {
		list = append(list, Case{
			Name: verb + "/" + tt.fault, Clause: tt.clause, Since: since[verb], Quiet: true,
			run: func(t *trial) error {
				return t.fresh(home, func(a *attachment) error { return t.do(verb, a, tt.edits...).refused(tt.code) })
			},
		})
	}
	if first := since[verb]; first != "" {
		before := Versions[slices.Index(Versions, first)-1]
		list = append(list, Case{
			Name:   verb + "/not-before-" + first,
			Clause: verb + " came with " + first + ". 1: incompatible CNI version.",
			Until:  before,
			Quiet:  true,
			run: func(t *trial) error {
				return t.fresh(home, func(a *attachment) error { return t.do(verb, a).refused(1) })
			},
		})
	}
	return list
}

// parameterCases are about a verb's environment.
func parameterCases(verb string) []Case {
	const missing = "required environment parameters. 4: the error message must contain the names of invalid variables."
	// For CNI_NETNS any path is of the right form.
	const (
		badID   = "CNI_CONTAINERID must start with an alphanumeric character, followed by alphanumeric characters, _, . and -."
		badName = "if the plugin is unable to use this interface name it must return an error."
	)
	list := []Case{
		t4(verb, "no-container-id", missing, "CNI_CONTAINERID", without("CNI_CONTAINERID")),
		t4(verb, "no-ifname", missing, "CNI_IFNAME", without("CNI_IFNAME")),
		t4(verb, "bad-container-id", badID, "", with("CNI_CONTAINERID", "../c1"), with("CNI_CONTAINERID", "-c1"), with("CNI_CONTAINERID", "c 1")),
		t4(verb, "bad-ifname", badName, "", with("CNI_IFNAME", "a/b"), with("CNI_IFNAME", ".."), with("CNI_IFNAME", "a b"),
			with("CNI_IFNAME", "a:b"), with("CNI_IFNAME", "sixteen-letters-")),
	}
	if verb != "DEL" {
		list = append(list, t4(verb, "no-netns", missing, "CNI_NETNS", without("CNI_NETNS")))
	}
	return list
}

// t4 is a case in which each of the faults must be refused with code 4.
func t4(verb, fault, clause, naming string, faults ...edit) Case {
	return Case{
		Name: verb + "/" + fault, Clause: verb + ": " + clause, Since: since[verb], Quiet: true,
		run: func(t *trial) error {
			return t.fresh(home, func(a *attachment) error {
				var errs []error
				for _, e := range faults {
					errs = append(errs, t.do(verb, a, e).refusedNaming(naming, 4))
				}
				return errors.Join(errs...)
			})
		},
	}
}
