package controller

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"millrace/raft"
)

// broker is a node with its controller and session, as the broker package is to wire them.
type broker struct {
	id       int32
	addr     string
	dir      string
	uuid     raft.UUID
	node     *raft.Node
	ctl      *Controller
	session  *Session
	epoch    int64
	stopping atomic.Bool
}

type fleet struct {
	t       *testing.T
	brokers map[int32]*broker
	session time.Duration
}

func newFleet(t *testing.T, ids ...int32) *fleet {
	f := &fleet{t: t, brokers: map[int32]*broker{}, session: 600 * ms}
	for _, i := range ids {
		l, err := net.Listen("tcp", "127.0.0.1:0") // only to learn a free port
		must(t, err)
		f.brokers[i] = &broker{id: i, addr: l.Addr().String(), dir: t.TempDir(), uuid: raft.NewUUID()}
		must(t, l.Close())
	}
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fleet) start(i int32, bootstrap bool) *broker {
	f.t.Helper()
	b := f.brokers[i]
	l, err := net.Listen("tcp", b.addr)
	must(f.t, err)
	c := &raft.Cluster{
		Listener: l, Bootstrap: bootstrap, DirectoryID: b.uuid, IncarnationID: raft.NewUUID(), TickMillis: 5, ElectionTicks: 20,
		Ping: 100 * ms, Silence: 500 * ms,
	}
	for _, p := range f.brokers {
		if p.id != i {
			c.Peers = append(c.Peers, raft.Peer{NodeID: p.id, Addr: p.addr})
		}
	}
	b.node, err = raft.Open(raft.Options{Dir: b.dir, NodeID: i, Cluster: c})
	must(f.t, err)
	b.ctl = Run(b.node, Options{Config: Config{Session: f.session, PreferAfter: 300 * ms, Scan: 200 * ms}})
	f.t.Cleanup(b.kill)
	return b
}

// register is what a broker does once its node is ready.
func (f *fleet) register(b *broker) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	must(f.t, b.node.Form(ctx))
	r, err := b.node.ProposeAgain(ctx, raft.RegisterBrokerV2{RegisterBroker: raft.RegisterBroker{
		ID: b.id, ReplicaID: b.node.ReplicaID(), DirectoryID: b.uuid, IncarnationID: raft.NewUUID(), Host: "h", MaxLevel: raft.MaxLevel, Fenced: true,
	}, Addr: b.addr})
	must(f.t, err)
	must(f.t, r.Err())
	b.epoch = r.Value
	b.node.SetBrokerEpoch(b.epoch)
	b.stopping.Store(false)
	b.session = NewSession(b.node, SessionOptions{
		BrokerID: b.id, BrokerEpoch: b.epoch, Interval: 100 * ms, Lease: 450 * ms, Local: b.ctl,
		Status: func() Status { return Status{Ready: !b.stopping.Load(), Stopping: b.stopping.Load()} },
	})
}

