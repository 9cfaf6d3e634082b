package replica

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"millrace/engine/batch"
	"millrace/raft"
)

// acksOf counts answers by error.
type acksOf struct{ ok, failed atomic.Int32 }

func (a *acksOf) Acked(_ int, err error, _ bool) {
	if err != nil {
		a.failed.Add(1)
		return
	}
	a.ok.Add(1)
}

func TestHighWatermarkIsWhatEveryInSyncReplicaHasFlushed(t *testing.T) {
	w := newWorld(t, 3, 2)
	two, three := w.open(1, 2), w.open(1, 3)
	two.agree()
	three.agree()
	var all acksOf
	if _, acked, err := w.at(1).Append(oneRecord(-1, 0), Acks{All: true}, &all, 0); err != nil || acked {
		t.Fatalf("acked %t, %v", acked, err)
	}
	w.settled(1)
	two.push()
	if err := two.acknowledge(); err != nil {
		t.Fatal(err)
	}
	if hw := w.at(1).HighWatermark(); hw != 0 || all.ok.Load() != 0 {
		t.Fatalf("high watermark %d before the third replica has the record", hw)
	}
	three.push()
	if err := w.at(1).Acknowledged(three.stint, 1, 0); err != nil { // received, not flushed
		t.Fatal(err)
	}
	if hw := w.at(1).HighWatermark(); hw != 0 {
		t.Fatalf("high watermark %d before the third replica has flushed the record", hw)
	}
	if err := three.acknowledge(); err != nil {
		t.Fatal(err)
	}
	if hw := w.at(1).HighWatermark(); hw != 1 || all.ok.Load() != 1 {
		t.Fatalf("high watermark %d, %d answers", hw, all.ok.Load())
	}
	if w.nodes[1].news.moved.Load() == 0 {
		t.Error("nobody was told to tell the followers")
	}
	if err := w.at(2).TakeMark(two.in, 1, 0); err != nil || w.at(2).HighWatermark() != 1 {
		t.Errorf("the follower's high watermark is %d, %v", w.at(2).HighWatermark(), err)
	}
	if !bytes.Equal(batchesOf(t, w.at(1)), batchesOf(t, w.at(3))) {
		t.Error("the logs differ")
	}
}

// TestKIP966HighWatermarkIsFrozenBelowMinISR: with too few in-sync replicas nothing is committed, not even by acks=1.
func TestKIP966HighWatermarkIsFrozenBelowMinISR(t *testing.T) {
	w := newWorld(t, 3, 2)
	var waiting acksOf
	if _, _, err := w.at(1).Append(oneRecord(-1, 0), Acks{All: true}, &waiting, 0); err != nil {
		t.Fatal(err)
	}
	w.do(raft.FenceBroker{ID: 2, BrokerEpoch: w.nodes[2].epoch, ControllerEpoch: w.img.Controller.Epoch})
	w.do(raft.FenceBroker{ID: 3, BrokerEpoch: w.nodes[3].epoch, ControllerEpoch: w.img.Controller.Epoch})
	w.follow(1)
	if waiting.failed.Load() != 1 {
		t.Errorf("%d of 1 producer heard that the replicas are gone", waiting.failed.Load())
	}
	if _, _, err := w.at(1).Append(oneRecord(-1, 0), Acks{All: true}, nil, 0); !errors.Is(err, ErrNotEnough) {
		t.Errorf("acks=all: %v", err)
	}
	var one acksOf
	if _, _, err := w.at(1).Append(oneRecord(-1, 0), Acks{}, &one, 0); err != nil {
		t.Fatal(err)
	}
	w.settled(1)
	eventually(t, "acks=1 is answered", func() bool { return one.ok.Load() == 1 })
	if hw := w.at(1).HighWatermark(); hw != 0 {
		t.Errorf("high watermark %d", hw)
	}
}

func TestProducerIsToldWhenTimeIsOver(t *testing.T) {
	w := newWorld(t, 2, 1)
	var a acksOf
	if _, _, err := w.at(1).Append(oneRecord(-1, 0), Acks{All: true, Deadline: 500}, &a, 0); err != nil {
		t.Fatal(err)
	}
	w.nodes[1].set.Expire(499)
	if a.failed.Load() != 0 {
		t.Fatal("too early")
	}
	w.nodes[1].set.Expire(500)
	if a.failed.Load() != 1 {
		t.Fatal("not told")
	}
}

