package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/broker/config"
	"millrace/engine/disk"
	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
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

// stopNode ends one node; start may start it again.
func (f *fleet) stopNode(id int32) {
	f.nodes[id].stop()
	f.nodes[id].stop = nil
}

func TestThreeBrokersFormACluster(t *testing.T) {
	f := newFleet(t, 1, 2, 3)
	// In any order, and one comes late.
	third := f.launch(3, bootstrap)
	first := f.launch(1, bootstrap)
	t.Cleanup(f.stopAll)
	f.await(first)
	f.await(third)
	// What is created on the first day counts on the one that is late.
	if r, err := kadm.NewClient(f.client(1)).CreateTopic(testContext(t), 3, -1, nil, "early"); err != nil || r.ReplicationFactor != 3 {
		t.Fatalf("%+v, %v", r, err)
	}
	f.start(bootstrap, 2)
	for _, id := range []int32{1, 2, 3} {
		adm := kadm.NewClient(f.client(id))
		topic := fmt.Sprint("topic-", id)
		if r, err := adm.CreateTopic(testContext(t), 6, -1, nil, topic); err != nil || r.ReplicationFactor != 3 || r.NumPartitions != 6 {
			t.Fatalf("%+v, %v", r, err)
		}
		img := f.agree(1, 2, 3)
		for _, at := range []int32{1, 2, 3} {
			m, err := kadm.NewClient(f.client(at)).Metadata(testContext(t), topic)
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Brokers) != 3 || m.Controller != img.Controller.NodeID {
				t.Fatalf("node %d: %+v", at, m)
			}
			leaders := map[int32]int{}
			for _, p := range m.Topics[topic].Partitions {
				if len(p.Replicas) != 3 || len(p.ISR) != 3 || p.Err != nil || len(p.OfflineReplicas) != 0 {
					t.Fatalf("node %d: %+v", at, p)
				}
				leaders[p.Leader]++
			}
			if id == 3 && (leaders[1] != 2 || leaders[2] != 2 || leaders[3] != 2) {
				t.Fatalf("leaders: %v", leaders)
			}
		}
	}
	img := f.agree(1, 2, 3)
	if img.MinISR(img.Topic("early"), img.Partition("early", 0)) != 2 {
		t.Error("three nodes began without min.insync.replicas=2")
	}
	topics := img.TopicCount()

	// All stop, two come back without a word of how it began; the third one is missed and not needed.
	f.stopAll()
	for _, n := range f.nodes {
		n.stop = nil
	}
	f.start(nil, 3, 2)
	m, err := kadm.NewClient(f.client(2)).Metadata(testContext(t))
	if err != nil || len(m.Topics) != topics {
		t.Fatalf("%+v, %v", m, err)
	}
	eventually(t, "leaders for all", func() bool {
		m, err := kadm.NewClient(f.client(2)).Metadata(testContext(t), "topic-1", "early")
		if err != nil {
			t.Fatal(err)
		}
		ok := len(m.Brokers) == 2
		m.Topics.EachPartition(func(p kadm.PartitionDetail) {
			ok = ok && (p.Leader == 2 || p.Leader == 3) && slices.Equal(p.OfflineReplicas, []int32{1})
		})
		return ok
	})
	// --bootstrap again is ignored.
	f.start(bootstrap, 1)
	if a, b := f.b(1).meta.Image().ClusterID, f.b(2).meta.Image().ClusterID; a != b {
		t.Fatalf("clusters %s and %s", a, b)
	}
}

