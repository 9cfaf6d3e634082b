package raft

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// newCluster is a world of level 2 with brokers 1 to n, each with its raft replica.
func newCluster(t *testing.T, n int32) *world {
	w := &world{t: t, m: newImage()}
	f := FormCluster{ClusterID: "test", Level: clusterLevel}
	for id := range n {
		f.Replicas = append(f.Replicas, Replica{ID: uint64(id) + 2, NodeID: id + 1})
		f.Brokers = append(f.Brokers, id+1)
	}
	w.ok(f)
	w.ok(ClaimController{NodeID: 1, Term: 1})
	for id := range n {
		w.start(id+1, nil)
		w.unfence(id + 1)
	}
	return w
}

// start registers a broker as a starting node of a cluster does: fenced.
func (w *world) start(id int32, change func(*RegisterBrokerV2)) int64 {
	w.t.Helper()
	incarnations++
	c := RegisterBrokerV2{
		RegisterBroker: RegisterBroker{
			ID: id, ReplicaID: uint64(id) + 1, DirectoryID: testUUID(int(id) + 1), IncarnationID: testUUID(incarnations), Host: "h", Port: 9092,
			MaxLevel: MaxLevel, Fenced: true,
		},
		Addr: fmt.Sprint("h:", id), Listeners: []Listener{{"PLAINTEXT", "h", 9092}},
	}
	if change != nil {
		change(&c)
	}
	return w.ok(c).Value
}

func (w *world) reassign(name string, replicas ...int32) ReassignPartitions {
	return ReassignPartitions{Partitions: []Reassignment{{TopicID: w.m.Topic(name).ID, Replicas: replicas, PartitionEpoch: -1}}}
}

func (w *world) set(r ConfigResource, key, value string) {
	w.t.Helper()
	w.ok(AlterConfigs{Resources: []ConfigChange{{Resource: r, Set: map[string]string{key: value}}}})
}

// cluster.md, Day one: "Bootstrap pre-registers all named nodes as fenced; placement may use fenced ones (one must live)".
func TestBootstrapPreRegistersAllNodesFenced(t *testing.T) {
	w := &world{t: t, m: newImage()}
	w.ok(FormCluster{ClusterID: "test", Level: clusterLevel, Brokers: []int32{1, 2, 3}})
	if len(w.m.Brokers) != 3 || !w.m.Broker(2).Fenced || w.m.Broker(2).Epoch != -1 {
		t.Fatalf("%+v", w.m.Broker(2))
	}
	w.refused(InvalidReplicaAssignment, CreateTopics{Topics: []NewTopic{{Name: "a", ID: testUUID(1), Assignments: [][]int32{{1, 2, 3}}}}})
	w.ok(ClaimController{NodeID: 1, Term: 1})
	w.start(1, nil)
	w.unfence(1)
	p := w.create("a", 1, []int32{2, 1, 3}).Partitions[0]
	if p.Leader != 1 || !slices.Equal(p.ISR, []int32{1}) || len(p.Replicas) != 3 {
		t.Fatalf("%+v", p)
	}
}

// cluster.md, Controller: "commands carry that epoch; apply rejects older ones", and an older leader's late claim.
func TestLateClaimOfAnOlderTermIsRefused(t *testing.T) {
	w := newCluster(t, 3)
	old := w.m.Controller
	w.ok(ClaimController{NodeID: 2, Term: 5})
	if w.m.Controller.NodeID != 2 || w.m.Controller.Epoch != w.m.Index || w.m.Controller.Term != 5 {
		t.Fatalf("%+v", w.m.Controller)
	}
	w.refused(StaleControllerEpoch, ClaimController{NodeID: 1, Term: 4})
	for _, c := range []Command{
		FenceBroker{ID: 2, BrokerEpoch: w.m.Broker(2).Epoch, ControllerEpoch: old.Epoch},
		UnfenceBroker{ID: 2, BrokerEpoch: w.m.Broker(2).Epoch, ControllerEpoch: old.Epoch},
		ElectLeaders{ControllerEpoch: old.Epoch},
		ControlledShutdown{ID: 2, BrokerEpoch: w.m.Broker(2).Epoch, ControllerEpoch: old.Epoch},
	} {
		w.refused(StaleControllerEpoch, c)
	}
	epoch := w.m.Controller.Epoch
	if r := w.ok(ClaimController{NodeID: 2, Term: 5}); uint64(r.Value) != epoch || w.m.Controller.Epoch != epoch {
		t.Fatal("a repeated claim changed the epoch")
	}
}

