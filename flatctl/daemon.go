package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// daemonClient asks flat-dhcpd over its socket.
type daemonClient struct{ socket string }

// errNoDaemon says that nobody answers on the socket.
var errNoDaemon = errors.New("flat-dhcpd does not answer: is it running, and with this run directory?")

// open returns the answer to a request; the caller closes it.
func (d daemonClient) open(ctx context.Context, path string) (io.ReadCloser, error) {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.socket)
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://flat-dhcpd"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if dial := (*net.OpError)(nil); errors.As(err, &dial) && dial.Op == "dial" {
		return nil, fmt.Errorf("%w (%w)", errNoDaemon, dial)
	}
	if err != nil {
		return nil, fmt.Errorf("asking flat-dhcpd: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		_ = resp.Body.Close()
		return nil, fmt.Errorf("flat-dhcpd says %s: %s", resp.Status, strings.TrimSpace(string(said)))
	}
	return resp.Body, nil
}

// get decodes the JSON answer to a request into v.
func (d daemonClient) get(ctx context.Context, path string, v any) error {
	body, err := d.open(ctx, path)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	if err := json.NewDecoder(body).Decode(v); err != nil {
		return fmt.Errorf("reading flat-dhcpd's answer: %w", err)
	}
	return nil
}

// ago writes a time before now for people.
func ago(now, t time.Time) string { return now.Sub(t).Round(time.Second).String() + " ago" }
