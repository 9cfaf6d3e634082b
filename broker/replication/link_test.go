package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/engine"
	"millrace/engine/disk"
	"millrace/raft/transport"
)

// wired is a node with its cluster port on loopback and its replication.
type wired struct {
	*testNode
	r      *Replication
	port   *transport.Transport
	listen *breaker
}

// breaker is a listener whose connections can be broken.
type breaker struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (b *breaker) Accept() (net.Conn, error) {
	c, err := b.Listener.Accept()
	if err == nil {
		b.mu.Lock()
		b.conns = append(b.conns, c)
		b.mu.Unlock()
	}
	return c, err
}

func (b *breaker) breakAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		_ = c.Close()
	}
	b.conns = nil
}

// wire opens nodes that replicate over real connections.
func wire(t testing.TB, nodes, partitions int, o engine.Options, lc engine.LogConfig) []*wired {
	c := &testCluster{t: t}
	all := make([]*wired, nodes)
	for i := range all {
		id := int32(i)
		l, err := transport.Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		w := &wired{testNode: c.newTestNode(id, partitions, o, lc), listen: &breaker{Listener: l}}
		w.port = transport.New(transport.Options{Listener: w.listen, Self: func() transport.Identity {
			return transport.Identity{ClusterID: "c", NodeID: id, DirectoryID: transport.ID{byte(id)}, Incarnation: transport.ID{byte(id)}}
		}})
		w.r = newReplication(Options{
			NodeID: id, BrokerEpoch: func() int64 { return int64(id) + 1 }, ImageIndex: func() uint64 { return 1 },
			Dial: func(ctx context.Context, broker int32, kind transport.Kind) (*transport.Conn, error) {
				return w.port.Dial(ctx, transport.Target{Addr: all[broker].port.Addr().String(), NodeID: broker}, kind)
			},
		}, w.find)
		w.n = w.r.Node
		w.r.Serve(w.port)
		all[i] = w
	}
	for _, w := range all {
		w.port.Start()
	}
	t.Cleanup(func() {
		for _, w := range all {
			w.r.Close()
		}
		for _, w := range all {
			_ = w.port.Close()
		}
	})
	return all
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(began) > 60*time.Second {
			t.Fatalf("never: %s", what)
		}
	}
}

func sameLogs(t testing.TB, a, b *testPartition) {
	t.Helper()
	x, err := contents(a.log)
	if err == nil {
		var y []byte
		if y, err = contents(b.log); err == nil && !bytes.Equal(x, y) {
			err = fmt.Errorf("%d bytes and %d", len(x), len(y))
		}
	}
	if err != nil {
		t.Fatalf("%s: node %d and node %d: %v", a.key, a.node.id, b.node.id, err)
	}
}

// TestReplicationOverLoopback appends from several goroutines to partitions of three nodes while connections break, and
// changes a leader in between.
func TestReplicationOverLoopback(t *testing.T) {
	const partitions = 6
	o := smallEngine()
	o.RingBytes = 1 << 20
	nodes := wire(t, 3, partitions, o, engine.LogConfig{SegmentBytes: 1 << 20})
	lead := func(k, id int, epoch int32) {
		var followers []int32
		for _, w := range nodes {
			if w.id != int32(id) {
				w.n.resign(w.parts[key(k)])
				followers = append(followers, w.id)
			}
		}
		if err := nodes[id].parts[key(k)].lead(epoch, followers); err != nil {
			t.Fatal(err)
		}
	}
	for k := range partitions {
		lead(k, k%3, 1)
	}
	run := func() {
		var wg sync.WaitGroup
		for k := range partitions {
			wg.Go(func() {
				var p *testPartition
				for _, w := range nodes {
					if _, leads := w.parts[key(k)].LeaderEpoch(); leads {
						p = w.parts[key(k)]
					}
				}
				for i := 0; i < 150; {
					ok, err := p.append(1 << (6 + i%10))
					if err != nil {
						t.Error(err)
						return
					}
					if ok {
						i++
						continue
					}
					room := make(chan struct{})
					p.log.Shard().OnRoom(func() { close(room) })
					<-room
				}
			})
		}
		var stop atomic.Bool
		broken := make(chan struct{})
		go func() {
			defer close(broken)
			for i := 0; !stop.Load(); i++ {
				before := nodes[i%3].e.Stats().Shards[0].Commits
				for !stop.Load() && nodes[i%3].e.Stats().Shards[0].Commits < before+20 {
					time.Sleep(time.Millisecond)
				}
				nodes[i%3].listen.breakAll()
			}
		}()
		wg.Wait()
		stop.Store(true)
		<-broken
	}
	settled := func() {
		for k := range partitions {
			var leads *testPartition
			for _, w := range nodes {
				if _, ok := w.parts[key(k)].LeaderEpoch(); ok {
					leads = w.parts[key(k)]
				}
			}
			end := leads.log.AppendedEnd()
			for _, w := range nodes {
				eventually(t, fmt.Sprintf("node %d has %s up to %d", w.id, key(k), end), func() bool {
					return w.parts[key(k)].HighWatermark() == end && w.parts[key(k)].log.AppendedEnd() == end
				})
				sameLogs(t, leads, w.parts[key(k)])
			}
		}
	}
	run()
	lead(0, 1, 2)
	lead(1, 2, 2)
	run()
	settled()
	reconnects := uint64(0)
	for _, w := range nodes {
		for _, st := range w.r.Stats() {
			reconnects += st.Tail.Connects
		}
	}
	if reconnects <= 6 {
		t.Errorf("%d connections in all: none was broken", reconnects)
	}
}

