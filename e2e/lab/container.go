package lab

import (
	"context"
	"fmt"
	"os/exec"
)

// Container is a network namespace on a host, as a runtime hands it to a plugin: empty, lo
// down. It shares the host's files.
type Container struct {
	host *Host
	name string
}

// Container makes a container. It ends with its host, or by Delete.
func (h *Host) Container(ctx context.Context, name string) (*Container, error) {
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("making a container: %w", err)
	}
	if _, _, err := h.Run(ctx, "ip", "netns", "add", name); err != nil {
		return nil, fmt.Errorf("making container %s: %w", name, err)
	}
	return &Container{host: h, name: name}, nil
}

// Find returns a container that exists already: of a lab that was opened again, or made by
// a runtime.
func (h *Host) Find(name string) *Container { return &Container{host: h, name: name} }

// Name returns the container's name.
func (c *Container) Name() string { return c.name }

// Host returns the host it is on.
func (c *Container) Host() *Host { return c.host }

// Path returns the namespace's path as the host sees it: what CNI_NETNS says.
func (c *Container) Path() string { return "/run/netns/" + c.name }

// NetNS returns the namespace's path as the machine sees it.
func (c *Container) NetNS() string {
	return fmt.Sprintf("/proc/%d/root%s", c.host.holder.pid, c.Path())
}

// Command is as [Host.Command], in the container's network.
func (c *Container) Command(ctx context.Context, argv ...string) *exec.Cmd {
	return c.host.command(ctx, c.NetNS(), argv)
}

// Run is as [Host.Run], in the container's network.
func (c *Container) Run(ctx context.Context, argv ...string) (stdout, stderr string, err error) {
	return run(c.Command(ctx, argv...), c.where(), argv)
}

func (c *Container) where() string { return c.host.name + "/" + c.name }

// Delete removes the namespace, as a runtime does after DEL. What runs in it is not ended
// and keeps it alive.
func (c *Container) Delete(ctx context.Context) error {
	if _, _, err := c.host.Run(ctx, "ip", "netns", "del", c.name); err != nil {
		return fmt.Errorf("deleting container %s: %w", c.name, err)
	}
	return nil
}
