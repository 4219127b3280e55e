package conf

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// StatusDeadline bounds STATUS: kubelet asks every five seconds, without a deadline of
// its own.
const StatusDeadline = 500 * time.Millisecond

// statusGrace is what is left of it for a wait that ended to be told of.
const statusGrace = 100 * time.Millisecond

// Problem is something wrong that STATUS looks for.
type Problem struct {
	Text string // what is missing, and what to do
	// Code is ErrPluginNotAvailable or ErrLimitedConnectivity; 0 = worth a line in the
	// log and no more. An error makes a node NotReady and in minutes evicts healthy
	// pods, so only what stops every ADD, and a person must mend, has one.
	Code uint
}

// StoreProblems judges what Store.Ready answered for network n.
func StoreProblems(n ipam.Network, stats ipam.Stats, err error) []Problem {
	switch {
	case errors.Is(err, ipam.ErrLocked), errors.Is(err, context.DeadlineExceeded):
		return []Problem{{Text: fmt.Sprintf("the store is busy: %v", err)}}
	case err != nil:
		return []Problem{{Text: err.Error(), Code: types.ErrPluginNotAvailable}}
	case !stats.Exhausted():
		return nil
	}
	p := Problem{
		Text: fmt.Sprintf("network %s has no free address: %d are in use, %d are reserved by the administrator; see `flatctl reservations %s`",
			n.Name, stats.Used, stats.Reserved, n.Name),
		Code: types.ErrLimitedConnectivity,
	}
	if n.Bridge != nil && n.Bridge.StatusOnExhaustion == ipam.ExhaustionOK {
		p.Code = 0
	}
	return []Problem{p}
}

// InTime returns, within StatusDeadline, what each of looks finds, one after the other.
// Their context ends a little earlier; one that hangs all the same, in a file system or
// behind the kernel's lock of links, is abandoned, and says nothing about the next ADD.
func InTime(looks ...func(context.Context) []Problem) (problems []Problem) {
	ctx, cancel := context.WithTimeout(context.Background(), StatusDeadline-statusGrace)
	defer cancel()
	end := time.After(StatusDeadline)
	found := make(chan []Problem, len(looks))
	go func() {
		for _, look := range looks {
			found <- look(ctx)
		}
	}()
	for range looks {
		select {
		case more := <-found:
			problems = append(problems, more...)
		case <-end:
			return append(problems, Problem{Text: fmt.Sprintf("not everything was found out within %s: the node is busy, or a file system hangs", StatusDeadline)})
		}
	}
	return problems
}

// StatusError returns STATUS's answer: nil if none of problems is an error, otherwise
// one error that names all that are, with the code of the worst.
func StatusError(problems []Problem) error {
	code := uint(0)
	var texts []string
	for _, p := range problems {
		if p.Code == 0 {
			continue
		}
		if code == 0 || p.Code < code { // 50, not available, is worse than 51
			code = p.Code
		}
		texts = append(texts, p.Text)
	}
	if code == 0 {
		return nil
	}
	return newError(code, "%s", strings.Join(texts, "; "))
}
