package ipam

import "errors"

// neighbours are the other networks of the data directory, opened for reading when
// a transaction first needs to compare with them. The directory's lock keeps them
// from changing meanwhile.
type neighbours struct {
	opened bool
	list   []neighbour
	// unread joins why some could not be compared with.
	unread error
}

type neighbour struct {
	file *dbFile
	view *View
	net  Network
}

// neighbours opens the other networks. A store that is damaged, or that a later
// version wrote, is left out: one bad file must not stop the ADDs of every other
// network. Who changes a configuration looks at unread, too.
func (t *txn) neighbours() ([]neighbour, error) {
	if t.near.opened {
		return t.near.list, nil
	}
	names, err := t.store.dir.Names(t.ctx)
	if err != nil {
		return nil, err
	}
	t.near.opened = true
	for _, name := range names {
		if name == t.name {
			continue
		}
		n, err := t.openNeighbour(name)
		if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNewerSchema) {
			t.near.unread = errors.Join(t.near.unread, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		t.near.list = append(t.near.list, n)
	}
	return t.near.list, nil
}

func (t *txn) openNeighbour(name string) (n neighbour, err error) {
	s := t.store.dir.Store(name)
	if n.file, err = s.dir.openFile(t.ctx, s.file(), false); err != nil {
		return n, err
	}
	err = n.file.guard(func() (err error) {
		if n.view, err = newView(n.file, name); err != nil {
			return err
		}
		n.net, err = n.view.Network()
		return err
	})
	if err != nil {
		err = errors.Join(err, n.file.close())
	}
	return n, err
}

// rowByMAC returns the row with a MAC, none if the file turns out to be damaged.
func (n neighbour) rowByMAC(mac MAC) (r Reservation, ok bool, err error) {
	err = n.file.guard(func() (err error) {
		r, ok, err = n.view.rowBy(bucketMACs, mac[:])
		return err
	})
	if errors.Is(err, ErrDamaged) {
		return Reservation{}, false, nil
	}
	return r, ok, err
}

// closeNeighbours ends what neighbours opened.
func (t *txn) closeNeighbours() error {
	var errs []error
	for _, n := range t.near.list {
		errs = append(errs, n.file.close())
	}
	t.near = neighbours{}
	return errors.Join(errs...)
}
