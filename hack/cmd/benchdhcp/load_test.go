package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// fake is a server at the other end of a pair of sockets, which keep frames whole as a
// packet socket does. reply makes its answer to the nth message, nil for silence.
func fake(t *testing.T, reply func(n int, f []byte) []byte) *link {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	l := &link{fd: fds[0], port: -1, poll: []unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for i := 0; ; i++ {
			n, err := unix.Read(fds[1], buf)
			if n == 0 || err != nil {
				return
			}
			if f := reply(i, buf[:n]); f != nil {
				if _, err := unix.Write(fds[1], f); err != nil {
					return
				}
			}
		}
	}()
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
		<-done
		if err := unix.Close(fds[1]); err != nil {
			t.Error(err)
		}
	})
	return l
}

// honest answers as the echo server does.
func honest(f []byte) []byte {
	out := make([]byte, headersLen+messageLen)
	if !reflect(out, f[headersLen:]) {
		return nil
	}
	return out
}

func kindOf(t *testing.T, f []byte) byte {
	t.Helper()
	q, err := parseMessage(f[headersLen:], 1)
	if err != nil {
		t.Error(err)
	}
	return q.kind
}

func TestLoad(t *testing.T) {
	quick := constant(20 * time.Millisecond)
	for _, tc := range []struct {
		name  string
		load  load
		reply func(n int, f []byte) []byte
		check func(o outcome) bool
		err   string
	}{
		{"one exchange for each client", load{clients: spread(50, 50), window: 7, wait: constant(time.Minute)},
			func(_ int, f []byte) []byte { return honest(f) },
			func(o outcome) bool {
				return o.exchanges == 50 && o.all == 50 && o.repeats == 0 && o.unserved == 0 && len(o.latencies) == 50 && o.quantile(0.5) > 0
			}, ""},
		{"clients begin one after the other", load{clients: spread(5, 5), window: 5, every: 10 * time.Millisecond, wait: constant(time.Minute)},
			func(_ int, f []byte) []byte { return honest(f) },
			func(o outcome) bool { return o.exchanges == 5 && o.elapsed >= 40*time.Millisecond }, ""},
		{"as many as there is time for", load{clients: spread(3, 10_000), window: 3, last: 50 * time.Millisecond, wait: constant(time.Minute)},
			func(_ int, f []byte) []byte { return honest(f) },
			func(o outcome) bool {
				return o.exchanges > 3 && o.all >= o.exchanges && o.elapsed >= 50*time.Millisecond
			}, ""},
		{"lost messages are repeated and counted", load{clients: spread(4, 4), window: 1, wait: quick},
			func(n int, f []byte) []byte {
				if n < 3 {
					return nil
				}
				return honest(f)
			},
			func(o outcome) bool { return o.exchanges == 4 && o.repeats >= 3 }, ""},
		{"who gets nothing is unserved", load{clients: spread(4, 4), window: 4, wait: quick, patience: 100 * time.Millisecond},
			func(int, []byte) []byte { return nil },
			func(o outcome) bool {
				return o.exchanges == 0 && o.unserved == 4 && o.repeats >= 4 && o.quantile(0.99) == 0
			}, ""},
		{"another's address", load{clients: spread(1, 1), window: 1, wait: quick},
			func(_ int, f []byte) []byte {
				a := honest(f)
				a[headersLen+19] = 77
				return a
			}, nil, "10.0.0.1 gives 10.0.0.77 to fa:16:3e:00:00:02, whose address is 10.0.0.2"},
		{"a refusal", load{clients: spread(1, 1), window: 1, wait: quick},
			func(_ int, f []byte) []byte {
				a := honest(f)
				if kindOf(t, f) == request {
					a[headersLen+fixedLen+2] = nak
				}
				return a
			}, nil, "10.0.0.1 has refused 10.0.0.2 to fa:16:3e:00:00:02"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.load.link, tc.load.mode = fake(t, tc.reply), unicast
			if tc.load.patience == 0 {
				tc.load.patience = time.Minute
			}
			o, err := tc.load.run()
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Errorf("error %v, want %s", err, tc.err)
				}
				return
			}
			if err != nil || !tc.check(o) {
				o.latencies = nil
				t.Errorf("got %+v, %v", o, err)
			}
		})
	}
}

func TestFlood(t *testing.T) {
	macs := map[string]bool{}
	heard := make(chan struct{}, 300)
	l := fake(t, func(_ int, f []byte) []byte {
		if kindOf(t, f) == discover {
			macs[string(f[6:12])] = true
			heard <- struct{}{}
		}
		return nil
	})
	sent, took, err := flood(l, 300, 3000, nil)
	if err != nil || sent != 300 || took < 90*time.Millisecond {
		t.Errorf("%d sent in %v, %v", sent, took, err)
	}
	for range sent {
		<-heard
	}
	if len(macs) != 300 {
		t.Errorf("%d strangers", len(macs))
	}
	stopped := make(chan struct{})
	close(stopped)
	if sent, _, err := flood(l, 1<<30, 1, stopped); err != nil || sent != 0 {
		t.Errorf("%d sent although told to stop, %v", sent, err)
	}
}

func TestBackOff(t *testing.T) {
	for n, seconds := range []int{4, 8, 16, 32, 64, 64} {
		want := time.Duration(seconds) * time.Second
		for range 100 {
			if got := backOff(n); got < want-time.Second || got > want+time.Second {
				t.Fatalf("message %d waits %v, want %v +- 1 s (RFC 2131 section 4.1)", n, got, want)
			}
		}
	}
}

func TestHosts(t *testing.T) {
	for n, want := range map[int]string{0: "10.0.0.2 fa:16:3e:00:00:02", 254: "10.0.1.0 fa:16:3e:00:01:00", maxHosts - 1: "10.0.195.81 fa:16:3e:00:c3:51"} {
		if a, m := host(n); a.String()+" "+m.String() != want {
			t.Errorf("host %d is %s %s, want %s", n, a, m, want)
		}
	}
	if last, _ := host(maxHosts - 1); !subnet.Contains(last) || last.Compare(relay) >= 0 {
		t.Errorf("%s is none of the network's", last)
	}
	if got := spread(4, 10); len(got) != 4 || got[0] != 0 || got[3] != 7 {
		t.Errorf("4 of 10: %v", got)
	}
	if got := spread(9, 3); len(got) != 3 {
		t.Errorf("9 of 3: %v", got)
	}
	if netip.PrefixFrom(gateway, 16).Masked() != subnet || strings.Count(lines(3, func(int, netip.Addr, ipam.MAC) string { return "x\n" }), "x\n") != 3 {
		t.Error("the network is not what it says")
	}
}
