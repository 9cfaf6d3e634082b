package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/raft"
)

func TestBrokerIsUnfencedOnceItsImageHoldsItsRegistration(t *testing.T) {
	w := newWorld(t, 1, 2)
	w.register(1, "", true)
	c := NewCore(Config{})
	late := w.beat(1)
	late.Index = uint64(late.BrokerEpoch) - 1
	c.Observe(0, late)
	w.apply(c, 0)
	if !w.m.Broker(1).Fenced {
		t.Fatal("unfenced before it knew of itself")
	}
	unready := w.beat(1)
	unready.Ready = false
	c.Observe(ms, unready)
	w.apply(c, ms)
	if !w.m.Broker(1).Fenced {
		t.Fatal("unfenced before it was ready")
	}
	c.Observe(2*ms, w.beat(1))
	w.apply(c, 2*ms)
	if w.m.Broker(1).Fenced || !w.m.Broker(2).Fenced {
		t.Fatal("not unfenced, or one that only was announced")
	}
}

func TestSilentBrokerIsFencedOnceInOneCommand(t *testing.T) {
	w := newWorld(t)
	for b := range int32(3) {
		w.register(b+1, "", false)
	}
	w.create("a", 1, []int32{1, 2, 3}, []int32{1, 3, 2}, []int32{2, 1, 3})
	c := NewCore(Config{})
	w.run(c, 0, 3*time.Second, 1, 2, 3)
	before := w.m.Index
	why := w.run(c, 3100*ms, 8*time.Second, 2, 3)
	if len(why) != 1 || !w.m.Broker(1).Fenced || w.m.Broker(2).Fenced {
		t.Fatal(why)
	}
	if w.m.Index != before+1 || !strings.HasPrefix(why[0], "5.1s ") {
		t.Fatalf("%d commands: %v", w.m.Index-before, why)
	}
	if p := w.m.Partition("a", 0); p.Leader != 2 || slices.Contains(p.ISR, 1) {
		t.Fatalf("%+v", p)
	}
}

// cluster.md, Controller: lease 1.5 s from the send time of the last answered heartbeat, session 2 s.
func TestLeaseEndsBeforeTheSession(t *testing.T) {
	l := NewLease(1500 * ms)
	if l.Valid(0) {
		t.Fatal("a lease that never began")
	}
	l.Extend(10 * time.Second)
	l.Extend(9 * time.Second) // an older answer that comes later
	if !l.Valid(11499*ms) || l.Valid(11500*ms) {
		t.Fatal("the lease does not count from when the heartbeat was sent")
	}
	l.End()
	if l.Valid(10 * time.Second) {
		t.Fatal("valid though fenced")
	}
	// The last heartbeat left at 10 s and arrived at once: nothing is fenced while the lease holds.
	w := newWorld(t)
	w.register(1, "", false)
	w.register(2, "", false)
	c := NewCore(Config{})
	for now := time.Duration(0); now < 13*time.Second; now += 50 * ms {
		c.Observe(now, w.beat(2))
		if now <= 10*time.Second {
			c.Observe(now, w.beat(1))
		}
		w.apply(c, now)
		if w.m.Broker(1).Fenced && now < 11500*ms {
			t.Fatalf("fenced at %v", now)
		}
	}
	if !w.m.Broker(1).Fenced {
		t.Fatal("never fenced")
	}
}

func TestBrokerWhoseProcessEndedIsFencedUnlessItSaysOtherwise(t *testing.T) {
	w := newWorld(t)
	w.register(1, "", false)
	c := NewCore(Config{})
	c.Observe(0, w.beat(1))
	w.apply(c, 0)
	if s := c.Suspects(300*ms, w.m); len(s) != 0 {
		t.Fatalf("%v is suspected before it has missed a heartbeat", s)
	}
	if s := c.Suspects(400*ms, w.m); len(s) != 1 || s[0] != 1 {
		t.Fatalf("suspects: %v", s)
	}
	c.Observe(450*ms, w.beat(1))
	c.Gone(400*ms, 1) // looked at before the heartbeat came
	w.apply(c, 450*ms)
	if w.m.Broker(1).Fenced {
		t.Fatal("fenced although it has spoken since")
	}
	c.Gone(500*ms, 1)
	w.apply(c, 500*ms)
	if !w.m.Broker(1).Fenced {
		t.Fatal("not fenced")
	}
	c.Observe(600*ms, w.beat(1))
	w.apply(c, 600*ms)
	if w.m.Broker(1).Fenced {
		t.Fatal("a broker that speaks stays fenced")
	}
}

