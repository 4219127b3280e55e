package guard

import (
	"context"
	"fmt"

	"github.com/mdlayher/netlink"
)

// DetachWith is Detach for several ports, in one transaction with more: further requests to
// change nf_tables. An error means that nothing has changed.
//
// The kernel's freeing of what went out is not waited for, unlike in DetachThen: the
// connection closes in the background, and a process that ends meanwhile ends behind that.
func DetachWith(ctx context.Context, portNames []string, more []netlink.Message) error {
	for _, name := range portNames {
		if err := validatePortName(name); err != nil {
			return fmt.Errorf("detaching port %s from the guard: %w", name, err)
		}
	}
	if len(portNames)+len(more) == 0 {
		return nil
	}
	err := retry(ctx, func(c *conn) error {
		err := c.transact(func(b *batch) error {
			for _, name := range portNames {
				if err := c.detachIn(b, name); err != nil {
					return err
				}
			}
			b.messages = append(b.messages, more...)
			return nil
		})
		if c.keep = err == nil; c.keep {
			go c.close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("detaching %d ports from the guard, and making %d other changes: %w", len(portNames), len(more), err)
	}
	return nil
}