func TestExpiredLeaseRefusesWhatNobodyElseConfirms(t *testing.T) {
	w := newWorld(t, 2, 1)
	w.nodes[1].set.leaseValid = func() bool { return false }
	if _, _, err := w.at(1).Append(oneRecord(-1, 0), Acks{}, nil, 0); !errors.Is(err, ErrNotLeader) {
		t.Errorf("acks=1: %v", err)
	}
	if _, _, err := w.at(1).Append(oneRecord(-1, 0), Acks{All: true}, nil, 0); err != nil {
		t.Errorf("acks=all: %v", err)
	}
}

func TestAcknowledgementCountsForItsStintOnly(t *testing.T) {
	w := newWorld(t, 2, 1)
	old := w.open(1, 2)
	old.agree()
	w.append(1, 1)
	old.push()
	again := w.open(1, 2)
	if err := old.acknowledge(); !errors.Is(err, ErrStaleStint) {
		t.Errorf("of an older stream: %v", err)
	}
	if err := w.at(2).AppendRun(old.in, &Run{Start: 1, End: 1}); !errors.Is(err, ErrStaleInflow) {
		t.Errorf("a run of an older stream: %v", err)
	}
	if err := again.acknowledge(); !errors.Is(err, ErrStaleStint) {
		t.Errorf("before the handshake is done: %v", err)
	}
	if hw := w.at(1).HighWatermark(); hw != 0 {
		t.Fatalf("high watermark %d", hw)
	}
	again.agree()
	if err := again.acknowledge(); err != nil || w.at(1).HighWatermark() != 1 {
		t.Errorf("high watermark %d, %v", w.at(1).HighWatermark(), err)
	}
}

// TestLateProposalHoldsTheHighWatermark: a proposal whose answer was lost may be applied at any later time; until the
// partition epoch has moved on, its members hold the high watermark back.
func TestLateProposalHoldsTheHighWatermark(t *testing.T) {
	w := newWorld(t, 2, 1)
	set := w.nodes[1].set
	shrink := func() []raft.ISRChangeV2 {
		w.clock = w.clock.Add(2 * time.Second)
		return set.ISRChanges(w.clock)
	}
	set.ISRChanges(w.clock)
	w.append(1, 1)
	var changes []raft.ISRChangeV2
	for range 10 {
		if changes = shrink(); len(changes) > 0 {
			break
		}
	}
	if len(changes) != 1 || len(changes[0].ISR) != 1 {
		t.Fatalf("the silent follower does not leave: %+v", changes)
	}
	propose := func(c []raft.ISRChangeV2) raft.Result {
		return w.do(raft.AlterPartitionsV2{BrokerID: 1, BrokerEpoch: w.nodes[1].epoch, Partitions: c})
	}
	set.ISRChanged(changes, propose(changes), nil)
	if hw := w.at(1).HighWatermark(); hw != 0 {
		t.Fatalf("high watermark %d before the smaller ISR is seen", hw)
	}
	w.follow(1)
	if hw := w.at(1).HighWatermark(); hw != 1 {
		t.Fatalf("high watermark %d with an ISR of one", hw)
	}
	s := w.open(1, 2)
	s.agree()
	s.push()
	if err := s.acknowledge(); err != nil {
		t.Fatal(err)
	}
	late := set.ISRChanges(w.clock)
	if len(late) != 1 || len(late[0].ISR) != 2 {
		t.Fatalf("the follower does not come back: %+v", late)
	}
	set.ISRChanged(late, raft.Result{}, raft.ErrOutcomeUnknown)
	// It is repeated, and refused now: the follower is on its way out.
	again := set.ISRChanges(w.clock)
	if len(again) != 1 {
		t.Fatal("a lost proposal is not repeated")
	}
	set.ISRChanged(again, raft.Result{Items: []raft.ItemResult{{Code: raft.IneligibleReplica}}}, nil)
	w.append(1, 1)
	if hw := w.at(1).HighWatermark(); hw != 1 {
		t.Fatalf("high watermark %d: the lost proposal may still be applied", hw)
	}
	w.clock = w.clock.Add(time.Second)
	fence := set.ISRChanges(w.clock)
	if len(fence) != 1 {
		t.Fatal("nothing moves the partition epoch on")
	}
	set.ISRChanged(fence, propose(fence), nil)
	w.follow(1)
	if res, _, err := w.img.Apply(w.img.Index+1, raft.AlterPartitionsV2{BrokerID: 1, BrokerEpoch: w.nodes[1].epoch, Partitions: late}); err != nil || len(res.Partition("t", 0).ISR) != len(fence[0].ISR) {
		t.Errorf("the late proposal still works: %v", err)
	}
}

