package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/flatdhcp/flatdhcp/e2e/conformance/reply"
	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// ipLink is an interface as `ip -json address show` tells it.
type ipLink struct {
	IfName    string   `json:"ifname"`
	Address   string   `json:"address"`
	MTU       uint     `json:"mtu"`
	Flags     []string `json:"flags"`
	Master    string   `json:"master"`
	Addresses []struct {
		Local netip.Addr `json:"local"`
		Bits  int        `json:"prefixlen"`
	} `json:"addr_info"`
}

type ipRoute struct {
	Dst     string     `json:"dst"`
	Gateway netip.Addr `json:"gateway"`
}

// runner is what runs a program: a host or a container.
type runner interface {
	Run(ctx context.Context, argv ...string) (stdout, stderr string, err error)
}

func ipJSON(ctx context.Context, where runner, v any, args ...string) error {
	out, _, err := where.Run(ctx, append([]string{"ip", "-json"}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("reading what ip says: %w: %s", err, out)
	}
	return nil
}

// link returns an interface as the kernel knows it.
func link(ctx context.Context, where runner, name string) (ipLink, error) {
	var links []ipLink
	if err := ipJSON(ctx, where, &links, "address", "show", "dev", name); err != nil {
		return ipLink{}, err
	}
	if len(links) != 1 {
		return ipLink{}, fmt.Errorf("ip shows %d interfaces of the name %s", len(links), name)
	}
	return links[0], nil
}

// verify holds a result against the kernel: every interface exists where the result says
// and has the MAC and MTU it says, every address and route is there.
func (t *trial) verify(a *attachment) error {
	if t.target.IPAM {
		return nil
	}
	r := a.result
	if _, err := r.Own(a.ifName, a.c.Path()); err != nil {
		return err
	}
	for i, ifc := range r.Interfaces {
		var where runner = t.host
		if ifc.Sandbox == a.c.Path() {
			where = a.c
		} else if ifc.Sandbox != "" {
			return fmt.Errorf("interfaces[%d] has sandbox %q, which is neither the host nor CNI_NETNS", i, ifc.Sandbox)
		}
		kernel, err := link(t.ctx, where, ifc.Name)
		if err != nil {
			return fmt.Errorf("interfaces[%d]: %w", i, err)
		}
		if ifc.MAC != "" && ifc.MAC != kernel.Address {
			return fmt.Errorf("interfaces[%d] %s: the result says MAC %s, the kernel %s", i, ifc.Name, ifc.MAC, kernel.Address)
		}
		if ifc.MTU != nil && *ifc.MTU != kernel.MTU {
			return fmt.Errorf("interfaces[%d] %s: the result says MTU %d, the kernel %d", i, ifc.Name, *ifc.MTU, kernel.MTU)
		}
		if !slices.Contains(kernel.Flags, "UP") {
			return fmt.Errorf("interfaces[%d] %s is not up", i, ifc.Name)
		}
		if err := hasAddresses(kernel, r.IPs, i); err != nil {
			return err
		}
	}
	return t.hasRoutes(a)
}

// verifyOwn is verify for the container's own side.
func (t *trial) verifyOwn(a *attachment) error {
	if t.target.IPAM {
		return nil
	}
	own, err := a.result.Own(a.ifName, a.c.Path())
	if err != nil {
		return err
	}
	kernel, err := link(t.ctx, a.c, a.ifName)
	if err != nil {
		return err
	}
	return errors.Join(hasAddresses(kernel, a.result.IPs, own), t.hasRoutes(a))
}

func hasAddresses(kernel ipLink, ips []reply.IP, index int) error {
	for i, ip := range ips {
		if *ip.Interface != index {
			continue
		}
		found := false
		for _, has := range kernel.Addresses {
			found = found || netip.PrefixFrom(has.Local, has.Bits) == ip.Address
		}
		if !found {
			return fmt.Errorf("ips[%d]: the interface %s does not have %s", i, kernel.IfName, ip.Address)
		}
	}
	return nil
}

func (t *trial) hasRoutes(a *attachment) error {
	var kernel []ipRoute
	if err := ipJSON(t.ctx, a.c, &kernel, "route", "show", "table", "all"); err != nil {
		return err
	}
	for i, want := range a.result.Routes {
		dst := want.Dst.String()
		if want.Dst.Bits() == 0 {
			dst = "default"
		}
		found := false
		for _, has := range kernel {
			found = found || has.Dst == dst && (want.GW == nil || *want.GW == has.Gateway)
		}
		if !found {
			return fmt.Errorf("routes[%d]: the container has no route to %s via %v", i, dst, want.GW)
		}
	}
	return nil
}

// endpoint is the attachment as its neighbours on the segment know it.
func (a *attachment) endpoint() (lab.Endpoint, error) {
	own, err := a.result.Own(a.ifName, a.c.Path())
	if err != nil {
		return lab.Endpoint{}, err
	}
	mac, err := net.ParseMAC(a.result.Interfaces[own].MAC)
	if err != nil {
		return lab.Endpoint{}, err
	}
	return lab.Endpoint{MAC: mac, Addr: a.result.IPs[0].Address.Addr()}, nil
}

// reaches is an error unless a frame of a arrives at b.
func (t *trial) reaches(a, b *attachment) error {
	from, err := a.endpoint()
	if err != nil {
		return err
	}
	to, err := b.endpoint()
	if err != nil {
		return err
	}
	send, err := a.c.Tap(a.ifName)
	if err != nil {
		return err
	}
	defer func() { _ = send.Close() }() // a capture: nothing to lose
	receive, err := b.c.Tap(b.ifName)
	if err != nil {
		return err
	}
	defer func() { _ = receive.Close() }()
	frame, is := lab.Marker(from, to)
	if err := send.Send(frame); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.ctx, patience/4)
	defer cancel()
	if _, err := receive.Until(ctx, is); err != nil {
		return fmt.Errorf("a frame from %s to %s does not arrive: %w", from.Addr, to.Addr, err)
	}
	return nil
}
