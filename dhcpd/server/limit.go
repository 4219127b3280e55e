package server

import (
	"sync"
	"time"
)

// limiter lets through burst events at once and then one each interval, and counts
// what it held back. It is safe for concurrent use.
type limiter struct {
	interval time.Duration
	burst    int
	now      func() time.Time

	mu     sync.Mutex
	tokens int
	last   time.Time
	held   int
}

// allow reports whether the event may pass and, if so, how many before it could not.
func (l *limiter) allow() (held int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if l.last.IsZero() {
		l.tokens, l.last = l.burst, now
	}
	if n := int(now.Sub(l.last) / l.interval); n > 0 {
		l.tokens = min(l.burst, l.tokens+n)
		l.last = l.last.Add(time.Duration(n) * l.interval)
	}
	if l.tokens == 0 {
		l.held++
		return 0, false
	}
	l.tokens--
	held, l.held = l.held, 0
	return held, true
}
