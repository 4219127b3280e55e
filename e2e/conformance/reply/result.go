package reply

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	cniversion "github.com/containernetworking/cni/pkg/version"
)

// Result is what ADD prints, of any version from 0.3.0 on.
type Result struct {
	CNIVersion string      `json:"cniVersion"`
	Interfaces []Interface `json:"interfaces"`
	IPs        []IP        `json:"ips"`
	Routes     []Route     `json:"routes"`
	DNS        *struct {
		Nameservers []netip.Addr `json:"nameservers"`
		Domain      string       `json:"domain"`
		Search      []string     `json:"search"`
		Options     []string     `json:"options"`
	} `json:"dns"`
}

// Interface is one that the attachment made. Nil is what the plugin left out.
type Interface struct {
	Name    string `json:"name"`
	MAC     string `json:"mac"`
	Sandbox string `json:"sandbox"`
	// From 1.1.0 on.
	MTU        *uint   `json:"mtu"`
	SocketPath *string `json:"socketPath"`
	PCIID      *string `json:"pciID"`
}

// IP is an address that was assigned.
type IP struct {
	Version   *string      `json:"version"` // "4" or "6"; before 1.0.0 only
	Interface *int         `json:"interface"`
	Address   netip.Prefix `json:"address"`
	Gateway   *netip.Addr  `json:"gateway"`
}

// Route is one that was set in the container.
type Route struct {
	Dst netip.Prefix `json:"dst"`
	GW  *netip.Addr  `json:"gw"`
	// From 1.1.0 on.
	MTU      *uint `json:"mtu"`
	AdvMSS   *uint `json:"advmss"`
	Priority *uint `json:"priority"`
	Table    *uint `json:"table"`
	Scope    *uint `json:"scope"`
}

// ParseResult reads a result that must be of the given version. One of an IPAM plugin
// names no interfaces.
func ParseResult(out, version string, ipam bool) (Result, error) {
	var r Result
	if err := decode(out, &r); err != nil {
		return r, err
	}
	errs := []error{}
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if r.CNIVersion != version {
		bad("cniVersion is %q, the configuration's is %q", r.CNIVersion, version)
	}
	if ipam && len(r.Interfaces) > 0 {
		bad("an IPAM plugin's result names interfaces")
	}
	if len(r.IPs) == 0 {
		bad("no address is named")
	}
	since100, since110 := atLeast(version, "1.0.0"), atLeast(version, "1.1.0")
	for i, ifc := range r.Interfaces {
		if ifc.Name == "" {
			bad("interfaces[%d] has no name", i)
		}
		if _, err := net.ParseMAC(ifc.MAC); ifc.MAC != "" && err != nil {
			bad("interfaces[%d]: %v", i, err)
		}
		if !since110 && (ifc.MTU != nil || ifc.SocketPath != nil || ifc.PCIID != nil) {
			bad("interfaces[%d] has keys that came with 1.1.0", i)
		}
	}
	for i, ip := range r.IPs {
		errs = append(errs, ip.check(fmt.Sprintf("ips[%d]", i), since100))
		switch {
		case ip.Interface == nil:
			if !ipam {
				bad("ips[%d] names no interface", i)
			}
		case ipam:
			bad("ips[%d] of an IPAM plugin names an interface", i)
		case *ip.Interface < 0 || *ip.Interface >= len(r.Interfaces):
			bad("ips[%d] is of interface %d, and there are %d", i, *ip.Interface, len(r.Interfaces))
		}
	}
	for i, route := range r.Routes {
		if !route.Dst.IsValid() || route.Dst.Masked() != route.Dst {
			bad("routes[%d].dst is %v, no network", i, route.Dst)
		}
		if !since110 && (route.MTU != nil || route.AdvMSS != nil || route.Priority != nil || route.Table != nil || route.Scope != nil) {
			bad("routes[%d] has keys that came with 1.1.0", i)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return r, fmt.Errorf("%w\nin the result %s", err, out)
	}
	return r, nil
}

func (ip IP) check(where string, since100 bool) error {
	if !ip.Address.IsValid() {
		return fmt.Errorf("%s has no address", where)
	}
	if ip.Gateway != nil && !ip.Address.Contains(*ip.Gateway) {
		return fmt.Errorf("%s: gateway %s is outside %s", where, ip.Gateway, ip.Address.Masked())
	}
	family := "4"
	if ip.Address.Addr().Is6() {
		family = "6"
	}
	switch {
	case since100 && ip.Version != nil:
		return fmt.Errorf("%s has the key version, which went with 1.0.0", where)
	case !since100 && (ip.Version == nil || *ip.Version != family):
		return fmt.Errorf("%s needs version %q before 1.0.0", where, family)
	}
	return nil
}

// Own returns the container's interface of that name, as the result numbers it.
func (r Result) Own(ifName, netns string) (int, error) {
	is := func(i Interface) bool { return i.Name == ifName && i.Sandbox == netns }
	at := slices.IndexFunc(r.Interfaces, is)
	if at < 0 {
		return 0, fmt.Errorf("no interface of the result is %q with sandbox %q", ifName, netns)
	}
	if slices.IndexFunc(r.Interfaces[at+1:], is) >= 0 {
		return 0, fmt.Errorf("two interfaces of the result are %q with sandbox %q", ifName, netns)
	}
	return at, nil
}

// atLeast compares versions that the tests themselves name.
func atLeast(version, other string) bool {
	ok, err := cniversion.GreaterThanOrEqualTo(version, other)
	return err == nil && ok
}
