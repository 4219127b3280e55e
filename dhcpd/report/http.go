// Package report lets people and programs see what the daemon does: metrics, health,
// leases and a stream of events over HTTP, on a unix socket and, if asked, on TCP.
package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/lease"
)

// stopTime is how long requests may take to end when the daemon stops.
const stopTime = time.Second

// NetworkState says whether a network is served.
type NetworkState struct {
	Network string `json:"network"`
	DataDir string `json:"dataDir"`
	Bridge  string `json:"bridge"`
	Served  bool   `json:"served"`
	// Trouble is set if it ought to be served and something here is in the way; Why says
	// what, also if it is no trouble that it is not served (its bridge is not made yet).
	Trouble bool   `json:"trouble,omitempty"`
	Why     string `json:"why,omitempty"`
}

// Report answers requests. Its fields are set before Serve.
type Report struct {
	Leases  func() []lease.Lease
	Events  *Stream
	Sources []Source
	// Networks are those of this node as they were last looked at; ok is false before the
	// first look.
	Networks func() (list []NetworkState, ok bool)
	// Alive reports why the daemon hangs; nil = it does not.
	Alive func() error
	Log   *slog.Logger
}

// Handler returns the paths:
//
//	/metrics  Prometheus' text format
//	/healthz  200 while the daemon's own loop turns
//	/readyz   200 once every network that can be served is; the networks as JSON
//	/leases   lease state, a JSON list
//	/events   lease events as they come, a JSON object a line
func (r *Report) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", r.metrics)
	mux.HandleFunc("GET /healthz", r.healthz)
	mux.HandleFunc("GET /readyz", r.readyz)
	mux.HandleFunc("GET /leases", r.leases)
	mux.HandleFunc("GET /events", r.events)
	return mux
}

func (r *Report) metrics(w http.ResponseWriter, _ *http.Request) {
	var m Metrics
	for _, s := range r.Sources {
		s(&m)
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = m.WriteTo(w) // who asked is gone
}

func (r *Report) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := r.Alive(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintln(w, "ok")
}

func (r *Report) readyz(w http.ResponseWriter, _ *http.Request) {
	list, ok := r.Networks()
	for _, n := range list {
		ok = ok && !n.Trouble
	}
	code := http.StatusOK
	if !ok {
		code = http.StatusServiceUnavailable
	}
	respond(w, code, struct {
		Ready    bool           `json:"ready"`
		Networks []NetworkState `json:"networks"`
	}{ok, append([]NetworkState{}, list...)})
}

func (r *Report) leases(w http.ResponseWriter, _ *http.Request) {
	respond(w, http.StatusOK, r.Leases())
}

func respond(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // who asked is gone
}

// events ends when the reader goes or the daemon stops. The header is sent at once:
// who has it misses nothing that comes after.
func (r *Report) events(w http.ResponseWriter, req *http.Request) {
	reader, ok := r.Events.join()
	if !ok {
		http.Error(w, fmt.Sprintf("%d readers of events already: one of them must go first", maxReaders), http.StatusServiceUnavailable)
		return
	}
	defer r.Events.leave(reader)
	w.Header().Set("Content-Type", "application/jsonl")
	out := http.NewResponseController(w)
	if out.Flush() != nil {
		return
	}
	for {
		select {
		case <-req.Context().Done():
			return
		case e := <-reader.events:
			b, err := reader.lines(e)
			if err == nil {
				_, err = w.Write(b)
			}
			if err != nil || out.Flush() != nil {
				return
			}
		}
	}
}

// Serve answers requests on the listeners until ctx is done, and closes them.
func (r *Report) Serve(ctx context.Context, listeners ...net.Listener) {
	s := &http.Server{
		Handler: r.Handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		// Streams end with the daemon, not after a patience that they never use.
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(r.Log.Handler(), slog.LevelDebug),
	}
	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() {
			if err := s.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
				r.Log.Error(fmt.Sprintf("answering requests on %s: %v", l.Addr(), err))
			}
		})
	}
	<-ctx.Done()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	if s.Shutdown(end) != nil {
		_ = s.Close() // what is left after that is cut off
	}
	wg.Wait()
}

// ListenUnix listens on a socket at path that only its owner may use. Whatever is left
// there of an earlier daemon is replaced: whoever calls holds the lock of the one daemon.
func ListenUnix(ctx context.Context, path string) (net.Listener, error) {
	l, err := listenUnix(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("making the socket %s: %w", path, err)
	}
	return l, nil
}

// ListenTCP listens on an address; without a host it is 127.0.0.1, so that nobody opens
// a daemon to the world by leaving something out.
func ListenTCP(ctx context.Context, address string) (net.Listener, error) {
	if strings.HasPrefix(address, ":") {
		address = "127.0.0.1" + address
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for requests: %w", err)
	}
	return l, nil
}
