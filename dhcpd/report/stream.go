package report

import (
	"encoding/json"
	"sync"
	"sync/atomic"

	"github.com/flatdhcp/flatdhcp/dhcpd/lease"
)

const (
	// readerQueue is how many events may wait for one reader of the stream.
	readerQueue = 1024
	// maxReaders bounds how many read at once.
	maxReaders = 64
)

// Stream hands events to any number of readers. A reader that is too slow loses events,
// and is told how many; it holds up nobody.
type Stream struct {
	mu      sync.Mutex
	readers map[*reader]struct{}
	lost    atomic.Uint64
}

type reader struct {
	events chan lease.Event
	missed atomic.Uint64
}

// Send gives an event to everybody who reads now.
func (s *Stream) Send(e lease.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.readers {
		select {
		case r.events <- e:
		default:
			r.missed.Add(1)
			s.lost.Add(1)
		}
	}
}

// Lost returns how many events readers have missed.
func (s *Stream) Lost() uint64 { return s.lost.Load() }

// Readers returns how many read now.
func (s *Stream) Readers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.readers)
}

// join adds a reader, unless there are too many.
func (s *Stream) join() (r *reader, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.readers) >= maxReaders {
		return nil, false
	}
	if s.readers == nil {
		s.readers = map[*reader]struct{}{}
	}
	r = &reader{events: make(chan lease.Event, readerQueue)}
	s.readers[r] = struct{}{}
	return r, true
}

func (s *Stream) leave(r *reader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.readers, r)
}

// lines returns e as a line of JSON, after one that says what the reader missed.
func (r *reader) lines(e lease.Event) ([]byte, error) {
	var out []byte
	if n := r.missed.Swap(0); n > 0 {
		b, err := json.Marshal(struct {
			Event string `json:"event"`
			Count uint64 `json:"count"`
		}{"lost", n})
		if err != nil {
			return nil, err
		}
		out = append(b, '\n')
	}
	b, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	return append(append(out, b...), '\n'), nil
}
