package upstream

import (
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// lookEvery is how often the file is looked at, at most: on a query, and without reading
// it if it did not change.
const lookEvery = time.Second

// resolvConf follows the name servers of a resolv.conf(5). What is no address is passed
// over, as the C library does; so are search lists, which are for clients.
type resolvConf struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	looked  time.Time
	info    os.FileInfo
	servers []netip.AddrPort
}

// list returns the servers of the file as it is now, in its order; none if it is not
// there: the C library's way out, a server on this host, might be ourselves.
func (f *resolvConf) list() []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if !f.looked.IsZero() && now.Sub(f.looked) < lookEvery {
		return f.servers
	}
	f.looked = now
	info, err := os.Stat(f.path)
	if err != nil {
		f.info, f.servers = nil, nil
		return nil
	}
	if f.info != nil && os.SameFile(f.info, info) && f.info.ModTime().Equal(info.ModTime()) && f.info.Size() == info.Size() {
		return f.servers
	}
	text, err := os.ReadFile(f.path)
	if err != nil {
		return f.servers // being replaced just now, perhaps
	}
	f.info, f.servers = info, parse(string(text))
	return f.servers
}

func parse(text string) (servers []netip.AddrPort) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(a.Unmap(), dnsPort))
		}
	}
	return servers
}
