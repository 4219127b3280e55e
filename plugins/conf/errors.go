package conf

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// ErrRequestRefused is the CNI code of a well-formed request that cannot be granted:
// an address outside the network, reserved or taken. 100 and above are the plugins' own.
const ErrRequestRefused uint = 100

// ErrCheckFailed is the CNI code of a CHECK that found a defect. (101 is a kernel
// feature or program that is missing.)
const ErrCheckFailed uint = 102

// maxShown bounds the bytes of a value shown in an error: conflists go through logs.
const maxShown = 80

// newError makes a CNI error that is about no key.
func newError(code uint, format string, args ...any) *types.Error {
	return types.NewError(code, fmt.Sprintf(format, args...), "")
}

// keyError is an error about one key. It becomes a types.Error on its way out, with
// the key's line if the text is a person's file.
type keyError struct {
	code    uint
	path    string
	msg     string
	details string
}

func (e *keyError) Error() string { return e.msg }

// invalid is error 7: key has an impossible value. A nil raw means that it is absent.
func invalid(path string, raw []byte, format string, args ...any) *keyError {
	return &keyError{
		code: types.ErrInvalidNetworkConfig, path: path,
		msg: shown(path, raw) + ": " + fmt.Sprintf(format, args...),
	}
}

// later turns err into error 2: what it is about comes with a later version.
func later(err *keyError) *keyError {
	err.code = types.ErrUnsupportedField
	return err
}

// exported makes err what callers are promised. where is put before a key's message.
func exported(err error, where func(path string) string) error {
	var k *keyError
	if !errors.As(err, &k) {
		return err
	}
	return types.NewError(k.code, where(k.path)+k.msg, k.details)
}

func nowhere(string) string { return "" }

// shown names a key and its value: key ipam.subnet with value "10.0.0.5/24".
func shown(path string, raw []byte) string {
	if raw == nil {
		return fmt.Sprintf("key %s is missing", path)
	}
	return fmt.Sprintf("key %s with value %s", path, clipped(compact(raw)))
}

func quoted(s string) []byte { return []byte(strconv.Quote(s)) }

// CNIError gives err, met while doing (a gerund phrase), the code that the design
// assigns to its kind. An error that is one of CNI's already keeps its code.
func CNIError(doing string, err error) *types.Error {
	if err == nil {
		return nil
	}
	msg := fmt.Sprintf("%s: %v", doing, err)
	var (
		already   *types.Error
		held      *ipam.HeldError
		exhausted *ipam.ExhaustedError
		stranded  *ipam.StrandedError
	)
	switch {
	case errors.As(err, &already):
		return already
	case errors.As(err, &held), errors.As(err, &exhausted), errors.Is(err, ipam.ErrLocked),
		errors.Is(err, context.DeadlineExceeded):
		return newError(types.ErrTryAgainLater, "%s", msg)
	case errors.As(err, &stranded), errors.Is(err, ipam.ErrConfig):
		return newError(types.ErrInvalidNetworkConfig, "%s", msg)
	case errors.Is(err, ipam.ErrRefused):
		return newError(ErrRequestRefused, "%s", msg)
	}
	return newError(types.ErrIOFailure, "%s", msg)
}