// cluster.md, Identity: "Registration with a new directory id removes the broker from every ISR and ELR before it is
// unfenced", "Replica ids are never reused".
func TestWipedNodeComesBackUnderANewReplicaOnly(t *testing.T) {
	w := newCluster(t, 3)
	w.create("a", 1, []int32{3, 1, 2})
	wiped := RegisterBrokerV2{RegisterBroker: RegisterBroker{
		ID: 3, ReplicaID: 4, DirectoryID: testUUID(99), IncarnationID: testUUID(5000), Host: "h", MaxLevel: MaxLevel, Fenced: true,
	}}
	w.refused(DirectoryMismatch, wiped)
	w.refused(DirectoryMismatch, AddReplica{NodeID: 3, DirectoryID: testUUID(99)})
	w.ok(RemoveReplica{ReplicaID: 4})
	w.refused(ReplicaRemoved, wiped)
	id := w.ok(AddReplica{NodeID: 3, DirectoryID: testUUID(99), Addr: "x:1"}).Value
	if id != 5 {
		t.Fatalf("replica id %d was given out before", id)
	}
	if again := w.ok(AddReplica{NodeID: 3, DirectoryID: testUUID(99), Addr: "x:2"}).Value; again != id || w.m.Replicas[5].Addr != "x:2" {
		t.Fatalf("asked again: %d, %+v", again, w.m.Replicas[5])
	}
	wiped.ReplicaID = uint64(id)
	w.ok(wiped)
	if p := w.p("a"); contains(p.ISR, 3) || contains(p.ELR, 3) || p.Leader != 1 {
		t.Fatalf("a wiped broker is trusted: %+v", p)
	}
	w.unfence(3)
	if p := w.p("a"); contains(p.ISR, 3) || contains(p.ELR, 3) {
		t.Fatalf("a wiped broker is trusted: %+v", p)
	}
	w.ok(RemoveReplica{ReplicaID: 5})
	if id := w.ok(AddReplica{NodeID: 9, DirectoryID: testUUID(98)}).Value; id != 6 {
		t.Fatalf("replica id %d was given out before", id)
	}
}

