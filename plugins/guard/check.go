package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mdlayher/netlink"
)

// Supported reports why no guard can be put in here, or nil. A table that is there is
// proof enough; else the kernel is asked to judge the whole base, and changes nothing.
// ErrUnsupported says that the kernel lacks something.
func Supported(ctx context.Context) error {
	err := retry(ctx, func(c *conn) error {
		there, _, err := c.table()
		if err != nil || there {
			return err
		}
		rules, err := encodeRules(chains())
		if err != nil {
			return err
		}
		var b batch
		b.rebuild(baseState{}, rules, nil)
		return c.rehearse(&b)
	})
	if err != nil {
		return fmt.Errorf("trying out the guard: %w", err)
	}
	return nil
}

// rehearse sends the batch without its end, as `nft --check` does: the kernel tries it
// out and takes it back.
func (c *conn) rehearse(b *batch) error {
	if b.err != nil || len(b.messages) == 0 {
		return b.err
	}
	begin, err := netfilterMessage(unix.NFNL_MSG_BATCH_BEGIN, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0, nil)
	if err != nil {
		return err
	}
	last := &b.messages[len(b.messages)-1]
	last.Header.Flags |= netlink.Acknowledge
	if _, err := c.nl.SendMessages(append([]netlink.Message{begin}, b.messages...)); err != nil {
		return fmt.Errorf("sending %d messages to nf_tables: %w", len(b.messages), err)
	}
	_, err = c.nl.Receive()
	switch {
	case errors.Is(err, unix.ERESTART), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return errChanged
	case errors.Is(err, unix.EEXIST): // somebody has just put it in
		return nil
	}
	return err
}

// Check compares what the kernel has for one port with what Attach would put in, the
// base and the segment included, and changes nothing. It returns a line for each
// defect; none if all is in place. Its cost grows with the number of ports: it reads
// whole sets, so that it also finds what somebody added.
func Check(ctx context.Context, segment Segment, p Port) (defects []string, err error) {
	if err := errors.Join(p.validate(), segment.validate()); err != nil {
		return nil, fmt.Errorf("checking port %s in the guard: %w", p.Name, err)
	}
	err = retry(ctx, func(c *conn) (err error) {
		defects, err = c.check(segment, p)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("checking port %s in the guard: %w", p.Name, err)
	}
	return defects, nil
}

func (c *conn) check(segment Segment, p Port) (defects []string, err error) {
	err = c.transact(func(*batch) error {
		defects = nil
		s, _, err := c.base()
		if err != nil {
			return err
		}
		if s.defect != "" {
			defects = append(defects, fmt.Sprintf("the guard's table bridge %s is not what it should be: %s", tableName, s.defect))
		}
		if !s.table {
			return nil
		}
		all, err := c.scan("")
		if err != nil {
			return err
		}
		have := slices.DeleteFunc(slices.Clone(all), func(e element) bool {
			return !e.ofPort(p.Name) && (segment.Uplink.Name == "" || !e.ofUplink(segment.Uplink.Name))
		})
		extra, missing := difference(have, append(p.elements(), segment.Uplink.elements()...))
		for _, e := range gatewayElements(segment.Gateways) {
			if !slices.Contains(all, e) {
				missing = append(missing, e)
			}
		}
		defects = append(defects, elementDefects("lacks", missing)...)
		defects = append(defects, elementDefects("has a foreign", extra)...)
		return nil
	})
	return defects, err
}

func elementDefects(what string, es []element) []string {
	var lines []string
	for _, s := range sets() {
		for _, e := range es {
			if e.set == s.name {
				lines = append(lines, fmt.Sprintf("the guard %s element of set %s: %s", what, s.name, s.text(e)))
			}
		}
	}
	return lines
}

// Ports returns the names of all ports that have elements in any set, sorted.
func Ports(ctx context.Context) ([]string, error) {
	var names []string
	err := retry(ctx, func(c *conn) error {
		names = nil
		return c.transact(func(*batch) error {
			es, err := c.scan("")
			for _, e := range es {
				if name := e.portName(); name != "" {
					names = append(names, name)
				}
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("listing the guard's ports: %w", err)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// portName is the port that an element is of; empty if it is no port's.
func (e element) portName() string {
	switch {
	case e.set == setGateways, e.set == setUplinks:
		return ""
	case e.isUplinks():
		return e.comment
	}
	return strings.TrimRight(e.key[:min(len(e.key), unix.IFNAMSIZ)], "\x00")
}
