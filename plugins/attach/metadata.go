package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// keepMetadataAddress puts the metadata address on lo if a network whose bridge is here
// serves metadata, and takes it away if no network does. It waits for the node's lock: an
// ADD writes its network's record before it takes that, and its address after.
func (n *Node) keepMetadataAddress(ctx context.Context) (err error) {
	lock, err := n.Run.Lock(ctx, n.Run.NodeLock())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	networks, unread := n.Data.Networks(ctx)
	if !slices.ContainsFunc(networks, ipam.Network.ServesMetadata) {
		if unread != nil {
			return nil // what cannot be read may serve, and keeps what it has
		}
		return link.RemoveOnLo(ctx, ipam.MetadataAddr)
	}
	for _, o := range networks {
		if !o.ServesMetadata() {
			continue
		}
		_, here, err := link.BridgeByName(ctx, o.Bridge.Name)
		if err == nil && here {
			err = link.EnsureOnLo(ctx, ipam.MetadataAddr)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settleMetadata puts a changed record in force as far as metadata goes beyond rules. As
// long as the gateway address is not here the server is not asked: the first ADD does it.
func (n *Node) settleMetadata(ctx context.Context, record ipam.Network) error {
	if err := n.keepMetadataAddress(ctx); err != nil {
		return err
	}
	if here, err := link.HasAddress(ctx, record.Pool.Gateway); err != nil || !here {
		return err
	}
	return findMetadata(ctx, record)
}

// ErrNoMetadata says that workloads would wait for their metadata in vain.
var ErrNoMetadata = errors.New("the metadata server cannot be reached")

// metadataWait is how long a metadata server may take to answer or refuse a connection.
const metadataWait = 2 * time.Second

// findMetadata makes sure that network's metadata server, if it is on another host, is
// reached and has a way back to the subnet: it sees workloads under their own addresses.
// The gateway's is one of these, so a connection from there tells; one that is refused does,
// too. Whether anybody listens is not asked of a server on this node, which may start later.
//
// The rules must be in, for the connection to leave as those of workloads do.
func findMetadata(ctx context.Context, network ipam.Network) error {
	if !network.ServesMetadata() {
		return nil
	}
	to, from := network.Bridge.Metadata, network.Pool.Gateway
	if here, err := link.HasAddress(ctx, to.Addr()); err != nil || here {
		return err
	}
	d := net.Dialer{Timeout: metadataWait, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	c, err := d.DialContext(ctx, "tcp4", to.String())
	switch {
	case err == nil:
		return c.Close()
	case errors.Is(err, unix.ECONNREFUSED):
		return nil
	}
	return fmt.Errorf("%w: %s is on another host and does not answer %s (%v): it needs a route to %s by this node (`ip route add %s via ADDRESS`), "+
		"and this node must forward; or name a server on this node", ErrNoMetadata, to, from, err, network.Pool.Subnet, network.Pool.Subnet)
}
