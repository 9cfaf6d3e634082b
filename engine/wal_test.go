package engine

import (
	"errors"
	"testing"

	"millrace/engine/disk"
	"millrace/engine/disk/simdisk"
)

// TestRoundsBeginWhileThereIsRoom fills a WAL of many files: the rounds that make some of them free must begin long before
// appends find none.
func TestRoundsBeginWhileThereIsRoom(t *testing.T) {
	sim := simdisk.New(1)
	e, err := Open(Options{
		Dir: "/data", FS: sim,
		NewQueue:       func(disk.Mode, int) (disk.Queue, string, error) { return sim.NewQueue(queueDepth), "", nil },
		CommitBytesMax: 16 << 10, RingBytes: 1 << 20, WALFileBytes: 64 << 10, WALBytes: 16 * 64 << 10,
		DiskReserveBytes: 1, Warn: t.Logf, OnFailed: func(err error) { t.Error(err) },
		syncWorkers: 1, chunkBytes: 16 << 10, manual: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer e.release()
	logs, err := e.CreateLogs([]LogSpec{{TopicID: TopicID{1}, Topic: "t", Config: LogConfig{SegmentBytes: 1 << 20}}})
	if err != nil {
		t.Fatal(err)
	}
	l, s := logs[0], e.shards[0]
	raw, h := testBatch(3, string(make([]byte, 1000)), 1000)
	free := 0 // when the newest round began
	for n, rounds := 0, uint64(0); rounds < 10; n++ {
		if n > 100_000 {
			t.Fatalf("only %d rounds", rounds)
		}
		if _, err := l.Append(AppendRequest{Batch: raw, Header: h}); errors.Is(err, ErrBusy) && rounds > 2 {
			if full := len(s.freeSlabs) == 0; !full {
				t.Fatalf("round %d: no room in the WAL, although the background had every chance", rounds)
			}
		} else if err != nil && !errors.Is(err, ErrBusy) {
			t.Fatal(err)
		}
		s.Poll()
		s.writer.step()
		free = len(s.freeFiles)
		if _, err := s.writer.stepWAL(); err != nil && !errors.Is(err, errNotReady) {
			t.Fatal(err)
		}
		if now := s.writer.rounds.Load(); now != rounds {
			if rounds = now; rounds > 2 && free != 3 {
				t.Errorf("round %d began with %d free WAL files", rounds, free)
			}
		}
	}
}