func TestFailedDirectoryAndStuckFlushFence(t *testing.T) {
	for _, sick := range []func(*Heartbeat){
		func(h *Heartbeat) { h.Failed = true },
		func(h *Heartbeat) { h.FlushAge = 2100 * ms },
	} {
		w := newWorld(t)
		w.register(1, "", false)
		c := NewCore(Config{})
		c.Observe(0, w.beat(1))
		w.apply(c, 0)
		h := w.beat(1)
		sick(&h)
		c.Observe(100*ms, h)
		w.apply(c, 100*ms)
		if !w.m.Broker(1).Fenced {
			t.Fatalf("%+v is not fenced", h)
		}
		c.Observe(200*ms, h)
		w.apply(c, 200*ms)
		if !w.m.Broker(1).Fenced {
			t.Fatal("a sick broker is unfenced")
		}
		c.Observe(300*ms, w.beat(1))
		w.apply(c, 300*ms)
		if w.m.Broker(1).Fenced {
			t.Fatal("a healthy broker stays fenced")
		}
	}
}

// A controller that was stopped (SIGSTOP, a paused machine) must not fence everybody when it wakes.
func TestFrozenControllerBlamesNobody(t *testing.T) {
	w := newWorld(t)
	w.register(1, "", false)
	w.register(2, "", false)
	c := NewCore(Config{})
	w.run(c, 0, 3*time.Second, 1, 2)
	if why := w.apply(c, 60*time.Second); len(why) != 0 {
		t.Fatal(why)
	}
	why := w.run(c, 60100*ms, 65*time.Second, 2) // 1 really is gone
	if len(why) != 1 || !w.m.Broker(1).Fenced {
		t.Fatal(why)
	}
}

// "A new controller uses its own observations."
func TestNewControllerKnowsWhatItHeardAsAVoter(t *testing.T) {
	w := newWorld(t)
	w.register(1, "", false)
	w.register(2, "", false)
	c := NewCore(Config{})
	for now := time.Duration(0); now <= 10*time.Second; now += 100 * ms {
		c.Observe(now, w.beat(2))
		if now <= 8500*ms {
			c.Observe(now, w.beat(1))
		}
		if d := c.Tick(now, w.m, 0); d != nil {
			t.Fatal("a voter that is no controller decides")
		}
	}
	why := w.run(c, 10100*ms, 10600*ms, 2)
	if len(why) != 1 || !w.m.Broker(1).Fenced {
		t.Fatalf("a new controller gives the dead another session: %v", why)
	}
}

func TestHeartbeatsOfAnOlderProcessCountForNothing(t *testing.T) {
	w := newWorld(t)
	w.register(1, "", false)
	old := w.beat(1)
	w.register(1, "", true)
	c := NewCore(Config{})
	w.apply(c, 0)
	old.Index = 1000
	c.Observe(ms, old)
	w.apply(c, ms)
	if !w.m.Broker(1).Fenced {
		t.Fatal("unfenced by its own past")
	}
}

func TestControlledShutdownOnRequest(t *testing.T) {
	w := newWorld(t)
	w.register(1, "", false)
	w.register(2, "", false)
	w.create("a", 1, []int32{1, 2})
	c := NewCore(Config{})
	h := w.beat(1)
	h.Stopping = true
	c.Observe(0, h)
	c.Observe(0, w.beat(2))
	w.apply(c, 0)
	if p := w.m.Partition("a", 0); p.Leader != 2 || !w.m.Broker(1).ShuttingDown || w.m.Broker(1).Fenced {
		t.Fatalf("%+v", p)
	}
	w.run(c, 100*ms, 3*time.Second, 2)
	if !w.m.Broker(1).Fenced {
		t.Fatal("gone and not fenced")
	}
}

