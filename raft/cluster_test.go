package raft

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/engine/disk"
	"millrace/engine/disk/simdisk"
	"millrace/raft/transport"
)

// group is a cluster of real nodes in one process, over a network that can be cut and simulated disks.
type group struct {
	t     testing.TB
	net   *network
	nodes map[int32]*member
	first []int32 // who bootstraps
	// snapshots is Options.SnapshotEntries.
	snapshots uint64
}

type member struct {
	id     int32
	disk   *simdisk.Disk
	fs     disk.FS
	dir    UUID
	starts int
	node   *Node
	failed chan error
}

func newGroup(t testing.TB, first ...int32) *group {
	return &group{t: t, net: newNetwork(), nodes: map[int32]*member{}, first: first}
}

func nodeName(id int32) string { return fmt.Sprintf("node-%d:9192", id) }

func (g *group) member(id int32) *member {
	m := g.nodes[id]
	if m == nil {
		d := simdisk.New(uint64(id))
		m = &member{id: id, disk: d, fs: folderFS{d}, dir: testUUID(int(id) + 100)}
		g.nodes[id] = m
	}
	return m
}

// options are those of a node that starts again; bootstrap and join are for its first start.
func (g *group) options(id int32) Options {
	m := g.member(id)
	m.starts++
	m.failed = make(chan error, 1)
	c := &Cluster{
		Listener: g.net.listen(g.t, nodeName(id)), Dial: g.net.dialer(nodeName(id)), Advertise: nodeName(id),
		DirectoryID: m.dir, IncarnationID: testUUID(int(id)*1000 + m.starts), TickMillis: 5, ElectionTicks: 20,
		Ping: 100 * time.Millisecond, Silence: 500 * time.Millisecond,
	}
	for _, p := range g.first {
		if p != id {
			c.Peers = append(c.Peers, Peer{p, nodeName(p)})
		}
	}
	failed := m.failed
	return Options{
		Dir: "/data/raft", FS: m.fs, NodeID: id, Cluster: c, SnapshotEntries: g.snapshots, ReadyTimeout: 20 * time.Second,
		OnFailed: func(err error) { failed <- err },
	}
}

func (g *group) open(o Options) (*Node, error) {
	n, err := Open(o)
	if err == nil {
		g.nodes[o.NodeID].node = n
		g.t.Cleanup(func() { _ = n.Close() })
	}
	return n, err
}

func (g *group) bootstrap(id int32) *Node {
	g.t.Helper()
	o := g.options(id)
	o.Cluster.Bootstrap = true
	n, err := g.open(o)
	must(g.t, err)
	return n
}

func (g *group) restart(id int32) *Node {
	g.t.Helper()
	n, err := g.open(g.options(id))
	must(g.t, err)
	return n
}

func (g *group) join(id int32) *Node {
	g.t.Helper()
	o := g.options(id)
	o.Cluster.Join = true
	n, err := g.open(o)
	must(g.t, err)
	return n
}

func (g *group) stop(id int32) {
	g.t.Helper()
	must(g.t, g.nodes[id].node.Close())
}

// formed bootstraps all first nodes and forms the cluster.
func (g *group) formed() {
	g.t.Helper()
	for _, id := range g.first {
		g.bootstrap(id)
	}
	for _, id := range g.first {
		must(g.t, g.nodes[id].node.Form(patient(g.t)))
	}
}

func (g *group) registration(id int32) RegisterBrokerV2 {
	m := g.nodes[id]
	return RegisterBrokerV2{RegisterBroker: RegisterBroker{
		ID: id, ReplicaID: m.node.ReplicaID(), DirectoryID: m.dir, IncarnationID: testUUID(int(id)*1000 + m.starts), Host: "h", Port: 1, MaxLevel: MaxLevel,
	}, Addr: nodeName(id)}
}

func (g *group) registered() {
	g.t.Helper()
	for _, id := range g.first {
		propose(g.t, g.nodes[id].node, g.registration(id))
	}
}

func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for something that the cluster does by itself.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// controller waits for the one node of ids that may act as the controller.
func (g *group) controller(ids ...int32) *Node {
	g.t.Helper()
	var found *Node
	eventually(g.t, "a controller", func() bool {
		found = nil
		for _, id := range ids {
			if g.nodes[id].node.IsController() {
				found = g.nodes[id].node
			}
		}
		return found != nil
	})
	return found
}