// cluster.md, Controller: "After an unclean stop with another boot id the broker leaves ISR and ELR of all D1 topics
// and of partitions found damaged; none left = offline".
func TestPowerCutEndsTrustInUnflushedTopics(t *testing.T) {
	w := newCluster(t, 2)
	w.create("d1", 1, []int32{1, 2})
	w.create("d2", 2, []int32{1, 2})
	w.create("alone", 3, []int32{1})
	w.create("damaged", 4, []int32{1, 2}, []int32{1, 2})
	w.set(ConfigResource{ConfigTopic, "d1"}, "flush.messages", "1000")
	w.set(ConfigResource{ConfigTopic, "alone"}, "flush.messages", "1000")
	w.fence(2)
	w.start(1, func(c *RegisterBrokerV2) {
		c.PowerLost = true
		c.Damaged = []TopicPartitions{{TopicID: testUUID(4), Partitions: []int32{1, 7}}}
	})
	for name, want := range map[string]bool{"d1": false, "d2": true, "alone": false, "damaged": true} {
		p := w.p(name)
		if p.Leader != NoLeader || len(p.ISR) != 0 || contains(p.ELR, 1) != want {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if p := w.m.Partition("damaged", 1); contains(p.ELR, 1) {
		t.Errorf("a damaged log is trusted: %+v", p)
	}
	w.unfence(1)
	if w.p("alone").Leader != NoLeader || w.p("d2").Leader != 1 || w.p("damaged").Leader != 1 || w.m.Partition("damaged", 1).Leader != NoLeader {
		t.Errorf("alone %+v, d2 %+v", w.p("alone"), w.p("d2"))
	}
	// Without a power cut (the process crashed) unflushed bytes are with the kernel.
	w.create("crash", 5, []int32{1, 2})
	w.set(ConfigResource{ConfigTopic, "crash"}, "flush.messages", "1000")
	w.start(1, nil)
	w.unfence(1)
	if w.p("crash").Leader != 1 {
		t.Errorf("%+v", w.p("crash"))
	}
	w.start(1, func(c *RegisterBrokerV2) { c.PowerLost, c.RelaxedByDefault = true, true })
	w.unfence(1)
	if w.p("d2").Leader != NoLeader {
		t.Errorf("a default of D1 is forgotten: %+v", w.p("d2"))
	}
}

// cluster.md, Controller: "No process leads in an epoch it did not begin."
func TestStartingBrokerLeadsNothingUntilUnfenced(t *testing.T) {
	w := newCluster(t, 2)
	w.create("a", 1, []int32{1, 2})
	w.create("alone", 2, []int32{1})
	before := w.p("alone").LeaderEpoch
	w.start(1, nil)
	if a, alone := w.p("a"), w.p("alone"); a.Leader != 2 || a.LeaderEpoch != 1 || alone.Leader != NoLeader || alone.LeaderEpoch <= before {
		t.Fatalf("%+v, %+v", a, alone)
	}
	during := w.p("alone").LeaderEpoch
	w.unfence(1)
	if p := w.p("alone"); p.Leader != 1 || p.LeaderEpoch <= during {
		t.Fatalf("%+v", p)
	}
}

// cluster.md, Controller: "Clean stop: leaderships moved, ISR left".
func TestControlledShutdownLeavesLeadershipsAndISR(t *testing.T) {
	w := newCluster(t, 3)
	w.create("a", 1, []int32{1, 2, 3})
	w.create("alone", 2, []int32{1})
	w.ok(ControlledShutdown{ID: 1, BrokerEpoch: w.m.Broker(1).Epoch, ControllerEpoch: w.m.Controller.Epoch})
	if p := w.p("a"); p.Leader != 2 || !slices.Equal(p.ISR, []int32{2, 3}) {
		t.Fatalf("%+v", p)
	}
	if p := w.p("alone"); p.Leader != NoLeader || !slices.Equal(p.ELR, []int32{1}) {
		t.Fatalf("%+v", p)
	}
	// KIP-841: who is on the way out does not come back into an ISR.
	w.refused(IneligibleReplica, AlterPartitions{BrokerID: 2, BrokerEpoch: w.m.Broker(2).Epoch, Partitions: []ISRChange{w.alter("a", 2, 3, 1)}})
	w.ok(ElectLeaders{ControllerEpoch: w.m.Controller.Epoch})
	w.start(1, nil)
	w.unfence(1)
	if p := w.p("alone"); p.Leader != 1 {
		t.Fatalf("%+v", p)
	}
	w.alterOK(2, "a", 1, 2, 3)
}

func TestReassignmentAddsCatchesUpThenRemoves(t *testing.T) {
	w := newCluster(t, 5)
	w.create("a", 1, []int32{1, 2, 3})
	w.set(ConfigResource{ConfigTopic, "a"}, "min.insync.replicas", "2")
	w.ok(w.reassign("a", 4, 5, 3))
	if p := w.p("a"); !slices.Equal(p.Replicas, []int32{4, 5, 3, 1, 2}) || !slices.Equal(p.Adding, []int32{4, 5}) || !slices.Equal(p.Removing, []int32{1, 2}) || p.Leader != 1 {
		t.Fatalf("%+v", p)
	}
	w.alterOK(1, "a", 1, 2, 3, 4)
	if !w.p("a").Reassigning() {
		t.Fatal("ended before 5 was in sync")
	}
	epoch := w.p("a").LeaderEpoch
	w.alterOK(1, "a", 1, 2, 3, 4, 5)
	if p := w.p("a"); !slices.Equal(p.Replicas, []int32{4, 5, 3}) || p.Reassigning() || p.Leader != 4 || p.LeaderEpoch != epoch+1 || !slices.Equal(p.ISR, []int32{3, 4, 5}) {
		t.Fatalf("%+v", p)
	}
	w.refused(NoReassignment, w.reassign("a"))
}

func TestReassignmentWaitsForMinISR(t *testing.T) { // KIP-966
	w := newCluster(t, 3)
	w.create("a", 1, []int32{1, 2})
	w.set(ConfigResource{ConfigTopic, "a"}, "min.insync.replicas", "2")
	w.alterOK(1, "a", 1)
	w.ok(w.reassign("a", 3, 2))
	w.alterOK(1, "a", 1, 3)
	if p := w.p("a"); !p.Reassigning() {
		t.Fatalf("ended with one replica in sync of two that must be: %+v", p)
	}
	w.alterOK(1, "a", 1, 3, 2)
	if p := w.p("a"); p.Reassigning() || p.Leader != 3 || !slices.Equal(p.Replicas, []int32{3, 2}) {
		t.Fatalf("%+v", p)
	}
}

func TestReassignmentIsCancelledOrReplaced(t *testing.T) {
	w := newCluster(t, 5)
	w.create("a", 1, []int32{1, 2})
	w.ok(w.reassign("a", 3, 4))
	w.ok(w.reassign("a"))
	if p := w.p("a"); !slices.Equal(p.Replicas, []int32{1, 2}) || p.Reassigning() {
		t.Fatalf("%+v", p)
	}
	w.ok(w.reassign("a", 3, 4))
	w.alterOK(1, "a", 1, 2, 3)
	w.ok(w.reassign("a", 1, 5)) // 4 never held anything; 3 is in sync and goes at the end
	if p := w.p("a"); !slices.Equal(p.Replicas, []int32{1, 5, 3, 2}) && !slices.Equal(p.Replicas, []int32{1, 5, 2, 3}) || !slices.Equal(p.Adding, []int32{5}) {
		t.Fatalf("%+v", p)
	}
	w.alterOK(1, "a", 1, 2, 3, 5)
	if p := w.p("a"); !slices.Equal(p.Replicas, []int32{1, 5}) || p.Leader != 1 {
		t.Fatalf("%+v", p)
	}
	// Only the added one is in sync: going back would lose what it alone has.
	w.ok(w.reassign("a", 3))
	w.alterOK(1, "a", 1, 3)
	if p := w.p("a"); !slices.Equal(p.Replicas, []int32{3}) || p.Leader != 3 {
		t.Fatalf("%+v", p)
	}
	stale := w.reassign("a", 1)
	stale.Partitions[0].PartitionEpoch = 0
	w.refused(InvalidPartitionEpoch, stale)
	w.refused(InvalidReplicaAssignment, w.reassign("a", 1, 1))
	w.refused(InvalidReplicaAssignment, w.reassign("a", 77))
}

// cluster.md, Replication: "Lowering min.insync.replicas or RF clears the ELR in the same apply".
func TestLoweredReplicationFactorClearsELR(t *testing.T) {
	w := newCluster(t, 3)
	w.create("a", 1, []int32{1, 2, 3})
	w.set(ConfigResource{ConfigTopic, "a"}, "min.insync.replicas", "3")
	w.alterOK(1, "a", 1, 2)
	if !slices.Equal(w.p("a").ELR, []int32{3}) {
		t.Fatal(w.p("a"))
	}
	w.ok(w.reassign("a", 1, 3)) // effective minimum 2 from now on
	if p := w.p("a"); len(p.ELR) != 0 {
		t.Fatalf("elr outlived a lowered replication factor: %+v", p)
	}
}

// Two of two replicas stop in order, then the partition is given to one other broker: whoever of the two comes back has
// all that was acknowledged. With the ELR cleared nobody could ever lead.
func TestLeaderlessPartitionKeepsItsELR(t *testing.T) {
	for name, lower := range map[string]func(w *world){
		"replication factor":  func(w *world) { w.ok(w.reassign("a", 3)) },
		"min.insync.replicas": func(w *world) { w.set(ConfigResource{ConfigTopic, "a"}, "min.insync.replicas", "1") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newCluster(t, 3)
			w.create("a", 1, []int32{1, 2})
			w.set(ConfigResource{ConfigTopic, "a"}, "min.insync.replicas", "2")
			w.fence(1)
			w.fence(2)
			lower(w)
			if p := w.p("a"); p.Leader != NoLeader || !slices.Equal(p.ELR, []int32{1, 2}) {
				t.Fatalf("%+v", p)
			}
			w.unfence(1)
			if p := w.p("a"); p.Leader != 1 || !slices.Equal(p.ISR, []int32{1}) || len(p.ELR) != 0 {
				t.Fatalf("below the new bound the other one may lack what is acknowledged from now on: %+v", p)
			}
		})
	}
}

func TestReplicationFactorIsRaised(t *testing.T) {
	w := newCluster(t, 3)
	w.create("a", 1, []int32{1})
	w.set(ConfigResource{ConfigTopic, "a"}, "min.insync.replicas", "2")
	w.ok(w.reassign("a", 1, 2, 3))
	if w.m.MinISR(w.m.Topic("a"), w.p("a")) != 1 {
		t.Fatal("the high watermark would stand still until the new replicas are there")
	}
	w.alterOK(1, "a", 1, 2, 3)
	if p := w.p("a"); p.Reassigning() || w.m.MinISR(w.m.Topic("a"), p) != 2 {
		t.Fatalf("%+v", p)
	}
}

// Checklist: "unclean only by operator, per topic, with RECOVERING state"; "RECOVERING leader keeps ISR of one".
func TestUncleanElectionIsRecordedAndRecovers(t *testing.T) {
	w := newCluster(t, 2)
	w.create("a", 1, []int32{1, 2})
	w.alterOK(1, "a", 1)
	w.fence(1)
	w.ok(ElectLeaders{ControllerEpoch: w.m.Controller.Epoch, Partitions: []Election{{
		TopicID: testUUID(1), PartitionEpoch: w.p("a").PartitionEpoch, Leader: 2, Unclean: true,
	}}})
	p := w.p("a")
	if p.Leader != 2 || !p.Recovering || p.UncleanEpoch != p.LeaderEpoch {
		t.Fatalf("%+v", p)
	}
	w.start(1, nil)
	w.unfence(1)
	v2 := func(recovered bool, isr ...int32) AlterPartitionsV2 {
		return AlterPartitionsV2{BrokerID: 2, BrokerEpoch: w.m.Broker(2).Epoch, Partitions: []ISRChangeV2{{w.alter("a", isr...), recovered}}}
	}
	w.refused(IneligibleReplica, v2(false, 1, 2))
	w.ok(v2(true, 2))
	w.ok(v2(false, 1, 2))
	if q := w.p("a"); q.Recovering || q.UncleanEpoch != p.UncleanEpoch || len(q.ISR) != 2 {
		t.Fatalf("%+v", q)
	}
}

func TestDrainedBrokerIsElectedLast(t *testing.T) {
	w := newCluster(t, 3)
	w.create("a", 1, []int32{1, 2, 3})
	w.ok(DrainBroker{ID: 2, Drain: true})
	w.fence(1)
	if w.p("a").Leader != 3 {
		t.Fatalf("%+v", w.p("a"))
	}
	w.fence(3)
	if w.p("a").Leader != 2 {
		t.Fatalf("a drained broker is better than none: %+v", w.p("a"))
	}
	w.start(2, nil)
	if !w.m.Broker(2).Draining {
		t.Fatal("a restart ends the drain")
	}
	w.ok(DrainBroker{ID: 2})
	w.refused(UnknownBroker, DrainBroker{ID: 77})
}

func TestBrokerWithARaftReplicaIsNotForgotten(t *testing.T) {
	w := newCluster(t, 3)
	w.fence(3)
	c := UnregisterBroker{ID: 3, BrokerEpoch: w.m.Broker(3).Epoch}
	w.refused(InvalidCommand, c)
	w.ok(RemoveReplica{ReplicaID: 4})
	w.ok(c)
}

// A directory of level 1 becomes a cluster by finalising level 2: its commands are refused before, alike everywhere.
func TestClusterCommandsNeedLevelTwo(t *testing.T) {
	w := newWorld(t)
	w.register(1)
	w.refused(UnsupportedLevel, DrainBroker{ID: 1, Drain: true})
	if encodeSnapshot(w.m)[len(snapshotMagic)] != 1 {
		t.Fatal("a version that knows level 1 only cannot read this snapshot")
	}
	w.ok(FinalizeLevel{Level: 2})
	w.ok(DrainBroker{ID: 1, Drain: true})
	b := encodeSnapshot(w.m)
	if m, err := decodeSnapshot(b); b[len(snapshotMagic)] != 2 || err != nil || !m.Broker(1).Draining {
		t.Fatal(err)
	}
}

// randomClusterCommand adds the commands of level 2 to randomCommand's.
func randomClusterCommand(rng *rand.Rand, m *Image) Command {
	id := int32(rng.IntN(5))
	b := m.Broker(id)
	if b == nil {
		b = &Broker{ID: id, Epoch: 3}
	}
	t := m.TopicByID(testUUID(rng.IntN(12) + 1))
	switch rng.IntN(22) {
	case 0, 1, 2:
		c := RegisterBrokerV2{RegisterBroker: RegisterBroker{
			ID: id, ReplicaID: uint64(rng.IntN(8)), DirectoryID: testUUID(rng.IntN(2) + 1), IncarnationID: testUUID(rng.IntN(1000) + 1), Host: "h",
			MaxLevel: 2, Fenced: rng.IntN(2) == 0, ReplaceDirectory: rng.IntN(2) == 0,
		}, PowerLost: rng.IntN(4) == 0, RelaxedByDefault: rng.IntN(2) == 0, Addr: fmt.Sprint(rng.IntN(3))}
		if t != nil && rng.IntN(3) == 0 {
			c.Damaged = []TopicPartitions{{t.ID, []int32{0, 1}}}
		}
		return c
	case 3:
		return AddReplica{NodeID: id, DirectoryID: testUUID(rng.IntN(4) + 1), Addr: "a"}
	case 4:
		return RemoveReplica{ReplicaID: uint64(rng.IntN(8))}
	case 5:
		return ControlledShutdown{ID: id, BrokerEpoch: b.Epoch, ControllerEpoch: m.Controller.Epoch}
	case 6:
		return DrainBroker{ID: id, Drain: rng.IntN(2) == 0}
	case 7:
		return ClaimController{NodeID: id, Term: m.Controller.Term + uint64(rng.IntN(3)) - min(1, m.Controller.Term)}
	case 8, 9, 10, 11:
		if t == nil {
			return randomCommand(rng, m)
		}
		c := Reassignment{TopicID: t.ID, Partition: int32(rng.IntN(len(t.Partitions))), PartitionEpoch: -1}
		for _, r := range rng.Perm(5)[:rng.IntN(4)] {
			c.Replicas = append(c.Replicas, int32(r))
		}
		return ReassignPartitions{Partitions: []Reassignment{c}}
	case 12, 13, 14, 15:
		if t == nil {
			return randomCommand(rng, m)
		}
		n := int32(rng.IntN(len(t.Partitions)))
		p := t.Partitions[n]
		c := ISRChangeV2{ISRChange{TopicID: t.ID, Partition: n, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}, rng.IntN(2) == 0}
		for _, r := range p.Replicas {
			if b := m.Broker(r); b != nil && (r == p.Leader || m.live(r) && rng.IntN(4) > 0) {
				c.ISR = append(c.ISR, ISRMember{r, b.Epoch})
			}
		}
		if leader := m.Broker(p.Leader); leader != nil {
			b = leader
		}
		return AlterPartitionsV2{BrokerID: b.ID, BrokerEpoch: b.Epoch, Partitions: []ISRChangeV2{c}}
	default:
		return randomCommand(rng, m)
	}
}

// Reference 4.4: "Apply must be deterministic", "snapshot + tail = full replay": the random twin of the whole cluster state
// machine. One replica applies everything, one restarts from snapshots, one is restored half-way and replays the tail.
func TestClusterApplyIsDeterministic(t *testing.T) {
	for range 16 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			a := newCluster(t, 3)
			b := &world{t: t, m: a.m}
			var log [][]byte
			var half []byte
			codes := map[Code]int{}
			for i := range 500 {
				c := randomClusterCommand(rng, a.m)
				if i == 250 {
					half = encodeSnapshot(a.m)
				}
				if half != nil {
					raw, err := encodeCommand(c)
					if err != nil {
						t.Fatal(err)
					}
					log = append(log, raw)
				}
				ra, rb := a.do(c), b.do(c)
				if string(encodeResult(ra)) != string(encodeResult(rb)) {
					t.Fatalf("%+v was answered %+v and %+v", c, ra, rb)
				}
				codes[ra.Code]++
				for _, item := range ra.Items {
					codes[item.Code]++
				}
				if rng.IntN(20) == 0 {
					m, err := decodeSnapshot(encodeSnapshot(b.m))
					if err != nil {
						t.Fatal(err)
					}
					b.m = m
				}
			}
			tail, err := decodeSnapshot(half)
			if err != nil {
				t.Fatal(err)
			}
			for _, raw := range log {
				if tail, _, err = applyBytes(tail, tail.Index+1, raw); err != nil {
					t.Fatal(err)
				}
			}
			if a.m.Hash() != b.m.Hash() || a.m.Hash() != tail.Hash() {
				t.Fatal("replicas differ")
			}
			if codes[OK] < 150 {
				t.Fatalf("nearly everything was refused: %v", codes)
			}
		})
	}
}

func TestPartitionsAreAddedDuringAReassignment(t *testing.T) {
	w := newCluster(t, 5)
	a := w.create("a", 1, []int32{1, 2})
	w.ok(w.reassign("a", 3, 4, 5))
	w.refused(InvalidReplicaAssignment, CreatePartitions{Topics: []MorePartitions{{ID: a.ID, Count: 1, Assignments: [][]int32{{1, 2}}}}})
	w.ok(CreatePartitions{Topics: []MorePartitions{{ID: a.ID, Count: 1, Assignments: [][]int32{{1, 2, 3}}}}})
}