func TestFollowerThatLostAcknowledgedRecordsLeavesFirst(t *testing.T) {
	w := newWorld(t, 2, 1)
	s := w.open(1, 2)
	s.agree()
	w.append(1, 3)
	s.push()
	if err := s.acknowledge(); err != nil {
		t.Fatal(err)
	}
	again := w.open(1, 2)
	if _, err := w.at(1).Offered(again.stint, Offer{BrokerEpoch: w.nodes[2].epoch, LastEpoch: 0, End: 2}); !errors.Is(err, ErrMustLeave) {
		t.Fatalf("it offers less than it acknowledged: %v", err)
	}
	changes := w.nodes[1].set.ISRChanges(w.clock)
	if len(changes) != 1 || len(changes[0].ISR) != 1 {
		t.Fatalf("it stays in the ISR: %+v", changes)
	}
	w.nodes[1].set.ISRChanged(changes, w.do(raft.AlterPartitionsV2{BrokerID: 1, BrokerEpoch: w.nodes[1].epoch, Partitions: changes}), nil)
	w.follow(1)
	again = w.open(1, 2)
	if v, err := w.at(1).Offered(again.stint, Offer{BrokerEpoch: w.nodes[2].epoch, LastEpoch: 0, End: 2}); err != nil || v.Kind != Agreed {
		t.Fatalf("%+v, %v", v, err)
	}
}

