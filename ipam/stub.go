package ipam

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"time"
)

var errStub = errors.New("not yet built")

type Dir struct{ path string }
type Store struct {
	dir  *Dir
	name string
}
type View struct{}
type Option func(*Dir)

func WithClock(now func() time.Time) Option                             { return func(d *Dir) {} }
func WithDefaultTimeout(t time.Duration) Option                         { return func(d *Dir) {} }
func OpenDir(path string, opts ...Option) *Dir                          { return &Dir{path} }
func (d *Dir) Path() string                                             { return d.path }
func (d *Dir) Store(network string) *Store                              { return &Store{d, network} }
func (s *Store) Name() string                                           { return s.name }
func (n Network) Validate() error                                       { return nil }
func (d *Dir) Names(ctx context.Context) ([]string, error)              { return nil, errStub }
func (d *Dir) Networks(ctx context.Context) ([]Network, error)          { return nil, errStub }
func (d *Dir) Remove(ctx context.Context, network string) error         { return errStub }
func (d *Dir) Check(ctx context.Context) ([]Defect, error)              { return nil, errStub }
func (s *Store) Configure(ctx context.Context, n Network) (bool, error) { return false, errStub }
func (s *Store) Reserve(ctx context.Context, n *Network, req Request) (Grant, error) {
	return Grant{}, errStub
}
func (s *Store) Release(ctx context.Context, containerID, ifName string) (Reservation, bool, error) {
	return Reservation{}, false, errStub
}
func (s *Store) GC(ctx context.Context, keep func(Reservation) bool) ([]Reservation, error) {
	return nil, errStub
}
func (s *Store) View(ctx context.Context, fn func(*View) error) error { return errStub }
func (s *Store) Snapshot(ctx context.Context) (*Snapshot, error)      { return nil, errStub }
func (s *Store) Ident() (Ident, error)                                { return Ident{}, errStub }
func (s *Store) ReserveAdmin(ctx context.Context, req AdminRequest) (Reservation, error) {
	return Reservation{}, errStub
}
func (s *Store) ReleaseAdmin(ctx context.Context, addr netip.Addr) (Reservation, error) {
	return Reservation{}, errStub
}
func (s *Store) Check(ctx context.Context) ([]Defect, error) { return nil, errStub }

func (v *View) Network() (Network, error)                        { return Network{}, errStub }
func (v *View) ByAddr(addr netip.Addr) (Reservation, error)      { return Reservation{}, errStub }
func (v *View) ByMAC(mac MAC) (Reservation, error)               { return Reservation{}, errStub }
func (v *View) ByHolder(cid, ifName string) (Reservation, error) { return Reservation{}, errStub }
func (v *View) ByWorkload(w Workload) (Reservation, error)       { return Reservation{}, errStub }
func (v *View) All() iter.Seq2[Reservation, error]               { return func(func(Reservation, error) bool) {} }
func (v *View) Stats() (Stats, error)                            { return Stats{}, errStub }
