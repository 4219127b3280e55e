package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/server"
)

func newLogger(w io.Writer, c config) *slog.Logger {
	if c.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: c.logLevel}))
	}
	return slog.New(&lineHandler{w: w, mu: new(sync.Mutex), level: c.logLevel})
}

// lineHandler writes one line a record for people: time, level if it is not INFO,
// the message as it is and the attributes, less the group that repeats the message
// of a DHCP line. So the line is dnsmasq's, which operators know to grep.
type lineHandler struct {
	w     io.Writer
	mu    *sync.Mutex
	level slog.Level
	attrs []slog.Attr
}

// Enabled implements slog.Handler.
func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

// WithAttrs implements slog.Handler.
func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	n.attrs = append(n.attrs[:len(n.attrs):len(n.attrs)], attrs...)
	return &n
}

// WithGroup implements slog.Handler; lines for people show no groups.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }

// Handle implements slog.Handler.
func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var b bytes.Buffer
	b.Write(r.Time.AppendFormat(nil, time.RFC3339))
	b.WriteString(" flat-dhcpd: ")
	if r.Level != slog.LevelInfo {
		b.WriteString(strings.ToLower(r.Level.String()) + ": ")
	}
	b.WriteString(r.Message)
	for _, a := range h.attrs {
		writeAttr(&b, a)
	}
	r.Attrs(func(a slog.Attr) bool {
		writeAttr(&b, a)
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := h.w.Write(b.Bytes())
	return err
}

func writeAttr(b *bytes.Buffer, a slog.Attr) {
	v := a.Value.Resolve()
	if (a.Key == server.LogGroup || a.Key == dropsGroup) && v.Kind() == slog.KindGroup {
		return
	}
	s := v.String()
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '"' || r == 0x7f }) {
		s = strconv.Quote(s)
	}
	fmt.Fprintf(b, " %s=%s", a.Key, s)
}