// TestKIP903ReplicaOfAnotherProcessIsNotHeard: what was said by a process that is no more does not count.
func TestKIP903ReplicaOfAnotherProcessIsNotHeard(t *testing.T) {
	w := newWorld(t, 2, 1)
	s := w.open(1, 2)
	before := s.offer
	w.register(2)
	w.follow(1)
	if _, err := w.at(1).Offered(s.stint, before); !errors.Is(err, ErrStaleStint) {
		t.Errorf("a stream to the old process: %v", err)
	}
	again, _, _, err := w.at(1).OpenStint(2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.at(1).Offered(again, before); !errors.Is(err, ErrNotReplica) {
		t.Errorf("an offer of the old process: %v", err)
	}
}

// TestKIP101TruncationIsByEpoch: the leader of epoch 0 wrote what nobody got, and follows in epoch 1. It keeps what is
// committed although its high watermark lags, and loses its own tail.
func TestKIP101TruncationIsByEpoch(t *testing.T) {
	w := newWorld(t, 2, 1)
	s := w.open(1, 2)
	s.agree()
	w.append(1, 3)
	s.push()
	if err := s.acknowledge(); err != nil {
		t.Fatal(err)
	}
	w.append(1, 2) // nobody else gets these
	w.do(raft.ElectLeaders{ControllerEpoch: w.img.Controller.Epoch, Partitions: []raft.Election{{TopicID: w.topic, PartitionEpoch: w.img.Partition("t", 0).PartitionEpoch, Leader: 2}}})
	w.follow()
	w.append(2, 1)
	back := w.open(2, 1)
	verdicts := back.agree()
	if len(verdicts) != 2 || verdicts[0].Kind != Cut || verdicts[0].Offset != 3 {
		t.Fatalf("verdicts %+v", verdicts)
	}
	back.push()
	if !bytes.Equal(batchesOf(t, w.at(1)), batchesOf(t, w.at(2))) {
		t.Error("the logs differ")
	}
	if _, _, err := w.at(1).Append(oneRecord(-1, 0), Acks{}, nil, 0); !errors.Is(err, ErrNotLeader) {
		t.Errorf("the old leader appends: %v", err)
	}
}

// TestCutOfCommittedRecordsStopsTheReplica unless the metadata knows of an unclean election.
func TestCutOfCommittedRecordsStopsTheReplica(t *testing.T) {
	for _, unclean := range []bool{false, true} {
		w := newWorld(t, 2, 1)
		s := w.open(1, 2)
		s.agree()
		w.append(1, 3)
		s.push()
		if err := s.acknowledge(); err != nil {
			t.Fatal(err)
		}
		if err := w.at(2).TakeMark(s.in, 3, 0); err != nil {
			t.Fatal(err)
		}
		stopped := 0
		w.nodes[2].set.stopped = func(*Partition, error) { stopped++ }
		if unclean {
			w.at(2).unclean = 1
		}
		in, _, err := w.at(2).Follow(1, 1, 99)
		if err != nil {
			t.Fatal(err)
		}
		o, err := w.at(2).CutTo(in, Verdict{Kind: Cut, Epoch: 0, Offset: 1})
		if unclean {
			if err != nil || o.End != 1 || w.at(2).HighWatermark() != 1 || stopped != 0 {
				t.Errorf("offer %+v, %v, stopped %d", o, err, stopped)
			}
			continue
		}
		if !errors.Is(err, ErrStopped) || stopped != 1 || w.at(2).log.AppendedEnd() != 3 {
			t.Errorf("%v, stopped %d, end %d", err, stopped, w.at(2).log.AppendedEnd())
		}
		if _, _, err := w.at(2).Follow(1, 2, 100); !errors.Is(err, ErrStopped) {
			t.Errorf("a stopped replica follows: %v", err)
		}
	}
}

func TestFollowerBelowTheLogStartBeginsAgain(t *testing.T) {
	w := newWorld(t, 2, 1)
	w.do(raft.FenceBroker{ID: 2, BrokerEpoch: w.nodes[2].epoch, ControllerEpoch: w.img.Controller.Epoch})
	w.follow()
	w.append(1, 5)
	w.do(raft.UnfenceBroker{ID: 2, BrokerEpoch: w.nodes[2].epoch, ControllerEpoch: w.img.Controller.Epoch})
	w.follow()
	if err := w.at(1).log.SetLogStart(4); err != nil {
		t.Fatal(err)
	}
	s := w.open(1, 2)
	verdicts := s.agree()
	if len(verdicts) != 2 || verdicts[0].Kind != Restart || verdicts[0].Offset != 4 {
		t.Fatalf("verdicts %+v", verdicts)
	}
	s.push()
	if start, end := w.at(2).log.LogStartOffset(), w.at(2).log.AppendedEnd(); start != 4 || end != 5 {
		t.Errorf("the follower has %d to %d", start, end)
	}
}

func TestRunsMustContinueAndBeWhole(t *testing.T) {
	w := newWorld(t, 2, 1)
	s := w.open(1, 2)
	if err := w.at(2).AppendRun(s.in, &Run{}); !errors.Is(err, ErrStaleInflow) {
		t.Errorf("before the handshake: %v", err)
	}
	s.agree()
	w.append(1, 3)
	r := s.run()
	gap := *r
	gap.Start = 1
	if err := w.at(2).AppendRun(s.in, &gap); !errors.Is(err, ErrGap) && !errors.Is(err, ErrCorrupt) {
		t.Errorf("a gap: %v", err)
	}
	short := *r
	short.End--
	if err := w.at(2).AppendRun(s.in, &short); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another end: %v", err)
	}
	bad := *r
	bad.Batches = bytes.Clone(r.Batches)
	bad.Batches[batch.HeaderSize+3] ^= 1
	if err := w.at(2).AppendRun(s.in, &bad); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a flipped bit: %v", err)
	}
	if end := w.at(2).log.AppendedEnd(); end != 0 {
		t.Fatalf("the follower has %d records of bad runs", end)
	}
	if err := w.at(2).AppendRun(s.in, r); err != nil {
		t.Fatal(err)
	}
}

func TestFollowerTakesOverTheLogStart(t *testing.T) {
	w := newWorld(t, 2, 1)
	s := w.open(1, 2)
	s.agree()
	w.append(1, 4)
	s.push()
	if err := s.acknowledge(); err != nil {
		t.Fatal(err)
	}
	if err := w.at(2).TakeMark(s.in, 2, 3); err != nil {
		t.Fatal(err)
	}
	house := func(want int64) {
		t.Helper()
		if err := w.nodes[2].set.Housekeep(); err != nil || w.at(2).log.LogStartOffset() != want {
			t.Fatalf("log start %d, want %d: %v", w.at(2).log.LogStartOffset(), want, err)
		}
	}
	house(2) // no further than what is known to be committed
	if err := w.at(2).TakeMark(s.in, 4, 3); err != nil {
		t.Fatal(err)
	}
	house(3)
}

