package conf

import (
	"encoding/json"
	"strconv"
)

// list reads a list of anything, each element with its path.
func (o *object) list(key, of string) ([]element, error) {
	raw, ok := o.raw(key)
	if !ok {
		return nil, nil
	}
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, o.invalid(key, "a list of %s is wanted", of)
	}
	out := make([]element, len(items))
	for i, item := range items {
		out[i] = element{path: o.at(key) + "[" + strconv.Itoa(i) + "]", raw: item}
	}
	return out, nil
}

// element is one value of a list and the path that leads to it.
type element struct {
	path string
	raw  json.RawMessage
}

func (e element) text() (string, error) { return asText(e.path, e.raw) }

// eachText calls f with each element of a list of strings and its text, up to the first
// error.
func (o *object) eachText(key, of string, f func(item element, s string) error) error {
	items, err := o.list(key, of)
	if err != nil {
		return err
	}
	for _, item := range items {
		s, err := item.text()
		if err != nil {
			return err
		}
		if err := f(item, s); err != nil {
			return err
		}
	}
	return nil
}

// texts reads a list of strings.
func (o *object) texts(key, of string) (out []string, err error) {
	err = o.eachText(key, of, func(_ element, s string) error {
		out = append(out, s)
		return nil
	})
	return out, err
}
