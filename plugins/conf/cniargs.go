package conf

import (
	"maps"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// cniArgs is what CNI_ARGS says, the variable's legacy list of KEY=VALUE pairs.
type cniArgs struct {
	asked          Asked
	namespace, pod string // K8S_POD_NAMESPACE, K8S_POD_NAME
}

// cniArgsKeys are the keys of wishes in CNI_ARGS, the first two the reference
// plugins'.
var cniArgsKeys = map[string]string{
	wishIP: "IP", wishMAC: "MAC", wishHostname: "HOSTNAME", wishIdentity: "IDENTITY", wishToggle: "ALLOW_SAME_NET_TRAFFIC", wishAllowed: "ALLOWED_ADDRESSES",
}

// maxPodName bounds a pod's name and namespace (bytes), as Kubernetes does.
const maxPodName = 253

// parseCNIArgs reads CNI_ARGS.
//
// The library's LoadArgs is not used: it fails on a trailing semicolon and on a
// value with an equals sign, and takes the fields of a struct for the keys. Order does
// not matter, so IgnoreUnknown may come last. An empty pair says nothing and is
// skipped. The same key twice with two values is refused: a runtime that appends its
// own variable to a request must not decide by accident which one counts.
func parseCNIArgs(s string) (cniArgs, error) {
	var a cniArgs
	ips, allowed := "", ""
	known := map[string]*string{
		"IP": &ips, "MAC": &a.asked.MAC, "HOSTNAME": &a.asked.Hostname, "IDENTITY": &a.asked.Identity,
		"ALLOW_SAME_NET_TRAFFIC": &a.asked.AllowSameNetTraffic, "ALLOWED_ADDRESSES": &allowed,
		"K8S_POD_NAMESPACE": &a.namespace, "K8S_POD_NAME": &a.pod,
		// Told by every Kubernetes runtime, of no use here.
		"K8S_POD_INFRA_CONTAINER_ID": new(string), "K8S_POD_UID": new(string),
	}
	seen := map[string]string{}
	ignore, unknown := false, ""
	for pair := range strings.SplitSeq(s, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return a, argsError(pair, "KEY=VALUE is wanted")
		}
		if key == "IgnoreUnknown" {
			switch strings.ToLower(value) {
			case "1", "true":
				ignore = true
			case "0", "false":
			default:
				return a, argsError(pair, "1, true, 0 or false is wanted")
			}
			continue
		}
		field, ok := known[key]
		if !ok {
			if unknown == "" {
				unknown = pair
			}
			continue
		}
		if before, twice := seen[key]; twice && before != value {
			return a, argsError(pair, "%s is given twice, first as %q", key, clipped(before))
		}
		seen[key], *field = value, value
	}
	if unknown != "" && !ignore {
		return a, argsError(unknown, "no such key%s (IP, MAC, HOSTNAME, IDENTITY, ALLOW_SAME_NET_TRAFFIC, ALLOWED_ADDRESSES and K8S_POD_* are read, "+
			"IgnoreUnknown=1 accepts others)", nearestArg(unknown, known))
	}
	a.asked.IPs, a.asked.Allowed = commaList(ips), commaList(allowed)
	return a, nil
}

// nearestArg says which key of CNI_ARGS was probably meant.
func nearestArg(pair string, known map[string]*string) string {
	key, _, _ := strings.Cut(pair, "=")
	names := slices.Sorted(maps.Keys(known))
	if i := nearest(key, len(names), func(i int) string { return names[i] }); i >= 0 {
		return ": did you mean " + names[i] + "?"
	}
	return ""
}

// checkNames refuses names that could pose as another's. Slashes separate the parts
// of a stored identity.
func (a cniArgs) checkNames() error {
	for _, part := range []struct{ key, value string }{{"K8S_POD_NAMESPACE", a.namespace}, {"K8S_POD_NAME", a.pod}} {
		if part.value == "" {
			continue
		}
		if strings.Contains(part.value, "/") || !printable(part.value) {
			return argsError(part.key+"="+part.value, "a name without slashes, spaces and control characters is wanted")
		}
		if len(part.value) > maxPodName {
			return argsError(part.key+"="+part.value, "at most %d characters are accepted", maxPodName)
		}
	}
	return nil
}

// argsError is error 4 about one pair of CNI_ARGS.
func argsError(pair, format string, args ...any) *types.Error {
	return newError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS %q: "+format, append([]any{clipped(pair)}, args...)...)
}
