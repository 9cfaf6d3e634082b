package producer

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"millrace/engine/batch"
	"millrace/engine/index"

	"pgregory.net/rapid"
)

// data is a batch of n records by producer 1.
func data(base int64, epoch int16, seq int32, n int32) batch.Header {
	return batch.Header{BaseOffset: base, ProducerID: 1, ProducerEpoch: epoch, BaseSequence: seq, LastOffsetDelta: n - 1, NumRecords: n, MaxTimestamp: 1000 + base}
}

func transactional(h batch.Header) batch.Header {
	h.Attributes |= 0x10
	return h
}

func by(producerID int64, h batch.Header) batch.Header {
	h.ProducerID = producerID
	return h
}

// must checks a batch that has to be new and right, and applies it.
func must(t *testing.T, s *State, h batch.Header) {
	t.Helper()
	if v, err := s.Check(h); err != nil || v.Duplicate {
		t.Fatalf("%+v: %+v, %v", h, v, err)
	}
	s.Apply(h)
}

func refused(t *testing.T, s *State, h batch.Header, want error) {
	t.Helper()
	before := s.AppendTo(nil)
	if _, err := s.Check(h); !errors.Is(err, want) {
		t.Fatalf("%+v: got %v, want %v", h, err, want)
	}
	if !bytes.Equal(before, s.AppendTo(nil)) {
		t.Fatal("a refused batch changed the state")
	}
}

func TestSequencesMustFollow(t *testing.T) {
	s := New()
	must(t, s, data(0, 0, 0, 10))
	must(t, s, data(10, 0, 10, 5))
	refused(t, s, data(15, 0, 16, 1), ErrOutOfOrderSequence) // one is missing
	refused(t, s, data(15, 0, 14, 1), ErrOutOfOrderSequence) // overlaps, but is no whole duplicate
	refused(t, s, data(15, 0, 10, 4), ErrOutOfOrderSequence) // same start, other length
	must(t, s, data(15, 0, 15, 1))
}

func TestDuplicatesGetTheOffsetsOfTheOriginal(t *testing.T) {
	s := New()
	for i := range int64(6) {
		must(t, s, data(100+2*i, 0, int32(2*i), 2))
	}
	for i := int64(1); i < 6; i++ {
		v, err := s.Check(data(999, 0, int32(2*i), 2))
		want := Verdict{Duplicate: true, BaseOffset: 100 + 2*i, LastOffset: 101 + 2*i, AppendTime: 1100 + 2*i}
		if err != nil || v != want {
			t.Fatalf("batch %d: %+v, %v", i, v, err)
		}
	}
	// The sixth last one has been forgotten: Kafka then says out of order.
	refused(t, s, data(999, 0, 0, 2), ErrOutOfOrderSequence)
}

func TestUnknownProducerMayStartAnywhere(t *testing.T) {
	s := New()
	must(t, s, data(0, 3, 77, 1))
	refused(t, s, data(1, 3, 77+2, 1), ErrOutOfOrderSequence)
}

func TestNewEpochStartsAtZero(t *testing.T) {
	s := New()
	must(t, s, data(0, 1, 0, 3))
	refused(t, s, data(3, 2, 3, 1), ErrOutOfOrderSequence)
	must(t, s, data(3, 2, 0, 1))
	refused(t, s, data(4, 1, 3, 1), ErrInvalidEpoch)
	refused(t, s, data(4, 1, 0, 3), ErrInvalidEpoch) // even a copy of what the old epoch wrote
	must(t, s, data(4, 2, 1, 1))
}

func TestSequencesWrapAround(t *testing.T) {
	s := New()
	must(t, s, data(0, 0, math.MaxInt32-2, 3)) // ends at the last sequence
	refused(t, s, data(3, 0, 1, 1), ErrOutOfOrderSequence)
	must(t, s, data(3, 0, 0, 2))

	s = New()
	straddling := data(0, 0, math.MaxInt32-1, 4) // MaxInt32-1, MaxInt32, 0, 1
	must(t, s, straddling)
	if v, err := s.Check(straddling); err != nil || !v.Duplicate || v.LastOffset != 3 {
		t.Fatalf("%+v, %v", v, err)
	}
	must(t, s, data(4, 0, 2, 1))
}

