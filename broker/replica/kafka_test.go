package replica

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"millrace/raft"
)

// Schedules that lost or duplicated records elsewhere, by the names under which they are known. Those of KIP-101,
// KIP-903 and KIP-966 are in leader_test.go; KAFKA-14704 begins in package engine.

// elect lets another member of the ISR lead in a new epoch. Nobody has heard of it before follow.
func (w *world) elect(id int32) {
	w.t.Helper()
	w.do(raft.ElectLeaders{ControllerEpoch: w.img.Controller.Epoch, Partitions: []raft.Election{{
		TopicID: w.topic, PartitionEpoch: w.img.Partition("t", 0).PartitionEpoch, Leader: id,
	}}})
}

// same fails unless two nodes' logs are byte for byte the same.
func (w *world) same(a, b int32) {
	w.t.Helper()
	if !bytes.Equal(batchesOf(w.t, w.at(a)), batchesOf(w.t, w.at(b))) {
		w.t.Errorf("the logs of %d and %d differ", a, b)
	}
}

// replicate brings records to a follower and their acknowledgement back.
func (s *stream) replicate() {
	s.w.t.Helper()
	s.push()
	if err := s.acknowledge(); err != nil {
		s.w.t.Fatal(err)
	}
}

// TestKAFKA7164FollowerTruncatesAfterAMissedEpoch: 1 leads, 2 takes over and 1 cuts what only 3 has of it, then 1 leads again.
// 3 has slept: it sees the same leader as before, in a newer epoch, and must not go on where it stood.
func TestKAFKA7164FollowerTruncatesAfterAMissedEpoch(t *testing.T) {
	w := newWorld(t, 3, 1)
	two, three := w.open(1, 2), w.open(1, 3)
	two.agree()
	three.agree()
	w.append(1, 5)
	two.replicate()
	three.replicate()
	w.append(1, 1)
	three.push() // 2 does not get the sixth
	w.elect(2)
	w.follow(1)
	w.follow(2)
	back := w.open(2, 1)
	back.agree()
	if end := w.at(1).log.AppendedEnd(); end != 5 {
		t.Fatalf("the old leader kept %d records", end)
	}
	w.elect(1)
	w.follow(1)
	w.follow(2)
	w.append(1, 1) // another sixth record
	if err := w.at(1).Acknowledged(three.stint, 6, 6); !errors.Is(err, ErrStaleStint) {
		t.Fatalf("its acknowledgement of the lost record: %v", err)
	}
	w.follow(3)
	if err := w.at(3).AppendRun(three.in, &Run{Start: 6, End: 6}); err == nil {
		t.Fatal("its old stream goes on")
	}
	again := w.open(1, 3)
	if verdicts := again.agree(); verdicts[0].Kind != Cut || verdicts[0].Offset != 5 {
		t.Fatalf("verdicts %+v", verdicts)
	}
	again.replicate()
	w.same(1, 3)
}

// TestKAFKA10706HighWatermarkWaitsForTheTruncation: a follower hears its new leader's high watermark while it still has a tail
// that is to be cut. It must not show that tail.
func TestKAFKA10706HighWatermarkWaitsForTheTruncation(t *testing.T) {
	w := newWorld(t, 3, 1)
	two, three := w.open(1, 2), w.open(1, 3)
	two.agree()
	three.agree()
	w.append(1, 3)
	two.replicate()
	three.replicate()
	w.append(1, 2)
	two.push() // only 2 has these
	w.elect(3)
	w.follow()
	w.append(3, 2)
	s := w.open(3, 2)
	for name, err := range map[string]error{
		"a mark": w.at(2).TakeMark(s.in, 5, 0), "a run": w.at(2).AppendRun(s.in, &Run{Start: 5, End: 5, HighWatermark: 5}),
	} {
		if !errors.Is(err, ErrStaleInflow) || w.at(2).HighWatermark() > 3 {
			t.Fatalf("%s before the logs agree: %v; consumers see %d records, 3 are committed", name, err, w.at(2).HighWatermark())
		}
	}
	s.agree()
	s.push()
	w.same(3, 2)
}

// TestKAFKA15510MarksDoNotTouchTheEpoch: a follower of an idle leader hears nothing but marks. What it offers afterwards
// is still the epoch of its last batch.
func TestKAFKA15510MarksDoNotTouchTheEpoch(t *testing.T) {
	w := newWorld(t, 2, 1)
	s := w.open(1, 2)
	s.agree()
	w.append(1, 3)
	s.replicate()
	w.elect(2)
	w.follow()
	back := w.open(2, 1)
	back.agree()
	for range 3 {
		if err := w.at(1).TakeMark(back.in, 3, 0); err != nil {
			t.Fatal(err)
		}
	}
	if again := w.open(2, 1); again.offer.LastEpoch != 0 || again.offer.End != 3 {
		t.Fatalf("after empty marks it offers %+v", again.offer)
	}
}

