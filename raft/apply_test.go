package raft

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// world is an image and the index of its next command.
type world struct {
	t *testing.T
	m *Image
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, m: newImage()}
	w.ok(FormCluster{ClusterID: "test", Level: 1})
	return w
}

// do applies a command through its bytes, as the log does, and checks that the image it came from is
// untouched.
func (w *world) do(c Command) Result {
	w.t.Helper()
	b, err := encodeCommand(c)
	if err != nil {
		w.t.Fatal(err)
	}
	before := w.m.Hash()
	now, r, err := applyBytes(w.m, w.m.Index+1, b)
	if err != nil {
		w.t.Fatalf("%T: %v", c, err)
	}
	if w.m.Hash() != before {
		w.t.Fatalf("%T changed the image it was applied to", c)
	}
	w.m = now
	w.check()
	return r
}

// ok is do for commands that must succeed with all their items.
func (w *world) ok(c Command) Result {
	w.t.Helper()
	r := w.do(c)
	if r.Err() != nil {
		w.t.Fatalf("%T: %v", c, r.Err())
	}
	for i, item := range r.Items {
		if item.Err() != nil {
			w.t.Fatalf("%T item %d: %v", c, i, item.Err())
		}
	}
	return r
}

// refused is do for commands of one item, or none, that must end with code.
func (w *world) refused(code Code, c Command) {
	w.t.Helper()
	r := w.do(c)
	err := r.Err()
	if err == nil && len(r.Items) == 1 {
		err = r.Items[0].Err()
	}
	if !errors.Is(err, code) {
		w.t.Fatalf("%T: %v, want %v", c, err, code)
	}
}

// check holds the invariants of every image.
func (w *world) check() {
	w.t.Helper()
	count := 0
	w.m.EachTopic(func(t *Topic) bool {
		if w.m.TopicByID(t.ID) != t || w.m.Topic(t.Name) != t {
			w.t.Fatalf("topic %s is not where it should be", t.Name)
		}
		for i, p := range t.Partitions {
			count++
			switch {
			case p.Leader != NoLeader && !contains(p.ISR, p.Leader):
				w.t.Fatalf("%s-%d: leader %d is not in sync: %+v", t.Name, i, p.Leader, p)
			case p.Leader != NoLeader && !w.m.live(p.Leader):
				w.t.Fatalf("%s-%d: leader %d is fenced", t.Name, i, p.Leader)
			case !distinct(p.ISR) || !distinct(p.ELR) || !distinct(append(slices.Clone(p.ISR), p.ELR...)):
				w.t.Fatalf("%s-%d: isr %v, elr %v", t.Name, i, p.ISR, p.ELR)
			case !distinct(p.Replicas) || !distinct(append(slices.Clone(p.Adding), p.Removing...)):
				w.t.Fatalf("%s-%d: replicas %v, adding %v, removing %v", t.Name, i, p.Replicas, p.Adding, p.Removing)
			case len(p.Replicas) == 0 || p.targetSize() < 1:
				w.t.Fatalf("%s-%d: nothing is left: %+v", t.Name, i, p)
			case p.Recovering && len(p.ISR) > 1:
				w.t.Fatalf("%s-%d: recovers and is not alone: %+v", t.Name, i, p)
			case len(p.ELR) > 0 && len(p.ISR) >= w.m.effectiveMinISR(t, p):
				w.t.Fatalf("%s-%d: elr %v beside a sufficient isr %v", t.Name, i, p.ELR, p.ISR)
			}
			for _, id := range slices.Concat(p.ISR, p.ELR, p.Adding, p.Removing) {
				if !contains(p.Replicas, id) {
					w.t.Fatalf("%s-%d: %d is no replica", t.Name, i, id)
				}
			}
			for _, id := range p.ISR {
				if !w.m.live(id) {
					w.t.Fatalf("%s-%d: fenced %d is in sync", t.Name, i, id)
				}
			}
		}
		return true
	})
	if count != w.m.PartitionCount() {
		w.t.Fatalf("%d partitions, counted %d", w.m.PartitionCount(), count)
	}
}

func testUUID(n int) (u UUID) {
	u[0], u[1], u[15] = byte(n>>8), byte(n), 1
	return u
}

var incarnations = 1000

