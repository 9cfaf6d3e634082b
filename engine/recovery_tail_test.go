package engine

import (
	"errors"
	"testing"

	"millrace/engine/disk"
	"millrace/engine/disk/simdisk"
)

// TestUnflushedTailIsRecovered leaves many written, unflushed and acknowledged commits behind: a killed process must start again with all of them, also when commits may be larger now.
func TestUnflushedTailIsRecovered(t *testing.T) {
	sim := simdisk.New(1)
	o := Options{
		Dir: "/data", FS: sim,
		NewQueue:       func(disk.Mode, int) (disk.Queue, string, error) { return sim.NewQueue(queueDepth), "", nil },
		CommitBytesMax: 16 << 10, RingBytes: 4 << 20, WALFileBytes: 1 << 20, WALBytes: 8 << 20,
		DiskReserveBytes: 1, Warn: t.Logf, OnFailed: func(err error) { t.Error(err) },
		syncWorkers: 1, chunkBytes: 1 << 20, manual: true,
	}
	e, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	cfg := LogConfig{SegmentBytes: 1 << 20, IndexIntervalBytes: 4096, FlushMessages: 1 << 40, FlushMillis: 1 << 40, RetentionBytes: -1, RetentionMillis: -1}
	logs, err := e.CreateLogs([]LogSpec{{TopicID: TopicID{1}, Topic: "t", Config: cfg}})
	if err != nil {
		t.Fatal(err)
	}
	l, s := logs[0], e.shards[0]
	want := map[int64][]byte{}
	raw, h := testBatch(3, string(make([]byte, 3000)), 1000)
	for n := 0; l.AckEnd() < 150; n++ {
		if n > 10000 {
			t.Fatalf("AckEnd stays at %d", l.AckEnd())
		}
		r, err := l.Append(AppendRequest{Batch: raw, Header: h})
		if err == nil {
			want[r.BaseOffset] = raw
		} else if !errors.Is(err, ErrBusy) {
			t.Fatal(err)
		}
		s.Poll()
		if _, err := s.writer.stepWAL(); err != nil {
			t.Fatal(err)
		}
	}
	if s.cur.size < 1<<20 || l.DurableEnd() > 50 {
		t.Fatalf("the WAL file has %d bytes and the durable end is %d: this tests nothing", s.cur.size, l.DurableEnd())
	}
	end := l.AckEnd()
	for _, commitMax := range []int{16 << 10, 32 << 10} {
		e.release()
		sim.Kill()
		o.CommitBytesMax, o.WALFileBytes = commitMax, int64(4*commitMax)
		if e, err = Open(o); err != nil {
			t.Fatal(err)
		}
		if l = e.Log(TopicID{1}, 0); l.AppendedEnd() < end {
			t.Fatalf("the log ends at %d, %d was acknowledged", l.AppendedEnd(), end)
		}
		l.SetConfig(cfg)
		checkDense(t, l, want)
		for _, w := range e.shards[0].freeFiles {
			if !w.fits(commitMax) && w.end()-blockSize < int64(commitMax) {
				t.Errorf("%s of %d bytes cannot take a commit of %d", w.name, w.size, commitMax)
			}
		}
	}
	e.release()
}

// TestRecycledFileIsReadOnce ends in a file that is full of older commits: telling them from the newest must not read
// the file again for each of them.
func TestRecycledFileIsReadOnce(t *testing.T) {
	sim := simdisk.New(1)
	o := Options{
		Dir: "/data", FS: sim,
		NewQueue:       func(disk.Mode, int) (disk.Queue, string, error) { return sim.NewQueue(queueDepth), "", nil },
		CommitBytesMax: 64 << 10, RingBytes: 4 << 20, WALFileBytes: 4 << 20, WALBytes: 16 << 20,
		DiskReserveBytes: 1, Warn: t.Logf, OnFailed: func(err error) { t.Error(err) },
		syncWorkers: 1, chunkBytes: 1 << 20, manual: true,
	}
	e, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := e.CreateLogs([]LogSpec{{TopicID: TopicID{1}, Topic: "t", Config: LogConfig{SegmentBytes: 1 << 20, IndexIntervalBytes: 4096, RetentionBytes: -1, RetentionMillis: -1}}})
	if err != nil {
		t.Fatal(err)
	}
	l, s := logs[0], e.shards[0]
	raw, h := testBatch(1, "value", 1000)
	for n := 0; s.stats.recycled.Load() < 6 || s.cur.size < o.WALFileBytes || s.cur.pos > s.cur.size/2; n++ {
		if n > 100_000 {
			t.Fatal("the WAL is never recycled")
		}
		if _, err := l.Append(AppendRequest{Batch: raw, Header: h}); err != nil && !errors.Is(err, ErrBusy) {
			t.Fatal(err)
		}
		s.Poll()
		s.writer.step()
		s.writer.stepRound()
	}
	var wal int64
	for _, w := range append(append([]*walFile{s.cur}, s.fullFiles...), s.freeFiles...) {
		wal += w.size
	}
	end := l.AckEnd()
	e.release()
	sim.Kill()
	if e, err = Open(o); err != nil {
		t.Fatal(err)
	}
	defer e.release()
	if l := e.Log(TopicID{1}, 0); l.AppendedEnd() < end {
		t.Errorf("the log ends at %d, %d was acknowledged", l.AppendedEnd(), end)
	}
	if n := e.Recovery().WALBytes; n > 2*wal {
		t.Errorf("recovery read %d bytes of a WAL of %d", n, wal)
	}
}