func TestPreferredLeadersReturnSlowlyAndAFewAtATime(t *testing.T) {
	w := newWorld(t)
	for b := range int32(3) {
		w.register(b+1, "", false)
	}
	var a [][]int32
	for range 250 {
		a = append(a, []int32{1, 2, 3})
	}
	w.create("a", 1, a...)
	c := NewCore(Config{})
	w.run(c, 0, 6*time.Second, 1, 2, 3)
	w.run(c, 6*time.Second, 9*time.Second, 2, 3)
	led := func(b int32) (n int) {
		for _, p := range w.m.Topic("a").Partitions {
			if p.Leader == b {
				n++
			}
		}
		return n
	}
	if led(1) != 0 {
		t.Fatal("a dead leader")
	}
	w.register(1, "", true)
	w.run(c, 9100*ms, 9200*ms, 1, 2, 3)
	for i := range 250 {
		tp := w.m.Topic("a")
		p := tp.Partitions[i]
		var isr []raft.ISRMember
		for _, b := range []int32{2, 3, 1} {
			isr = append(isr, raft.ISRMember{ID: b, BrokerEpoch: w.m.Broker(b).Epoch})
		}
		w.ok(raft.AlterPartitions{BrokerID: p.Leader, BrokerEpoch: w.m.Broker(p.Leader).Epoch, Partitions: []raft.ISRChange{{
			TopicID: tp.ID, Partition: int32(i), LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, ISR: isr,
		}}})
	}
	w.run(c, 9300*ms, 13*time.Second, 1, 2, 3)
	if led(1) != 0 {
		t.Fatal("leaderships returned to a broker that has just come back")
	}
	w.run(c, 13100*ms, 15200*ms, 1, 2, 3)
	if n := led(1); n == 0 || n > 200 {
		t.Fatalf("%d leaderships returned within a second", n)
	}
	w.run(c, 15300*ms, 20*time.Second, 1, 2, 3)
	if led(1) != 250 {
		t.Fatalf("%d", led(1))
	}
	w.set("", "auto.leader.rebalance.enable", "false")
	w.ok(raft.ElectLeaders{ControllerEpoch: w.m.Controller.Epoch, Partitions: []raft.Election{{TopicID: id(1), PartitionEpoch: w.m.Partition("a", 0).PartitionEpoch, Leader: 2}}})
	if why := w.run(c, 20100*ms, 30*time.Second, 1, 2, 3); len(why) != 0 {
		t.Fatal(why)
	}
}

// Checklist: "ISR, then ELR, else wait; unclean only by operator, per topic ... and a loud metric".
func TestUncleanElectionOnlyWhereTheTopicAllowsIt(t *testing.T) {
	w := newWorld(t)
	w.register(1, "", false)
	w.register(2, "", false)
	for i, name := range []string{"strict", "loose"} {
		w.create(name, i+1, []int32{1, 2})
		w.isr(name, 1)
	}
	w.set("loose", "unclean.leader.election.enable", "true")
	c := NewCore(Config{})
	w.run(c, 0, time.Second, 1, 2)
	w.run(c, time.Second, 9*time.Second, 2)
	for _, name := range []string{"strict", "loose"} {
		if p := w.m.Partition(name, 0); p.Leader != raft.NoLeader || p.LastLeader != 1 {
			t.Fatalf("%s: %+v", name, p)
		}
	}
	why := w.run(c, 9100*ms, 30*time.Second, 2)
	if p := w.m.Partition("loose", 0); p.Leader != 2 || p.UncleanEpoch != p.LeaderEpoch {
		t.Fatalf("%+v", p)
	}
	if p := w.m.Partition("strict", 0); p.Leader != raft.NoLeader {
		t.Fatalf("%+v", p)
	}
	if len(why) != 1 || !strings.Contains(why[0], "UNCLEAN") || !strings.Contains(why[0], "loose-0") {
		t.Fatal(why)
	}
	// The last one in sync comes back: a clean leader.
	w.register(1, "", true)
	w.run(c, 30*time.Second, 31*time.Second, 1, 2)
	if p := w.m.Partition("strict", 0); p.Leader != 1 {
		t.Fatalf("%+v", p)
	}
}

func TestDrainedBrokerHoldsNoLeadershipAndThenNoReplica(t *testing.T) {
	w := newWorld(t)
	for b := range int32(4) {
		w.register(b+1, "", false)
	}
	var a [][]int32
	for i := range 60 {
		a = append(a, []int32{int32(i%4) + 1, int32((i+1)%4) + 1, int32((i+2)%4) + 1})
	}
	w.create("a", 1, a...)
	w.ok(raft.DrainBroker{ID: 2, Drain: true})
	c := NewCore(Config{})
	catchUp := func() (under int) {
		tp := w.m.Topic("a")
		for i, p := range tp.Partitions {
			if !p.Reassigning() {
				continue
			}
			under++
			var isr []raft.ISRMember
			for _, b := range p.Replicas {
				isr = append(isr, raft.ISRMember{ID: b, BrokerEpoch: w.m.Broker(b).Epoch})
			}
			w.ok(raft.AlterPartitions{BrokerID: p.Leader, BrokerEpoch: w.m.Broker(p.Leader).Epoch, Partitions: []raft.ISRChange{{
				TopicID: tp.ID, Partition: int32(i), LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, ISR: isr,
			}}})
		}
		return under
	}
	most := 0
	for now := time.Duration(0); now < 20*time.Second; now += time.Second {
		w.run(c, now, now+900*ms, 1, 2, 3, 4)
		most = max(most, catchUp())
	}
	for i, p := range w.m.Topic("a").Partitions {
		if slices.Contains(p.Replicas, 2) || len(p.Replicas) != 3 || p.Leader == raft.NoLeader {
			t.Fatalf("a-%d: %+v", i, p)
		}
	}
	if most > 20 {
		t.Fatalf("%d partitions moved at once", most)
	}
	if moves, left := Drain(w.m, 10); len(moves) != 0 || left != 0 {
		t.Fatal(moves, left)
	}
	w.ok(raft.DrainBroker{ID: 3, Drain: true}) // two brokers cannot hold three replicas
	if moves, left := Drain(w.m, 100); len(moves) != 0 || left != 60 {
		t.Fatal(len(moves), left)
	}
}

