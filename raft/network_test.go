package raft

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// network joins the nodes of a test: loopback connections under logical names, that can be cut, or swallow what is
// sent one way.
type network struct {
	mu    sync.Mutex
	names map[string]string // logical to real address
	links map[[2]string]mode
	conns map[*linkConn]bool
}

type mode int

const (
	open mode = iota
	cut       // refused and reset
	mute      // what from sends to to is swallowed: a one-way partition
)

func newNetwork() *network {
	return &network{names: map[string]string{}, links: map[[2]string]mode{}, conns: map[*linkConn]bool{}}
}

// listen opens a port under a logical name.
func (n *network) listen(t testing.TB, name string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	n.mu.Lock()
	n.names[name] = l.Addr().String()
	n.mu.Unlock()
	return l
}

var errCut = errors.New("network is cut")

func (n *network) dialer(from string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, to string) (net.Conn, error) {
		n.mu.Lock()
		real, there, back := n.names[to], n.links[[2]string{from, to}], n.links[[2]string{to, from}]
		n.mu.Unlock()
		if there == cut || back == cut || real == "" {
			return nil, errCut
		}
		if there == mute || back == mute {
			<-ctx.Done() // no answer comes back
			return nil, ctx.Err()
		}
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", real)
		if err != nil {
			return nil, err
		}
		l := &linkConn{Conn: c, n: n, from: from, to: to}
		n.mu.Lock()
		n.conns[l] = true
		n.mu.Unlock()
		return l, nil
	}
}

// set changes what happens between two nodes, in one direction for mute and in both for the others.
func (n *network) set(from, to string, m mode) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[[2]string{from, to}] = m
	if m != mute {
		n.links[[2]string{to, from}] = m
	}
	for c := range n.conns {
		if m != mute && (c.from == from && c.to == to || c.from == to && c.to == from) {
			_ = c.Conn.Close() // after a mute spell the stream has a hole, as after a reset
			delete(n.conns, c)
		}
	}
}

func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.links)
	for c := range n.conns {
		if c.holed.Load() {
			_ = c.Conn.Close()
			delete(n.conns, c)
		}
	}
}

func (n *network) mode(from, to string) mode {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.links[[2]string{from, to}]
}

// linkConn is the dialing end: it stands for both directions.
type linkConn struct {
	net.Conn
	n        *network
	from, to string
	holed    atomic.Bool
}

func (c *linkConn) Write(p []byte) (int, error) {
	if c.n.mode(c.from, c.to) == mute {
		c.holed.Store(true)
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *linkConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || c.n.mode(c.to, c.from) != mute {
			return n, err
		}
		c.holed.Store(true)
	}
}

func (c *linkConn) Close() error {
	c.n.mu.Lock()
	delete(c.n.conns, c)
	c.n.mu.Unlock()
	return c.Conn.Close()
}