func TestMarkerOfANewEpochFencesTheOld(t *testing.T) {
	s := New()
	must(t, s, transactional(data(0, 1, 0, 1)))
	s.ApplyControl(data(1, 2, -1, 1), batch.Commit, 5)
	refused(t, s, transactional(data(2, 1, 1, 1)), ErrInvalidEpoch)
	refused(t, s, transactional(data(2, 2, 5, 1)), ErrOutOfOrderSequence)
	must(t, s, transactional(data(2, 2, 0, 1)))
	if err := s.CheckControl(data(3, 2, -1, 1), 4); !errors.Is(err, ErrCoordinatorFenced) {
		t.Fatal(err)
	}
	if err := s.CheckControl(data(3, 1, -1, 1), 5); !errors.Is(err, ErrInvalidEpoch) {
		t.Fatal(err)
	}
	if err := s.CheckControl(data(3, 2, -1, 1), 5); err != nil {
		t.Fatal(err)
	}
}

func TestOpenTransactionsHoldTheStableOffset(t *testing.T) {
	s := New()
	if _, ok := s.FirstUnstable(); ok {
		t.Fatal("an empty log has no open transaction")
	}
	must(t, s, transactional(by(1, data(10, 0, 0, 5))))
	must(t, s, transactional(by(2, data(15, 0, 0, 5))))
	must(t, s, transactional(by(1, data(20, 0, 5, 5))))
	refused(t, s, by(1, data(25, 0, 10, 1)), ErrInvalidTxnState)
	unstable := func(want int64) {
		t.Helper()
		if got, ok := s.FirstUnstable(); got != want || !ok {
			t.Fatalf("first unstable offset %d, %v; want %d", got, ok, want)
		}
	}
	unstable(10)
	aborted, ok := s.ApplyControl(by(1, data(25, 0, -1, 1)), batch.Abort, 0)
	if want := (index.AbortedTxn{ProducerID: 1, FirstOffset: 10, LastOffset: 25, LastStableOffset: 15}); !ok || aborted != want {
		t.Fatalf("got %+v, %v", aborted, ok)
	}
	unstable(15)
	if _, ok := s.ApplyControl(by(2, data(26, 0, -1, 1)), batch.Commit, 0); ok {
		t.Fatal("a commit is no abort")
	}
	if _, ok := s.FirstUnstable(); ok {
		t.Fatal("all transactions have ended")
	}
	if _, ok := s.ApplyControl(by(2, data(27, 0, -1, 1)), batch.Abort, 0); ok {
		t.Fatal("an empty transaction leaves no entry")
	}
	must(t, s, transactional(by(2, data(28, 0, 5, 1))))
	aborted, _ = s.ApplyControl(by(2, data(29, 0, -1, 1)), batch.Abort, 0)
	if aborted.LastStableOffset != 30 {
		t.Fatalf("got %+v: with nothing open the log is stable up to behind the marker", aborted)
	}
}

func TestTruncateForgetsCutBatches(t *testing.T) {
	s := New()
	must(t, s, data(0, 0, 0, 10))
	must(t, s, data(10, 0, 10, 10))
	must(t, s, transactional(by(2, data(20, 0, 0, 10))))
	must(t, s, by(3, data(30, 0, 4, 10)))
	s.TruncateTo(15)
	// A batch that the cut goes through is gone as a whole; engines cut between batches.
	if got := s.Entries(); len(got) != 1 || got[0].LastSequence != 9 || got[0].LastTimestamp != 1000 {
		t.Fatalf("%+v", got)
	}
	if _, ok := s.FirstUnstable(); ok {
		t.Fatal("the transaction was cut")
	}
	must(t, s, data(15, 0, 10, 1))
}

func TestTruncateKeepsATransactionThatBeganBelow(t *testing.T) {
	s := New()
	must(t, s, transactional(data(0, 0, 0, 1)))
	for i := range int64(6) { // push the first batch out of the five that are kept
		must(t, s, transactional(data(10+i, 0, int32(1+i), 1)))
	}
	s.TruncateTo(10)
	if first, ok := s.FirstUnstable(); !ok || first != 0 {
		t.Fatalf("first unstable %d, %v", first, ok)
	}
	roundTrip(t, s)
}

