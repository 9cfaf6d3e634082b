package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"millrace/engine/disk"
	"millrace/engine/disk/simdisk"
)

// TestCloseOnAFullDisk: with ring and WAL full and no room for segments a clean stop ends all the same, and everything comes back.
func TestCloseOnAFullDisk(t *testing.T) {
	sim := simdisk.New(1)
	o := Options{
		Dir: "/data", FS: sim,
		NewQueue:       func(disk.Mode, int) (disk.Queue, string, error) { return sim.NewQueue(queueDepth), "", nil },
		CommitBytesMax: 16 << 10, RingBytes: 64 << 10, WALFileBytes: 64 << 10, WALBytes: 192 << 10,
		DiskReserveBytes: 1, Warn: t.Logf, OnFailed: func(err error) { t.Error(err) },
		syncWorkers: 1, chunkBytes: 16 << 10, manual: true,
	}
	e, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := e.CreateLogs([]LogSpec{{TopicID: TopicID{1}, Topic: "t"}})
	if err != nil {
		t.Fatal(err)
	}
	l, s := logs[0], e.shards[0]
	free, total, _ := sim.Statfs("/")
	sim.SetCapacity(total - free)
	raw, h := testBatch(1, string(make([]byte, 9000)), 1)
	want := make(map[int64][]byte)
	for refused := 0; refused < 100; {
		r, err := l.Append(AppendRequest{Batch: raw, Header: h})
		switch {
		case errors.Is(err, ErrBusy), errors.Is(err, ErrDiskFull):
			refused++
		case err != nil:
			t.Fatal(err)
		default:
			want[r.BaseOffset] = raw
		}
		s.Poll()
		s.writer.step()
	}
	// Records other than batches have the last of the room.
	for epoch, refused := int32(1), 0; refused < 100; {
		if err := l.BeginEpoch(epoch); err == nil {
			epoch++
		} else if refused++; !errors.Is(err, ErrBusy) {
			t.Fatal(err)
		}
		s.Poll()
		s.writer.step()
	}
	closed := make(chan error, 1)
	go func() { closed <- e.Close(context.Background()) }()
	select {
	case err := <-closed:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the stop never ends")
	}
	sim.Crash(simdisk.Policy{})
	sim.SetCapacity(1 << 40)
	if e, err = Open(o); err != nil {
		t.Fatal(err)
	}
	defer e.release()
	checkDense(t, e.Logs()[0], want)
}
