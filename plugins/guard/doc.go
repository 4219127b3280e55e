// Package guard keeps workload ports honest: an nftables table of the bridge
// family, `bridge flatdhcp`, that drops by the ports' name prefix and accepts by
// set membership. A port that is in no set passes nothing, in or out.
//
// Its rules are constant: they know no network, and every packet costs the same
// whatever the number of workloads. Attaching a workload adds set elements, and
// detaching it removes them, each in one netlink transaction.
//
// The planner (NewPlan, Plan.String) is pure. The applier (Attach, Detach, Apply,
// Remove, Counters) works in the network namespace of the calling thread and
// executes no program.
package guard