// agree waits until the nodes have the same image, byte for byte.
func (g *group) agree(ids ...int32) {
	g.t.Helper()
	eventually(g.t, "equal images", func() bool {
		for _, id := range ids[1:] {
			a, b := g.nodes[ids[0]].node.Image(), g.nodes[id].node.Image()
			if a.Index != b.Index {
				return false
			}
			if a.Hash() != b.Hash() {
				g.t.Fatalf("nodes %d and %d differ at index %d", ids[0], id, a.Index)
			}
		}
		return true
	})
}

// Any start order, restart without bootstrap, one node missing.
func TestNodesStartInAnyOrderAndWithOneMissing(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1, 2, 3)
	c := g.bootstrap(3)
	short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.Latest(short); err == nil {
		t.Fatal("one of three answers reads")
	}
	a := g.bootstrap(1)
	must(t, a.Form(patient(t))) // two of three
	must(t, c.Form(patient(t)))
	propose(t, a, g.registration(1))
	propose(t, c, g.registration(3))
	b := g.bootstrap(2)
	if m, err := b.AwaitReady(patient(t)); err != nil || m.ClusterID != a.Image().ClusterID {
		t.Fatal(err)
	}
	must(t, b.Form(patient(t)))
	propose(t, b, g.registration(2))
	if m := b.Image(); len(m.Replicas) != 3 || len(m.Brokers) != 3 || m.ClusterConfig()["min.insync.replicas"] != "2" || m.DefaultReplicationFactor() != 3 {
		t.Fatalf("%+v", m)
	}
	for i, n := range []*Node{a, b, c} { // from any node
		propose(t, n, AlterConfigs{Resources: []ConfigChange{{Resource: ConfigResource{Type: ConfigBroker}, Set: map[string]string{"k": fmt.Sprint(i)}}}})
		for _, other := range []*Node{a, b, c} {
			m, err := other.Latest(patient(t))
			if err != nil || m.ClusterConfig()["k"] != fmt.Sprint(i) {
				t.Fatalf("a read at node %d misses what node %d was acknowledged: %v", other.o.NodeID, n.o.NodeID, err)
			}
		}
	}
	g.agree(1, 2, 3)
	g.controller(1, 2, 3)
	for _, id := range []int32{1, 2, 3} {
		g.stop(id)
	}
	g.restart(2)
	g.restart(3)
	m, err := g.nodes[3].node.AwaitReady(patient(t))
	if err != nil || m.ClusterConfig()["k"] != "2" {
		t.Fatal(err)
	}
	g.controller(2, 3)
	// --bootstrap once more, on a formed directory: ignored.
	g.bootstrap(1)
	_, err = g.nodes[1].node.AwaitReady(patient(t))
	must(t, err)
	g.agree(1, 2, 3)
}

// cluster.md, Controller: "The shard's leader becomes controller by committing"; a frozen or isolated one is refused.
func TestIsolatedControllerIsReplacedAndRefused(t *testing.T) {
	g := newGroup(t, 1, 2, 3)
	g.formed()
	g.registered()
	old := g.controller(1, 2, 3)
	oldEpoch, _ := old.ControllerEpoch()
	var rest []int32
	for _, id := range g.first {
		if id != old.o.NodeID {
			rest = append(rest, id)
			g.net.set(nodeName(old.o.NodeID), nodeName(id), cut)
		}
	}
	begin := time.Now()
	now := g.controller(rest...)
	t.Logf("a new controller after %v", time.Since(begin))
	epoch, _ := now.ControllerEpoch()
	if epoch <= oldEpoch {
		t.Fatalf("epoch %d after %d", epoch, oldEpoch)
	}
	eventually(t, "the isolated leader to step down", func() bool { return !old.IsController() })
	short, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := old.Latest(short); err == nil {
		t.Fatal("an isolated node answers reads")
	}
	propose(t, now, newTopicOn(1, 1))
	late := make(chan Result, 1)
	go func() { // the command of a controller that does not know yet; dragonboat forwards it
		for {
			r, err := old.Propose(context.Background(), FenceBroker{ID: rest[0], BrokerEpoch: now.Image().Broker(rest[0]).Epoch, ControllerEpoch: oldEpoch})
			if err == nil {
				late <- r
				return
			}
		}
	}()
	g.net.heal()
	if r := <-late; r.Code != StaleControllerEpoch {
		t.Fatalf("a frozen controller fenced a live broker: %+v", r)
	}
	g.agree(1, 2, 3)
	if old.Image().Topic("topic-1") == nil {
		t.Fatal("the healed node did not catch up")
	}
}

