// Package names is flat-dhcpd's DNS server: it answers a network's workloads, at the
// gateway address, for their own zone from the reservations and for everything else
// from the servers that package upstream asks.
//
// What the zone says is a pure function of the network's record and rows ([NewZone],
// [Zone.Find]); a [Server] puts it on the wire. Like the DHCP responder it needs no
// state of its own: the row is the name.
package names