func (w *world) register(id int32) int64 {
	w.t.Helper()
	incarnations++
	return w.ok(RegisterBroker{
		ID: id, DirectoryID: testUUID(int(id) + 1), IncarnationID: testUUID(incarnations), Host: "h", Port: 9092, MaxLevel: MaxLevel,
	}).Value
}

func (w *world) create(name string, id int, assignments ...[]int32) *Topic {
	w.t.Helper()
	w.ok(CreateTopics{Topics: []NewTopic{{Name: name, ID: testUUID(id), Assignments: assignments}}})
	return w.m.Topic(name)
}

func (w *world) p(name string) *Partition { return w.m.Partition(name, 0) }

func (w *world) alter(name string, isr ...int32) ISRChange {
	t, p := w.m.Topic(name), w.p(name)
	c := ISRChange{TopicID: t.ID, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
	for _, id := range isr {
		c.ISR = append(c.ISR, ISRMember{ID: id, BrokerEpoch: w.m.Brokers[id].Epoch})
	}
	return c
}

func (w *world) alterOK(broker int32, name string, isr ...int32) {
	w.t.Helper()
	w.ok(AlterPartitions{BrokerID: broker, BrokerEpoch: w.m.Brokers[broker].Epoch, Partitions: []ISRChange{w.alter(name, isr...)}})
}

func (w *world) fence(id int32) {
	w.t.Helper()
	w.ok(FenceBroker{ID: id, BrokerEpoch: w.m.Brokers[id].Epoch, ControllerEpoch: w.m.Controller.Epoch})
}

func (w *world) unfence(id int32) {
	w.t.Helper()
	w.ok(UnfenceBroker{ID: id, BrokerEpoch: w.m.Brokers[id].Epoch, ControllerEpoch: w.m.Controller.Epoch})
}

func TestClusterIsFormedOnce(t *testing.T) {
	w := newWorld(t)
	w.refused(ClusterFormed, FormCluster{ClusterID: "other", Level: 1})
	if w.m.ClusterID != "test" || w.m.Level != 1 {
		t.Fatalf("cluster %q level %d", w.m.ClusterID, w.m.Level)
	}
}

func TestRegistrationBeginsANewEpochWhereTheBrokerLeads(t *testing.T) {
	w := newWorld(t)
	w.register(1)
	w.register(2)
	w.create("led", 1, []int32{1, 2})
	w.create("followed", 2, []int32{2, 1})
	epoch := w.register(1)
	if p := w.p("led"); p.Leader != 1 || p.LeaderEpoch != 1 || p.PartitionEpoch != 1 {
		t.Fatalf("%+v", p)
	}
	if p := w.p("followed"); p.Leader != 2 || p.LeaderEpoch != 0 || p.PartitionEpoch != 0 {
		t.Fatalf("%+v", p)
	}
	if epoch != int64(w.m.Index) || w.m.Brokers[1].Epoch != epoch {
		t.Fatalf("broker epoch %d at index %d", epoch, w.m.Index)
	}
}

func TestRepeatedRegistrationChangesNothing(t *testing.T) {
	w := newWorld(t)
	c := RegisterBroker{ID: 1, DirectoryID: testUUID(1), IncarnationID: testUUID(2), Host: "h", MaxLevel: 1}
	first := w.ok(c).Value
	w.create("a", 1, []int32{1})
	if again := w.ok(c).Value; again != first || w.p("a").LeaderEpoch != 0 {
		t.Fatalf("epoch %d, then %d; %+v", first, again, w.p("a"))
	}
}

func TestAnotherDirectoryIsRefusedUntilTheOperatorSaysSo(t *testing.T) {
	w := newWorld(t)
	w.register(1)
	w.register(2)
	w.create("a", 1, []int32{1, 2})
	c := RegisterBroker{ID: 1, DirectoryID: testUUID(99), IncarnationID: testUUID(5), Host: "h", MaxLevel: 1}
	w.refused(DirectoryMismatch, c)
	if w.p("a").Leader != 1 {
		t.Fatal("a refused registration moved a leader")
	}
	c.ReplaceDirectory = true
	w.ok(c)
	if p := w.p("a"); p.Leader != 2 || contains(p.ISR, 1) || contains(p.ELR, 1) || p.LastLeader != 1 {
		t.Fatalf("a wiped broker is still trusted: %+v", p)
	}
}

func TestReplicaWithAnotherDirectoryMayNotVote(t *testing.T) {
	w := &world{t: t, m: newImage()}
	w.ok(FormCluster{ClusterID: "test", Level: 1, Replicas: []Replica{{ID: 1, NodeID: 1, DirectoryID: testUUID(1)}, {ID: 2, NodeID: 2}}})
	base := RegisterBroker{ID: 1, ReplicaID: 1, DirectoryID: testUUID(7), IncarnationID: testUUID(9), Host: "h", MaxLevel: 1, ReplaceDirectory: true}
	w.refused(DirectoryMismatch, base)
	base.DirectoryID = testUUID(1)
	w.ok(base)
	other := base
	other.ID = 3
	w.refused(DirectoryMismatch, other)
	// An announced replica is bound by its first registration.
	second := RegisterBroker{ID: 2, ReplicaID: 2, DirectoryID: testUUID(20), IncarnationID: testUUID(10), Host: "h", MaxLevel: 1}
	w.ok(second)
	second.DirectoryID, second.IncarnationID = testUUID(21), testUUID(11)
	w.refused(DirectoryMismatch, second)
}

func TestRegistrationIsValidated(t *testing.T) {
	good := RegisterBroker{ID: 1, DirectoryID: testUUID(1), IncarnationID: testUUID(2), Host: "h", MaxLevel: 1}
	w := &world{t: t, m: newImage()}
	w.refused(NotFormed, good)
	w = newWorld(t)
	for code, change := range map[Code]func(*RegisterBroker){
		InvalidCommand:    func(c *RegisterBroker) { c.ID = -1 },
		LevelNotSupported: func(c *RegisterBroker) { c.MaxLevel = 0 },
		LimitExceeded:     func(c *RegisterBroker) { c.Rack = string(make([]byte, 10000)) },
	} {
		c := good
		change(&c)
		w.refused(code, c)
	}
}

func TestTopicsAreCreatedOnce(t *testing.T) {
	w := newWorld(t)
	w.register(1)
	w.create("a", 1, []int32{1}, []int32{1})
	if p := w.m.Partition("a", 1); p == nil || p.Leader != 1 || !slices.Equal(p.ISR, []int32{1}) || p.LeaderEpoch != 0 {
		t.Fatalf("%+v", p)
	}
	one := [][]int32{{1}}
	w.refused(TopicExists, CreateTopics{Topics: []NewTopic{{Name: "a", ID: testUUID(2), Assignments: one}}})
	w.refused(TopicExists, CreateTopics{Topics: []NewTopic{{Name: "b", ID: testUUID(1), Assignments: one}}})
	for _, bad := range [][][]int32{{{}}, {{1, 1}}, {{2}}, {{1}, {1, 2}}} {
		w.refused(InvalidReplicaAssignment, CreateTopics{Topics: []NewTopic{{Name: "b", ID: testUUID(3), Assignments: bad}}})
	}
	w.refused(InvalidCommand, CreateTopics{Topics: []NewTopic{{Name: "b", ID: testUUID(3)}}})
	if w.m.TopicCount() != 1 {
		t.Fatal("a refused topic is there")
	}
	// One bad element does not hinder the others.
	r := w.do(CreateTopics{Topics: []NewTopic{
		{Name: "a", ID: testUUID(4), Assignments: one}, {Name: "c", ID: testUUID(5), Assignments: one},
	}})
	if r.Items[0].Code != TopicExists || r.Items[1].Code != OK || w.m.Topic("c") == nil {
		t.Fatalf("%+v", r)
	}
}

func TestDeletedTopicLeavesATombstoneForSevenDays(t *testing.T) {
	const hour = int64(3600_000)
	w := newWorld(t)
	w.register(1)
	a := w.create("a", 1, []int32{1})
	w.ok(AlterConfigs{Resources: []ConfigChange{{Resource: ConfigResource{ConfigTopic, "a"}, Set: map[string]string{"x": "y"}}}})
	w.ok(DeleteTopics{IDs: []UUID{a.ID}, NowMillis: 100 * hour})
	w.refused(UnknownTopic, DeleteTopics{IDs: []UUID{a.ID}, NowMillis: 100 * hour})
	if w.m.Topic("a") != nil || w.m.TopicConfig("a") != nil || w.m.Deleted(a.ID) == nil {
		t.Fatal("topic or configs are left, or no tombstone is")
	}
	w.refused(TopicExists, CreateTopics{Topics: []NewTopic{{Name: "a", ID: a.ID, Assignments: [][]int32{{1}}}}})
	b := w.create("a", 2, []int32{1})
	w.ok(DeleteTopics{IDs: []UUID{b.ID}, NowMillis: (100 + 7*24) * hour})
	if w.m.Deleted(a.ID) == nil {
		t.Fatal("tombstone went early")
	}
	c := w.create("a", 3, []int32{1})
	w.ok(DeleteTopics{IDs: []UUID{c.ID}, NowMillis: (102 + 7*24) * hour})
	if w.m.Deleted(a.ID) != nil || w.m.Deleted(b.ID) == nil {
		t.Fatal("tombstones are not kept for seven days each")
	}
}

func TestPartitionsAreAddedOnce(t *testing.T) {
	w := newWorld(t)
	w.register(1)
	a := w.create("a", 1, []int32{1})
	more := CreatePartitions{Topics: []MorePartitions{{ID: a.ID, Count: 1, Assignments: [][]int32{{1}, {1}}}}}
	w.ok(more)
	w.refused(InvalidPartitions, more)
	if n := len(w.m.Topic("a").Partitions); n != 3 || len(a.Partitions) != 1 {
		t.Fatalf("%d partitions, the old image has %d", n, len(a.Partitions))
	}
}

func TestConfigsAreComparedAndSet(t *testing.T) {
	w := newWorld(t)
	w.register(1)
	w.create("a", 1, []int32{1})
	r := ConfigResource{ConfigTopic, "a"}
	w.ok(AlterConfigs{Resources: []ConfigChange{{Resource: r, Set: map[string]string{"x": "1", "y": "2"}, ExpectAbsent: []string{"x"}}}})
	w.refused(ConfigMismatch, AlterConfigs{Resources: []ConfigChange{{Resource: r, Set: map[string]string{"x": "3"}, ExpectAbsent: []string{"x"}}}})
	w.refused(ConfigMismatch, AlterConfigs{Resources: []ConfigChange{{Resource: r, Set: map[string]string{"x": "3"}, Expect: map[string]string{"x": "2"}}}})
	w.ok(AlterConfigs{Resources: []ConfigChange{{Resource: r, Set: map[string]string{"x": "3"}, Expect: map[string]string{"x": "1"}, Delete: []string{"y"}}}})
	if c := w.m.TopicConfig("a"); len(c) != 1 || c["x"] != "3" {
		t.Fatalf("%v", c)
	}
	w.ok(AlterConfigs{Resources: []ConfigChange{{Resource: r, Replace: true, Set: map[string]string{"z": "1"}}}})
	if c := w.m.TopicConfig("a"); len(c) != 1 || c["z"] != "1" {
		t.Fatalf("%v", c)
	}
	w.ok(AlterConfigs{Resources: []ConfigChange{{Resource: r, Replace: true}}})
	if w.m.TopicConfig("a") != nil || len(w.m.SortedConfigs()) != 0 {
		t.Fatal("empty configs are kept")
	}
	w.refused(UnknownTopic, AlterConfigs{Resources: []ConfigChange{{Resource: ConfigResource{ConfigTopic, "b"}}}})
}

func TestProducerIDBlocksNeverOverlap(t *testing.T) {
	w := newWorld(t)
	e := w.register(1)
	a := w.ok(AllocateProducerIDs{BrokerID: 1, BrokerEpoch: e, Count: 1000}).Value
	b := w.ok(AllocateProducerIDs{BrokerID: 1, BrokerEpoch: e, Count: 1000}).Value
	if a != 0 || b != 1000 {
		t.Fatalf("blocks at %d and %d", a, b)
	}
	w.register(1)
	w.refused(StaleBrokerEpoch, AllocateProducerIDs{BrokerID: 1, BrokerEpoch: e, Count: 1000})
	w.refused(UnknownBroker, AllocateProducerIDs{BrokerID: 2, Count: 1000})
}

func threeBrokers(t *testing.T, minISR string) *world {
	w := newWorld(t)
	for id := range int32(3) {
		w.register(id + 1)
	}
	w.create("a", 1, []int32{1, 2, 3})
	if minISR != "" {
		w.ok(AlterConfigs{Resources: []ConfigChange{{Resource: ConfigResource{ConfigTopic, "a"}, Set: map[string]string{"min.insync.replicas": minISR}}}})
	}
	w.ok(BecomeController{NodeID: 1})
	return w
}

func TestISRChangesAreFenced(t *testing.T) {
	w := threeBrokers(t, "")
	stale := w.alter("a", 1)
	send := func(broker int32, c ISRChange) AlterPartitions {
		return AlterPartitions{BrokerID: broker, BrokerEpoch: w.m.Brokers[broker].Epoch, Partitions: []ISRChange{c}}
	}
	w.refused(NotLeader, send(2, w.alter("a", 2)))
	w.refused(InvalidCommand, send(1, w.alter("a", 2, 3)))
	w.refused(InvalidCommand, send(1, w.alter("a", 1, 1)))
	w.refused(InvalidCommand, send(1, w.alter("a")))
	newer := stale
	newer.PartitionEpoch++
	w.refused(NewerEpoch, send(1, newer))
	member := w.alter("a", 1, 2)
	member.ISR[1].BrokerEpoch--
	w.refused(IneligibleReplica, send(1, member))
	w.ok(send(1, stale))
	w.refused(InvalidPartitionEpoch, send(1, stale))
	w.register(1)
	w.refused(FencedLeaderEpoch, send(1, stale))
	w.fence(3)
	w.refused(IneligibleReplica, send(1, w.alter("a", 1, 3)))
	w.refused(UnknownTopic, send(1, ISRChange{TopicID: testUUID(77)}))
	w.refused(UnknownPartition, send(1, ISRChange{TopicID: testUUID(1), Partition: 1}))
	if p := w.p("a"); !slices.Equal(p.ISR, []int32{1}) {
		t.Fatalf("%+v", p)
	}
}

func TestOneCommandMayChangeManyPartitionsOfATopic(t *testing.T) {
	w := threeBrokers(t, "")
	b := w.create("b", 2, []int32{1, 2, 3}, []int32{1, 2, 3}, []int32{1, 2, 3})
	old := w.m
	change := func(partition int32, epoch int32) ISRChange {
		c := w.alter("b", 1)
		c.Partition, c.PartitionEpoch = partition, epoch
		return c
	}
	r := w.do(AlterPartitions{BrokerID: 1, BrokerEpoch: w.m.Brokers[1].Epoch, Partitions: []ISRChange{
		change(0, 0), change(2, 0), w.alter("a", 1, 2), change(2, 0), change(0, 1),
	}})
	for i, want := range []Code{OK, OK, OK, InvalidPartitionEpoch, OK} {
		if r.Items[i].Code != want {
			t.Errorf("item %d: %v, want %v", i, r.Items[i].Code, want)
		}
	}
	now := w.m.Topic("b")
	if len(now.Partitions[0].ISR) != 1 || len(now.Partitions[1].ISR) != 3 || len(now.Partitions[2].ISR) != 1 || len(w.p("a").ISR) != 2 {
		t.Fatalf("%+v", now)
	}
	if now.Partitions[0].PartitionEpoch != 2 || now.Partitions[1] != b.Partitions[1] {
		t.Fatalf("%+v", now.Partitions[0])
	}
	if len(old.Topic("b").Partitions[0].ISR) != 3 {
		t.Fatal("the old image changed")
	}
}

func TestFencingMovesLeadershipsInPreferenceOrder(t *testing.T) {
	w := threeBrokers(t, "")
	w.fence(1)
	if p := w.p("a"); p.Leader != 2 || p.LeaderEpoch != 1 || !slices.Equal(p.ISR, []int32{2, 3}) || len(p.ELR) != 0 {
		t.Fatalf("%+v", p)
	}
	w.fence(3)
	w.fence(2)
	if p := w.p("a"); p.Leader != NoLeader || len(p.ISR) != 0 || !slices.Equal(p.ELR, []int32{2}) || p.LastLeader != 2 {
		t.Fatalf("the last one in sync must stay eligible: %+v", p)
	}
	w.unfence(1)
	if p := w.p("a"); p.Leader != NoLeader {
		t.Fatalf("an ineligible replica was elected: %+v", p)
	}
	w.unfence(2)
	if p := w.p("a"); p.Leader != 2 || !slices.Equal(p.ISR, []int32{2}) || len(p.ELR) != 0 {
		t.Fatalf("%+v", p)
	}
}

func TestELRFollowsMinISR(t *testing.T) {
	w := threeBrokers(t, "2")
	w.alterOK(1, "a", 1, 2)
	if p := w.p("a"); len(p.ELR) != 0 {
		t.Fatalf("3 left a sufficient isr: %+v", p)
	}
	w.alterOK(1, "a", 1)
	if p := w.p("a"); !slices.Equal(p.ELR, []int32{2}) {
		t.Fatalf("2 left an isr that fell below its minimum: %+v", p)
	}
	w.fence(1)
	if p := w.p("a"); p.Leader != 2 || !slices.Equal(p.ISR, []int32{2}) || !slices.Equal(p.ELR, []int32{1}) {
		t.Fatalf("%+v", p)
	}
	// Below a lowered minimum records will be acknowledged that 1 lacks.
	w.ok(AlterConfigs{Resources: []ConfigChange{{Resource: ConfigResource{ConfigTopic, "a"}, Set: map[string]string{"min.insync.replicas": "1"}}}})
	if p := w.p("a"); len(p.ELR) != 0 {
		t.Fatalf("elr outlived a lowered minimum: %+v", p)
	}
}

func TestLoweredClusterMinimumClearsELR(t *testing.T) {
	w := threeBrokers(t, "")
	all := ConfigResource{Type: ConfigBroker}
	w.ok(AlterConfigs{Resources: []ConfigChange{{Resource: all, Set: map[string]string{"min.insync.replicas": "3"}}}})
	w.alterOK(1, "a", 1, 2)
	if p := w.p("a"); !slices.Equal(p.ELR, []int32{3}) {
		t.Fatalf("%+v", p)
	}
	w.ok(AlterConfigs{Resources: []ConfigChange{{Resource: all, Delete: []string{"min.insync.replicas"}}}})
	if p := w.p("a"); len(p.ELR) != 0 {
		t.Fatalf("%+v", p)
	}
}

func TestFrozenControllerIsRefused(t *testing.T) {
	w := threeBrokers(t, "")
	old := w.m.Controller.Epoch
	w.ok(BecomeController{NodeID: 2})
	w.refused(StaleControllerEpoch, FenceBroker{ID: 1, BrokerEpoch: w.m.Brokers[1].Epoch, ControllerEpoch: old})
	w.refused(StaleControllerEpoch, ElectLeaders{ControllerEpoch: old})
	w.refused(StaleBrokerEpoch, FenceBroker{ID: 1, BrokerEpoch: 1, ControllerEpoch: w.m.Controller.Epoch})
}

func TestElections(t *testing.T) {
	w := threeBrokers(t, "")
	elect := func(leader int32, unclean bool) ElectLeaders {
		return ElectLeaders{ControllerEpoch: w.m.Controller.Epoch, Partitions: []Election{{
			TopicID: testUUID(1), PartitionEpoch: w.p("a").PartitionEpoch, Leader: leader, Unclean: unclean,
		}}}
	}
	w.refused(ElectionNotNeeded, elect(1, false))
	w.refused(ElectionNotNeeded, elect(NoBroker, false))
	w.ok(elect(3, false))
	if p := w.p("a"); p.Leader != 3 || p.LeaderEpoch != 1 || len(p.ISR) != 3 {
		t.Fatalf("%+v", p)
	}
	w.alterOK(3, "a", 3)
	w.refused(EligibleLeaderMissing, elect(1, false))
	w.fence(3)
	w.refused(EligibleLeaderMissing, elect(NoBroker, false))
	epoch := w.p("a").LeaderEpoch
	w.ok(elect(NoBroker, true))
	if p := w.p("a"); p.Leader != 1 || !slices.Equal(p.ISR, []int32{1}) || len(p.ELR) != 0 || p.LeaderEpoch != epoch+1 {
		t.Fatalf("%+v", p)
	}
	stale := elect(2, true)
	stale.Partitions[0].PartitionEpoch--
	w.refused(InvalidPartitionEpoch, stale)
}

func TestBrokerWithoutReplicasCanBeForgotten(t *testing.T) {
	w := threeBrokers(t, "")
	e := w.register(4)
	w.refused(InvalidCommand, UnregisterBroker{ID: 4, BrokerEpoch: e})
	w.fence(4)
	w.ok(UnregisterBroker{ID: 4, BrokerEpoch: e})
	if w.m.Broker(4) != nil {
		t.Fatal("still there")
	}
	w.fence(3)
	w.refused(InvalidCommand, UnregisterBroker{ID: 3, BrokerEpoch: w.m.Brokers[3].Epoch})
}

func TestLevelNeedsEveryBroker(t *testing.T) {
	w := newWorld(t)
	w.register(1)
	w.refused(LevelNotSupported, FinalizeLevel{Level: MaxLevel + 1})
	w.refused(InvalidCommand, FinalizeLevel{Level: 0})
	w.ok(FinalizeLevel{Level: 1})
}

// futureCommand is the envelope of a command that this version does not know.
func futureCommand(level uint16) []byte {
	e := encoder{}
	e.byte(codecVersion)
	e.uint(uint64(level))
	e.uint(60000)
	e.string("whatever")
	return e.b
}

func TestCommandAboveTheLevelIsRefusedByAllVersions(t *testing.T) {
	w := newWorld(t)
	now, r, err := applyBytes(w.m, 50, futureCommand(2))
	if err != nil || r.Code != UnsupportedLevel || now.Index != 50 {
		t.Fatalf("%+v, %v", r, err)
	}
}

func TestAcceptedUnknownCommandHaltsTheReplica(t *testing.T) {
	w := newWorld(t)
	now, r, err := applyBytes(w.m, 50, futureCommand(1))
	if !errors.Is(err, errCannotApply) || r.Code != Halted || now != w.m {
		t.Fatalf("%+v, %v", r, err)
	}
	w.register(1)
	for _, b := range w.m.Brokers {
		c := *b
		c.MaxLevel = 9
		w.m.putBroker(&c)
	}
	b, _ := encodeCommand(FinalizeLevel{Level: 9})
	if _, _, err := applyBytes(w.m, 51, b); !errors.Is(err, errCannotApply) {
		t.Fatalf("a level beyond this version: %v", err)
	}
}

func TestGarbageIsRefusedAlike(t *testing.T) {
	w := newWorld(t)
	b, _ := encodeCommand(BecomeController{NodeID: 1})
	for _, bad := range [][]byte{append(b, 0), b[:len(b)-1]} {
		if now, r, err := applyBytes(w.m, 50, bad); err != nil || r.Code != InvalidCommand || now.Index != 50 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
}

// randomCommand draws something that is often, but not always, applicable.
func randomCommand(rng *rand.Rand, m *Image) Command {
	id := func() int32 { return int32(rng.IntN(5)) }
	topic := func() UUID { return testUUID(rng.IntN(12) + 1) }
	epoch := func() int64 {
		if b := m.Broker(id()); b != nil {
			return b.Epoch
		}
		return 3
	}
	assignment := func() []int32 {
		p := rng.Perm(5)[:rng.IntN(3)+1]
		out := make([]int32, len(p))
		for i := range p {
			out[i] = int32(p[i])
		}
		return out
	}
	broker := m.Broker(id())
	if broker == nil {
		broker = &Broker{ID: id(), Epoch: epoch()}
	}
	switch rng.IntN(16) {
	case 0, 1, 2:
		return RegisterBroker{ID: id(), DirectoryID: testUUID(rng.IntN(2) + 1), IncarnationID: testUUID(rng.IntN(1000) + 1), Host: "h", MaxLevel: 1, Fenced: rng.IntN(3) == 0, ReplaceDirectory: rng.IntN(2) == 0}
	case 3, 4, 5:
		n := rng.IntN(12) + 1
		t := NewTopic{Name: fmt.Sprint("t", n), ID: testUUID(n), Configs: map[string]string{"min.insync.replicas": fmt.Sprint(rng.IntN(4))}}
		a := assignment()
		for range rng.IntN(4) + 1 {
			t.Assignments = append(t.Assignments, a)
		}
		return CreateTopics{Topics: []NewTopic{t}}
	case 6:
		return DeleteTopics{IDs: []UUID{topic()}, NowMillis: int64(m.Index) * 3600_000}
	case 7:
		return CreatePartitions{Topics: []MorePartitions{{ID: topic(), Count: int32(rng.IntN(4) + 1), Assignments: [][]int32{assignment()}}}}
	case 8:
		r := ConfigResource{ConfigTopic, fmt.Sprint("t", rng.IntN(12)+1)}
		if rng.IntN(3) == 0 {
			r = ConfigResource{Type: ConfigBroker}
		}
		return AlterConfigs{Resources: []ConfigChange{{Resource: r, Set: map[string]string{"min.insync.replicas": fmt.Sprint(rng.IntN(4)), "k": "v"}}}}
	case 9:
		return AllocateProducerIDs{BrokerID: broker.ID, BrokerEpoch: broker.Epoch, Count: 1000}
	case 10:
		return FenceBroker{ID: broker.ID, BrokerEpoch: broker.Epoch, ControllerEpoch: m.Controller.Epoch}
	case 11:
		return UnfenceBroker{ID: broker.ID, BrokerEpoch: broker.Epoch, ControllerEpoch: m.Controller.Epoch}
	case 12:
		return BecomeController{NodeID: id()}
	case 13:
		e := Election{TopicID: topic(), Leader: id() - 1, Unclean: rng.IntN(4) == 0}
		if t := m.TopicByID(e.TopicID); t != nil {
			e.PartitionEpoch = t.Partitions[0].PartitionEpoch
		}
		return ElectLeaders{ControllerEpoch: m.Controller.Epoch, Partitions: []Election{e}}
	default:
		t := m.TopicByID(topic())
		if t == nil {
			return AlterPartitions{BrokerID: broker.ID, BrokerEpoch: broker.Epoch, Partitions: []ISRChange{{TopicID: topic()}}}
		}
		p := t.Partitions[0]
		c := ISRChange{TopicID: t.ID, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
		for _, r := range p.Replicas {
			if b := m.Broker(r); r == p.Leader || rng.IntN(2) == 0 && b != nil {
				c.ISR = append(c.ISR, ISRMember{r, b.Epoch})
			}
		}
		leader := m.Broker(p.Leader)
		if leader == nil {
			leader = broker
		}
		return AlterPartitions{BrokerID: leader.ID, BrokerEpoch: leader.Epoch, Partitions: []ISRChange{c}}
	}
}

// TestApplyIsDeterministic runs random histories on two replicas, one of which is restored from a snapshot
// now and then: their images and answers must be equal byte for byte. world.check holds the
// invariants on the way.
func TestApplyIsDeterministic(t *testing.T) {
	for range 20 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 2))
			a, b := newWorld(t), newWorld(t)
			refused := 0
			codes := map[Code]int{}
			for i := range 600 {
				c := randomCommand(rng, a.m)
				ra, rb := a.do(c), b.do(c)
				if string(encodeResult(ra)) != string(encodeResult(rb)) {
					t.Fatalf("%+v was answered %+v and %+v", c, ra, rb)
				}
				codes[ra.Code]++
				for _, item := range ra.Items {
					codes[item.Code]++
				}
				if ra.Code != OK {
					refused++
				}
				if rng.IntN(50) == 0 {
					m, err := decodeSnapshot(encodeSnapshot(b.m))
					if err != nil {
						t.Fatal(err)
					}
					b.m = m
				}
				if i%20 == 0 && a.m.Hash() != b.m.Hash() {
					t.Fatalf("replicas differ after %+v", c)
				}
			}
			if refused > 400 {
				t.Fatalf("nearly everything was refused: %v", codes)
			}
		})
	}
}

func TestChangesBetweenImages(t *testing.T) {
	w := threeBrokers(t, "")
	old := w.m
	w.create("b", 2, []int32{1})
	w.ok(DeleteTopics{IDs: []UUID{testUUID(1)}})
	w.create("a", 3, []int32{2})
	w.ok(AlterConfigs{Resources: []ConfigChange{{Resource: ConfigResource{ConfigTopic, "b"}, Set: map[string]string{"x": "y"}}}})
	var got []string
	for _, c := range TopicChanges(old, w.m) {
		s := "-"
		if c.Old != nil {
			s = c.Old.Name + c.Old.ID.String()[:2]
		}
		s += ">"
		if c.New != nil {
			s += c.New.Name
		}
		got = append(got, s)
	}
	if fmt.Sprint(got) != "[aAA> ->a ->b]" {
		t.Fatal(got)
	}
	if c := ConfigChanges(old, w.m); len(c) != 1 || c[0].Name != "b" {
		t.Fatal(c)
	}
	if len(TopicChanges(w.m, w.m)) != 0 {
		t.Fatal("an image differs from itself")
	}
}
