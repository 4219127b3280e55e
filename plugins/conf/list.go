package conf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// ParseList reads a person's file: a conflist, or one plugin's configuration. Of a
// conflist it reads the entry of flat-bridge, else the one whose IPAM plugin is
// flat-ipam. Errors name the line. A key given twice, which every runtime overlooks,
// is error 7.
func ParseList(data []byte) (*Config, error) {
	root, err := decode(data)
	if err != nil {
		return nil, err
	}
	lines, twice := scan(data)
	where := func(prefix string) func(string) string {
		return func(path string) string { return lines.of(prefix, path) }
	}
	entry, prefix, err := theEntry(root)
	if err != nil {
		return nil, exported(err, where(""))
	}
	for _, path := range twice {
		if other := strings.HasPrefix(path, "plugins[") && !strings.HasPrefix(path, prefix+"."); other {
			continue // another plugin's to judge
		}
		return nil, exported(&keyError{
			code: types.ErrInvalidNetworkConfig, path: path,
			msg: fmt.Sprintf("key %s is given twice: only one of the two can count", path),
		}, where(""))
	}
	plugin := FlatIPAM
	if isType(entry, FlatBridge) {
		plugin = FlatBridge
	}
	text, err := json.Marshal(entry.fields)
	if err != nil {
		return nil, newError(types.ErrDecodingFailure, "encoding the plugin's entry: %v", err)
	}
	c, err := parse(text, plugin)
	if err != nil {
		return nil, exported(err, where(prefix))
	}
	if c.Chain, err = chain(root); err != nil {
		return nil, exported(err, where(""))
	}
	return c, nil
}

// chain returns the types of a conflist's plugins; one without makes every runtime refuse
// the whole file.
func chain(root *object) ([]string, error) {
	if _, ok := root.raw("plugins"); !ok {
		kind, err := root.text("type", "")
		return []string{kind}, err
	}
	items, err := root.list("plugins", "plugin configurations")
	if err != nil {
		return nil, err
	}
	var types []string
	for _, item := range items {
		o, err := asObject(item.path, item.raw)
		if err != nil {
			return nil, err
		}
		kind, err := o.text("type", "")
		if err != nil {
			return nil, err
		}
		if kind == "" {
			return nil, invalid(o.at("type"), o.fields["type"], `every plugin has one, the name of its program, such as "portmap"`)
		}
		types = append(types, kind)
	}
	return types, nil
}

// theEntry finds our plugin's entry and gives it the list's name and version, as
// libcni does before it runs a plugin.
func theEntry(root *object) (entry *object, prefix string, err error) {
	if _, ok := root.raw("plugins"); !ok {
		if !isType(root, FlatBridge) && !servedByUs(root) {
			return nil, "", invalid("plugins", nil, "a conflist, or the configuration of flat-bridge or of a plugin with flat-ipam, is wanted")
		}
		return root, "", pickVersion(root)
	}
	if err := root.refuseMisplaced(); err != nil {
		return nil, "", err
	}
	items, err := root.list("plugins", "plugin configurations")
	if err != nil {
		return nil, "", err
	}
	for _, ours := range []func(*object) bool{func(o *object) bool { return isType(o, FlatBridge) }, servedByUs} {
		for _, item := range items {
			o, err := asObject(item.path, item.raw)
			if err != nil {
				return nil, "", err
			}
			if !ours(o) {
				continue
			}
			if entry != nil {
				return nil, "", invalid(item.path, item.raw, "a second plugin of ours: one network has one")
			}
			entry, prefix = &object{fields: o.fields}, item.path
		}
		if entry != nil {
			break
		}
	}
	if entry == nil {
		return nil, "", root.invalid("plugins", `no entry has "type": "flat-bridge" or an ipam of "type": "flat-ipam"`)
	}
	if err := pickVersion(root); err != nil {
		return nil, "", err
	}
	for _, key := range []string{"name", "cniVersion"} {
		if raw, ok := root.raw(key); ok {
			entry.fields[key] = raw
		}
	}
	return entry, prefix, nil
}

