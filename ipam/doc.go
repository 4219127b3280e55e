// Package ipam knows networks, reservations and the policy by which addresses are
// given out, and keeps them in one bbolt file a network.
//
// A reservation is one row: an address, its MAC, its hostname, the workload it
// belongs to and the attachment that holds it now. Everything else on a node
// (bridge port, chain, guard elements, DHCP lease, DNS name) is a projection of
// these rows, so the package knows no netlink, no iptables and no CNI types.
//
// # Policy
//
// A workload that returns gets the address and MAC it had, for as long as nobody
// else was given them. Another is given, in this order, an address never used; the
// one released longest ago of those past Pool.Retain; the one released longest ago
// of those past Pool.ReuseDelay. An address that is asked for by name is given if
// nobody has it and it is not in quarantine for another. The cost of all of this
// does not depend on the number of reservations.
//
// # Locks
//
// Nobody keeps a file open. Everybody takes the exclusive lock of DATADIR/lock, in
// the order in which they came, and then that of the network's file: who writes an
// exclusive one, who reads a shared one. Who writes keeps the directory's lock for
// the transaction; who reads lets go of it at once, so that readers overlap, and yet
// never keep a writer waiting for more than those before it. All waits end with the
// caller's context. Nothing here runs a program or waits for anything else while it
// holds a lock.
//
// # Files
//
// A store is made beside its final name and renamed, so a file of that name that is
// empty, truncated or foreign is damage: it is reported as ErrDamaged and never
// replaced. Who reads does so page by page (see tree.go); who writes uses bbolt,
// after the file's headers and list of free pages have been verified. A commit is
// durable when it returns, and a process may die at any moment.
package ipam
