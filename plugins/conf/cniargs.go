package conf

import (
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// cniArgs is what CNI_ARGS says, the variable's legacy list of KEY=VALUE pairs.
type cniArgs struct {
	ip, mac        string
	namespace, pod string // K8S_POD_NAMESPACE, K8S_POD_NAME
}

// parseCNIArgs reads CNI_ARGS.
//
// The library's LoadArgs is not used: it fails on a trailing semicolon and on a
// value with an equals sign, and takes the fields of a struct for the keys. Order does
// not matter, so IgnoreUnknown may come last. An empty pair says nothing and is
// skipped. The same key twice with two values is refused: a runtime that appends its
// own variable to a request must not decide by accident which one counts.
func parseCNIArgs(s string) (cniArgs, error) {
	var a cniArgs
	known := map[string]*string{
		"IP": &a.ip, "MAC": &a.mac, "K8S_POD_NAMESPACE": &a.namespace, "K8S_POD_NAME": &a.pod,
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
		return a, argsError(unknown, "the key is unknown; IP, MAC and K8S_POD_* are read, and IgnoreUnknown=1 accepts others")
	}
	return a, nil
}

// argsError is error 4 about one pair of CNI_ARGS.
func argsError(pair, format string, args ...any) *types.Error {
	return newError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS %q: "+format, append([]any{clipped(pair)}, args...)...)
}
