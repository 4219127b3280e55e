// Package filter plans and applies the iptables rules of workloads.
//
// nova-network's shape: INPUT, FORWARD and OUTPUT jump first to FLAT-INPUT,
// FLAT-FORWARD and FLAT-OUTPUT; FORWARD and OUTPUT dispatch on the destination
// address, through a tree over address prefixes, to one chain a workload. The
// planners (WorkloadChain, Base, Tree, PlanAll) are pure and return values that
// print as iptables-restore text; Table puts them into the kernel, in one
// transaction a change.
package filter
