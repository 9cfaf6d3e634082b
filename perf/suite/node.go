package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// node is one broker of a system under test. It can be stopped and started again on its data.
type node struct {
	id    int32
	addr  string // for clients
	admin string // Millrace only
	dir   string

	name, path string // of the program
	args       []string
	proc       *process // nil before the first start
}

// readyTimeout is longer than three Java virtual machines on two busy cores need.
const readyTimeout = 3 * time.Minute

// start starts the program; it does not wait until the broker answers.
func (n *node) start(ctx context.Context) error {
	p, err := launch(ctx, n.name, nil, n.path, n.args...)
	if err == nil {
		n.proc = p
	}
	return err
}

// ready waits until the broker answers.
func (n *node) ready(ctx context.Context) error {
	deadline := time.Now().Add(readyTimeout)
	for time.Now().Before(deadline) {
		if !n.proc.alive() {
			return fmt.Errorf("%w: %s", errEnded, n.proc.tail.text())
		}
		if err := n.probe(); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(30 * time.Millisecond):
		}
	}
	return fmt.Errorf("not ready after %v: %s", readyTimeout, n.proc.tail.text())
}

func (n *node) probe() error {
	if n.admin != "" {
		resp, err := http.Get("http://" + n.admin + "/readyz")
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	}
	c, err := net.DialTimeout("tcp", n.addr, time.Second)
	if err == nil {
		_ = c.Close()
	}
	return err
}

// get reads a page of the admin server.
func (n *node) get(path string, timeout time.Duration) ([]byte, error) {
	client := http.Client{Timeout: timeout}
	resp, err := client.Get("http://" + n.admin + path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return io.ReadAll(resp.Body)
}
