package guard

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	nfnlBatchGenID = 1 // NFNL_BATCH_GENID

	// sendBuffer holds a batch, which is one message to the kernel: about 100 bytes
	// an element, so some 20,000 ports. Memory is used only as needed.
	sendBuffer = 16 << 20

	// messageBuffer holds whatever the kernel answers at once: parts of a dump are of
	// 32 KiB at most, and a refusal repeats the one message that it is about. Without
	// it each answer is received twice, and dumps come in smaller parts.
	messageBuffer = 64 << 10

	// defaultTimeout bounds a call whose context has no deadline.
	defaultTimeout = 10 * time.Second
)

// errChanged says that somebody changed nftables between our reading and our
// writing: read again.
var errChanged = errors.New("the ruleset changed meanwhile")

// ErrUnsupported says that the kernel cannot do what the guard needs.
var ErrUnsupported = errors.New("this kernel has no complete nf_tables for bridges: " +
	"load the module nf_tables, or use a kernel with CONFIG_NF_TABLES, CONFIG_NF_TABLES_BRIDGE and CONFIG_NFT_LIMIT")

// A conn is a netlink connection to nf_tables in the network namespace of the
// thread that opened it. It is our own and not the nftables library's, which
// cannot tie a batch to the ruleset that was read, asks for an echo of each rule,
// waits for ever for a batch that was refused as a whole, and does not notice
// interrupted dumps.
type conn struct {
	nl   *netlink.Conn
	stop func() bool
	// exact: read whole sets instead of trusting the ports' records.
	exact bool
	// tied: what is written must meet the ruleset that was read.
	tied bool
	// keep: it is its user's to close, not that of once.
	keep bool
}

func dial(ctx context.Context) (*conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: messageBuffer})
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket to nf_tables: %w", err)
	}
	deadline, _ := ctx.Deadline() // retry sees to it that there is one
	err = errors.Join(nl.SetDeadline(deadline), nl.SetWriteBuffer(sendBuffer))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("preparing a netlink socket: %w", err), nl.Close())
	}
	// Only better messages are lost without it.
	_ = nl.SetOption(netlink.ExtendedAcknowledge, true)
	stop := context.AfterFunc(ctx, func() { _ = nl.SetDeadline(time.Unix(1, 0)) })
	return &conn{nl: nl, stop: stop}, nil
}

func (c *conn) close() {
	c.stop()
	_ = c.nl.Close() // nothing is buffered
}

// get reads one object, or several if flags say so. What is not there is no error.
func (c *conn) get(typ uint16, flags netlink.HeaderFlags, fill func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	m, err := message(typ, flags, fill)
	if err != nil {
		return nil, err
	}
	replies, err := c.nl.Execute(m)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, nil
	case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		return nil, errChanged
	case err != nil:
		return nil, fmt.Errorf("reading nf_tables (message %#x): %w", typ, err)
	}
	return replies, nil
}

// decode calls f with each attribute of an answer.
func decode(data []byte, f func(ad *netlink.AttributeDecoder)) error {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return fmt.Errorf("decoding nf_tables' answer: %w", err)
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		f(ad)
	}
	if err := ad.Err(); err != nil {
		return fmt.Errorf("decoding nf_tables' answer: %w", err)
	}
	return nil
}

// body is an answer without its nfgenmsg header.
func body(m netlink.Message) []byte { return m.Data[min(4, len(m.Data)):] }

// nested calls f with each attribute inside ad.
func nested(ad *netlink.AttributeDecoder, f func(*netlink.AttributeDecoder)) {
	ad.Nested(func(inner *netlink.AttributeDecoder) error {
		for inner.Next() {
			f(inner)
		}
		return nil // the caller's decoder reports the inner one's error
	})
}

// anyGeneration ties a batch to no ruleset.
const anyGeneration = 0

// commit sends the batch as one transaction, which takes place only if the ruleset
// still is that of the generation: else errChanged.
func (c *conn) commit(b *batch, generation uint32) error {
	if b.err != nil || len(b.messages) == 0 {
		return b.err
	}
	begin, err := netfilterMessage(unix.NFNL_MSG_BATCH_BEGIN, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0,
		func(ae *netlink.AttributeEncoder) { ae.Uint32(nfnlBatchGenID, generation) })
	if err != nil {
		return err
	}
	end, err := netfilterMessage(unix.NFNL_MSG_BATCH_END, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0, nil)
	if err != nil {
		return err
	}
	// One answer is asked for, the last message's. Refusals, which come unasked,
	// come before it.
	last := &b.messages[len(b.messages)-1]
	last.Header.Flags |= netlink.Acknowledge
	all := append(append([]netlink.Message{begin}, b.messages...), end)
	if _, err := c.nl.SendMessages(all); err != nil {
		return fmt.Errorf("sending %d changes to nf_tables: %w", len(b.messages), err)
	}
	_, err = c.nl.Receive()
	switch {
	case errors.Is(err, unix.ERESTART), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return errChanged
	case err != nil:
		return fmt.Errorf("changing nf_tables: %w", err)
	}
	return nil
}

// retry runs f on a fresh connection until it does something else than find the
// ruleset changed under it, or the context ends.
func retry(ctx context.Context, f func(*conn) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	exact := false
	for attempt := int64(1); ; attempt++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := once(ctx, exact, f)
		switch {
		case !exact && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)):
			// A record named an element that is not there, or in a set that is no more
			// what it was.
			exact = true
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("%w: %w", cmp.Or(ctx.Err(), context.DeadlineExceeded), err)
		case !errors.Is(err, errChanged):
			return explain(err)
		}
		// Others may be changing rules in a loop: stand back a little, at random.
		pause := time.Duration(rand.Int64N(min(attempt, 10) * int64(time.Millisecond)))
		select {
		case <-ctx.Done():
			return fmt.Errorf("giving up after %d attempts: %w: %w", attempt, ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

func once(ctx context.Context, exact bool, f func(*conn) error) error {
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if !c.keep {
			c.close()
		}
	}()
	c.exact = exact
	return f(c)
}

// explain says what to do about a refusal of the kernel.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: CAP_NET_ADMIN over this network namespace is needed", err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT),
		// None of our own objects can be missing by now: the last attempt was tied to
		// the ruleset it had read.
		errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return err
}
