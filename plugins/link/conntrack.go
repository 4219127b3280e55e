package link

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// FlushConntrack deletes every IPv4 connection entry of the calling thread's
// namespace that has addr as a source or destination, in either direction: the next
// owner of addr must not inherit what rule 2 of the workload chains accepts as
// ESTABLISHED.
func FlushConntrack(ctx context.Context, addr netip.Addr) error {
	err := deleteFlowsOf(ctx, addr)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		err = walkFlowsOf(ctx, addr)
	}
	if err != nil {
		return fmt.Errorf("flushing connection entries of %s: %w", addr, err)
	}
	return nil
}

// deleteFlowsOf lets the kernel do it: a thirtieth of what a walk costs, which takes a
// lock for each of the table's buckets, empty or not. Kernels that cannot filter what
// they delete (before 6.13 or so) miss the rest of the tuple and answer EINVAL.
func deleteFlowsOf(ctx context.Context, addr netip.Addr) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("opening a netlink socket: %w", err)
	}
	// To close a socket of netfilter's waits for the freeing of what a transaction of
	// nf_tables took out just before, as a DEL's does: some 8 ms, on the side.
	defer func() { go s.Close() }()
	c := ctConn{unix.NETLINK_NETFILTER: {Socket: s}}
	for _, direction := range []int{nl.CTA_TUPLE_ORIG, nl.CTA_TUPLE_REPLY} {
		for _, end := range []int{nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST} {
			if err := c.deleteBy(direction, end, addr); err != nil {
				return err
			}
		}
	}
	return nil
}

// Of linux/netfilter/nfnetlink_conntrack.h; a flag names the attribute of the tuple that
// counts.
const (
	ctaFilter           = 25
	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2
	ctaFilterSrc        = 1 << 0
	ctaFilterDst        = 1 << 1
)

// deleteBy deletes the flows with addr at one end (CTA_IP_V4_SRC or _DST) of one direction.
func (c ctConn) deleteBy(direction, end int, addr netip.Addr) error {
	tuple := nl.NewRtAttr(direction|unix.NLA_F_NESTED, nil)
	tuple.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil).AddRtAttr(end, addr.AsSlice())
	flag := uint32(ctaFilterSrc)
	if end == nl.CTA_IP_V4_DST {
		flag = ctaFilterDst
	}
	flags := map[int]uint32{direction: flag} // of the other direction: nothing counts
	filter := nl.NewRtAttr(ctaFilter|unix.NLA_F_NESTED, nil)
	filter.AddRtAttr(ctaFilterOrigFlags, nl.Uint32Attr(flags[nl.CTA_TUPLE_ORIG]))
	filter.AddRtAttr(ctaFilterReplyFlags, nl.Uint32Attr(flags[nl.CTA_TUPLE_REPLY]))

	req := c.request(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
	req.AddData(tuple)
	req.AddData(filter)
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}

// walkFlowsOf does it by a walk of the table.
func walkFlowsOf(ctx context.Context, addr netip.Addr) error {
	_, err := flushFlows(ctx, func(f flow) bool { return slices.Contains(f.ends[:], addr) }, addr)
	return err
}

// Connection is what of an entry decides whether it is allowed.
type Connection struct {
	From, To   netip.Addr // who began it, whom it reached
	Protocol   uint8      // of IP
	Port       uint16     // To's; 0 where the protocol has none
	Redirected bool       // by DNAT, on this node
}

// FlushConntrackAmong deletes the entries between any of addrs and other addresses of
// their subnet, those of except (the gateways, the node) aside: what a closed toggle no longer
// allows. Those that stay allowed it leaves: who would see their next packet takes it for no
// connection's. It returns how many it has deleted. The table is walked once.
func FlushConntrackAmong(ctx context.Context, addrs []netip.Addr, subnet netip.Prefix, except []netip.Addr, allowed func(Connection) bool) (int, error) {
	ours := map[netip.Addr]bool{}
	for _, a := range addrs {
		ours[a] = true
	}
	n, err := flushFlows(ctx, func(f flow) bool {
		for _, a := range f.ends {
			if ours[a] && slices.ContainsFunc(f.ends[:], func(b netip.Addr) bool {
				return a != b && subnet.Contains(b) && !slices.Contains(except, b)
			}) {
				return !allowed(f.connection())
			}
		}
		return false
	}, addrs...)
	if err != nil {
		return n, fmt.Errorf("flushing connection entries inside %s: %w", subnet, err)
	}
	return n, nil
}

