package guard

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// A limited set's members each carry a limit of their own, so that a rule which drops
// what is in the set drops what is over the member's limit: the rates are the ports',
// the rules remain constant.

// unsetRate is the limit of a member that says none, which no plan's does: the kernel
// wants a set to have one. Packets a second.
const unsetRate = 1000

// limits are the limited sets and what they bound.
func (p Port) limits() []element {
	name := nameBytes(p.Name)
	var es []element
	for _, l := range []struct {
		set  setName
		rate int
	}{{setLimitARP, p.Limits.ARP}, {setLimitBroadcast, p.Limits.Broadcast}, {setLimitDHCP, p.Limits.DHCP}, {setLimitDNS, p.Limits.DNS}} {
		if l.rate > 0 {
			e := l.set.element(name)
			e.rate = uint32(l.rate)
			es = append(es, e)
		}
	}
	return es
}

// limited says whether members of s carry limits.
func (s setName) limited() bool { return strings.HasPrefix(string(s), "limit_") }

// overRate matches more than a number of packets a second. What one second allows may
// come at once.
func overRate(rate uint32) *expr.Limit {
	return &expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(rate), Over: true, Unit: expr.LimitTimeSecond, Burst: rate}
}

// rateText is the limit as nft prints it, which leaves its own default burst out.
func rateText(rate uint32) string {
	s := fmt.Sprintf("limit rate over %d/second", rate)
	if rate != 5 {
		s += fmt.Sprintf(" burst %d packets", rate)
	}
	return s
}

// foreignRate is the rate of a limit that no plan has.
const foreignRate = ^uint32(0)

// readRate reads an element's expression.
func readRate(ad *netlink.AttributeDecoder) (rate uint32) {
	l := expr.Limit{}
	nested(ad, func(ad *netlink.AttributeDecoder) {
		if ad.Type() != unix.NFTA_EXPR_DATA {
			return
		}
		nested(ad, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NFTA_LIMIT_RATE:
				l.Rate = ad.Uint64()
			case unix.NFTA_LIMIT_UNIT:
				l.Unit = expr.LimitTime(ad.Uint64())
			case unix.NFTA_LIMIT_BURST:
				l.Burst = ad.Uint32()
			case unix.NFTA_LIMIT_TYPE:
				l.Type = expr.LimitType(ad.Uint32())
			case unix.NFTA_LIMIT_FLAGS:
				l.Over = ad.Uint32()&unix.NFT_LIMIT_F_INV != 0
			}
		})
	})
	if l.Rate > 0 && l.Rate < uint64(foreignRate) && l == *overRate(uint32(l.Rate)) {
		return uint32(l.Rate)
	}
	return foreignRate
}

const recordLimits = "limits=" // ARP/broadcast/DHCP/DNS

func limitsRecord(l ipam.Limits) string {
	return fmt.Sprintf("%s%d/%d/%d/%d", recordLimits, l.ARP, l.Broadcast, l.DHCP, l.DNS)
}

func parseLimits(word string) (l ipam.Limits, err error) {
	parts := strings.Split(strings.TrimPrefix(word, recordLimits), "/")
	to := []*int{&l.ARP, &l.Broadcast, &l.DHCP, &l.DNS}
	if len(parts) != len(to) {
		return l, fmt.Errorf("%q are no limits", word)
	}
	for i, part := range parts {
		if *to[i], err = strconv.Atoi(part); err != nil {
			return l, fmt.Errorf("%q are no limits: %w", word, err)
		}
	}
	return l, validateLimits(l)
}

// maxLimit is far beyond what a port can carry, and leaves the kernel's arithmetic room.
const maxLimit = 10_000_000

func validateLimits(l ipam.Limits) error {
	for _, n := range []int{l.ARP, l.Broadcast, l.DHCP, l.DNS} {
		if n < 0 || n > maxLimit {
			return fmt.Errorf("%d is no limit: 0 to %d packets a second are accepted", n, maxLimit)
		}
	}
	return nil
}

// limitChains drop what is too much of one kind, whatever it is otherwise, and return
// for the rest.
func limitChains() []chain {
	over := func(s setName, reason string) rule { return rule{s.in(iifname()), dropAs(reason)} }
	return []chain{
		{"limits", nil, []rule{
			{etherType(etherTypeARP), goTo("limit_arp")},
			{udpDst(expr.CmpOpEq, "67", portDHCPServer), goTo("limit_dhcp")},
			{udpDst(expr.CmpOpEq, "53", portDNS), goTo("limit_dns")},
			{isGroup(), goTo("limit_broadcast")},
		}},
		{"limit_arp", nil, []rule{over(setLimitARP, inARPRate)}},
		{"limit_dhcp", nil, []rule{over(setLimitDHCP, inDHCPRate)}},
		{"limit_dns", nil, []rule{over(setLimitDNS, inDNSRate)}},
		{"limit_broadcast", nil, []rule{over(setLimitBroadcast, inBroadcastRate)}},
	}
}

// encodeLimit adds a limit as the attribute of a set or of a member.
func encodeLimit(ae *netlink.AttributeEncoder, typ uint16, rate uint32) {
	ae.Do(netlink.Nested|typ, func() ([]byte, error) { return expr.Marshal(unix.NFPROTO_BRIDGE, overRate(rate)) })
}
