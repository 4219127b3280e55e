package lab

import (
	"context"
	"crypto/sha512"
	"fmt"
	"strings"
)

// CNIOptions are what a runtime may add to a call; the zero value adds nothing.
type CNIOptions struct {
	IfName  string  // default eth0
	Args    string  // CNI_ARGS, as "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web"
	CapArgs string  // capability arguments in JSON, as `{"mac": "..."}`
	Log     *string // where not nil, receives what cnitool and the plugins logged
}

// WriteConflist puts a network configuration list where cnitool looks for it.
func (h *Host) WriteConflist(ctx context.Context, network, conflist string) error {
	return h.WriteFile(ctx, ConflistPath(network), 0o644, conflist)
}

// ConflistPath is where WriteConflist puts a network's list.
func ConflistPath(network string) string { return "/etc/cni/net.d/" + network + ".conflist" }

// CNI runs a verb (add, check, del, status, gc) of a network by cnitool, and returns what
// it printed: the result, for add. The container may be nil for status and gc.
//
// cnitool derives the container ID from the namespace's path: see [Container.ID]. It keeps
// its cache in the host's /var/lib/cni.
func (h *Host) CNI(ctx context.Context, verb, network string, c *Container, o CNIOptions) ([]byte, error) {
	path := "/run/netns/none" // named but never opened by the verbs that need no container
	if c != nil {
		path = c.Path()
	}
	argv := []string{"cnitool", verb, network, path}
	cmd := h.Command(ctx, argv...)
	for _, v := range []struct{ key, value string }{
		{"CNI_IFNAME", o.IfName}, {"CNI_ARGS", o.Args}, {"CAP_ARGS", o.CapArgs},
	} {
		if v.value != "" {
			cmd.Env = append(cmd.Env, v.key+"="+v.value)
		}
	}
	out, stderr, err := run(cmd, h.name, argv)
	if o.Log != nil {
		*o.Log = stderr
	}
	return []byte(out), err
}

// ID is the container ID that cnitool gives the container.
func (c *Container) ID() string {
	sum := sha512.Sum512([]byte(c.Path()))
	return fmt.Sprintf("cnitool-%x", sum[:10])
}

// PluginCall is one execution of a plugin as a runtime does it, for what cnitool cannot
// say: a container ID of one's own, an empty CNI_NETNS, a verb's bare input.
type PluginCall struct {
	Plugin      string // its file name in /opt/cni/bin
	Command     string // ADD, DEL, CHECK, GC, STATUS, VERSION
	ContainerID string
	NetNS       string
	IfName      string // default eth0
	Args        string
	Stdin       string
}

// Plugin executes a plugin directly and returns its standard output, on failure as well:
// a plugin reports its errors there.
func (h *Host) Plugin(ctx context.Context, call PluginCall) (string, error) {
	if call.IfName == "" {
		call.IfName = "eth0"
	}
	argv := []string{"/opt/cni/bin/" + call.Plugin}
	cmd := h.Command(ctx, argv...)
	cmd.Env = append(cmd.Env,
		"CNI_COMMAND="+call.Command, "CNI_CONTAINERID="+call.ContainerID, "CNI_NETNS="+call.NetNS,
		"CNI_IFNAME="+call.IfName, "CNI_ARGS="+call.Args, "CNI_PATH=/opt/cni/bin")
	cmd.Stdin = strings.NewReader(call.Stdin)
	out, _, err := run(cmd, h.name, argv)
	return out, err
}