// TestKIP279TruncationTakesSeveralRounds (KAFKA-6361): after fast failovers neither log has the other's last epoch, and one
// look is not enough: the epoch that the leader names first ends beyond where the logs part.
func TestKIP279TruncationTakesSeveralRounds(t *testing.T) {
	w := newWorld(t, 2, 1)
	s := w.open(1, 2)
	s.agree()
	w.append(1, 5)
	s.replicate()
	w.append(1, 5) // 1 alone: epoch 0 to 10
	w.elect(2)
	w.follow()
	w.append(2, 3) // 2 alone: epoch 1 from 5 to 8
	w.elect(1)
	w.follow()
	w.append(1, 2) // 1 alone: epoch 2 from 10 to 12
	w.elect(2)
	w.follow()
	w.append(2, 1) // 2 alone: epoch 3 from 8 to 9
	back := w.open(2, 1)
	verdicts := back.agree()
	want := []Verdict{{Cut, 1, 8}, {Cut, 0, 5}, {Agreed, 0, 5}}
	if !slices.Equal(verdicts, want) {
		t.Fatalf("verdicts %+v, want %+v", verdicts, want)
	}
	back.push()
	w.same(2, 1)
}

// TestKIP320EveryRequestKnowsItsEpoch: a leader that has not heard of its successor serves nobody who has, and moves nobody.
func TestKIP320EveryRequestKnowsItsEpoch(t *testing.T) {
	w := newWorld(t, 3, 1)
	three := w.open(1, 3)
	three.agree()
	w.append(1, 1)
	three.push()
	w.elect(2)
	w.follow(2)
	w.follow(3)
	if err := w.at(1).CheckEpoch(1); !errors.Is(err, ErrUnknownEpoch) {
		t.Errorf("a reader of epoch 1 at the old leader: %v", err)
	}
	if err := w.at(2).CheckEpoch(0); !errors.Is(err, ErrFencedEpoch) {
		t.Errorf("a reader of epoch 0 at the new one: %v", err)
	}
	if _, _, err := w.at(3).Follow(1, 0, 100); !errors.Is(err, ErrStaleEpoch) {
		t.Errorf("a stream of the old leader: %v", err)
	}
	if err := w.at(3).AppendRun(three.in, &Run{Start: 1, End: 1}); err == nil {
		t.Error("a run of the old leader's stream is taken")
	}
	if err := three.acknowledge(); err == nil && w.at(1).HighWatermark() > 0 {
		t.Error("the old leader commits what its successor may not have")
	}
	p := w.img.Partition("t", 0)
	change := raft.ISRChangeV2{ISRChange: raft.ISRChange{TopicID: w.topic, LeaderEpoch: 0, PartitionEpoch: p.PartitionEpoch, ISR: []raft.ISRMember{{ID: 1, BrokerEpoch: w.nodes[1].epoch}}}}
	_, res, err := w.img.Apply(w.img.Index+1, raft.AlterPartitionsV2{BrokerID: 1, BrokerEpoch: w.nodes[1].epoch, Partitions: []raft.ISRChangeV2{change}})
	if err != nil || res.Items[0].Code != raft.FencedLeaderEpoch {
		t.Errorf("the old leader changes the ISR: %+v, %v", res, err)
	}
}

// TestKIP207EndIsNotToldBeforeItIsKnown (Redpanda #5090): a new leader's high watermark may lag behind one that a client has
// seen. It names no end before everything that was there when its epoch began is committed again.
func TestKIP207EndIsNotToldBeforeItIsKnown(t *testing.T) {
	w := newWorld(t, 2, 1)
	s := w.open(1, 2)
	s.agree()
	w.append(1, 3)
	s.replicate()
	if hw := w.at(1).HighWatermark(); hw != 3 {
		t.Fatalf("high watermark %d", hw)
	}
	w.elect(2) // which has not heard of it
	w.follow()
	if hw := w.at(2).HighWatermark(); hw >= 3 {
		t.Fatal("this tests nothing")
	}
	if err := w.at(2).CheckLatest(); !errors.Is(err, ErrNotAvailable) {
		t.Fatalf("the end of the log, %d committed: %v", w.at(2).HighWatermark(), err)
	}
	back := w.open(2, 1)
	back.agree()
	back.replicate()
	if err := w.at(2).CheckLatest(); err != nil || w.at(2).HighWatermark() != 3 {
		t.Fatalf("%v, high watermark %d", err, w.at(2).HighWatermark())
	}
}

// TestKAFKA14704EpochCacheIsCutWhereNothingElseIs: a leader began an epoch, wrote nothing in it, and follows. Its successor
// does not know that epoch; no byte is to be cut, but the epoch is.
func TestKAFKA14704EpochCacheIsCutWhereNothingElseIs(t *testing.T) {
	w := newWorld(t, 2, 1)
	s := w.open(1, 2)
	s.agree()
	w.append(1, 2)
	s.replicate()
	w.elect(2)
	w.follow(2) // 1 has not heard of it, and leads on
	w.elect(1)
	w.follow(1)
	w.elect(2)
	w.follow()
	w.append(2, 1)
	back := w.open(2, 1)
	if back.offer.LastEpoch != 2 {
		t.Fatalf("offer %+v", back.offer)
	}
	back.agree()
	back.push()
	w.same(1, 2)
	if epoch, end := w.at(1).log.EndOffsetForEpoch(2); epoch == 2 {
		t.Fatalf("epoch 2, which its leader does not have, ends at %d", end)
	}
}
