package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"

	"millrace/tools/powercut"
	"millrace/tools/process"
)

// Options describe a cluster.
type Options struct {
	Binary     string
	Dir        string // for data and logs
	Nodes      int    // 1: a standalone broker
	Namespaces bool   // a network of its own for each; the process comes from Isolate
	Disks      bool   // a disk of its own for each
	Args       []string
}

// Cluster is some nodes.
type Cluster struct {
	Nodes []*Node
	net   *network
}

// New prepares nodes that do not run yet.
func New(o Options) (c *Cluster, err error) {
	if o.Disks {
		if err := powercut.Available(); err != nil {
			return nil, err
		}
	}
	c = &Cluster{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if o.Namespaces {
		if c.net, err = newNetwork(o.Nodes); err != nil {
			return c, err
		}
	}
	raft := make([]string, o.Nodes)
	for i := range o.Nodes {
		n := &Node{ID: i + 1}
		if n.Volume, err = newVolume(filepath.Join(o.Dir, fmt.Sprintf("node-%d", n.ID)), o.Disks); err != nil {
			return c, err
		}
		c.Nodes = append(c.Nodes, n)
		for _, address := range []struct {
			to   *string
			port string
		}{{&n.Kafka, "9092"}, {&n.Admin, "9643"}, {&raft[i], "9192"}} {
			if o.Namespaces {
				*address.to = net.JoinHostPort(hostOf(n.ID), address.port)
			} else if *address.to, err = process.FreeAddress("127.0.0.1"); err != nil {
				return c, err
			}
		}
	}
	for i, n := range c.Nodes {
		n.Process = &process.Process{Command: c.command(o, n, raft, i), LogFile: filepath.Join(o.Dir, fmt.Sprintf("node-%d.log", n.ID)), Admin: n.Admin}
	}
	return c, nil
}

// command is how a node is started.
func (c *Cluster) command(o Options, n *Node, raft []string, i int) []string {
	host, port, _ := net.SplitHostPort(n.Kafka) //nolint:errcheck // we made it
	var command []string
	if c.net != nil {
		command = []string{"nsenter", "--net=/run/netns/" + c.net.namespace(n.ID)}
	}
	command = append(command, o.Binary, "--node-id", fmt.Sprint(n.ID), "--kafka-port", port, "--advertised-addr", host, "--bind-addr", host,
		"--data-dir", n.Volume.Data(), "--admin-addr", n.Admin)
	command = append(command, o.Args...)
	if o.Nodes == 1 {
		return append(command, "standalone")
	}
	var peers []string
	for j, address := range raft {
		if j != i {
			peers = append(peers, fmt.Sprintf("%d@%s", j+1, address))
		}
	}
	return append(command, "raft-cluster", "--raft-addr", raft[i], "--peers", strings.Join(peers, ","), "--bootstrap")
}

// each does something with all nodes at once.
func (c *Cluster) each(do func(*Node) error) error {
	errs := make([]error, len(c.Nodes))
	var wait sync.WaitGroup
	for i, n := range c.Nodes {
		wait.Go(func() {
			if err := do(n); err != nil {
				errs[i] = fmt.Errorf("%v: %w", n, err)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// Start starts all nodes and waits until they serve.
func (c *Cluster) Start(ctx context.Context) error {
	return c.each(func(n *Node) error { return n.Start(ctx) })
}

// Revive makes all nodes run, whatever was done to them.
func (c *Cluster) Revive(ctx context.Context) error {
	return c.each(func(n *Node) error { return n.Revive(ctx) })
}

// Kill ends all nodes at once.
func (c *Cluster) Kill() error {
	return c.each(func(n *Node) error {
		if n.Process == nil {
			return nil
		}
		return n.Kill()
	})
}

// Terminate stops the nodes in an orderly way, one after the other, so that each can hand over to the rest.
func (c *Cluster) Terminate() error {
	for _, n := range c.Nodes {
		if _, err := n.Terminate(); err != nil {
			return fmt.Errorf("%v: %w", n, err)
		}
	}
	return nil
}

// Alive reports a node that has ended although nobody wanted it to.
func (c *Cluster) Alive() error {
	var errs []error
	for _, n := range c.Nodes {
		if err := n.Alive(); err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", n, err))
		}
	}
	return errors.Join(errs...)
}

// Seeds are the addresses that clients begin with.
func (c *Cluster) Seeds() []string {
	var seeds []string
	for _, n := range c.Nodes {
		seeds = append(seeds, n.Kafka)
	}
	return seeds
}

// Namespaces reports whether ways can be cut.
func (c *Cluster) Namespaces() bool { return c.net != nil }

// Disks reports whether power can be cut.
func (c *Cluster) Disks() bool { return c.Nodes[0].Volume.disk != nil }

// Cut makes what one end sends another disappear. An end is a node's number or Clients. Each Cut is mended once.
func (c *Cluster) Cut(from, to int) error { return c.net.cut(way{from, to}) }

// Mend takes a Cut back.
func (c *Cluster) Mend(from, to int) error { return c.net.mend(way{from, to}) }

// Unplug takes the link of a node down.
func (c *Cluster) Unplug(node int) error { return c.net.unplug(node) }

// Plug brings it back.
func (c *Cluster) Plug(node int) error { return c.net.plug(node) }

// Throttle lets a node send and receive so many kilobit a second; 0 takes that back.
func (c *Cluster) Throttle(node, kbit int) error { return c.net.throttle(node, kbit) }

// Close kills what runs and takes away mounts and namespaces. The data stays where it is, except on disks.
func (c *Cluster) Close() error {
	err := c.Kill()
	for _, n := range c.Nodes {
		if n.Volume != nil {
			err = errors.Join(err, n.Volume.Release())
		}
	}
	if c.net != nil {
		err = errors.Join(err, c.net.close())
	}
	return err
}