// flow is a connection entry: its four addresses (source and destination of the
// original and of the reply direction, which differ by translation) and the
// attributes that name it to the kernel.
type flow struct {
	ends     [4]netip.Addr
	protocol uint8
	port     uint16 // from which the reply comes
	attrs    []byte
}

func (f flow) connection() Connection {
	return Connection{From: f.ends[0], To: f.ends[2], Protocol: f.protocol, Port: f.port, Redirected: f.ends[1] != f.ends[2]}
}

// flushFlows deletes the flows that match, all of which have one of addrs.
func flushFlows(ctx context.Context, match func(flow) bool, addrs ...netip.Addr) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, fmt.Errorf("opening a netlink socket: %w", err)
	}
	defer s.Close()
	c := ctConn{unix.NETLINK_NETFILTER: {Socket: s}}

	found, err := dump(ctx, "connection entries", func() ([]flow, error) { return c.flows(match, addrs) })
	if err != nil {
		return 0, err
	}
	deleted := 0
	for _, f := range found {
		gone, err := c.delete(f)
		if err != nil {
			return deleted, err
		}
		if gone {
			deleted++
		}
	}
	return deleted, nil
}

// ctConn is a socket to the kernel's connection tracking.
type ctConn map[int]*nl.SocketHandle

func (c ctConn) request(command, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|command, flags)
	req.Sockets = c
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	return req
}

// flows lists the flows that match. The kernel can filter by one field of a tuple at a
// time (since 5.8), but four such walks of a table with 50,000 entries took as long as
// one that copies it all, if an entry without the address in it is not parsed.
func (c ctConn) flows(match func(flow) bool, addrs []netip.Addr) ([]flow, error) {
	var alone []byte // the bytes to look for, if it is one address
	if len(addrs) == 1 {
		alone = addrs[0].AsSlice()
	}
	var found []flow
	var bad error
	err := c.request(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP).ExecuteIter(unix.NETLINK_NETFILTER, 0, func(msg []byte) bool {
		if !bytes.Contains(msg, alone) {
			return true
		}
		var f flow
		if f, bad = parseFlow(msg); bad != nil {
			return false
		}
		if match(f) {
			found = append(found, f)
		}
		return true
	})
	return found, errors.Join(err, bad)
}

// delete deletes a flow; false = it has ended by itself.
func (c ctConn) delete(f flow) (bool, error) {
	req := c.request(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
	req.AddRawData(f.attrs)
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("deleting the entry %s > %s: %w", f.ends[0], f.ends[1], err)
	}
	return true, nil
}

func parseFlow(msg []byte) (flow, error) {
	if len(msg) < nl.SizeofNfgenmsg {
		return flow{}, fmt.Errorf("a connection message of %d bytes is too short", len(msg))
	}
	f := flow{attrs: msg[nl.SizeofNfgenmsg:]}
	err := eachAttr(f.attrs, func(kind uint16, v []byte) error {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			return parseTuple(v, f.ends[:2])
		case nl.CTA_TUPLE_REPLY:
			return errors.Join(parseTuple(v, f.ends[2:]), parseProtocol(v, &f))
		}
		return nil
	})
	return f, err
}

// parseProtocol reads the protocol, and the source port if it has any, of one direction.
func parseProtocol(b []byte, f *flow) error {
	return eachAttr(b, func(kind uint16, v []byte) error {
		if kind != nl.CTA_TUPLE_PROTO {
			return nil
		}
		return eachAttr(v, func(kind uint16, v []byte) error {
			switch {
			case kind == nl.CTA_PROTO_NUM && len(v) >= 1:
				f.protocol = v[0]
			case kind == nl.CTA_PROTO_SRC_PORT && len(v) >= 2:
				f.port = binary.BigEndian.Uint16(v)
			}
			return nil
		})
	})
}

// parseTuple reads source and destination of one direction into ends.
func parseTuple(b []byte, ends []netip.Addr) error {
	return eachAttr(b, func(kind uint16, v []byte) error {
		if kind != nl.CTA_TUPLE_IP {
			return nil
		}
		return eachAttr(v, func(kind uint16, v []byte) error {
			switch kind {
			case nl.CTA_IP_V4_SRC:
				ends[0], _ = netip.AddrFromSlice(v)
			case nl.CTA_IP_V4_DST:
				ends[1], _ = netip.AddrFromSlice(v)
			}
			return nil
		})
	})
}
