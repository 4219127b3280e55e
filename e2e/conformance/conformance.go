// Package conformance asks any CNI plugin what the specification demands of it: one
// matrix of cases, each a verb with a fault, by every version of the protocol from 0.3.1
// to 1.1.0. Each case runs on a host made of network namespaces, beside attachments of
// others, and must leave that host as it found it, down to the last rule and file.
//
// From outside the repository's own tests, as root:
//
//	go test ./e2e/conformance -run TestPlugin -v \
//		-plugin bridge -plugin-dir /opt/cni/bin -config bridge.json -known bridge.known
//
// docs/conformance.md explains the files and how to read the matrix.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/flatdhcp/flatdhcp/e2e/conformance/reply"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// Versions are the matrix's columns. Those before 0.3.1 are of historical interest:
// 0.3.0 had its result's key wrong.
var Versions = []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// patience is how long one case may take before it counts as hung. Nothing is measured
// by it.
const patience = 2 * time.Minute

// Case is one row of the matrix.
type Case struct {
	// Name is VERB/fault.
	Name string
	// Clause is what the specification says, or who relies on it where it says nothing.
	Clause string
	// Since and Until bound the versions that it applies to; empty: no bound.
	Since, Until string
	// Links says that it is about interfaces, which an IPAM plugin makes none of.
	Links bool
	// Spoils says that it harms its host on purpose: the next case gets another.
	Spoils bool
	// Quiet says that its calls must do nothing at all, in no version. The host is then compared
	// once, after the last version.
	Quiet bool
	// Forgives says that what is left in the end is another case's subject.
	Forgives bool

	run func(t *trial) error
}

func (c Case) appliesTo(version string) bool {
	return (c.Since == "" || atLeast(version, c.Since)) && (c.Until == "" || atLeast(c.Until, version))
}

// Cases returns every case, in the order of the report.
func Cases() []Case {
	return slices.Concat(protocolCases(), addCases(), delCases(), checkCases(), checkPassCases(), gcCases(), statusCases())
}

// notApplicable is what a case returns that has nothing to ask of this plugin.
type notApplicable string

func (n notApplicable) Error() string { return string(n) }

// Run asks the target every case, as subtests NAME/VERSION, and logs the matrix. It
// returns it as well, as text; the text is empty if -run left cases out.
//
// A known failure that does not fail is an error of the list, and so is one that names no
// case: the list stays true.
func Run(t *testing.T, target Target) string {
	t.Helper()
	r := &report{target: target, cells: map[string]map[string]cell{}}
	cases := Cases()
	if err := checkKnown(target.Known, cases); err != nil {
		t.Fatal(err)
	}
	labtest.RequireRoot(t)
	stages := &stages{target: target}
	t.Cleanup(func() {
		if err := stages.close(); err != nil {
			t.Error(err)
		}
	})
	speaks, err := stages.supported(labtest.Within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	stages.version = newest(speaks)
	// A group, because parallel subtests end with the test that started them.
	t.Run("case", func(t *testing.T) {
		for _, c := range cases {
			versions := slices.DeleteFunc(slices.Clone(Versions), func(v string) bool { return !c.appliesTo(v) || !slices.Contains(speaks, v) })
			if len(versions) == 0 || target.IPAM && c.Links {
				continue
			}
			t.Run(c.Name, func(t *testing.T) {
				t.Parallel()
				turn := &turn{stages: stages, c: c}
				defer turn.end()
				for i, version := range versions {
					t.Run(version, func(t *testing.T) {
						known := target.known(c.Name, version)
						err := turn.try(labtest.Within(t, patience), version, known != nil, i == len(versions)-1)
						r.set(c.Name, version, judge(t, c, known, err))
					})
				}
			})
		}
	})
	for _, k := range target.Known {
		if r.complete() && !r.has(k) {
			t.Errorf("%s is listed as a known failure, but was not asked: it does not apply", k.Case)
		}
	}
	t.Logf("%s\n%s", target.Name, r)
	if !r.complete() {
		return ""
	}
	return r.String()
}

// judge turns a case's end into its cell, and fails the subtest where it must.
func judge(t *testing.T, c Case, known *Known, err error) cell {
	t.Helper()
	var na notApplicable
	switch {
	case errors.As(err, &na):
		t.Logf("does not apply: %s", na)
		return cell{verdict: "n/a", note: string(na)}
	case err == nil && known == nil:
		return cell{verdict: "ok"}
	case err == nil:
		t.Errorf("is listed as a known failure (%s), but passes: take it off the list", known.Why)
		return cell{verdict: "FAIL", note: "passes, though listed as a known failure"}
	case known != nil:
		t.Logf("known failure (%s): %v", known.Why, err)
		return cell{verdict: "known", note: known.Why}
	}
	t.Errorf("%v\n\nThe specification says: %s", err, c.Clause)
	return cell{verdict: "FAIL", note: err.Error()}
}

// supported asks the plugin which versions it speaks.
func (s *stages) supported(ctx context.Context) ([]string, error) {
	_, h, err := s.host(ctx)
	if err != nil {
		return nil, err
	}
	o := execute(ctx, h, s.target.Plugin, call{env: map[string]string{"CNI_COMMAND": "VERSION"}, config: `{"cniVersion": "1.1.0"}`})
	support, err := reply.ParseSupport(o.stdout)
	if err != nil {
		return nil, fmt.Errorf("asking %s for the versions it supports: %w", s.target.Plugin, errors.Join(err, o.err))
	}
	for _, v := range Versions {
		if slices.Contains(support.Versions, v) {
			return support.Versions, nil
		}
	}
	return nil, fmt.Errorf("%s supports %v, none of which the matrix has", s.target.Plugin, support.Versions)
}

func newest(versions []string) string {
	for _, v := range slices.Backward(Versions) {
		if slices.Contains(versions, v) {
			return v
		}
	}
	return ""
}

// atLeast compares versions of the matrix, which parse.
func atLeast(version, other string) bool {
	ok, err := cniversion.GreaterThanOrEqualTo(version, other)
	return err == nil && ok
}