func TestCoreIsAFunctionOfWhatItIsTold(t *testing.T) {
	run := func() (log []string) {
		w := newWorld(t)
		for b := range int32(5) {
			w.register(b+1, fmt.Sprint("r", b%2), false)
		}
		for i := range 30 {
			w.create(fmt.Sprint("t", i), i+1, []int32{int32(i%5) + 1, int32((i+1)%5) + 1, int32((i+2)%5) + 1})
		}
		c := NewCore(Config{})
		log = append(log, w.run(c, 0, 4*time.Second, 1, 2, 3, 4, 5)...)
		log = append(log, w.run(c, 4*time.Second, 8*time.Second, 1, 3, 4)...)
		w.ok(raft.DrainBroker{ID: 3, Drain: true})
		log = append(log, w.run(c, 8*time.Second, 20*time.Second, 1, 2, 3, 4, 5)...)
		h := w.m.Hash()
		return append(log, fmt.Sprintf("%x", h))
	}
	if a, b := run(), run(); !slices.Equal(a, b) {
		t.Fatalf("%v\n%v", a, b)
	}
}

func TestHeartbeatsSurviveTheCodec(t *testing.T) {
	for _, h := range []Heartbeat{{}, {BrokerID: -1, BrokerEpoch: 1 << 60, Index: 1 << 63, Ready: true, Stopping: true, Failed: true, FlushAge: time.Hour}, {Ready: true}} {
		b := h.AppendTo(nil)
		if got, err := DecodeHeartbeat(b); err != nil || got != h {
			t.Fatalf("%+v became %+v, %v", h, got, err)
		}
		for n := range b {
			if _, err := DecodeHeartbeat(b[:n]); err == nil {
				t.Fatalf("%d of %d bytes decode", n, len(b))
			}
		}
	}
	for _, a := range []Answer{{}, {true, 1 << 63, true, true, true, 5}} {
		if got, err := DecodeAnswer(a.AppendTo(nil)); err != nil || got != a {
			t.Fatalf("%+v became %+v, %v", a, got, err)
		}
	}
}

func FuzzHeartbeat(f *testing.F) {
	f.Add(Heartbeat{BrokerID: 1, BrokerEpoch: 2, Index: 3, Ready: true}.AppendTo(nil))
	f.Add(Answer{Controller: true, Epoch: 4}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := DecodeHeartbeat(b); err == nil {
			if again, err := DecodeHeartbeat(h.AppendTo(nil)); err != nil || again != h {
				t.Fatalf("%+v became %+v, %v", h, again, err)
			}
		}
		if a, err := DecodeAnswer(b); err == nil {
			if again, err := DecodeAnswer(a.AppendTo(nil)); err != nil || again != a {
				t.Fatalf("%+v became %+v, %v", a, again, err)
			}
		}
	})
}

func BenchmarkTick(b *testing.B) {
	w := newWorld(b)
	for i := range int32(5) {
		w.register(i+1, "", false)
	}
	for i := range 1000 {
		var a [][]int32
		for p := range 100 {
			a = append(a, []int32{int32(p%5) + 1, int32((p+1)%5) + 1, int32((p+2)%5) + 1})
		}
		w.create(fmt.Sprint("t", i), i+1, a...)
	}
	for _, scan := range []bool{false, true} {
		b.Run(fmt.Sprint("partitions=100000/scan=", scan), func(b *testing.B) {
			c := NewCore(Config{})
			now := time.Duration(0)
			for b.Loop() {
				now += 100 * ms
				for i := range int32(5) {
					c.Observe(now, w.beat(i+1))
				}
				c.scanSoon = scan
				if d := c.Tick(now, w.m, w.m.Controller.Epoch); len(d) > 0 {
					b.Fatal(d[0].Why)
				}
			}
		})
	}
}