func newTopicOn(i int, broker int32) CreateTopics {
	return CreateTopics{Topics: []NewTopic{{Name: fmt.Sprint("topic-", i), ID: testUUID(i + 1), Assignments: [][]int32{{broker}}}}}
}

// cluster.md, Identity: "a wiped voter must not vote again"; "on an empty directory it first asks the peers".
func TestWipedVoterIsNotLetIn(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1, 2, 3)
	g.formed() // nobody has registered: only the peers' own notes tie replica 4 to its directory
	for range 2 {
		g.agree(1, 2, 3)
		g.stop(3)
		kept, dir := g.nodes[3].fs, g.nodes[3].dir
		wiped := simdisk.New(99)
		g.nodes[3].fs, g.nodes[3].dir = folderFS{wiped}, testUUID(999)
		o := g.options(3)
		o.Cluster.Bootstrap = true
		_, err := g.open(o)
		var refused *transport.Refusal
		if !errors.Is(err, ErrReplaced) || !errors.As(err, &refused) || refused.Code != transport.RefusedDirectory {
			t.Fatalf("a wiped voter starts: %v", err)
		}
		t.Log(err)
		o = g.options(3)
		o.Cluster.Join = true
		o.ReadyTimeout = 3 * time.Second
		if _, err := g.open(o); err == nil {
			t.Fatal("a wiped voter joins beside its old self")
		} else {
			t.Log(err)
		}
		if _, err := g.open(g.options(3)); !errors.Is(err, ErrNotMember) {
			t.Fatalf("an empty directory without a word: %v", err)
		}
		g.nodes[3].fs, g.nodes[3].dir = kept, dir
		g.restart(3)
		g.registered() // the second time the state itself says so
	}
	// It comes back under a new identity once the old one was removed.
	g.stop(3)
	a := g.nodes[1].node
	must(t, a.Remove(patient(t), firstReplica(3), false))
	g.nodes[3].fs, g.nodes[3].dir = folderFS{simdisk.New(98)}, testUUID(998)
	c := g.join(3)
	if c.ReplicaID() != 5 {
		t.Fatalf("replica %d: ids are never used again", c.ReplicaID())
	}
	_, err := c.AwaitReady(patient(t))
	must(t, err)
	propose(t, c, g.registration(3))
	must(t, a.Promote(patient(t), c.ReplicaID()))
	g.stop(2) // 1 and the new 3 are a majority
	propose(t, c, newTopicOn(1, 1))
	g.agree(1, 3)
}

func TestOtherListOfFirstNodesIsRefused(t *testing.T) {
	g := newGroup(t, 1, 2, 3)
	g.bootstrap(1)
	o := g.options(2)
	o.Cluster.Bootstrap = true
	o.Cluster.Peers = []Peer{{1, nodeName(1)}}
	_, err := g.open(o)
	if !errors.Is(err, ErrReplaced) || !strings.Contains(err.Error(), "[1,2]") || !strings.Contains(err.Error(), "[1,2,3]") {
		t.Fatalf("both lists are to be shown: %v", err)
	}
	t.Log(err)
}

