// Package server answers DHCPv4 on one bridge from reservations alone.
//
// The reservation is the lease: nothing is allocated here and no lease file is
// kept, so a restart forgets nothing. A client whose MAC (chaddr, and nothing
// else) has a reservation is always answered, with its one address or with a NAK;
// any other client meets silence, because other nodes' daemons hear the same
// broadcasts and may carry the same server identifier. A MAC that is derived from an
// address of a configured peer stands for a reservation in that node's store.
//
// Three layers, each usable without the next:
//
//   - codec: [Message] reads a datagram, [Encoder] writes a reply, both without
//     allocating; frame headers with their checksums are in frame.go;
//   - decision: [Respond] is a pure function from (request, [Scope], reservation)
//     to a [Reply] or a [Verdict] that says why there is none;
//   - [Server] moves datagrams between a [Transport] and Respond.
package server
