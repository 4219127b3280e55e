package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// story is the demo: one chapter after the other, on four hosts.
type story struct {
	screen
	outside, controller, compute1, compute2 *lab.Host

	before map[string]lab.State // the hosts before flatdhcp came to them
	vm     attachment           // vm1, vm2 and web are on compute-1
	vm2    attachment
	vm3    attachment // vm3 and db are on compute-2
	web    attachment
	db     attachment
	lease  lab.Lease
	dhcpd  *lab.Process // on the controller
	httpd  *lab.Process // metadata, there as well
}

const (
	gateway     = "10.0.0.1"
	outsideAddr = "192.168.56.1"
	controlAddr = "192.168.56.200"
	conflist    = "/etc/cni/net.d/flat.conflist"
	vmConflist  = "/etc/cni/vm.d/flat.conflist"
)

func (s *story) hosts() []*lab.Host {
	return []*lab.Host{s.outside, s.controller, s.compute1, s.compute2}
}

func (s *story) tell(ctx context.Context) error {
	for _, chapter := range []func(context.Context) error{
		s.theHosts, s.theController, s.aVM, s.containers, s.witnesses, s.whoReachesWhom, s.theToggle, s.sameAddress, s.spoofing, s.cleanUp,
	} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

// conclude prints the verdict and returns the exit code.
func (s *story) conclude(took time.Duration) int {
	s.gap()
	if len(s.failed) > 0 {
		fmt.Fprintln(s.w, s.paint(red, fmt.Sprintf("%d of %d claims are not so:", len(s.failed), len(s.failed)+s.passed)))
		for _, f := range s.failed {
			fmt.Fprintln(s.w, "  ✗", f)
		}
		return 1
	}
	fmt.Fprintf(s.w, "%s in %.1f seconds. hack/lab up --hosts 3 leaves such hosts up to play in.\n",
		s.paint(green, fmt.Sprintf("All %d claims hold,", s.passed)), took.Seconds())
	return 0
}

// attach makes a container and adds it to the network, as the workload default/WORKLOAD.
func (s *story) attach(ctx context.Context, on *lab.Host, netns, workload, confDir string, show func(string) string) (attachment, error) {
	if _, err := s.shell(ctx, on, "ip netns add "+netns); err != nil {
		return attachment{}, err
	}
	where := ""
	if confDir != "/etc/cni/net.d" {
		where = "NETCONFPATH=" + confDir + " "
	}
	out, err := s.shellShowing(ctx, on, fmt.Sprintf("%sCNI_ARGS='K8S_POD_NAMESPACE=default;K8S_POD_NAME=%s' cnitool add flat /run/netns/%s",
		where, workload, netns), show)
	if err != nil {
		return attachment{}, err
	}
	return readResult(out)
}

// answered runs a ping that must be answered, and says so.
func (s *story) answered(ctx context.Context, on *lab.Host, line, claim string, args ...any) error {
	out, err := s.shellShowing(ctx, on, line, grep("bytes from"))
	if err != nil {
		return err
	}
	s.claim(strings.Contains(out, " 0% packet loss"), claim, args...)
	return nil
}
