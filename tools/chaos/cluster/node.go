package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"millrace/tools/process"
)

// Node is one node of a cluster.
type Node struct {
	ID     int
	Kafka  string // host:port
	Admin  string
	Volume *Volume
	*process.Process

	paused bool
}

func (n *Node) String() string { return fmt.Sprintf("node %d", n.ID) }

// Pause stops the process where it is.
func (n *Node) Pause() error {
	n.paused = true
	return n.Signal(syscall.SIGSTOP)
}

// Resume lets it go on.
func (n *Node) Resume() error {
	n.paused = false
	return n.Signal(syscall.SIGCONT)
}

// Revive makes a node run, whatever was done to it: it goes on if it is stopped, starts if it is dead.
func (n *Node) Revive(ctx context.Context) error {
	if n.Running() && n.paused {
		return n.Resume()
	}
	if n.Running() {
		if n.Alive() == nil {
			return nil
		}
		if err := n.Kill(); err != nil { // reaps it
			return err
		}
	}
	n.paused = false
	return n.Start(ctx)
}

// Status asks the node for its view of the cluster, as it answers it: GET /cluster.
func (n *Node) Status(ctx context.Context) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.Admin+"/cluster", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%v: GET /cluster: %s", n, resp.Status)
	}
	status := map[string]any{}
	return status, json.NewDecoder(resp.Body).Decode(&status)
}