// TestSilentFollowerStaysOutOfTheISR: the high watermark is frozen where a follower stands that has stopped. It has all that is
// committed, and still must not come back before it moves: it would leave and join for ever, a command each time.
func TestSilentFollowerStaysOutOfTheISR(t *testing.T) {
	w := newWorld(t, 2, 2)
	set := w.nodes[1].set
	s := w.open(1, 2)
	s.agree()
	w.append(1, 1)
	s.push()
	if err := s.acknowledge(); err != nil {
		t.Fatal(err)
	}
	w.append(1, 1) // which it does not get
	set.ISRChanges(w.clock)
	changed := 0
	for range 200 {
		w.clock = w.clock.Add(time.Second)
		if changes := set.ISRChanges(w.clock); len(changes) > 0 {
			changed++
			set.ISRChanged(changes, w.do(raft.AlterPartitionsV2{BrokerID: 1, BrokerEpoch: w.nodes[1].epoch, Partitions: changes}), nil)
			w.follow()
		}
	}
	if _, isr := w.at(1).Followers(); changed != 1 || len(isr) != 1 {
		t.Fatalf("%d changes of the ISR, which is %v", changed, isr)
	}
	s.push()
	if err := s.acknowledge(); err != nil {
		t.Fatal(err)
	}
	if changes := set.ISRChanges(w.clock); len(changes) != 1 || len(changes[0].ISR) != 2 {
		t.Fatalf("it has caught up: %+v", changes)
	}
}

// TestFollowerShowsNothingThatAnUncleanElectionGaveUp: its log, and the high watermark that it remembers, are of before the
// election. Nobody may read them until its leader has said what of it still is.
func TestFollowerShowsNothingThatAnUncleanElectionGaveUp(t *testing.T) {
	w := newWorld(t, 2, 1)
	s := w.open(1, 2)
	s.agree()
	w.append(1, 3)
	s.push()
	if _, err := w.at(2).CheckReader(NoEpoch); err != nil {
		t.Fatalf("before: %v", err)
	}
	w.at(2).unclean = 1
	again := w.open(1, 2)
	if _, err := w.at(2).CheckReader(NoEpoch); !errors.Is(err, ErrNotAvailable) {
		t.Fatalf("before the logs agree: %v", err)
	}
	again.agree()
	if _, err := w.at(2).CheckReader(NoEpoch); err != nil {
		t.Fatalf("after: %v", err)
	}
}

// TestKAFKA14139RepeatedProposalNamesTheSameProcesses (KIP-903): a follower is about to join, the answer is lost, and it comes
// back with an empty disk. The proposal that is made again must not take the new process into the ISR.
func TestKAFKA14139RepeatedProposalNamesTheSameProcesses(t *testing.T) {
	w := newWorld(t, 2, 1)
	set := w.nodes[1].set
	w.do(raft.FenceBroker{ID: 2, BrokerEpoch: w.nodes[2].epoch, ControllerEpoch: w.img.Controller.Epoch})
	w.do(raft.UnfenceBroker{ID: 2, BrokerEpoch: w.nodes[2].epoch, ControllerEpoch: w.img.Controller.Epoch})
	w.follow()
	s := w.open(1, 2)
	s.agree()
	w.append(1, 3)
	s.push()
	if err := s.acknowledge(); err != nil {
		t.Fatal(err)
	}
	changes := set.ISRChanges(w.clock)
	if len(changes) != 1 || len(changes[0].ISR) != 2 {
		t.Fatalf("it may join: %+v", changes)
	}
	set.ISRChanged(changes, raft.Result{}, raft.ErrOutcomeUnknown)
	before := w.nodes[2].epoch
	w.register(2) // its disk was replaced
	w.follow(1)
	again := set.ISRChanges(w.clock.Add(time.Second))
	if len(again) != 1 {
		t.Fatalf("%+v", again)
	}
	for _, m := range again[0].ISR {
		if m.ID == 2 && m.BrokerEpoch != before {
			t.Fatalf("process %d of broker 2 was never looked at: %+v", m.BrokerEpoch, again[0].ISR)
		}
	}
}