// cluster.md, Identity: "A standalone data directory becomes the first node of a cluster by adding voters, nothing else."
func TestStandaloneDirectoryBecomesTheFirstNode(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 7)
	m := g.member(7)
	alone := Options{Dir: "/data/raft", FS: m.fs, NodeID: 7, ReplicaID: 1, SnapshotEntries: 30}
	n, err := Open(alone)
	must(t, err)
	propose(t, n, FormCluster{ClusterID: "abc", Level: 1, Replicas: []Replica{{ID: 1, NodeID: 7, DirectoryID: m.dir}}}) // as the first release did
	r := testRegistration
	r.ID, r.ReplicaID, r.DirectoryID = 7, 1, m.dir
	propose(t, n, r)
	for i := range 100 {
		propose(t, n, newTopicOn(i, 7))
	}
	must(t, n.Close())
	a := g.restart(7)
	must(t, a.Form(patient(t)))
	if a.Image().ClusterID != "abc" || a.Image().TopicCount() != 100 || a.ReplicaID() != 1 {
		t.Fatalf("%+v", a.Image())
	}
	g.controller(7)
	b, c := g.join(8), g.join(9)
	for _, n := range []*Node{b, c} {
		_, err := n.AwaitReady(patient(t))
		must(t, err)
		propose(t, n, g.registration(n.o.NodeID))
		must(t, a.Promote(patient(t), n.ReplicaID()))
	}
	g.agree(7, 8, 9)
	g.stop(7)
	propose(t, b, newTopicOn(1000, 8))
	if b.Image().TopicCount() != 101 {
		t.Fatal("records of the standalone time are gone")
	}
	if _, err := Open(alone); !errors.Is(err, ErrClusterDirectory) {
		t.Fatalf("a node of three runs alone: %v", err)
	}
	g.restart(7)
	g.agree(7, 8, 9)
}

// Up to five voters, further ones without a vote; change -> snapshot -> restart -> catch-up.
func TestVotersAreAddedAndRemoved(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	g.snapshots = 20
	g.formed()
	a := g.nodes[1].node
	propose(t, a, g.registration(1))
	topics := 0
	more := func(n *Node) {
		for range 25 {
			topics++
			propose(t, n, newTopicOn(topics, 1))
		}
	}
	for id := int32(2); id <= 6; id++ {
		more(a)
		n := g.join(id)
		_, err := n.AwaitReady(patient(t))
		must(t, err)
		err = a.Promote(patient(t), n.ReplicaID())
		if id == 6 && !errors.Is(err, ErrTooManyVoters) || id < 6 && err != nil {
			t.Fatalf("node %d: %v", id, err)
		}
	}
	m, err := g.nodes[6].node.Members(patient(t)) // as a non-voting node sees it
	if err != nil || len(m.Voters) != 5 || !slices.Equal(m.NonVoting, []uint64{7}) {
		t.Fatalf("%+v, %v", m, err)
	}
	more(g.nodes[6].node)
	for id := int32(1); id <= 6; id++ { // every node finds its role again, behind snapshots
		g.stop(id)
		g.restart(id)
		more(g.nodes[id%6+1].node)
	}
	for _, id := range []int32{2, 3, 4, 5, 6} {
		_, err := g.nodes[id].node.AwaitReady(patient(t))
		must(t, err)
	}
	g.agree(1, 2, 3, 4, 5, 6)
	a = g.nodes[1].node
	must(t, g.nodes[6].node.Promote(patient(t), g.nodes[5].node.ReplicaID())) // is one already
	must(t, a.Remove(patient(t), g.nodes[5].node.ReplicaID(), false))
	select {
	case err := <-g.nodes[5].failed:
		if !errors.Is(err, ErrRemoved) && !errors.Is(err, ErrReplaced) {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a removed node goes on")
	}
	must(t, a.Promote(patient(t), g.nodes[6].node.ReplicaID()))
	eventually(t, "node 2 to lead", func() bool { // it is a leader that goes
		_ = a.TransferLeader(g.nodes[2].node.ReplicaID())
		l, ok := a.Leader()
		return ok && l.NodeID == 2
	})
	g.stop(2)
	g.stop(3)
	if err := a.Remove(patient(t), g.nodes[4].node.ReplicaID(), false); !errors.Is(err, ErrQuorumAtRisk) {
		t.Fatalf("a removal that ends the quorum: %v", err)
	}
	more(a) // 1, 4 and 6 of 1, 2, 3, 4 and 6
	g.agree(1, 4, 6)
}

func TestLateNodeCatchesUpBySnapshot(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1, 2, 3)
	g.snapshots = 50
	g.formed()
	g.registered()
	g.stop(3)
	a := g.nodes[1].node
	value := strings.Repeat("x", 100<<10)
	propose(t, a, newTopicOn(0, 1))
	for i := range 1300 { // beyond what is kept behind a snapshot
		c := AlterConfigs{Resources: []ConfigChange{{Resource: ConfigResource{ConfigTopic, "topic-0"}, Set: map[string]string{"k": fmt.Sprint(i)}}}}
		if i > 1280 {
			c.Resources[0].Set["big"] = value
		}
		propose(t, a, c)
	}
	n := g.restart(3)
	_, err := n.AwaitReady(patient(t))
	must(t, err)
	g.agree(1, 2, 3)
	if c := n.Image().TopicConfig("topic-0"); c["k"] != "1299" {
		t.Fatal(c["k"])
	}
	g.stop(3) // and starts from the snapshot that it was sent
	g.restart(3)
	_, err = g.nodes[3].node.AwaitReady(patient(t))
	must(t, err)
	g.agree(1, 2, 3)
}

