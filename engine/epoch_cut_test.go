package engine

import (
	"errors"
	"testing"

	"millrace/engine/batch"
	"millrace/engine/disk"
	"millrace/engine/disk/simdisk"
)

// TestTruncateForgetsAnEpochWithoutRecords: a leader that began an epoch, wrote nothing in it and lost its
// leadership must be able to take records of an older epoch, which the next leader has and it has not (KAFKA-14704).
func TestTruncateForgetsAnEpochWithoutRecords(t *testing.T) {
	o := testOptions(t)
	e := mustOpen(t, o)
	l := mustCreate(t, e, "t", 1)[0]
	given := func(base int64, records int, epoch int32) []byte {
		b := batch.NewBuilder(base, epoch)
		for range records {
			b.Append(0, nil, []byte("value"), nil)
		}
		return b.Build()
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(l.AppendAt(0, given(0, 10, 4), -1))
	must(l.BeginEpoch(5))
	if err := l.AppendAt(10, given(10, 3, 4), -1); !errors.Is(err, ErrStaleEpoch) {
		t.Fatalf("records of an older epoch behind a newer one: %v", err)
	}
	must(l.Truncate(10, 6))
	mustClose(t, e)

	e = mustOpen(t, o)
	defer mustClose(t, e)
	l = e.Log(l.TopicID(), 0)
	if at, end := l.EndOffsetForEpoch(4); at != 4 || end != 10 {
		t.Fatalf("epoch 4 ends at %d in epoch %d", end, at)
	}
	must(l.AppendAt(10, given(10, 3, 4), -1))
	if end := l.AppendedEnd(); end != 13 {
		t.Fatalf("the log ends at %d", end)
	}
}

// TestTruncateAcknowledgesWhatStays: batches that are still under way when the log is cut behind them are on the device when
// the cut is, and count.
func TestTruncateAcknowledgesWhatStays(t *testing.T) {
	e := mustOpen(t, testOptions(t))
	defer mustClose(t, e)
	l := mustCreate(t, e, "t", 1)[0]
	for round := range int64(50) {
		start := l.AppendedEnd()
		for at := start; at < start+10; at++ {
			b := batch.NewBuilder(at, int32(round))
			b.Append(0, nil, []byte("value"), nil)
			if err := l.AppendAt(at, b.Build(), -1); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Truncate(start+6, int32(round)); err != nil {
			t.Fatal(err)
		}
		if end := l.AckEnd(); end != start+6 {
			t.Fatalf("round %d: acknowledged up to %d, the log ends at %d and its cut is durable", round, end, start+6)
		}
	}
}

// TestCutLeavesWhatIsNotFlushedYetToTheFlush: a follower cuts an epoch without records while records below the cut are
// still on their way to the device. They are acknowledged when they are there, also if nothing comes after them.
func TestCutLeavesWhatIsNotFlushedYetToTheFlush(t *testing.T) {
	d := simdisk.New(1)
	s := newSim(t, 1)
	o := s.o
	o.FS, o.onWindow = d, nil
	o.NewQueue = func(disk.Mode, int) (disk.Queue, string, error) { return d.NewQueue(queueDepth), "", nil }
	e, err := OpenSimulated(o, Simulation{Random: s.random})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Abandon()
	logs, err := e.CreateLogs([]LogSpec{{TopicID: TopicID{1}, Topic: "t"}})
	if err != nil {
		t.Fatal(err)
	}
	l := logs[0]
	b := batch.NewBuilder(0, 0)
	b.Append(0, nil, []byte("value"), nil)
	b.Append(0, nil, []byte("value"), nil)
	if err := l.AppendAt(0, b.Build(), -1); err != nil {
		t.Fatal(err)
	}
	if err := l.BeginEpoch(1); err != nil {
		t.Fatal(err)
	}
	if l.AckEnd() != 0 {
		t.Fatal("the records are flushed already: this tests nothing")
	}
	if err := l.Truncate(2, 2); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		e.Step()
	}
	if l.AckEnd() != 2 || l.DurableEnd() != 2 {
		t.Fatalf("acknowledged to %d, durable to %d, of 2 records", l.AckEnd(), l.DurableEnd())
	}
}
