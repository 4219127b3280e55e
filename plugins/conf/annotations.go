package conf

import (
	"maps"
	"slices"
	"strings"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// What a pod may ask for: each the part of an annotation's name behind
// annotationPrefix, and a word of the key annotations.
const (
	wishIP       = "ip"
	wishMAC      = "mac"
	wishHostname = "hostname"
	wishIdentity = "identity"
	wishToggle   = "allow-same-net-traffic"
	wishAllowed  = "allowed-addresses"
)

const annotationPrefix = "flatdhcp.io/"

var (
	// wishWords is in the order in which errors list them.
	wishWords = []string{wishIP, wishMAC, wishHostname, wishIdentity, wishToggle, wishAllowed}
	// laterWords are those of later versions.
	laterWords = []string{"groups"}
)

// defaultAnnotations is what tenants may ask for unless the operator says otherwise:
// what takes nothing from anybody. It also holds for flat-ipam alone.
func defaultAnnotations() []string { return []string{wishIP, wishMAC, wishHostname} }

// readAnnotations reads which requests count when a tenant makes them. An empty list
// is none.
func (o *object) readAnnotations(b *ipam.Bridge) error {
	if _, ok := o.raw("annotations"); !ok {
		b.Annotations = defaultAnnotations()
		return nil
	}
	return o.eachText("annotations", `words such as "ip"`, func(item element, word string) error {
		if slices.Contains(laterWords, word) {
			return later(invalid(item.path, item.raw, "it is not supported by this version: take it out"))
		}
		if !slices.Contains(wishWords, word) {
			return invalid(item.path, item.raw, "%s is wanted%s", alternatives(wishWords), didYouMean(word))
		}
		if !slices.Contains(b.Annotations, word) {
			b.Annotations = append(b.Annotations, word)
		}
		return nil
	})
}

// didYouMean names the word that was probably meant.
func didYouMean(word string) string {
	i := nearest(strings.TrimPrefix(word, annotationPrefix), len(wishWords), func(i int) string { return wishWords[i] })
	if i < 0 {
		return ""
	}
	return ": did you mean " + wishWords[i] + "?"
}

// podAnnotations is the capability by which a runtime sends a pod's annotations.
const podAnnotations = "io.kubernetes.cri.pod-annotations"

// readPodAnnotations reads a pod's annotations that are ours. Whether they count is
// judged later; others' are left alone, whatever they hold.
func (c *Config) readPodAnnotations(rc *object) error {
	all, ok, err := rc.object(podAnnotations)
	if err != nil || !ok {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(all.fields)) {
		wish, ours := strings.CutPrefix(name, annotationPrefix)
		if !ours {
			continue
		}
		value, err := all.text(name, "")
		if err != nil {
			return err
		}
		switch {
		case slices.Contains(laterWords, wish):
			c.ignored.add("ignoring annotation %s with value %q: it is not supported by this version", name, clipped(value))
		case !slices.Contains(wishWords, wish):
			c.ignored.add("ignoring annotation %q with value %q: there is no such annotation%s", clipped(name), clipped(value), didYouMean(wish))
		default:
			c.Annotations.set(wish, value)
		}
	}
	return nil
}

// set is given's inverse.
func (a *Asked) set(wish, value string) {
	switch wish {
	case wishIP:
		a.IPs = commaList(value)
	case wishMAC:
		a.MAC = value
	case wishHostname:
		a.Hostname = value
	case wishIdentity:
		a.Identity = value
	case wishToggle:
		a.AllowSameNetTraffic = value
	case wishAllowed:
		a.Allowed = commaList(value)
	}
}

// asked reads what runtimeConfig or args.cni asks for, of the wishes that can stand
// there.
func (o *object) asked(wishes ...string) (Asked, error) {
	var a Asked
	for _, wish := range wishes {
		key := argsKeys[wish]
		raw, ok := o.raw(key)
		if !ok {
			continue
		}
		var err error
		switch wish {
		case wishIP:
			a.IPs, err = o.texts(key, "addresses")
		case wishAllowed:
			a.Allowed, err = o.texts(key, `addresses and MACs such as "10.0.0.200/00:00:5e:00:01:07"`)
		case wishToggle:
			_, err = o.boolean(key, false)
			a.set(wish, string(raw))
		default:
			var s string
			s, err = o.text(key, "")
			a.set(wish, s)
		}
		if err != nil {
			return Asked{}, err
		}
	}
	return a, nil
}