// A clean stop of the leader costs no election timeout.
func TestLeaderHandsOverBeforeItStops(t *testing.T) {
	g := newGroup(t, 1, 2, 3)
	g.formed()
	g.registered()
	old := g.controller(1, 2, 3)
	must(t, old.Handover(patient(t)))
	if l, ok := old.Leader(); ok && l.ReplicaID == old.ReplicaID() {
		t.Fatal("it leads still")
	}
	var rest []int32
	for _, id := range g.first {
		if id != old.o.NodeID {
			rest = append(rest, id)
		}
	}
	q, err := old.Quorum(patient(t))
	if err != nil || len(q) != 3 {
		t.Fatal(q, err)
	}
	for _, r := range q {
		if !r.Reachable || !r.Voter || r.Index == 0 {
			t.Errorf("%+v", r)
		}
	}
	g.stop(old.o.NodeID)
	g.controller(rest...)
	must(t, g.nodes[rest[0]].node.Handover(patient(t))) // whether it leads or not
}

func TestAdvertisedLoopbackAmongOtherMachinesIsAnError(t *testing.T) {
	far := []Peer{{2, "10.0.0.2:9192"}}
	for _, bad := range []string{"localhost:9192", "127.0.0.1:9192", "[::1]:9192"} {
		if err := CheckAdvertised(bad, far); !errors.Is(err, ErrPeers) {
			t.Errorf("%s: %v", bad, err)
		}
		must(t, CheckAdvertised(bad, []Peer{{2, "localhost:9193"}}))
	}
	must(t, CheckAdvertised("10.0.0.1:9192", far))
	if CheckAdvertised("nonsense", nil) == nil {
		t.Error("an address without a port")
	}
}

