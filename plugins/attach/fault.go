package attach

// when says on which side of a step a fault point lies.
type when string

const (
	before when = "before"
	after  when = "after"
)
