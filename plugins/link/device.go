package link

import (
	"context"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// extSkipStats is RTEXT_FILTER_SKIP_STATS: answers without the counters, half as long.
const extSkipStats = 1 << 3

// device is what this package wants to know of a link. The library's own parser
// drops the bridge and bridge port attributes that matter here.
type device struct {
	index      int
	name       string
	alias      string
	kind       string // "bridge", "veth"; empty = hardware or loopback
	mac        ipam.MAC
	mtu        int
	up         bool
	operative  bool // IF_OPER_UP: the kernel has dealt with the carrier, so that it sends
	master     int  // index, 0 = none
	peer       int  // index of a veth's other end, in that end's namespace
	bridge     bridgeData
	asPort     portData
	masterKind string // "bridge" if asPort is valid
}

type bridgeData struct {
	stp          bool
	nfCall       bool
	forwardDelay uint32 // hundredths of a second
}

type portData struct {
	state    uint8 // IFLA_BRPORT_STATE: 0 disabled, 1 listening, 2 learning, 3 forwarding, 4 blocking
	hairpin  bool
	learning bool
}

// typeName names the device's type for people.
func (d device) typeName() string {
	if d.kind == "" {
		return "hardware or loopback device"
	}
	return d.kind + " device"
}

// device finds a link by name: unix.ENODEV if there is none.
func (c *conn) device(name string) (device, error) {
	req, _ := linkRequest(unix.RTM_GETLINK, 0, 0, name)
	d, err := c.getDevice(req)
	if err == nil && d.name != name {
		// The kernel finds links by their alternative names too, but iptables and
		// nftables match the real one only.
		return d, fmt.Errorf("%q is only an alternative name of interface %s", name, d.name)
	}
	return d, err
}

// deviceAt finds a link by index: unix.ENODEV if there is none.
func (c *conn) deviceAt(index int) (device, error) {
	req, _ := linkRequest(unix.RTM_GETLINK, 0, index, "")
	return c.getDevice(req)
}

func (c *conn) getDevice(req *nl.NetlinkRequest) (device, error) {
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(extSkipStats)))
	msgs, err := c.execute(req, unix.RTM_NEWLINK)
	if err != nil {
		return device{}, err
	}
	if len(msgs) != 1 {
		return device{}, fmt.Errorf("the kernel gave %d answers about one link", len(msgs))
	}
	return parseDevice(msgs[0])
}

// devices lists links: of one kind unless it is empty, ports of one bridge unless
// master is 0. The kernel filters, so that the cost is that of what is found.
func (c *conn) devices(ctx context.Context, kind string, master int) ([]device, error) {
	return dump(ctx, "links", func() ([]device, error) {
		req, _ := linkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP, 0, "")
		req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(extSkipStats)))
		if kind != "" {
			info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
			info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
			req.AddData(info)
		}
		if master != 0 {
			req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(master))))
		}
		msgs, err := c.execute(req, unix.RTM_NEWLINK)
		if err != nil {
			return nil, err
		}
		var found []device
		for _, m := range msgs {
			d, err := parseDevice(m)
			if err != nil {
				return nil, err
			}
			// Old kernels ignore a filter they do not know.
			if (kind == "" || d.kind == kind) && (master == 0 || d.master == master) {
				found = append(found, d)
			}
		}
		return found, nil
	})
}

func parseDevice(b []byte) (device, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return device{}, fmt.Errorf("a link message of %d bytes is too short", len(b))
	}
	msg := nl.DeserializeIfInfomsg(b)
	d := device{index: int(msg.Index), up: msg.Flags&unix.IFF_UP != 0}
	err := eachAttr(b[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.IFLA_IFNAME:
			d.name = unix.ByteSliceToString(v)
		case unix.IFLA_IFALIAS:
			d.alias = unix.ByteSliceToString(v)
		case unix.IFLA_ADDRESS:
			if hw := net.HardwareAddr(v); len(hw) == len(d.mac) {
				d.mac = ipam.MAC(hw)
			}
		case unix.IFLA_MTU:
			d.mtu = int(number(v))
		case unix.IFLA_OPERSTATE:
			d.operative = number(v) == netlink.OperUp
		case unix.IFLA_MASTER:
			d.master = int(number(v))
		case unix.IFLA_LINK:
			d.peer = int(number(v))
		case unix.IFLA_LINKINFO:
			return d.parseLinkInfo(v)
		}
		return nil
	})
	return d, err
}

func (d *device) parseLinkInfo(b []byte) error {
	var data, slave []byte
	err := eachAttr(b, func(kind uint16, v []byte) error {
		switch kind {
		case nl.IFLA_INFO_KIND:
			d.kind = unix.ByteSliceToString(v)
		case nl.IFLA_INFO_DATA:
			data = v
		case nl.IFLA_INFO_SLAVE_KIND:
			d.masterKind = unix.ByteSliceToString(v)
		case nl.IFLA_INFO_SLAVE_DATA:
			slave = v
		}
		return nil
	})
	if err == nil && d.kind == "bridge" {
		err = eachAttr(data, func(kind uint16, v []byte) error {
			switch kind {
			case nl.IFLA_BR_STP_STATE:
				d.bridge.stp = number(v) != 0
			case nl.IFLA_BR_FORWARD_DELAY:
				d.bridge.forwardDelay = number(v)
			case nl.IFLA_BR_NF_CALL_IPTABLES:
				d.bridge.nfCall = number(v) != 0
			}
			return nil
		})
	}
	if err == nil && d.masterKind == "bridge" {
		err = eachAttr(slave, func(kind uint16, v []byte) error {
			switch kind {
			case nl.IFLA_BRPORT_STATE:
				d.asPort.state = uint8(number(v))
			case nl.IFLA_BRPORT_MODE:
				d.asPort.hairpin = number(v) != 0
			case nl.IFLA_BRPORT_LEARNING:
				d.asPort.learning = number(v) != 0
			}
			return nil
		})
	}
	return err
}

// eachAttr calls f for every attribute of a netlink payload (linux/netlink.h: length
// and type of two bytes each, value, padding to four bytes). The library's parser
// trusts the lengths.
func eachAttr(b []byte, f func(kind uint16, value []byte) error) error {
	const header = unix.SizeofRtAttr
	for len(b) >= header {
		length := int(nl.NativeEndian().Uint16(b))
		kind := nl.NativeEndian().Uint16(b[2:])
		if length < header || length > len(b) {
			return fmt.Errorf("parsing netlink attribute %d: %d bytes of %d", kind, length, len(b))
		}
		if err := f(kind&nl.NLA_TYPE_MASK, b[header:length]); err != nil {
			return err
		}
		b = b[min(len(b), (length+3)&^3):]
	}
	return nil
}

// number reads an attribute of one, two or four bytes in the machine's order.
func number(b []byte) uint32 {
	switch len(b) {
	case 1:
		return uint32(b[0])
	case 2:
		return uint32(nl.NativeEndian().Uint16(b))
	case 4:
		return nl.NativeEndian().Uint32(b)
	}
	return 0
}
