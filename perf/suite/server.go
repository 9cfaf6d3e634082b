package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The systems that a row can run on.
const (
	sysD2        = "D2"   // Millrace, acknowledging what has been flushed: its default
	sysD1        = "D1"   // Millrace, acknowledging what has been written
	sysNull      = "null" // parses and forgets
	sysNullFlush = "null+flush"
	sysKafka1    = "K1" // Apache Kafka as it comes: it flushes nothing
	sysKafka2    = "K2" // Apache Kafka, log.flush.interval.messages=1

	sysD2x3     = "D2x3" // three nodes of Millrace; topics have three replicas, two of which must be in sync
	sysKafka1x3 = "K1x3" // likewise of Kafka, as it comes
	sysKafka2x3 = "K2x3" // likewise, flushing
)

// systemOrder is how systems stand below each other.
var systemOrder = []string{sysNull, sysNullFlush, sysD1, sysD2, sysKafka1, sysKafka2, sysD2x3, sysKafka1x3, sysKafka2x3}

// clusterNodes is the number of brokers of a system that is a cluster, and of replicas of its topics.
const clusterNodes = 3

// single is the system of one broker that a cluster is made of; a system of one broker is its own.
func single(system string) string { return strings.TrimSuffix(system, "x3") }

// server is a system under test: one broker, or the nodes of a cluster.
type server struct {
	system string
	nodes  []*node
	addr   string // of all nodes, separated by commas: what a client begins with
	dir    string
	wal    int64 // bytes of a node's write-ahead log; Millrace only
	lead   int   // index of the node that profiles and counts are taken of: the leader of partition 0
}

// cluster tells whether there are several brokers.
func (srv *server) cluster() bool { return len(srv.nodes) > 1 }

// leader is the node that profiles and counts are taken of.
func (srv *server) leader() *node { return srv.nodes[srv.lead] }

// millrace tells whether the brokers are Millrace's.
func (srv *server) millrace() bool { return srv.nodes[0].admin != "" }

// flushing tells whether the brokers are Millrace's and flush before they acknowledge.
func (srv *server) flushing() bool { return srv.system == sysD2 || srv.system == sysD2x3 }

// freePorts are n different addresses on this machine that nobody listens on at the moment.
func freePorts(n int) ([]string, error) {
	var addresses []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // all are held until all are found
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

// serve starts a system on a fresh directory and waits until it serves.
func (s *suite) serve(ctx context.Context, system string, w *workload) (*server, error) {
	dir, err := scratch(s.dataBase(w))
	if err != nil {
		return nil, err
	}
	srv := &server{system: system, dir: dir}
	if err = s.prepare(ctx, srv, w); err == nil {
		err = srv.start(ctx)
	}
	if err != nil {
		srv.close()
		return nil, fmt.Errorf("start %s: %w", system, err)
	}
	return srv, nil
}

// prepare says how the nodes are started.
func (s *suite) prepare(ctx context.Context, srv *server, w *workload) error {
	n := 1
	if single(srv.system) != srv.system {
		n = clusterNodes
	}
	clients, err := freePorts(n)
	if err != nil {
		return err
	}
	srv.addr = strings.Join(clients, ",")
	for i, addr := range clients {
		nd := &node{id: int32(i) + 1, addr: addr, dir: filepath.Join(srv.dir, "node-"+strconv.Itoa(i+1))}
		if err := os.Mkdir(nd.dir, 0o755); err != nil {
			return err
		}
		srv.nodes = append(srv.nodes, nd)
	}
	switch single(srv.system) {
	case sysD1, sysD2:
		return s.prepareMillrace(srv, w)
	case sysNull, sysNullFlush:
		nd := srv.nodes[0]
		nd.name, nd.path, nd.args = "null broker", s.bin("nullbroker"), []string{"--addr", nd.addr, "--dir", nd.dir}
		if srv.system == sysNullFlush {
			nd.args = append(nd.args, "--flush", "--file-bytes", strconv.Itoa(64<<20))
		}
		return nil
	case sysKafka1, sysKafka2:
		return s.prepareKafka(ctx, srv)
	}
	return fmt.Errorf("BUG: system %q", srv.system)
}

// start starts all nodes and waits until they answer.
func (srv *server) start(ctx context.Context) error {
	for _, n := range srv.nodes {
		if err := n.start(ctx); err != nil {
			return err
		}
	}
	for _, n := range srv.nodes {
		if err := n.ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// alive is nil while all nodes run.
func (srv *server) alive() error {
	for _, n := range srv.nodes {
		if !n.proc.alive() {
			return fmt.Errorf("broker %d has ended: %s", n.id, n.proc.tail.text())
		}
	}
	return nil
}

// close ends the nodes and removes their data.
func (srv *server) close() {
	var all sync.WaitGroup
	for _, n := range srv.nodes {
		all.Go(func() { n.proc.stop(10 * time.Second) })
	}
	all.Wait()
	_ = os.RemoveAll(srv.dir) // what is left is in a temporary directory
}
