package filter

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// maxReads bounds how often a reading that others' changes overtook is repeated.
const maxReads = 10

// nftConn asks the kernel for chains and rules, which costs a twentieth of running
// iptables-save. (iptables-nft names tables and chains as iptables does.) google/nftables'
// own GetRules is not used: it passes over expressions it does not know, so that a rule
// with a foreign condition would look like a bare jump, and its errors hide the error
// number.
type nftConn struct{ c *netlink.Conn }

// messageBuffer, in bytes, holds whatever the kernel answers at once: parts of a dump are of 32
// KiB at most. Without it each answer is received twice, and dumps come in smaller parts.
const messageBuffer = 64 << 10

// readNFT reads chains (nil = all of ours, and the built-in ones) as of one
// generation of the ruleset. The socket is closed at once, or with later.
func readNFT(ctx context.Context, chains []string, later *closers) (*seen, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: messageBuffer})
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	s, err := (&nftConn{c}).read(ctx, chains)
	if later != nil {
		*later = append(*later, c)
		return s, err
	}
	return s, errors.Join(err, c.Close())
}

// closers are sockets of netfilter's that are left open until a change is made. To close
// one waits for the kernel's freeing of all that any transaction before has taken out (a
// grace period): the guard's, say, of the same DEL. iptables-restore waits for it too when
// it ends, and once is enough.
type closers []io.Closer

func (cs closers) close() {
	for _, c := range cs {
		_ = c.Close() // nothing is buffered
	}
}

func (n *nftConn) read(ctx context.Context, chains []string) (*seen, error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := n.c.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	for range maxReads {
		before, err := n.generation()
		if err != nil {
			return nil, err
		}
		s, err := n.readOnce(chains)
		if err != nil {
			return nil, err
		}
		after, err := n.generation()
		if err != nil {
			return nil, err
		}
		if before == after {
			return s, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("the ruleset changed during each of %d readings", maxReads)
}

func (n *nftConn) readOnce(chains []string) (*seen, error) {
	s := &seen{depth: some, chains: map[string][]seenRule{}}
	if chains == nil {
		s.depth = whole
		all, err := n.chains()
		if err != nil {
			return nil, err
		}
		chains = all
	}
	for _, chain := range chains {
		rules, err := n.rules(chain)
		if err != nil {
			return nil, err
		}
		if len(rules) == 0 && s.depth == some {
			exists, err := n.exists(chain)
			if err != nil {
				return nil, err
			}
			if !exists {
				continue
			}
		}
		s.chains[chain] = rules
	}
	return s, nil
}

// generation is a number that changes with every change of any ruleset.
func (n *nftConn) generation() (uint32, error) {
	replies, err := n.ask(unix.NFT_MSG_GETGEN, unix.AF_UNSPEC, 0, nil)
	if err != nil {
		return 0, fmt.Errorf("reading the ruleset's generation: %w", err)
	}
	for _, m := range replies {
		attrs, err := attributes(m)
		if err != nil {
			return 0, err
		}
		for attrs.Next() {
			if attrs.Type() == unix.NFTA_GEN_ID {
				return attrs.Uint32(), attrs.Err()
			}
		}
	}
	return 0, errors.New("reading the ruleset's generation: the kernel named none")
}

// exists must be asked of a chain without rules: a dump of a missing one is empty, too.
func (n *nftConn) exists(chain string) (bool, error) {
	_, err := n.ask(unix.NFT_MSG_GETCHAIN, unix.AF_INET, 0, []netlink.Attribute{
		stringAttr(unix.NFTA_CHAIN_TABLE, tableOf(chain)), stringAttr(unix.NFTA_CHAIN_NAME, chain),
	})
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for chain %s: %w", chain, err)
	}
	return true, nil
}

func (n *nftConn) chains() ([]string, error) {
	replies, err := n.ask(unix.NFT_MSG_GETCHAIN, unix.AF_INET, netlink.Dump, nil)
	if err != nil {
		return nil, fmt.Errorf("listing chains: %w", err)
	}
	var chains []string
	for _, m := range replies {
		attrs, err := attributes(m)
		if err != nil {
			return nil, err
		}
		var table, name string
		for attrs.Next() {
			switch attrs.Type() {
			case unix.NFTA_CHAIN_TABLE:
				table = attrs.String()
			case unix.NFTA_CHAIN_NAME:
				name = attrs.String()
			}
		}
		if err := attrs.Err(); err != nil {
			return nil, fmt.Errorf("reading the list of chains: %w", err)
		}
		if wanted(table, name) {
			chains = append(chains, name)
		}
	}
	return chains, nil
}

func (n *nftConn) rules(chain string) ([]seenRule, error) {
	replies, err := n.ask(unix.NFT_MSG_GETRULE, unix.AF_INET, netlink.Dump, []netlink.Attribute{
		stringAttr(unix.NFTA_RULE_TABLE, tableOf(chain)), stringAttr(unix.NFTA_RULE_CHAIN, chain),
	})
	if err != nil {
		return nil, fmt.Errorf("listing the rules of chain %s: %w", chain, err)
	}
	var rules []seenRule
	for _, m := range replies {
		if len(m.Data) < nfgenmsgLen {
			return nil, errShortMessage
		}
		r, err := decodeRule(m.Data[nfgenmsgLen:])
		if err != nil {
			return nil, fmt.Errorf("reading a rule of chain %s: %w", chain, err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// nfgenmsgLen is the length of struct nfgenmsg, before the attributes.
const nfgenmsgLen = 4

var errShortMessage = errors.New("netlink message without header")

func (n *nftConn) ask(kind uint16, family byte, flags netlink.HeaderFlags, attrs []netlink.Attribute) ([]netlink.Message, error) {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	return n.c.Execute(nftMessage(kind, family, flags, data))
}

// nftMessage is a request to nf_tables.
func nftMessage(kind uint16, family byte, flags netlink.HeaderFlags, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | flags,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
}

func attributes(m netlink.Message) (*netlink.AttributeDecoder, error) {
	if len(m.Data) < nfgenmsgLen {
		return nil, errShortMessage
	}
	return decoder(m.Data[nfgenmsgLen:])
}

func decoder(b []byte) (*netlink.AttributeDecoder, error) {
	attrs, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return nil, err
	}
	attrs.ByteOrder = binary.BigEndian
	return attrs, nil
}

func stringAttr(kind uint16, s string) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: binaryutil.PutString(s)}
}

// trimNUL cuts a C string out of a field that may be longer.
func trimNUL(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}
