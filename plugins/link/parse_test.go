package link

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// linkMessage is what the kernel says of a bridge port, as far as we read it.
func linkMessage() []byte {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags = 7, unix.IFF_UP
	b := msg.Serialize()
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.ZeroTerminated("veth"))
	info.AddRtAttr(nl.IFLA_INFO_SLAVE_KIND, nl.ZeroTerminated("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_SLAVE_DATA, nil).AddRtAttr(nl.IFLA_BRPORT_STATE, nl.Uint8Attr(stateForwarding))
	for _, a := range []*nl.RtAttr{
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("fdp0")),
		nl.NewRtAttr(unix.IFLA_IFALIAS, nl.ZeroTerminated("flatdhcp flat c eth0")),
		nl.NewRtAttr(unix.IFLA_ADDRESS, []byte{0xfe, 0x16, 0x3e, 0, 0, 2}),
		nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1400)),
		nl.NewRtAttr(unix.IFLA_OPERSTATE, []byte{6}),
		nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(5)),
		nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(2)),
		info,
	} {
		b = append(b, a.Serialize()...)
	}
	return b
}

func TestParseDevice(t *testing.T) {
	got, err := parseDevice(linkMessage())
	ok(t, err)
	want := device{
		index: 7, name: "fdp0", alias: "flatdhcp flat c eth0", kind: "veth", mac: [6]byte{0xfe, 0x16, 0x3e, 0, 0, 2}, mtu: 1400,
		up: true, operative: true, master: 5, peer: 2, masterKind: "bridge", asPort: portData{state: stateForwarding},
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// flowMessage is what the kernel says of a connection, as far as we read it.
func flowMessage() []byte {
	b := (&nl.Nfgenmsg{NfgenFamily: unix.AF_INET}).Serialize()
	for i, kind := range []int{nl.CTA_TUPLE_ORIG, nl.CTA_TUPLE_REPLY} {
		tuple := nl.NewRtAttr(unix.NLA_F_NESTED|kind, nil)
		ip := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil)
		ip.AddRtAttr(nl.CTA_IP_V4_SRC, []byte{10, 0, byte(i), 1})
		ip.AddRtAttr(nl.CTA_IP_V4_DST, []byte{10, 0, byte(i), 2})
		b = append(b, tuple.Serialize()...)
	}
	return b
}

func TestParseFlow(t *testing.T) {
	got, err := parseFlow(flowMessage())
	ok(t, err)
	var want [4]netip.Addr
	for i, s := range []string{"10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.1.2"} {
		want[i] = netip.MustParseAddr(s)
	}
	if got.ends != want {
		t.Errorf("got %v, want %v", got.ends, want)
	}
}

// The kernel is trusted, its versions are many: whatever comes, nothing panics.
func FuzzParse(f *testing.F) {
	for _, seed := range [][]byte{nil, linkMessage(), flowMessage(), linkMessage()[:30]} {
		f.Add(seed)
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = parseDevice(b)
		_, _ = parseFlow(b)
	})
}
