package link

import "context"

// session holds the connections of one verb. It is no more than the sockets: what the
// kernel has is asked for anew each time.
type session struct {
	conns map[string]*conn // by path of the namespace; "" = the calling thread's
}

type sessionKey struct{}

// WithSession returns a context under which the functions of this package share their
// connections, one for each namespace: a verb calls a dozen of them, each would open two
// sockets, and half of them enter the container's namespace for that. end closes them.
//
// It is for calls one after the other, on threads of one namespace. After a failure, which
// may leave half an answer in a socket, WithoutSession is due.
func WithSession(ctx context.Context) (_ context.Context, end func()) {
	s := &session{conns: map[string]*conn{}}
	return context.WithValue(ctx, sessionKey{}, s), func() {
		for _, c := range s.conns {
			c.kept = false
			c.close()
		}
		clear(s.conns)
	}
}

// WithoutSession returns a context under which each call has connections of its own.
func WithoutSession(ctx context.Context) context.Context {
	return context.WithValue(ctx, sessionKey{}, (*session)(nil))
}

// connect returns the session's connection to a namespace, made by open if it is the
// first; without a session a new one.
func connect(ctx context.Context, path string, open func() (*conn, error)) (*conn, error) {
	s, _ := ctx.Value(sessionKey{}).(*session)
	if s == nil {
		return open()
	}
	if c, ok := s.conns[path]; ok {
		return c, ctx.Err()
	}
	c, err := open()
	if err == nil {
		c.kept = true
		s.conns[path] = c
	}
	return c, err
}