func TestPeerLists(t *testing.T) {
	got, err := ParsePeers(" 2@localhost:9193, 3@[::1]:9194 ")
	if err != nil || !slices.Equal(got, []Peer{{2, "localhost:9193"}, {3, "[::1]:9194"}}) {
		t.Fatal(got, err)
	}
	for _, bad := range []string{"2", "x@h:1", "-1@h:1", "2@h", "2@:1", "2@h:0", "2@h:x", "2@h:70000", "2@h:1,2@g:1", "2@h:1,3@h:1"} {
		if _, err := ParsePeers(bad); !errors.Is(err, ErrPeers) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if p, err := ParsePeers(""); err != nil || len(p) != 0 {
		t.Error(p, err)
	}
}

// TestClusterSurvivesCrashesAndPartitions runs three to five nodes on simulated disks and a seeded network: nodes lose
// power, partitions come and go, one-way ones too, while clients propose at any node. What was acknowledged is there
// afterwards, on every node alike; a read after an acknowledgement sees it wherever it is made.
func TestClusterSurvivesCrashesAndPartitions(t *testing.T) {
	// In a process of its own, as TestNodePowerCuts: abandoned nodes hold locks that dragonboat's nodes share.
	const own = "MILLRACE_RAFT_CLUSTER_CRASHES"
	if os.Getenv(own) == "" {
		t.Parallel()
		self, err := os.Executable()
		must(t, err)
		cmd := exec.Command(self, "-test.run=^TestClusterSurvivesCrashesAndPartitions$", "-test.timeout=120s", "-test.v")
		cmd.Env = append(os.Environ(), own+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v:\n%s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	for range 2 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { crashesAndPartitions(t, seed) })
	}
}

func crashesAndPartitions(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 4))
	size := int32(3 + 2*rng.IntN(2))
	var ids []int32
	for id := range size {
		ids = append(ids, id+1)
	}
	g := newGroup(t, ids...)
	g.snapshots = 40
	g.formed()
	g.registered()
	stop := make(chan struct{})
	var mu sync.Mutex // acked, and who runs
	acked := map[string]bool{}
	up := map[int32]*Node{}
	for _, id := range ids {
		up[id] = g.nodes[id].node
	}
	pick := func(r *rand.Rand) *Node {
		mu.Lock()
		defer mu.Unlock()
		return up[ids[r.IntN(len(ids))]]
	}
	var clients sync.WaitGroup
	unknown, reads := 0, 0
	for client := range 3 {
		crng := rand.New(rand.NewPCG(seed, uint64(10+client)))
		clients.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				n := pick(crng)
				if n == nil {
					time.Sleep(time.Millisecond)
					continue
				}
				c := newTopicOn(client*10000+i, ids[0])
				name := c.Topics[0].Name
				ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
				r, err := n.Propose(ctx, c)
				cancel()
				mu.Lock()
				if err != nil {
					unknown++
				} else if len(r.Items) == 1 && r.Items[0].Code == OK {
					acked[name] = true
				}
				ok := acked[name]
				mu.Unlock()
				if other := pick(crng); ok && other != nil {
					ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
					m, err := other.Latest(ctx)
					cancel()
					if err == nil {
						if m.Topic(name) == nil {
							t.Errorf("node %d does not show %s, acknowledged by node %d", other.o.NodeID, name, n.o.NodeID)
						}
						mu.Lock()
						reads++
						mu.Unlock()
					}
				}
			}
		})
	}
	down := map[int32]bool{}
	for range 14 {
		switch rng.IntN(4) {
		case 0:
			a, b := ids[rng.IntN(len(ids))], ids[rng.IntN(len(ids))]
			if a != b {
				g.net.set(nodeName(a), nodeName(b), []mode{cut, mute}[rng.IntN(2)])
			}
		case 1:
			g.net.heal()
		case 2: // power cut, if a majority is left
			id := ids[rng.IntN(len(ids))]
			if down[id] || 2*(len(down)+1) > len(ids) {
				continue
			}
			mu.Lock()
			delete(up, id)
			mu.Unlock()
			m := g.nodes[id]
			m.disk.CutAfter(uint64(rng.IntN(20)), nil)
			time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond)
			_ = m.node.Close()
			down[id] = true
		case 3:
			for id := range down {
				m := g.nodes[id]
				m.disk.Crash(m.disk.RandomPolicy())
				n, err := g.open(g.options(id))
				if err != nil {
					t.Fatalf("node %d does not start after a power cut: %v", id, err)
				}
				mu.Lock()
				up[id] = n
				mu.Unlock()
				delete(down, id)
				break
			}
		}
		time.Sleep(time.Duration(50+rng.IntN(200)) * time.Millisecond)
	}
	g.net.heal()
	for id := range down {
		m := g.nodes[id]
		m.disk.Crash(m.disk.RandomPolicy())
		if _, err := g.open(g.options(id)); err != nil {
			t.Fatalf("node %d does not start after a power cut: %v", id, err)
		}
	}
	close(stop)
	clients.Wait()
	for _, id := range ids {
		if _, err := g.nodes[id].node.AwaitReady(patient(t)); err != nil {
			t.Fatalf("node %d: %v", id, err)
		}
	}
	propose(t, g.nodes[ids[0]].node, newTopicOn(60000, ids[0])) // progress after healing
	g.agree(ids...)
	m := g.nodes[ids[0]].node.Image()
	for name := range acked {
		if m.Topic(name) == nil {
			t.Errorf("%s was acknowledged and is gone", name)
		}
	}
	t.Logf("%d nodes: %d acknowledged, %d without answer, %d reads checked", size, len(acked), unknown, reads)
	if len(acked) < 20 {
		t.Error("next to nothing was acknowledged")
	}
}
