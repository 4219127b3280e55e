package conf

import (
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
)

const annotationPrefix = "flatdhcp.io/"

var (
	// wishWords is in the order in which errors list them.
	wishWords = []string{wishIP, wishMAC, wishHostname, wishIdentity, wishToggle}
	// laterWords are those of later versions.
	laterWords = []string{"groups", "allowed-addresses"}
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
	items, err := o.list("annotations", `words such as "ip"`)
	if err != nil {
		return err
	}
	for _, item := range items {
		word, err := item.text()
		if err != nil {
			return err
		}
		if slices.Contains(laterWords, word) {
			return later(invalid(item.path, item.raw, "it is not supported by this version: take it out"))
		}
		if !slices.Contains(wishWords, word) {
			return invalid(item.path, item.raw, "%s is wanted%s", alternatives(wishWords), didYouMean(word))
		}
		if !slices.Contains(b.Annotations, word) {
			b.Annotations = append(b.Annotations, word)
		}
	}
	return nil
}

// didYouMean names the word that was probably meant.
func didYouMean(word string) string {
	i := nearest(strings.TrimPrefix(word, annotationPrefix), len(wishWords), func(i int) string { return wishWords[i] })
	if i < 0 {
		return ""
	}
	return ": did you mean " + wishWords[i] + "?"
}
