package server

import (
	"iter"
	"sync/atomic"
	"time"
)

// Counters counts what servers of one network do. Each is read by itself. They may
// be shared by servers that follow one another, as when a bridge is made again.
type Counters struct {
	Received   atomic.Uint64 // datagrams
	Refused    atomic.Uint64 // datagrams that are no DHCP message
	Silent     atomic.Uint64 // messages met with silence
	Sent       atomic.Uint64 // frames
	SendFails  atomic.Uint64
	Overflow   atomic.Uint64 // datagrams lost in the kernel's receive buffer
	LateDrops  atomic.Uint64 // messages lost because too many waited for the store
	EventDrops atomic.Uint64 // events lost because the Hook is too slow

	messages [countedTypes][outcomes]atomic.Uint64
	latency  [len(LatencyBounds) + 1]atomic.Uint64
	waited   atomic.Uint64 // nanoseconds, sum
}

const (
	// countedTypes: BOOTP, the eight types of RFC 2131, and one for all others.
	countedTypes = int(Inform) + 2
	// An outcome is a Verdict but Answer, or the type of the answer.
	outcomes      = int(verdicts) + 3
	outcomeOffer  = int(verdicts)
	outcomeAck    = outcomeOffer + 1
	outcomeRefuse = outcomeOffer + 2
)

// LatencyBounds are the upper bounds of the buckets of Latency; one without a bound
// follows.
var LatencyBounds = [...]time.Duration{
	25 * time.Microsecond, 50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, time.Second,
}

// Count is how many messages of one type had one outcome.
type Count struct {
	Type    MessageType // the client's message; 0 = BOOTP
	Outcome string      // "offer", "ack", "nak", or why there was silence: Verdict.Label
	N       uint64
}

// Messages yields every combination of message type and outcome that can occur, also
// those that have not occurred. Types beyond Inform are counted as ForceRenew.
func (c *Counters) Messages() iter.Seq[Count] {
	return func(yield func(Count) bool) {
		for t := range countedTypes {
			for o := 1; o < outcomes; o++ { // 0 is Answer, which the last three replace
				if !yield(Count{MessageType(t), outcomeLabel(o), c.messages[t][o].Load()}) {
					return
				}
			}
		}
	}
}

// Latency returns how many replies took at most each of LatencyBounds, the last number
// being those that took longer (the buckets do not contain one another), and the sum
// of all. It is the time from the message's receipt to the reply's hand-over to the
// kernel.
func (c *Counters) Latency() (buckets [len(LatencyBounds) + 1]uint64, sum time.Duration) {
	for i := range c.latency {
		buckets[i] = c.latency[i].Load()
	}
	return buckets, time.Duration(c.waited.Load())
}

func outcomeLabel(o int) string {
	switch o {
	case outcomeOffer:
		return "offer"
	case outcomeAck:
		return "ack"
	case outcomeRefuse:
		return "nak"
	default:
		return Verdict(o).Label()
	}
}

// countAnswer notes a reply to a message of type t.
func (c *Counters) countAnswer(t, reply MessageType) {
	o := outcomeOffer
	switch reply {
	case Ack:
		o = outcomeAck
	case Nak:
		o = outcomeRefuse
	}
	c.messages[min(int(t), countedTypes-1)][o].Add(1)
}

// countSilence notes a message of type t that gets no reply.
func (c *Counters) countSilence(t MessageType, v Verdict) {
	c.Silent.Add(1)
	c.messages[min(int(t), countedTypes-1)][v].Add(1)
}

func (c *Counters) countLatency(d time.Duration) {
	i := 0
	for i < len(LatencyBounds) && d > LatencyBounds[i] {
		i++
	}
	c.latency[i].Add(1)
	c.waited.Add(uint64(max(d, 0)))
}