// kill stops everything without a word, as a crash does.
func (b *broker) kill() {
	if b.session != nil {
		b.session.Close()
		b.session = nil
	}
	if b.node != nil {
		b.ctl.Close()
		_ = b.node.Close()
		b.node = nil
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestBrokersLiveAndDieUnderAController(t *testing.T) {
	f := newFleet(t, 1, 2, 3)
	for i := range int32(3) {
		f.start(i+1, true)
	}
	for i := range int32(3) {
		f.register(f.brokers[i+1])
	}
	image := func() *raft.Image {
		for _, b := range f.brokers {
			if b.node != nil {
				return b.node.Image()
			}
		}
		return nil
	}
	unfenced := func() (n int) {
		for _, b := range image().Brokers {
			if !b.Fenced && !b.ShuttingDown {
				n++
			}
		}
		return n
	}
	eventually(t, "all brokers to be unfenced", func() bool { return unfenced() == 3 })
	for _, b := range f.brokers {
		eventually(t, "a lease", b.session.Valid)
	}
	var controller, other *broker
	eventually(t, "a controller", func() bool {
		controller, other = nil, nil
		for _, b := range f.brokers {
			if b.node.IsController() {
				controller = b
			} else {
				other = b
			}
		}
		return controller != nil
	})
	a, err := Place(image(), 6, 3, 1)
	must(t, err)
	r, err := other.node.ProposeAgain(context.Background(), raft.CreateTopics{Topics: []raft.NewTopic{{Name: "a", ID: raft.NewUUID(), Assignments: a}}})
	must(t, err)
	must(t, r.Err())

	// The controller dies: another takes over, fences it and moves what it led.
	begin := time.Now()
	controller.kill()
	eventually(t, "leaders among the living", func() bool {
		m := image()
		if !m.Broker(controller.id).Fenced {
			return false
		}
		for _, p := range m.Topic("a").Partitions {
			if p.Leader == controller.id || p.Leader == raft.NoLeader {
				return false
			}
		}
		return true
	})
	t.Logf("failover of controller and broker after %v with a session of 600 ms", time.Since(begin))
	for _, b := range f.brokers {
		if b.node != nil && !b.session.Valid() {
			t.Errorf("broker %d lost its lease to the death of another", b.id)
		}
	}

	// It comes back as a new process, fenced until its image holds its registration.
	f.start(controller.id, false)
	f.register(controller)
	eventually(t, "the returned broker to be unfenced", func() bool { return unfenced() == 3 })

	// An orderly stop: nothing is led by the one that goes, before it goes.
	leaving := f.brokers[other.id]
	leaving.stopping.Store(true)
	leaving.session.Beat()
	select {
	case <-leaving.session.MayStop():
	case <-time.After(10 * time.Second):
		t.Fatal("a broker may not stop")
	}
	m := leaving.node.Image()
	for i, p := range m.Topic("a").Partitions {
		if p.Leader == leaving.id || p.Leader == raft.NoLeader {
			t.Errorf("a-%d: %+v", i, p)
		}
	}
	leaving.kill()

	// Without a quorum no lease is extended.
	last := f.brokers[controller.id]
	for _, b := range f.brokers {
		if b != last {
			b.kill()
		}
	}
	eventually(t, "the end of the lease", func() bool { return !last.session.Valid() })
	if last.session.Stale() {
		t.Error("a broker without a quorum believes that it was replaced")
	}
}

// TestDeadProcessNeedNotBeWaitedFor: a kernel that refuses connections says at once what silence would say a session later.
func TestDeadProcessNeedNotBeWaitedFor(t *testing.T) {
	f := newFleet(t, 1, 2, 3)
	f.session = time.Hour
	for i := range int32(3) {
		f.start(i+1, true)
	}
	for i := range int32(3) {
		f.register(f.brokers[i+1])
	}
	leads := func(b *broker) bool { return b.node != nil && b.node.IsController() }
	fenced := func(by, id int32) bool {
		m := f.brokers[by].node.Image()
		return m.Broker(id) != nil && m.Broker(id).Fenced
	}
	for i := range int32(3) {
		eventually(t, "a lease", f.brokers[i+1].session.Valid)
	}
	var first *broker
	eventually(t, "a controller", func() bool {
		for _, b := range f.brokers {
			if leads(b) {
				first = b
			}
		}
		return first != nil
	})
	victim, witness := first.id%3+1, (first.id+1)%3+1
	f.brokers[victim].kill()
	eventually(t, "the dead broker to be fenced", func() bool { return fenced(first.id, victim) })
	if fenced(first.id, witness) || fenced(first.id, first.id) {
		t.Fatal("the living are fenced")
	}
	// The controller dies, and the next one looks for it.
	f.start(victim, false)
	f.register(f.brokers[victim])
	eventually(t, "the broker that is back", func() bool { return !fenced(first.id, victim) })
	first.kill()
	eventually(t, "the dead controller to be fenced", func() bool { return fenced(witness, first.id) })
}

func TestLateProcessOfABrokerIsTold(t *testing.T) {
	f := newFleet(t, 1)
	b := f.start(1, true)
	f.register(b)
	eventually(t, "a lease", b.session.Valid)
	old := b.session
	f.register(b) // another process with the same directory
	eventually(t, "the old session to hear of it", old.Stale)
	if old.Valid() {
		t.Error("a replaced process has a lease")
	}
	old.Close()
}

// Heartbeats that arrive during a quorum round are answered by the next one: an answer proves that the leader was
// followed after the heartbeat came.
func TestHeartbeatsAreAnsweredAfterAQuorumRound(t *testing.T) {
	begun := make(chan int, 10)
	release := make(chan struct{})
	n := 0
	r := rounds{ask: func(context.Context) (*raft.Image, error) {
		n++
		begun <- n
		<-release
		return nil, fmt.Errorf("round %d", n)
	}}
	answers := make(chan string, 10)
	join := func() {
		_, err := r.join(context.Background())
		answers <- err.Error()
	}
	go join()
	<-begun
	for range 5 {
		go join()
	}
	time.Sleep(20 * ms)
	release <- struct{}{}
	if a := <-answers; a != "round 1" {
		t.Fatal(a)
	}
	<-begun
	release <- struct{}{}
	for range 5 {
		if a := <-answers; a != "round 2" {
			t.Fatalf("%s: an answer from before the question", a)
		}
	}
}
