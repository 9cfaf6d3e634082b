package broker

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	"millrace/broker/config"
	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// fleet is brokers of one cluster, in this process and on loopback.
type fleet struct {
	t     *testing.T
	nodes map[int32]*fleetNode
}

type fleetNode struct {
	id   int32
	dir  string
	raft string // address of the cluster port, the same at every start
	b    *Broker
	stop func()
}

func newFleet(t *testing.T, ids ...int32) *fleet {
	f := &fleet{t: t, nodes: map[int32]*fleetNode{}}
	for _, id := range ids {
		f.add(id)
	}
	return f
}

func (f *fleet) add(id int32) *fleetNode {
	f.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // only to learn a free port
	if err != nil {
		f.t.Fatal(err)
	}
	n := &fleetNode{id: id, dir: f.t.TempDir(), raft: l.Addr().String()}
	_ = l.Close()
	f.nodes[id] = n
	return n
}

// fleetConfig is small: several brokers share the machine.
func fleetConfig(t testing.TB, more ...string) *config.Broker {
	values := map[string]string{
		"group.initial.rebalance.delay.ms": "0", "millrace.wal.bytes": "16777216", "millrace.wal.file.bytes": "4194304",
		"millrace.tail.ring.bytes": "8388608", "millrace.commit.max.bytes": "524288", "num.network.threads": "1",
		"offsets.topic.num.partitions": "3", "message.max.bytes": "262144",
	}
	for i := 0; i < len(more); i += 2 {
		values[more[i]] = more[i+1]
	}
	c, err := config.New(values)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// options of one node: its peers are all others that the fleet has now.
func (f *fleet) options(id int32) Options {
	n := f.nodes[id]
	c := &ClusterOptions{RaftAddr: n.raft, tickMillis: 10}
	for _, p := range slices.Sorted(maps.Keys(f.nodes)) {
		if p != id {
			c.Peers = append(c.Peers, raft.Peer{NodeID: p, Addr: f.nodes[p].raft})
		}
	}
	return Options{
		DataDir: n.dir, NodeID: id, ListenAddrs: []string{"127.0.0.1:0"}, Cluster: c, Config: fleetConfig(f.t),
		Logger: slog.New(slog.NewTextHandler(testWriter{f.t}, &slog.HandlerOptions{Level: slog.LevelInfo})).With("node", id),
	}
}

// launch starts a node in the background; the result arrives once it serves.
func (f *fleet) launch(id int32, mod ...func(*Options)) chan error {
	f.t.Helper()
	o := f.options(id)
	for _, m := range mod {
		m(&o)
	}
	out := make(chan error, 1)
	n := f.nodes[id]
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	go func() {
		defer cancel()
		b, err := Start(ctx, o)
		if err == nil {
			n.b = b
			n.stop = func() {
				end, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				defer cancel()
				if err := b.Shutdown(end); err != nil {
					f.t.Errorf("shutdown of node %d: %v", id, err)
				}
			}
		}
		out <- err
	}()
	return out
}

func (f *fleet) await(started chan error) {
	f.t.Helper()
	if err := <-started; err != nil {
		f.t.Fatal(err)
	}
}

func bootstrap(o *Options) { o.Cluster.Bootstrap = true }
func join(o *Options)      { o.Cluster.Join = true }

// start starts several nodes at once and waits for all.
func (f *fleet) start(mod func(*Options), ids ...int32) {
	f.t.Helper()
	var all []chan error
	for _, id := range ids {
		if mod == nil {
			all = append(all, f.launch(id))
		} else {
			all = append(all, f.launch(id, mod))
		}
	}
	f.t.Cleanup(f.stopAll)
	for _, c := range all {
		f.await(c)
	}
}

// stopAll ends all nodes at once.
func (f *fleet) stopAll() {
	done := make(chan bool)
	n := 0
	for _, m := range f.nodes {
		if m.stop != nil {
			n++
			go func() { m.stop(); done <- true }()
		}
	}
	for range n {
		<-done
	}
}

func (f *fleet) b(id int32) *Broker { return f.nodes[id].b }

// client talks to one node first; metadata leads it to the others.
func (f *fleet) client(id int32, opts ...kgo.Opt) *kgo.Client {
	return client(f.t, f.b(id), opts...)
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// agree waits until the nodes have the same metadata.
func (f *fleet) agree(ids ...int32) *raft.Image {
	f.t.Helper()
	eventually(f.t, "equal metadata", func() bool {
		for _, id := range ids[1:] {
			if f.b(id).applied.get() != f.b(ids[0]).applied.get() {
				return false
			}
		}
		return true
	})
	return f.b(ids[0]).meta.Image()
}

func TestThreeBrokersFormACluster(t *testing.T) {
	f := newFleet(t, 1, 2, 3)
	// In any order, and one comes late.
	third := f.launch(3, bootstrap)
	first := f.launch(1, bootstrap)
	t.Cleanup(f.stopAll)
	f.await(first)
	f.await(third)
	f.start(bootstrap, 2)
	for i, id := range []int32{1, 2, 3} {
		adm := kadm.NewClient(f.client(id))
		topic := fmt.Sprint("topic-", id)
		if r, err := adm.CreateTopic(testContext(t), 6, -1, nil, topic); err != nil || r.ReplicationFactor != 3 || r.NumPartitions != 6 {
			t.Fatalf("%+v, %v", r, err)
		}
		f.agree(1, 2, 3)
		for _, at := range []int32{1, 2, 3} {
			m, err := kadm.NewClient(f.client(at)).Metadata(testContext(t), topic)
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Brokers) != 3 || m.Controller < 1 || m.Controller > 3 {
				t.Fatalf("node %d: %+v", at, m)
			}
			leaders := map[int32]int{}
			for _, p := range m.Topics[topic].Partitions {
				if len(p.Replicas) != 3 || len(p.ISR) != 3 || p.Err != nil || len(p.OfflineReplicas) != 0 {
					t.Fatalf("node %d: %+v", at, p)
				}
				leaders[p.Leader]++
			}
			if i == 0 && (leaders[1] != 2 || leaders[2] != 2 || leaders[3] != 2) {
				t.Fatalf("leaders: %v", leaders)
			}
		}
	}
}
