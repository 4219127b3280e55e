package guard

import (
	"context"
	"errors"
	"net/netip"
)

var errNotBuilt = errors.New("guard is not built yet")

// Plan is the whole table as it should be. Its text is what nft prints of it.
type Plan struct{}

// NewPlan returns the table that lets ports pass; gateways are the addresses whose
// DHCP replies reach closed ports.
func NewPlan(gateways []netip.Addr, ports []Port) (Plan, error) { return Plan{}, errNotBuilt }

func (p Plan) String() string { return "" }

// Counter is one of the table's named counters, a reason for which frames were dropped.
type Counter struct {
	Name    string
	Packets uint64
	Bytes   uint64
}

// Attach puts the elements of one port in, and the base table if it is missing,
// damaged or of another version: one transaction, idempotent. Older elements of
// the same port name are replaced; gateways are added to those known.
func Attach(ctx context.Context, gateways []netip.Addr, p Port) error {
	if err := p.validate(); err != nil {
		return err
	}
	return validateGateways(gateways)
}

// Detach removes every element of the port of that name; idempotent. The table stays.
func Detach(ctx context.Context, portName string) error { return validatePortName(portName) }

// Apply makes the whole table what NewPlan(gateways, ports) says, in one
// transaction, and returns what had to change, a line each; none if nothing did.
func Apply(ctx context.Context, gateways []netip.Addr, ports []Port) (changed []string, err error) {
	return nil, errNotBuilt
}

// Remove deletes the table: workload ports are unguarded afterwards. Idempotent.
func Remove(ctx context.Context) error { return nil }

// Counters returns the named counters, sorted by name; none if there is no table.
func Counters(ctx context.Context) ([]Counter, error) { return nil, nil }
