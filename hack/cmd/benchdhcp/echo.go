package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/flatdhcp/flatdhcp/dhcpd/server"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// echo answers every DHCP message with what it would be told anyway: the floor of what a
// server on flat-dhcpd's transport can cost. It knows no reservations; the address follows
// from the MAC.
func echo() error {
	ifi, err := net.InterfaceByName(bridge)
	if err != nil {
		return err
	}
	t, err := server.Open(server.Binding{Bridge: bridge, Index: ifi.Index, MAC: ipam.MAC(ifi.HardwareAddr), Addrs: []netip.Addr{gateway}})
	if err != nil {
		return err
	}
	buf, frame := make([]byte, 4096), make([]byte, headersLen+messageLen)
	for {
		d, err := t.Receive(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receiving: %w", err)
		}
		m := buf[d.Off : d.Off+d.Len]
		if !reflect(frame, m) {
			continue
		}
		if gi := giaddr(m); gi.IsUnspecified() {
			err = t.Send(frame)
		} else {
			err = t.Route(frame[ethernetLen:], gi)
		}
		if err != nil {
			return fmt.Errorf("sending: %w", err)
		}
	}
}

// giaddr is the relay that a message came by; 0.0.0.0 = none.
func giaddr(m []byte) netip.Addr { return netip.AddrFrom4([4]byte(m[24:28])) }

// reflect makes the answer to m in frame, or reports that there is none.
func reflect(frame, m []byte) bool {
	q, err := parseMessage(m, 1)
	if err != nil || q.mac[0] != ipam.DefaultMACPrefix[0] || len(m) < messageLen {
		return false
	}
	out := frame[headersLen:]
	copy(out, m[:fixedLen])
	out[0] = 2
	kind := byte(offer)
	if q.kind == request {
		kind = ack
	}
	addr := netip.AddrFrom4([4]byte{subnet.Addr().As4()[0], q.mac[3], q.mac[4], q.mac[5]})
	yiaddr, id := addr.As4(), gateway.As4()
	copy(out[16:], yiaddr[:])
	o := append(out[:fixedLen], optType, 1, kind, optServerID, 4, id[0], id[1], id[2], id[3], optLease, 4)
	o = binary.BigEndian.AppendUint32(o, uint32(leaseTime.Seconds()))
	o = append(o, optMask, 4, 255, 255, 0, 0, optEnd)
	clear(out[len(o):])
	e := envelope{fromMAC: bridgeMAC, toMAC: q.mac, from: gateway, to: addr, fromPort: serverPort, toPort: clientPort}
	switch gi := giaddr(m); {
	case !gi.IsUnspecified():
		e.to, e.toPort = gi, serverPort
	case m[10]&0x80 != 0:
		e.toMAC, e.to = broadcastMAC, broadcastIP
	}
	e.put(frame)
	return true
}
