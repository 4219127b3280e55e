package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Point is an interface at which frames are seen: a NIC, a bridge, a port, a workload's own.
type Point struct {
	Name  string // HOST IF, or HOST/CONTAINER IF
	netns string
	where string
	iface string
}

// At is an interface of the host.
func (h *Host) At(ifName string) Point {
	return Point{h.name + " " + ifName, h.NetNS(), h.name, ifName}
}

// At is an interface of the container.
func (c *Container) At(ifName string) Point {
	return Point{c.where() + " " + ifName, c.NetNS(), c.where(), ifName}
}

// Sighting is a frame at a point.
type Sighting struct {
	Point string
	Sent  bool      // it left the host, or container, by the interface; else it arrived there
	At    time.Time // by the kernel's clock, which is one for all hosts
	Frame []byte
}

// String returns the sighting as a line of a capture: point, direction, frame.
func (s Sighting) String() string {
	direction := "in "
	if s.Sent {
		direction = "out"
	}
	return fmt.Sprintf("%s %s  %s", s.Point, direction, Describe(s.Frame))
}

// Capture sees the frames at several points at once, in either direction, from [Watch] on.
// A bridge's own interface shows what the host itself sends and receives by it, not what the
// bridge switches from port to port.
//
// Nothing is waited for: a frame is in a point's queue once the kernel has handled it there.
// Who waited for what comes after a frame on its way knows where it was seen, and where not.
type Capture struct {
	points []Point
	taps   []*Tap
	seen   []Sighting
}

// Watch starts a capture.
func Watch(points ...Point) (*Capture, error) {
	c := &Capture{points: points}
	for _, p := range points {
		t, err := openTap(p.netns, p.where, p.iface)
		if err == nil {
			err = t.stamped()
		}
		if t != nil {
			c.taps = append(c.taps, t)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("watching %s: %w", p.Name, err), c.Close())
		}
	}
	return c, nil
}

// Close ends the capture.
func (c *Capture) Close() error {
	var errs []error
	for _, t := range c.taps {
		errs = append(errs, t.Close())
	}
	return errors.Join(errs...)
}

// Sightings returns what was seen so far, in the order of time. A frame that was lost for
// want of room is an error: then absence shows nothing.
func (c *Capture) Sightings() ([]Sighting, error) {
	for i, t := range c.taps {
		if err := c.drain(c.points[i], t); err != nil {
			return nil, fmt.Errorf("reading the capture at %s: %w", c.points[i].Name, err)
		}
	}
	slices.SortStableFunc(c.seen, func(a, b Sighting) int { return a.At.Compare(b.At) })
	return slices.Clone(c.seen), nil
}

// Until waits until a frame for which last is true was seen at every point, and returns
// what was seen until then. A marker that is flooded ends a capture so: what was sent
// before it and is not there did not come by.
func (c *Capture) Until(ctx context.Context, last func(frame []byte) bool) ([]Sighting, error) {
	for {
		seen, err := c.Sightings()
		if err != nil {
			return nil, err
		}
		missing := ""
		for _, p := range c.points {
			if !slices.ContainsFunc(seen, func(s Sighting) bool { return s.Point == p.Name && last(s.Frame) }) {
				missing = p.Name
				break
			}
		}
		if missing == "" {
			return seen, nil
		}
		select {
		case <-ctx.Done():
			return seen, fmt.Errorf("waiting for the last frame at %s: %w", missing, ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// Where returns the points at which a frame was seen for which is() is true, each once, in
// the order of time.
func Where(seen []Sighting, is func(frame []byte) bool) []string {
	var points []string
	for _, s := range seen {
		if is(s.Frame) && !slices.Contains(points, s.Point) {
			points = append(points, s.Point)
		}
	}
	return points
}

// drain takes what a tap's queue holds.
func (c *Capture) drain(p Point, t *Tap) error {
	var readErr error
	err := t.conn.Control(func(fd uintptr) {
		for {
			var got received
			if got, readErr = receive(int(fd)); readErr != nil {
				break
			}
			c.seen = append(c.seen, Sighting{Point: p.Name, Sent: got.sent, At: got.at, Frame: got.frame})
		}
		if errors.Is(readErr, unix.EAGAIN) {
			readErr = lost(int(fd))
		}
	})
	return errors.Join(err, readErr)
}

// lost is an error if the kernel had to drop frames for want of room.
func lost(fd int) error {
	stats, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if stats.Drops > 0 {
		return fmt.Errorf("%d frames found no room", stats.Drops)
	}
	return nil
}

// stamped asks for the time of each frame.
func (t *Tap) stamped() error {
	var err error
	controlErr := t.conn.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1)
	})
	return errors.Join(err, controlErr)
}

// stamp is the time that the kernel tells, zero if it was not asked to.
func stamp(messages []unix.SocketControlMessage) time.Time {
	for _, m := range messages {
		// struct __kernel_timespec: two numbers of 64 bits.
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS_NEW && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Time{}
}
