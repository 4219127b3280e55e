package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/flatdhcp/flatdhcp/dhcpd/policy"
	"github.com/flatdhcp/flatdhcp/dhcpd/report"
	"github.com/flatdhcp/flatdhcp/dhcpd/server"
	"github.com/flatdhcp/flatdhcp/dhcpd/snapshot"
)

// metrics adds what the networks' servers count and what is known of leases.
func (s *seen) metrics(networks func() []*snapshot.Network) report.Source {
	return func(m *report.Metrics) {
		for _, n := range networks() {
			c := n.Copy()
			name := []string{"network", n.Name()}
			m.Gauge("flatdhcp_reservations", "Reservations in the store, as last read.", float64(c.Len()), name...)
			m.Counter("flatdhcp_store_reloads_total", "Copies of the store that were made, and attempts that failed.", n.Reloads.Load(), append(name, "result", "ok")...)
			m.Counter("flatdhcp_store_reloads_total", "", n.Failures.Load(), append(name, "result", "error")...)
			if b := c.Network.Bridge; b != nil && b.IsGateway {
				serverMetrics(m, s.countersOf(keyOf(n)), name)
			}
		}
		counts := s.book.Count()
		for _, network := range slices.Sorted(maps.Keys(counts)) {
			for _, state := range slices.Sorted(maps.Keys(counts[network])) {
				m.Gauge("flatdhcp_leases", "Clients by what they last did: offered, bound, expired, released, declined.",
					float64(counts[network][state]), "network", network, "state", string(state))
			}
		}
		m.Gauge("flatdhcp_event_readers", "Who reads the stream of events now.", float64(s.stream.Readers()))
		m.Counter("flatdhcp_event_stream_lost_total", "Events that readers of the stream were too slow for.", s.stream.Lost())
		if s.hook != nil {
			const help = "Runs of the hook, and events for which there was no room (lost)."
			m.Counter("flatdhcp_hook_runs_total", help, s.hook.Counters.Done.Load(), "result", "ok")
			m.Counter("flatdhcp_hook_runs_total", help, s.hook.Counters.Failed.Load(), "result", "error")
			m.Counter("flatdhcp_hook_runs_total", help, s.hook.Counters.Lost.Load(), "result", "lost")
		}
	}
}

// serverMetrics adds the counters of one network's servers.
func serverMetrics(m *report.Metrics, c *server.Counters, name []string) {
	var known, unknown uint64
	for n := range c.Messages() {
		switch {
		case n.Outcome == unknownClient:
			unknown += n.N
		case slices.Contains(ofKnownClients, n.Outcome):
			known += n.N
		}
		if n.N > 0 || slices.Contains(alwaysShown, n.Type.String()+" "+n.Outcome) {
			m.Counter("flatdhcp_dhcp_messages_total", "Messages by type and by what they got: offer, ack, nak, or a reason for silence.", n.N,
				append(name, "type", messageType(n.Type), "outcome", n.Outcome)...)
		}
	}
	const clients = "Messages of clients with a reservation and of others."
	m.Counter("flatdhcp_dhcp_client_messages_total", clients, known, append(name, "client", "known")...)
	m.Counter("flatdhcp_dhcp_client_messages_total", clients, unknown, append(name, "client", "unknown")...)
	m.Counter("flatdhcp_dhcp_datagrams_received_total", "Datagrams that came to port 67.", c.Received.Load(), name...)
	m.Counter("flatdhcp_dhcp_datagrams_malformed_total", "Datagrams that are no DHCP message.", c.Refused.Load(), name...)
	m.Counter("flatdhcp_dhcp_frames_sent_total", "Frames sent: a NAK may take two.", c.Sent.Load(), name...)
	const lost = "What was lost: messages in the kernel's receive buffer (overflow) or waiting for the store (queue), frames that could not be sent (send), events (events)."
	for _, l := range []struct {
		where string
		n     uint64
	}{{"overflow", c.Overflow.Load()}, {"queue", c.LateDrops.Load()}, {"send", c.SendFails.Load()}, {"events", c.EventDrops.Load()}} {
		m.Counter("flatdhcp_dhcp_lost_total", lost, l.n, append(name, "where", l.where)...)
	}
	buckets, sum := c.Latency()
	m.Histogram("flatdhcp_dhcp_reply_seconds", "From a message's receipt to the hand-over of its reply to the kernel.",
		server.LatencyBounds[:], buckets[:], sum, name...)
}

var (
	unknownClient  = server.Unknown.Label()
	ofKnownClients = []string{
		"offer", "ack", "nak", server.ForeignAddress.Label(), server.Declined.Label(), server.Released.Label(), server.Unsure.Label(),
	}
	// alwaysShown start from 0, so that a rate of the first is no surprise.
	alwaysShown = []string{
		"DHCPDISCOVER offer", "DHCPREQUEST ack", "DHCPREQUEST nak", "DHCPDISCOVER " + unknownClient, "DHCPREQUEST " + unknownClient,
	}
)

// messageType is a label: discover, request, bootp, other.
func messageType(t server.MessageType) string {
	switch {
	case t == 0:
		return "bootp"
	case t > server.Inform:
		return "other"
	}
	return strings.ToLower(strings.TrimPrefix(t.String(), "DHCP"))
}

// keeperMetrics adds what is done about configuration.
func keeperMetrics(k *policy.Keeper) report.Source {
	return func(m *report.Metrics) {
		c := &k.Counters
		m.Counter("flatdhcp_config_written_total", "Records that were written from conflists.", c.Configured.Load())
		m.Counter("flatdhcp_config_refused_total", "Edits of conflists that were refused.", c.Refused.Load())
		const help = "Times that a network's policy was put in force for living workloads: found in place (same), changed, failed."
		changed := c.Changed.Load()
		m.Counter("flatdhcp_reconciles_total", help, c.Applied.Load()-min(changed, c.Applied.Load()), "result", "same")
		m.Counter("flatdhcp_reconciles_total", help, changed, "result", "changed")
		m.Counter("flatdhcp_reconciles_total", help, c.Failed.Load(), "result", "error")
	}
}

// stateMetrics adds what is served.
func stateMetrics(states func() ([]report.NetworkState, bool)) report.Source {
	return func(m *report.Metrics) {
		m.Gauge("flatdhcp_build_info", "The version, as a label.", 1, "version", version)
		list, _ := states()
		for _, n := range list {
			up := 0.0
			if n.Served {
				up = 1
			}
			m.Gauge("flatdhcp_network_served", "1 for a network that is served here, 0 for one that is to be and is not.", up, "network", n.Network, "bridge", n.Bridge)
		}
	}
}
