package server

import (
	"net/netip"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Binding is a bridge as the transport and the scope need to know it.
type Binding struct {
	Bridge string
	Index  int // of the link; another one means another bridge, even by the same name
	MAC    ipam.MAC
	Addrs  []netip.Addr // the node's IPv4 addresses on it
	// Nameservers is what option 6 says instead of the network's own dns.nameservers,
	// as where this node answers DNS, or would if its port were free; nil = the network's.
	Nameservers []netip.Addr
	// Metadata says that this node serves 169.254.169.254 on the bridge: clients that
	// take classless routes are told that it is behind the gateway.
	Metadata bool
}

// Datagram tells how a message came.
type Datagram struct {
	Off, Len int        // where the message is in the buffer
	To       netip.Addr // IP destination
	// From is the Ethernet source; zero = unknown.
	From ipam.MAC
	// Drops counts, since the transport was opened, what the kernel threw away
	// because the receive buffer was full.
	Drops uint32
	// Cut: the datagram was longer than the buffer. No client sends such a thing.
	Cut bool
	// Damaged: headers do not fit together or a checksum is wrong.
	Damaged bool
}

// message returns the message in the buffer that was given to Receive.
func (d Datagram) message(buf []byte) []byte { return buf[d.Off : d.Off+d.Len] }

// Transport carries datagrams between a bridge and a Server. Receive is called by
// one goroutine, Send by several.
type Transport interface {
	// Receive fills b and blocks until there is something. After Close it returns
	// net.ErrClosed; any other error is of the moment.
	Receive(b []byte) (Datagram, error)
	// Send puts one Ethernet frame on the bridge.
	Send(frame []byte) error
	// Route sends a packet, from its IPv4 header on, to an address to which the kernel
	// finds the way.
	Route(packet []byte, to netip.Addr) error
	Close() error
}
