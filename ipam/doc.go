// Package ipam knows networks, reservations and the policy by which addresses are
// given out, and keeps them in one bbolt file a network.
//
// A reservation is one row: an address, its MAC, its hostname, the workload it
// belongs to and the attachment that holds it now. Everything else on a node
// (bridge port, chain, guard elements, DHCP lease, DNS name) is a projection of
// these rows, so the package knows no netlink, no iptables and no CNI types.
package ipam
