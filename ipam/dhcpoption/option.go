package dhcpoption

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// Option is one option. An empty Value says that the option is not sent although it
// otherwise would be.
type Option struct {
	Code  byte
	Value []byte // as it goes on the wire, less code and length
}

// Set is options by number, each at most once, in ascending order. Its JSON form is
// the one that a conflist has, such as {"42": ["10.0.0.9"], "224": "hex:0a0b"}. It must
// not be changed in place: it is shared.
type Set []Option

// Get returns the option numbered code.
func (s Set) Get(code byte) (Option, bool) {
	for _, o := range s {
		if o.Code == code {
			return o, true
		}
	}
	return Option{}, false
}

// With returns s with o in the place of what had its number.
func (s Set) With(o Option) Set {
	n := slices.DeleteFunc(slices.Clone(s), func(p Option) bool { return p.Code == o.Code })
	n = append(n, o)
	slices.SortFunc(n, func(a, b Option) int { return int(a.Code) - int(b.Code) })
	return n
}

// MarshalJSON implements json.Marshaler.
func (s Set) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, o := range s {
		if i > 0 {
			b = append(b, ',')
		}
		v, err := json.Marshal(o.Plain())
		if err != nil {
			return nil, fmt.Errorf("encoding %s: %w", title(o.Code), err)
		}
		b = append(append(strconv.AppendQuote(b, strconv.Itoa(int(o.Code))), ':'), v...)
	}
	return append(b, '}'), nil
}

// UnmarshalJSON implements json.Unmarshaler. The error says which option is wrong.
func (s *Set) UnmarshalJSON(b []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return fmt.Errorf("options by their numbers are wanted, such as {\"42\": [\"10.0.0.9\"]}: %w", err)
	}
	var list Set
	for number, raw := range fields {
		o, err := ParseJSON(number, raw)
		if err != nil {
			return err
		}
		list = list.With(o)
	}
	*s = list
	return nil
}

// ParseJSON reads the option whose number is written in number and whose value is a
// JSON text: a string, number, truth value, or list of strings or numbers. [] and null
// say that the option is not to be sent.
func ParseJSON(number string, raw json.RawMessage) (Option, error) {
	code, err := Number(number)
	if err != nil {
		return Option{}, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return Option{}, fmt.Errorf("%s: reading its value: %w", title(code), err)
	}
	var words []string
	switch v := v.(type) {
	case nil:
	case []any:
		for _, e := range v {
			w, ok := scalar(e)
			if !ok {
				return Option{}, wrong(code)
			}
			words = append(words, w)
		}
	default:
		w, ok := scalar(v)
		if !ok {
			return Option{}, wrong(code)
		}
		words = []string{w}
	}
	return parse(code, words)
}

func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// Number reads an option's number; it fails for one that cannot be configured, saying
// why and what to do instead.
func Number(s string) (byte, error) {
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%q is no option's number: 2 to 254 are, without leading zeros", s)
	}
	if why, ok := forbidden[byte(n)]; ok {
		return 0, fmt.Errorf("option %d cannot be configured: %s", n, why)
	}
	return byte(n), nil
}

// wrong says what the value of an option should have looked like.
func wrong(code byte) error {
	return fmt.Errorf("%s: %s is wanted", title(code), says[forms[code]])
}
