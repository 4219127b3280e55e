// Package reply reads what a CNI plugin prints, as strictly as the specification lets it
// be read: one JSON document, no key that the document's version does not have, every
// value of its form. libcni's own decoder forgives what another runtime may not, so
// this one shares nothing with it.
package reply

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// decode reads the one document of out into v; unknown keys are errors.
func decode(out string, v any) error {
	d := json.NewDecoder(strings.NewReader(out))
	var doc json.RawMessage
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return errors.New("stdout is empty")
	} else if err != nil {
		return fmt.Errorf("stdout is no JSON: %w:\n%s", err, out)
	}
	if rest := strings.TrimSpace(out[d.InputOffset():]); rest != "" {
		return fmt.Errorf("stdout goes on after the first document, with:\n%s", rest)
	}
	strict := json.NewDecoder(bytes.NewReader(doc))
	strict.DisallowUnknownFields()
	if err := strict.Decode(v); err != nil {
		return fmt.Errorf("stdout is not of the form asked for: %w:\n%s", err, out)
	}
	return nil
}

// Failure is an error object.
type Failure struct {
	CNIVersion string `json:"cniVersion"`
	Code       int    `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details"`
}

// Codes that the specification gives a meaning; 8 is the one libcni adds (ErrInvalidNetNS).
var wellKnown = []int{1, 2, 3, 4, 5, 6, 7, 8, 11, 50, 51}

// ParseFailure reads an error object. One without message, or with a code that is
// reserved and has no meaning, is an error.
func ParseFailure(out string) (Failure, error) {
	var f Failure
	if err := decode(out, &f); err != nil {
		return f, err
	}
	if f.Msg == "" {
		return f, fmt.Errorf("the error has no msg: %s", out)
	}
	if f.Code < 100 && !slices.Contains(wellKnown, f.Code) {
		return f, fmt.Errorf("code %d is reserved, and the specification gives it no meaning: %s", f.Code, out)
	}
	return f, nil
}

// Support is the answer to VERSION.
type Support struct {
	CNIVersion string   `json:"cniVersion"`
	Versions   []string `json:"supportedVersions"`
}

// ParseSupport reads the answer to VERSION.
func ParseSupport(out string) (Support, error) {
	var s Support
	if err := decode(out, &s); err != nil {
		return s, err
	}
	if s.CNIVersion == "" || len(s.Versions) == 0 {
		return s, fmt.Errorf("cniVersion or supportedVersions is missing: %s", out)
	}
	return s, nil
}