func TestStopGivesLeadershipsAway(t *testing.T) {
	f := newFleet(t, 1, 2, 3)
	f.start(bootstrap, 1, 2, 3)
	if _, err := kadm.NewClient(f.client(1)).CreateTopic(testContext(t), 6, 3, nil, "moved"); err != nil {
		t.Fatal(err)
	}
	before := f.agree(1, 2, 3)
	stopped := before.Controller.NodeID // the controller's own stop is the harder one
	var rest []int32
	for _, id := range []int32{1, 2, 3} {
		if id != stopped {
			rest = append(rest, id)
		}
	}
	f.stopNode(stopped)
	// It did not end before everything was moved: nobody has to wait for its session.
	img, err := f.b(rest[0]).meta.Latest(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range img.Topic("moved").Partitions {
		if p.Leader == stopped || p.Leader < 0 || slices.Contains(p.ISR, stopped) || len(p.ISR) != 2 {
			t.Errorf("partition %d: %+v", i, p)
		}
	}
	r, err := readRegistration(disk.OS(), f.nodes[stopped].dir)
	if err != nil || r == nil || !r.CleanStop || r.BrokerEpoch != img.Broker(stopped).Epoch {
		t.Fatalf("%+v, %v", r, err)
	}
	eventually(t, "another controller", func() bool {
		c := f.b(rest[0]).meta.Image().Controller
		return c.NodeID != stopped && c.Epoch > before.Controller.Epoch
	})
	f.start(nil, stopped)
	if r, err := readRegistration(disk.OS(), f.nodes[stopped].dir); err != nil || r.CleanStop || r.BrokerEpoch != f.b(stopped).brokerEpoch {
		t.Fatalf("%+v, %v", r, err)
	}

	// Two stop: the third one has no quorum left. It serves what needs none, refuses what does, and still ends.
	f.stopNode(rest[0])
	f.stopNode(rest[1])
	b, c := f.b(stopped), f.client(stopped)
	eventually(t, "no leader of the metadata", func() bool { _, ok := b.meta.Leader(); return !ok })
	r2 := ask[*kmsg.CreateTopicsResponse](t, c, createRequest(newTopicRequest("no-quorum", 1, 1))).Topics[0]
	wantCode(t, "a topic without a quorum", r2.ErrorCode, kerr.NotController)
	m, err := kadm.NewClient(c).Metadata(testContext(t), "moved", "made-on-first-use")
	if err != nil || len(m.Topics["moved"].Partitions) != 6 || !errors.Is(m.Topics["made-on-first-use"].Err, kerr.UnknownTopicOrPartition) {
		t.Errorf("%+v, %v", m, err)
	}
	s, err := b.ClusterStatus(testContext(t))
	if voters, reachable := s.Voters(); err != nil || s.Controller != raft.NoBroker || voters != 3 || reachable != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	eventually(t, "the end of the lease", func() bool { return !b.leaseValid() })
	f.stopNode(stopped)
}

func TestPowerCutIsToldToTheCluster(t *testing.T) {
	f := newFleet(t, 1, 2, 3)
	f.start(bootstrap, 1, 2, 3)
	relaxed := newTopicRequest("relaxed", -1, -1, "flush.messages", "1000")
	strict := newTopicRequest("strict", -1, -1)
	for _, q := range []*kmsg.CreateTopicsRequestTopic{&relaxed, &strict} {
		a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		a.Replicas = []int32{3}
		q.ReplicaAssignment = append(q.ReplicaAssignment, a)
	}
	resp, err := createRequest(relaxed, strict).RequestWith(testContext(t), direct(f.client(1)))
	if err != nil || resp.Topics[0].ErrorCode != 0 || resp.Topics[1].ErrorCode != 0 {
		t.Fatalf("%+v, %v", resp, err)
	}
	leaders := func() [2]int32 {
		img := f.agree(1, 2, 3)
		return [2]int32{img.Partition("relaxed", 0).Leader, img.Partition("strict", 0).Leader}
	}
	again := func(change func(r *registration)) {
		f.stopNode(3)
		r, err := readRegistration(disk.OS(), f.nodes[3].dir)
		if err != nil {
			t.Fatal(err)
		}
		change(r)
		if err := r.write(disk.OS(), f.nodes[3].dir); err != nil {
			t.Fatal(err)
		}
		f.start(nil, 3)
	}
	again(func(r *registration) { r.BootID = "before the reboot" }) // a clean stop, then a reboot
	if l := leaders(); l != [2]int32{3, 3} {
		t.Fatalf("a clean stop cost trust: leaders %v", l)
	}
	again(func(r *registration) { r.CleanStop = false }) // kill -9
	if l := leaders(); l != [2]int32{3, 3} {
		t.Fatalf("the end of a process cost trust: leaders %v", l)
	}
	again(func(r *registration) { r.CleanStop, r.BootID = false, "before the power cut" })
	if l := leaders(); l != [2]int32{raft.NoLeader, 3} {
		t.Fatalf("after a power cut: leaders %v", l)
	}

	// Metadata says so, and an operator may decide to live with what is left.
	ask := kmsg.NewPtrElectLeadersRequest()
	ask.TimeoutMillis, ask.ElectionType = 10_000, electUnclean
	got, err := ask.RequestWith(testContext(t), direct(f.client(2)))
	if err != nil || len(got.Topics) != 1 || got.Topics[0].Topic != "relaxed" || got.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if l := leaders(); l != [2]int32{3, 3} {
		t.Fatalf("leaders %v", l)
	}
	if p := f.b(1).meta.Image().Partition("relaxed", 0); p.UncleanEpoch != p.LeaderEpoch {
		t.Errorf("the election is not recorded: %+v", p)
	}
}

func TestWipedNodeIsRefused(t *testing.T) {
	f := newFleet(t, 1, 2, 3)
	f.start(bootstrap, 1, 2, 3)
	f.stopNode(3)
	f.nodes[3].dir = t.TempDir()
	err := <-f.launch(3, bootstrap)
	if !errors.Is(err, raft.ErrReplaced) || !strings.Contains(err.Error(), "data directory") || !strings.Contains(err.Error(), "millrace cluster remove") {
		t.Fatalf("a wiped voter starts: %v", err)
	}
	t.Log(err)
	if err = <-f.launch(3); !errors.Is(err, raft.ErrNotMember) {
		t.Fatalf("an empty directory without a word: %v", err)
	}
	if err = <-f.launch(3, join); !errors.Is(err, raft.ErrReplaced) || !strings.Contains(err.Error(), "remove") {
		t.Fatalf("a wiped voter joins beside its old self: %v", err)
	}
	// The operator says that the old one is gone.
	if err := f.b(1).ClusterRemove(testContext(t), 3, false); err != nil {
		t.Fatal(err)
	}
	f.start(join, 3)
	if err := f.b(2).ClusterPromote(testContext(t), 3); err != nil {
		t.Fatal(err)
	}
	s, err := f.b(2).ClusterStatus(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := s.Node(3); !ok || n.State != NodeLive || !n.Voter || n.ReplicaID != 5 {
		t.Fatalf("%+v", s)
	}
}

func TestStandaloneDirectoryBecomesTheFirstNode(t *testing.T) {
	f := newFleet(t, 1)
	small := func(o *Options) { o.Config = fleetConfig(t) }
	b, stop := startBroker(t, f.nodes[1].dir, small)
	produceN(t, client(t, b), "old", 0, 300)
	clusterID := b.meta.Image().ClusterID
	stop()
	f.start(nil, 1)
	b = f.b(1)
	if b.meta.Image().ClusterID != clusterID || b.meta.ReplicaID() != 1 {
		t.Fatalf("cluster %s, replica %d", b.meta.Image().ClusterID, b.meta.ReplicaID())
	}
	produceN(t, client(t, b), "old", 300, 100)
	for i, r := range consumeN(t, client(t, b, kgo.ConsumeTopics("old")), 400) {
		if r.Offset != int64(i) || string(r.Value) != fmt.Sprintf("value %d", i) {
			t.Fatalf("record %d: offset %d, %q", i, r.Offset, r.Value)
		}
	}
	f.add(2)
	f.add(3)
	f.start(join, 2, 3)
	for _, id := range []int32{2, 3} {
		if err := f.b(id).ClusterPromote(testContext(t), id); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.ClusterSetReplicationFactor(testContext(t), nil, 3); err != nil {
		t.Fatal(err)
	}
	eventually(t, "three in-sync replicas of everything", func() bool {
		s, err := b.ClusterStatus(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		p := b.meta.Image().Partition("old", 0)
		return s.Partitions.Moving+s.Partitions.UnderReplicated == 0 && len(p.Replicas) == 3 && len(p.ISR) == 3
	})
	if m := b.meta.Image(); m.MinISR(m.Topic("old"), m.Partition("old", 0)) != 2 {
		t.Errorf("three replicas, and min.insync.replicas is as for one: %v", m.ClusterConfig())
	}
	f.stopNode(1)
	for i, r := range consumeN(t, f.client(2, kgo.ConsumeTopics("old")), 400) {
		if r.Offset != int64(i) || string(r.Value) != fmt.Sprintf("value %d", i) {
			t.Fatalf("record %d after its first broker has left: offset %d, %q", i, r.Offset, r.Value)
		}
	}
	o := f.options(1)
	o.Cluster = nil
	if alone, err := Start(testContext(t), o); !errors.Is(err, raft.ErrClusterDirectory) {
		t.Fatalf("a node of three runs alone: %v, %v", alone, err)
	} else {
		t.Log(err)
	}
	f.start(nil, 1)
}

func TestSecondProcessEndsTheFirst(t *testing.T) {
	f := newFleet(t, 1)
	f.start(bootstrap, 1)
	b := f.b(1)
	me := b.meta.Image().Broker(1)
	r, err := b.meta.Propose(testContext(t), raft.RegisterBrokerV2{RegisterBroker: raft.RegisterBroker{
		ID: 1, ReplicaID: b.meta.ReplicaID(), DirectoryID: me.DirectoryID, IncarnationID: raft.NewUUID(), Host: "elsewhere", MaxLevel: raft.MaxLevel, Fenced: true,
	}})
	if err = errors.Join(err, r.Err()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-b.Failed():
		if !errors.Is(err, errStale) {
			t.Fatal(err)
		}
	case <-testContext(t).Done():
		t.Fatal("it goes on")
	}
	if b.leaseValid() {
		t.Error("a broker that was replaced believes in its lease")
	}
}

func TestClusterOptionsThatCannotBeAreRefused(t *testing.T) {
	f := newFleet(t, 1)
	err := <-f.launch(1, bootstrap, func(o *Options) { o.Cluster.Peers = []raft.Peer{{NodeID: 2, Addr: "192.0.2.7:9192"}} })
	if !errors.Is(err, raft.ErrPeers) {
		t.Fatalf("a loopback address beside another machine: %v", err)
	}
	if err := <-f.launch(1, bootstrap, join); err == nil {
		t.Fatal("bootstrap and join together")
	}
	if err := <-f.launch(1, func(o *Options) { o.Cluster.RaftAddr = "" }); err == nil {
		t.Fatal("a cluster without a port")
	}
}

func TestRecordsAndGroupsMoveOnWhenABrokerStops(t *testing.T) {
	f := newFleet(t, 1, 2, 3)
	f.start(bootstrap, 1, 2, 3)
	ctx := testContext(t)
	if _, err := kadm.NewClient(f.client(1)).CreateTopic(ctx, 1, 3, nil, "kept"); err != nil {
		t.Fatal(err)
	}
	seeds := kgo.SeedBrokers(f.b(1).Addr().String(), f.b(2).Addr().String(), f.b(3).Addr().String())
	produceN(t, f.client(1, seeds), "kept", 0, 300)
	m := f.client(2, seeds, kgo.ConsumeTopics("kept"), kgo.ConsumerGroup("g"), kgo.DisableAutoCommit())
	consumeN(t, m, 300)
	if err := m.CommitUncommittedOffsets(ctx); err != nil {
		t.Fatal(err)
	}
	m.Close()

	// The one that leads the records stops; what leads the group may be another one.
	for range 2 {
		leader := f.agree(1, 2, 3).Partition("kept", 0).Leader
		f.stopNode(leader)
		var rest []int32
		for _, id := range []int32{1, 2, 3} {
			if id != leader {
				rest = append(rest, id)
			}
		}
		seeds = kgo.SeedBrokers(f.b(rest[0]).Addr().String(), f.b(rest[1]).Addr().String())
		produceN(t, f.client(rest[0], seeds), "kept", 0, 100)
		m = f.client(rest[1], seeds, kgo.ConsumeTopics("kept"), kgo.ConsumerGroup("g"), kgo.DisableAutoCommit())
		first := int64(-1)
		for _, r := range consumeN(t, m, 100) {
			if first < 0 {
				first = r.Offset
			}
		}
		if first%100 != 0 || first < 300 {
			t.Fatalf("the group goes on at %d", first)
		}
		if err := m.CommitUncommittedOffsets(ctx); err != nil {
			t.Fatal(err)
		}
		m.Close()
		f.start(nil, leader)
		eventually(t, "all replicas in sync", func() bool {
			s, err := f.b(leader).ClusterStatus(ctx)
			return err == nil && s.Partitions.UnderReplicated == 0
		})
	}
	if end, err := kadm.NewClient(f.client(1)).ListEndOffsets(ctx, "kept"); err != nil {
		t.Fatal(err)
	} else if o, _ := end.Lookup("kept", 0); o.Offset != 500 {
		t.Errorf("%d records of 500", o.Offset)
	}
}
