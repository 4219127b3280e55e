// Package uplink makes a network card (NIC) a port of a network's bridge, and gives it back:
// the bridge takes over the NIC's MAC and, if it has any, its addresses and routes.
//
// A planner compares what is there with what was recorded before anything was touched, and
// returns a list of changes (Forward, Back); an applier puts one after the other into the
// kernel. Make before break: what the node sends by keeps working until the bridge has all
// that it needs for it. The record is kept until the NIC is given back, so that whoever
// comes after a crash goes on from wherever that was: a plan starts from the state that
// there is, not from the step that was reached.
//
// Addresses and routes are moved as the kernel told them, attribute by attribute: only the
// link is another one. So nothing is lost that this package does not know.
//
// Everything works in the network namespace of the calling thread. Callers hold the
// node's lock.
package uplink