// TestCatchUpSendsFilesUnseen feeds a follower that joins late from segments, by sendfile.
func TestCatchUpSendsFilesUnseen(t *testing.T) {
	nodes := wire(t, 2, 1, smallEngine(), engine.LogConfig{SegmentBytes: 1 << 20})
	p, f := nodes[0].parts[key(0)], nodes[1].parts[key(0)]
	if err := p.lead(1, nil); err != nil {
		t.Fatal(err)
	}
	for range 600 {
		for {
			ok, err := p.append(16 << 10)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				break
			}
			room := make(chan struct{})
			p.log.Shard().OnRoom(func() { close(room) })
			<-room
		}
	}
	p.mu.Lock()
	p.followers = []int32{1}
	p.mu.Unlock()
	nodes[0].n.lead(p, p.key, []int32{1})
	eventually(t, "the follower has all", func() bool { return f.log.AckEnd() == 600 })
	sameLogs(t, p, f)
	if st := nodes[0].r.Stats()[0]; st.CatchUp.BytesSent < 8<<20 {
		t.Fatalf("%+v", st)
	}
	eventually(t, "the tail has it", func() bool { st := nodes[0].r.Stats()[0]; return st.Tail.Open == 1 && st.CatchUp.Streams == 0 })
}

// TestIdleConnectionsAreClosedAndOpenedAgain.
func TestIdleConnectionsAreClosedAndOpenedAgain(t *testing.T) {
	nodes := wire(t, 2, 1, smallEngine(), engine.LogConfig{})
	nodes[0].r.o.IdleTimeout = 50 * time.Millisecond
	p, f := nodes[0].parts[key(0)], nodes[1].parts[key(0)]
	if err := p.lead(1, []int32{1}); err != nil {
		t.Fatal(err)
	}
	if ok, err := p.append(100); !ok || err != nil {
		t.Fatal(ok, err)
	}
	eventually(t, "it is there", func() bool { return f.log.AckEnd() == 1 })
	nodes[0].n.resign(p)
	eventually(t, "the connection is closed", func() bool { return !nodes[0].r.Stats()[0].Tail.Connected })
	nodes[0].n.lead(p, p.key, []int32{1})
	if ok, err := p.append(100); !ok || err != nil {
		t.Fatal(ok, err)
	}
	eventually(t, "the next is there", func() bool { return f.log.AckEnd() == 2 })
}

// BenchmarkReplicate pushes batches from one engine to another over loopback, both with their WAL.
func BenchmarkReplicate(b *testing.B) {
	for _, size := range []int{256, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			o := engine.Options{IO: disk.ModeAuto, RingBytes: 64 << 20, WALFileBytes: 64 << 20, WALBytes: 512 << 20}
			nodes := wire(b, 2, 1, o, engine.LogConfig{})
			p, f := nodes[0].parts[key(0)], nodes[1].parts[key(0)]
			if err := p.lead(1, []int32{1}); err != nil {
				b.Fatal(err)
			}
			raw, h := oneBatch(size)
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			ahead := int64(16<<20) / int64(len(raw)) // producers wait for acknowledgements
			cpu := cpuTime()
			for b.Loop() {
				for p.HighWatermark()+ahead < p.log.AppendedEnd() {
					time.Sleep(50 * time.Microsecond)
				}
				for {
					_, err := p.log.Append(engine.AppendRequest{Batch: raw, Header: h, LeaderEpoch: 1})
					if err == nil {
						break
					}
					if !errors.Is(err, engine.ErrBusy) {
						b.Fatal(err)
					}
					room := make(chan struct{})
					p.log.Shard().OnRoom(func() { close(room) })
					<-room
				}
				p.node.n.tell(p, newsAppended)
			}
			end := p.log.AppendedEnd()
			for p.HighWatermark() < end {
				time.Sleep(100 * time.Microsecond)
			}
			b.StopTimer()
			st := nodes[0].r.Stats()[0]
			b.ReportMetric(float64(cpuTime()-cpu)/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(end)/float64(st.Tail.FramesSent+st.CatchUp.FramesSent), "batches/frame")
			b.ReportMetric(float64(st.CatchUp.BytesSent)/float64(st.Tail.BytesSent+st.CatchUp.BytesSent), "catch-up")
			if f.log.AppendedEnd() != end {
				b.Fatal("the follower is not there")
			}
		})
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
