package link

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrNoBridgeNetfilter says that the kernel's br_netfilter is not there, so that no
// bridged frame meets iptables, whatever the flags say.
var ErrNoBridgeNetfilter = errors.New("br_netfilter is not loaded (try `modprobe br_netfilter`)")

// BridgeNetfilter reports whether br_netfilter is there for the calling thread's
// network namespace: nil, or ErrNoBridgeNetfilter.
func BridgeNetfilter() error {
	v, err := sysctl("bridge/bridge-nf-call-iptables")
	if err != nil {
		return fmt.Errorf("reading whether bridged frames meet iptables: %w", err)
	}
	if v == "" {
		return ErrNoBridgeNetfilter
	}
	return nil
}

// NFCallIPTables reports whether bridged IPv4 frames of a bridge meet iptables: set
// is the bridge's own flag, global the namespace's sysctl
// net.bridge.bridge-nf-call-iptables; either suffices. We only ever set the flag:
// the sysctl would filter libvirt's and Docker's bridges too, and they reset it.
// Without br_netfilter both are void and the error is ErrNoBridgeNetfilter.
func NFCallIPTables(ctx context.Context, bridge string) (set, global bool, err error) {
	v, err := sysctl("bridge/bridge-nf-call-iptables")
	if err != nil {
		return false, false, fmt.Errorf("reading whether bridged frames meet iptables: %w", err)
	}
	if v == "" {
		return false, false, fmt.Errorf("checking bridge %s: %w", bridge, ErrNoBridgeNetfilter)
	}
	c, err := dial(ctx)
	if err != nil {
		return false, false, err
	}
	defer c.close()
	d, err := c.bridgeDevice(bridge)
	if err != nil {
		return false, false, err
	}
	return d.bridge.nfCall, v != "0", nil
}

// setNFCall sets a bridge's own flag, and reads it back: a kernel built without
// bridge netfilter takes the attribute and ignores it.
func (c *conn) setNFCall(index int) error {
	req, _ := linkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK, index, "")
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_BR_NF_CALL_IPTABLES, nl.Uint8Attr(1))
	req.AddData(info)
	if _, err := c.execute(req, 0); err != nil {
		return err
	}
	d, err := c.deviceAt(index)
	if err == nil && !d.bridge.nfCall {
		err = fmt.Errorf("the kernel did not keep it: %w", ErrNoBridgeNetfilter)
	}
	return err
}
