package raft

import (
	"context"
	"testing"
	"time"
)

func openTest(t *testing.T, o Options) *Node {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	n, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func propose(t *testing.T, n *Node, c Command) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := n.Propose(ctx, c)
	if err != nil {
		t.Fatalf("propose %T: %v", c, err)
	}
	return r
}

func TestNodeKeepsWhatItAcknowledged(t *testing.T) {
	dir := t.TempDir()
	begin := time.Now()
	n := openTest(t, Options{Dir: dir, NodeID: 1})
	t.Logf("ready after %v", time.Since(begin))
	if r := propose(t, n, FormCluster{ClusterID: "abc", Level: 1}); r.Err() != nil {
		t.Fatal(r.Err())
	}
	begin = time.Now()
	for range 100 {
		propose(t, n, BecomeController{NodeID: 1})
	}
	t.Logf("proposal takes %v", time.Since(begin)/100)
	index := n.Image().Index
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	n = openTest(t, Options{Dir: dir, NodeID: 1})
	t.Logf("restart takes %v", time.Since(begin))
	if m := n.Image(); m.ClusterID != "abc" || m.Index <= index {
		t.Fatalf("image at %d of cluster %q, want after %d of abc", m.Index, m.ClusterID, index)
	}
}