// pickVersion settles cniVersions, of which a runtime picks the highest that it knows.
func pickVersion(root *object) error {
	offered, err := root.texts("cniVersions", "versions")
	if err != nil || len(offered) == 0 {
		return err
	}
	if v, err := root.text("cniVersion", ""); err == nil && v != "" {
		offered = append(offered, v)
	}
	for _, v := range slices.Backward(Versions()) {
		if slices.Contains(offered, v) {
			root.fields["cniVersion"] = quoted(v)
			return nil
		}
	}
	return newError(types.ErrIncompatibleCNIVersion, "key cniVersions with value %s: %s are served",
		clipped(compact(root.fields["cniVersions"])), strings.Join(Versions(), ", "))
}

// refuseMisplaced finds our plugin's keys beside "plugins", where no one reads them.
func (o *object) refuseMisplaced() error {
	for _, k := range append(slices.Clone(bridgeKeys), ipamKeys...) {
		if _, ok := o.fields[k.name]; !ok || (k.state == keyReserved && k.name != "ipam" && k.name != "dns") || k.name == "type" {
			continue
		}
		return o.invalid(k.name, "it belongs inside the plugin's entry, not beside plugins")
	}
	return nil
}

func isType(o *object, name string) bool {
	s, err := o.text("type", "")
	return err == nil && s == name
}

func servedByUs(o *object) bool {
	sub, ok, err := o.object("ipam")
	return err == nil && ok && isType(sub, FlatIPAM)
}

// lines says on which line of a file a key stands.
type lines struct {
	data    []byte
	offsets map[string]int64
}

// of returns "line 7: ", or the nearest key above that the file has; a missing key
// has no line of its own.
func (l lines) of(prefix, path string) string {
	// A list gives its plugins the name and the version.
	_, above := l.offsets[path]
	if inside := prefix + "." + path; prefix != "" && path != "" && (!above || l.offsets[inside] > 0) {
		path = inside
	}
	for ; path != ""; path = parentPath(path) {
		if off, ok := l.offsets[path]; ok {
			line, _ := lineOf(l.data, int(off))
			return fmt.Sprintf("line %d: ", line)
		}
	}
	return ""
}

func parentPath(path string) string {
	return path[:max(0, bytes.LastIndexAny([]byte(path), ".["))]
}

// maxScanned bounds how deep scan looks: our deepest key is at 6.
const maxScanned = 12

// scan notes where every key stands, and which are given twice in one object. data is
// known to be valid JSON.
func scan(data []byte) (l lines, twice []string) {
	l = lines{data: data, offsets: map[string]int64{}}
	dec := json.NewDecoder(bytes.NewReader(data))
	var value func(path string, depth int) bool
	value = func(path string, depth int) bool {
		if depth > maxScanned {
			var skipped json.RawMessage
			return dec.Decode(&skipped) == nil
		}
		tok, err := dec.Token()
		if err != nil {
			return false
		}
		seen := map[string]bool{}
		for i := 0; tok == json.Delim('{') || tok == json.Delim('['); i++ {
			if !dec.More() {
				_, err := dec.Token()
				return err == nil
			}
			at := path + "[" + strconv.Itoa(i) + "]"
			if tok == json.Delim('{') {
				name, err := dec.Token()
				if err != nil {
					return false
				}
				at = (&object{path: path}).at(fmt.Sprint(name))
				if seen[at] {
					twice = append(twice, at)
				}
				seen[at] = true
			}
			l.offsets[at] = dec.InputOffset()
			if tok == json.Delim('[') { // the token before the element ended there
				rest := data[l.offsets[at]:]
				l.offsets[at] += int64(len(rest) - len(bytes.TrimLeft(rest, ", \t\r\n")))
			}
			if !value(at, depth+1) {
				return false
			}
		}
		return true
	}
	value("", 0)
	return l, twice
}

// lineOf returns the line and column, both from 1, of an offset.
func lineOf(data []byte, offset int) (line, col int) {
	offset = min(max(offset, 0), len(data))
	before := data[:offset]
	return 1 + bytes.Count(before, []byte("\n")), offset - bytes.LastIndexByte(before, '\n')
}
