package controller

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"millrace/raft"
)

func counts(m *raft.Image) (replicas, leaders map[int32]int) {
	l := loadOf(m)
	return l.replicas, l.leaders
}

func spreadOf(n map[int32]int, ids []int32) int {
	lo, hi := 1<<30, 0
	for _, id := range ids {
		lo, hi = min(lo, n[id]), max(hi, n[id])
	}
	return hi - lo
}

func TestPlacementIsBalancedAndKnowsRacks(t *testing.T) {
	for range 40 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 5))
		w := newWorld(t)
		n, racks := rng.IntN(9)+1, rng.IntN(4)
		var ids []int32
		for b := range int32(n) {
			rack := ""
			if racks > 0 {
				rack = fmt.Sprint("rack", int(b)%racks)
			}
			w.register(b, rack, false)
			ids = append(ids, b)
		}
		for i := range 12 {
			rf := rng.IntN(min(n, 4)) + 1
			a, err := Place(w.m, rng.IntN(30)+1, rf, uint64(i))
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			again, _ := Place(w.m, len(a), rf, uint64(i))
			for p, replicas := range a {
				if !slices.Equal(replicas, again[p]) {
					t.Fatalf("seed %d: equal arguments, other assignments", seed)
				}
				used := map[string]int{}
				for _, id := range replicas {
					used[w.m.Broker(id).Rack]++
				}
				if racks > 0 && len(used) != min(rf, racks, n) {
					t.Fatalf("seed %d: %v lies in %d racks of %d", seed, replicas, len(used), racks)
				}
			}
			w.create(fmt.Sprint("t", i), i+1, a...)
		}
		replicas, leaders := counts(w.m)
		if racks > 1 && n%racks != 0 {
			continue // racks of different sizes cannot be both spread and balanced
		}
		if s := spreadOf(leaders, ids); s > 1 {
			t.Errorf("seed %d: leaders %v", seed, leaders)
		}
		if s := spreadOf(replicas, ids); s > 4 {
			t.Errorf("seed %d: replicas %v", seed, replicas)
		}
	}
}

// Day one: "placement may use fenced ones (one must live)".
func TestPlacementCountsOnNodesThatComeLate(t *testing.T) {
	w := newWorld(t, 1, 2, 3)
	if _, err := Place(w.m, 1, 3, 0); !errors.Is(err, ErrNobodyLives) {
		t.Fatal(err)
	}
	w.register(2, "", false)
	a, err := Place(w.m, 5, 3, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, replicas := range a {
		if replicas[0] != 2 || len(replicas) != 3 {
			t.Fatalf("%v: the living one goes first", replicas)
		}
	}
	w.create("a", 1, a...)
	if p := w.m.Partition("a", 0); p.Leader != 2 {
		t.Fatalf("%+v", p)
	}
	if _, err := Place(w.m, 1, 4, 0); !errors.Is(err, ErrTooFewBrokers) {
		t.Fatal(err)
	}
	for _, b := range []int32{1, 3, 4} {
		w.register(b, "", false)
	}
	w.register(5, "", true) // enough others live
	w.ok(raft.DrainBroker{ID: 4, Drain: true})
	a, err = Place(w.m, 20, 3, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, replicas := range a {
		if slices.Contains(replicas, 5) || slices.Contains(replicas, 4) {
			t.Fatalf("%v: one is dead, one is drained", replicas)
		}
	}
}

func TestNewBrokerIsFilledByBalance(t *testing.T) {
	w := newWorld(t)
	for b := range int32(3) {
		w.register(b, "", false)
	}
	a, err := Place(w.m, 40, 3, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.create("a", 1, a...)
	if moves := Balance(w.m, 100); len(moves) != 0 {
		t.Fatalf("a balanced cluster moves: %v", moves)
	}
	w.register(3, "", false)
	for range 20 {
		moves := Balance(w.m, 7)
		if len(moves) == 0 {
			break
		}
		for _, c := range Commands(moves) {
			w.ok(c)
		}
		w.settle("a")
	}
	replicas, _ := counts(w.m)
	if s := spreadOf(replicas, []int32{0, 1, 2, 3}); s > 1 {
		t.Fatal(replicas)
	}
}

// settle has every leader report all replicas in sync.
func (w *world) settle(topic string) {
	for i := range w.m.Topic(topic).Partitions {
		t := w.m.Topic(topic)
		p := t.Partitions[i]
		var isr []raft.ISRMember
		for _, b := range p.Replicas {
			isr = append(isr, raft.ISRMember{ID: b, BrokerEpoch: w.m.Broker(b).Epoch})
		}
		w.ok(raft.AlterPartitions{BrokerID: p.Leader, BrokerEpoch: w.m.Broker(p.Leader).Epoch, Partitions: []raft.ISRChange{{
			TopicID: t.ID, Partition: int32(i), LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, ISR: isr,
		}}})
	}
}

func TestFormerStandaloneIsRaisedToThreeReplicas(t *testing.T) {
	w := newWorld(t)
	w.register(1, "", false)
	w.create("a", 1, []int32{1}, []int32{1}, []int32{1}, []int32{1})
	w.create("__consumer_offsets", 2, []int32{1})
	w.register(2, "", false)
	w.register(3, "", false)
	moves, err := SetReplicationFactor(w.m, []string{"a", "__consumer_offsets"}, 3)
	if err != nil || len(moves) != 5 {
		t.Fatal(moves, err)
	}
	for _, c := range Commands(moves) {
		w.ok(c)
	}
	w.settle("a")
	w.settle("__consumer_offsets")
	for _, p := range append(w.m.Topic("a").Partitions, w.m.Topic("__consumer_offsets").Partitions...) {
		if len(p.Replicas) != 3 || p.Reassigning() || len(p.ISR) != 3 {
			t.Fatalf("%+v", p)
		}
	}
	moves, err = SetReplicationFactor(w.m, []string{"a"}, 2)
	if err != nil || len(moves) != 4 || len(moves[0].Replicas) != 2 {
		t.Fatal(moves, err)
	}
	if _, err := SetReplicationFactor(w.m, []string{"a"}, 4); !errors.Is(err, ErrTooFewBrokers) {
		t.Fatal(err)
	}
	if _, err := SetReplicationFactor(w.m, []string{"x"}, 1); !errors.Is(err, raft.UnknownTopic) {
		t.Fatal(err)
	}
}

// cluster.md, Controller: "a logged unclean recovery picks the greatest (epoch, end)".
func TestRecoveryPicksTheGreatestEpochThenEnd(t *testing.T) {
	if b := Recover([]LogEnd{{1, 4, 1000}, {2, 5, 10}, {3, 5, 11}}); b != 3 {
		t.Fatal(b)
	}
	if b := Recover([]LogEnd{{3, 5, 11}, {2, 5, 11}}); b != 2 {
		t.Fatal(b)
	}
	if b := Recover(nil); b != raft.NoBroker {
		t.Fatal(b)
	}
}