func TestExpiryGoesByTheBrokersClock(t *testing.T) {
	s := New()
	must(t, s, by(1, data(0, 0, 0, 1))) // timestamps of 1970
	must(t, s, transactional(by(2, data(1, 0, 0, 1))))
	const day = 86_400_000
	now := int64(1_700_000_000_000)
	s.Expire(now, day)
	if s.Len() != 2 {
		t.Fatal("a producer of old data was forgotten at once")
	}
	must(t, s, by(3, data(2, 0, 0, 1)))
	s.Expire(now+day-1, day)
	if s.Len() != 3 {
		t.Fatal("forgotten too early")
	}
	s = roundTrip(t, s)
	s.Expire(now+day, day)
	if got := s.Entries(); len(got) != 2 || got[0].ProducerID != 2 || got[1].ProducerID != 3 {
		t.Fatalf("%+v", got)
	}
	must(t, s, by(3, data(3, 0, 1, 1)))
	s.Expire(now+2*day-1, day) // seen anew
	s.Expire(now+3*day-2, day)
	if s.Len() != 2 {
		t.Fatal("a new batch must renew the producer")
	}
	s.Expire(now+100*day, day)
	if got := s.Entries(); len(got) != 1 || got[0].TxnStartOffset != 1 {
		t.Fatalf("%+v: an open transaction must not expire", got)
	}
}

func TestShrinkForgetsTheLongestSilent(t *testing.T) {
	s := New()
	for i := range int64(100) {
		s.Apply(by(1000-i, data(i, 0, 0, 1)))
	}
	s.Apply(transactional(by(5, data(100, 0, 0, 1))))
	s.Apply(by(1000, data(101, 0, 1, 1)))
	s.Shrink(4)
	got := s.Entries()
	if len(got) != 4 || got[0].ProducerID != 5 || got[1].ProducerID != 901 || got[2].ProducerID != 902 || got[3].ProducerID != 1000 {
		t.Fatalf("%+v", got)
	}
}

func roundTrip(tb testing.TB, s *State) *State {
	tb.Helper()
	b := s.AppendTo(nil)
	decoded, err := Decode(b)
	if err != nil {
		tb.Fatal(err)
	}
	if !bytes.Equal(b, decoded.AppendTo(nil)) {
		tb.Fatal("encoding is not stable")
	}
	return decoded
}

// twin is Kafka's rules written down as plainly as possible: every batch is kept for ever and
// searched.
type twin struct {
	batches map[int64][]batch.Header // by producer, of the current epoch
	epochs  map[int64]int16
}

func (w *twin) check(h batch.Header) (duplicateOf *batch.Header, err error) {
	epoch, known := w.epochs[h.ProducerID]
	if !known {
		return nil, nil
	}
	list := w.batches[h.ProducerID]
	if h.ProducerEpoch == epoch {
		for i := max(0, len(list)-5); i < len(list); i++ {
			if list[i].BaseSequence == h.BaseSequence && list[i].LastOffsetDelta == h.LastOffsetDelta {
				return &list[i], nil
			}
		}
	}
	if h.ProducerEpoch < epoch {
		return nil, ErrInvalidEpoch
	}
	next := int64(0)
	if h.ProducerEpoch == epoch && len(list) > 0 {
		l := list[len(list)-1]
		next = (int64(l.BaseSequence) + int64(l.LastOffsetDelta) + 1) % (1 << 31)
	}
	if int64(h.BaseSequence) != next {
		return nil, ErrOutOfOrderSequence
	}
	return nil, nil
}

func (w *twin) apply(h batch.Header) {
	if w.epochs[h.ProducerID] != h.ProducerEpoch {
		w.batches[h.ProducerID] = nil
	}
	w.epochs[h.ProducerID] = h.ProducerEpoch
	w.batches[h.ProducerID] = append(w.batches[h.ProducerID], h)
}

func TestStateAgreesWithADumbTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, w := New(), twin{map[int64][]batch.Header{}, map[int64]int16{}}
		end := int64(0)
		var sent []batch.Header
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			var h batch.Header
			switch rapid.IntRange(0, 9).Draw(t, "kind") {
			case 0, 1: // a retry of anything
				if len(sent) == 0 {
					continue
				}
				h = rapid.SampledFrom(sent[max(0, len(sent)-12):]).Draw(t, "retry")
			case 2: // anything
				h = data(0, rapid.Int16Range(0, 3).Draw(t, "epoch"),
					rapid.SampledFrom([]int32{0, 1, 2, math.MaxInt32 - 1, math.MaxInt32}).Draw(t, "sequence"), rapid.Int32Range(1, 4).Draw(t, "records"))
				h.ProducerID = rapid.Int64Range(0, 2).Draw(t, "producer")
			default: // what a well-behaved producer sends
				id := rapid.Int64Range(0, 2).Draw(t, "producer")
				h = data(0, w.epochs[id], 0, rapid.Int32Range(1, 4).Draw(t, "records"))
				if l := w.batches[id]; len(l) > 0 {
					h.BaseSequence = batch.AddSequence(l[len(l)-1].LastSequence(), 1)
				}
				h.ProducerID = id
			}
			h.BaseOffset = end
			sent = append(sent, h)
			original, wantErr := w.check(h)
			v, err := s.Check(h)
			if !errors.Is(err, wantErr) || (err == nil) != (wantErr == nil) || v.Duplicate != (original != nil) {
				t.Fatalf("%+v: got %+v, %v; the twin says %+v, %v", h, v, err, original, wantErr)
			}
			if original != nil && (v.BaseOffset != original.BaseOffset || v.LastOffset != original.LastOffset() || v.AppendTime != original.MaxTimestamp) {
				t.Fatalf("%+v: duplicate at %+v, the twin says %+v", h, v, original)
			}
			if err != nil || v.Duplicate {
				continue
			}
			s.Apply(h)
			w.apply(h)
			end = h.NextOffset()
			switch rapid.IntRange(0, 9).Draw(t, "also") {
			case 0:
				decoded, err := Decode(s.AppendTo(nil))
				if err != nil {
					t.Fatal(err)
				}
				s = decoded
			case 1:
				clone := s.Clone()
				s.Apply(h) // the clone must not see this
				s = clone
			}
		}
	})
}

// Cutting the newest batches gives the state from before them, as long as nothing older was displaced.
func TestTruncateUndoesRecentBatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := New()
		next := map[int64]int32{}
		var before []byte
		end, cut := int64(0), int64(0)
		n := rapid.IntRange(1, 5).Draw(t, "batches") // five fit
		k := rapid.IntRange(0, n).Draw(t, "kept")
		for i := range n {
			if i == k {
				before, cut = s.AppendTo(nil), end
			}
			h := data(end, 0, 0, rapid.Int32Range(1, 9).Draw(t, "records"))
			h.ProducerID = rapid.Int64Range(1, 3).Draw(t, "producer")
			h.BaseSequence = next[h.ProducerID]
			if rapid.Bool().Draw(t, "transactional") {
				h = transactional(h)
			}
			s.Apply(h)
			next[h.ProducerID] += h.NumRecords
			end = h.NextOffset()
		}
		if k == n {
			before, cut = s.AppendTo(nil), end
		}
		s.TruncateTo(cut)
		if !bytes.Equal(s.AppendTo(nil), before) {
			t.Fatal("the state is not what it was before the batches that were cut")
		}
	})
}

func FuzzDecode(f *testing.F) {
	s := New()
	f.Add(s.AppendTo(nil))
	for i := range int64(7) {
		s.Apply(data(i, 0, int32(i), 1))
		s.Apply(transactional(by(2, data(100+i, 0, int32(i), 1))))
	}
	s.ApplyControl(by(3, data(200, 1, -1, 1)), batch.Commit, 2)
	f.Add(s.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(s.AppendTo(nil), b) {
			t.Fatal("decoded, but encodes to something else")
		}
		s.Entries()
		s.TruncateTo(50)
		s.Expire(1, 1)
		s.Shrink(1)
		roundTrip(t, s)
	})
}
