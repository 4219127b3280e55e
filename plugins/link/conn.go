package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// conn is a pair of route sockets bound to the namespace in which they were
// opened: they stay there, whatever thread uses them later. raw carries the link
// requests whose attributes the library lacks, and asks the kernel for its error
// texts; the embedded handle does addresses, routes and neighbours.
type conn struct {
	*netlink.Handle
	raw  map[int]*nl.SocketHandle
	kept bool // by a session, which closes it
}

// replyTimeout bounds the wait for the kernel's answer if the context has no
// deadline. The kernel answers before sendto returns, so it never comes to that.
const replyTimeout = 10 * time.Second

// dial returns a conn in the network namespace of the calling thread: the session's, or a
// new one.
func dial(ctx context.Context) (*conn, error) {
	return connect(ctx, "", func() (*conn, error) { return open(ctx) })
}

// open opens a conn in the network namespace of the calling thread.
func open(ctx context.Context) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := nl.Subscribe(unix.NETLINK_ROUTE) // to no group: the library's way to get at a bare socket
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	// Only texts get lost without it, on kernels before 4.12.
	_ = s.SetExtAck(true)
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	c := &conn{Handle: h, raw: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}}
	if err := c.setTimeout(ctx); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// setTimeout makes ctx's deadline that of the answers.
func (c *conn) setTimeout(ctx context.Context) error {
	left := replyTimeout
	if deadline, ok := ctx.Deadline(); ok {
		left = max(time.Until(deadline), time.Millisecond)
	}
	tv := unix.NsecToTimeval(left.Nanoseconds())
	if err := errors.Join(c.raw[unix.NETLINK_ROUTE].Socket.SetReceiveTimeout(&tv), c.SetSocketTimeout(left)); err != nil {
		return fmt.Errorf("setting a netlink socket's timeout: %w", err)
	}
	return nil
}

func (c *conn) close() {
	if c.kept {
		return
	}
	c.Close()
	for _, s := range c.raw {
		s.Close()
	}
}

// execute sends a link request and returns the payloads of the answers.
func (c *conn) execute(req *nl.NetlinkRequest, answer uint16) ([][]byte, error) {
	req.Sockets = c.raw
	return req.Execute(unix.NETLINK_ROUTE, answer)
}

// linkRequest starts a request about a link: by name if index is 0.
func linkRequest(command, flags, index int, name string) (*nl.NetlinkRequest, *nl.IfInfomsg) {
	req := nl.NewNetlinkRequest(command, flags)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	if index == 0 && name != "" {
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	}
	return req, msg
}

// setUp takes a link up or down; by name if index is 0.
func (c *conn) setUp(index int, name string, up bool) error {
	req, msg := linkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK, index, name)
	msg.Change = unix.IFF_UP
	if up {
		msg.Flags = unix.IFF_UP
	}
	_, err := c.execute(req, 0)
	return err
}

// deleteLink removes a link. One that has gone meanwhile is no error.
func (c *conn) deleteLink(index int) error {
	req, _ := linkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK, index, "")
	_, err := c.execute(req, 0)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// dropLink is deleteLink that returns as soon as no such link is there any more. The kernel
// holds whoever removes one for a grace period longer (netdev_run_todo), some 8 ms of an
// idle node, in which it frees what nobody can see: that wait goes on in the background, and
// a process that ends meanwhile ends behind it.
func (c *conn) dropLink(ctx context.Context, index int) error {
	remover, err := open(ctx) // its own: it is in use for longer
	if err != nil {
		return err
	}
	removed := make(chan error, 1)
	go func() {
		removed <- remover.deleteLink(index)
		remover.close()
	}()
	for step := 100 * time.Microsecond; ; step = min(2*step, 2*time.Millisecond) {
		if err := pause(ctx, step); err != nil {
			return err
		}
		select {
		case err := <-removed:
			return err
		default:
		}
		if _, err := c.deviceAt(index); errors.Is(err, unix.ENODEV) {
			return nil
		} else if err != nil {
			return fmt.Errorf("looking whether it is gone: %w", err)
		}
	}
}

// noIPv6Address returns the attribute that keeps the kernel from giving a link an
// IPv6 link-local address, and so from probing for it (DAD) and for routers (RS).
// The kernel takes it for links that exist only, not in the request that makes one.
func noIPv6Address() *nl.RtAttr {
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	inet6 := spec.AddRtAttr(unix.AF_INET6, nil)
	inet6.AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, nl.Uint8Attr(nl.IN6_ADDR_GEN_MODE_NONE))
	return spec
}

// change applies attributes to an existing link, the IPv6 one among them if the
// kernel has IPv6 on that link at all (off at boot, or an MTU below 1280).
func (c *conn) change(index int, attrs ...*nl.RtAttr) error {
	send := func(attrs []*nl.RtAttr) error {
		req, _ := linkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK, index, "")
		for _, a := range attrs {
			req.AddData(a)
		}
		_, err := c.execute(req, 0)
		return err
	}
	err := send(append(attrs[:len(attrs):len(attrs)], noIPv6Address()))
	if errors.Is(err, unix.EAFNOSUPPORT) && len(attrs) > 0 {
		return send(attrs)
	}
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	return err
}
