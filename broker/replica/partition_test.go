package replica

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/engine"
	"millrace/engine/batch"
)

// leadingPartition is a partition over a real log, in epoch 0.
func leadingPartition(t *testing.T) *Partition {
	t.Helper()
	e, err := engine.Open(engine.Options{
		Dir: t.TempDir(), CommitBytesMax: 256 << 10, RingBytes: 4 << 20, WALFileBytes: 2 << 20, WALBytes: 8 << 20, DiskReserveBytes: 1,
		Warn: t.Logf, OnFailed: func(err error) { t.Errorf("directory failed: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	logs, err := e.CreateLogs([]engine.LogSpec{{TopicID: engine.TopicID{1}, Topic: "t"}})
	if err != nil {
		t.Fatal(err)
	}
	p := &Partition{Topic: "t", log: logs[0], epoch: NoEpoch}
	logs[0].SetObserver(p)
	if err := beginEpoch(p.log, 0); err != nil {
		t.Fatal(err)
	}
	p.lead(0)
	return p
}

func oneRecord(producer int64, sequence int32) engine.AppendRequest {
	b := batch.NewBuilder(0, 0)
	if producer >= 0 {
		b.SetProducer(producer, 0, sequence)
	}
	b.Append(1000, nil, []byte("value"), nil)
	raw := b.Build()
	h, err := batch.ParseHeader(raw)
	if err != nil {
		panic(err)
	}
	return engine.AppendRequest{Batch: raw, Header: h}
}

// counter is an AckWaiter that notes how often each tag came, and how high the watermark was.
type counter struct {
	p    *Partition
	mu   sync.Mutex
	seen map[int]int
	at   map[int]int64
	errs int
}

func (c *counter) Acked(tag int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[tag]++
	c.at[tag] = c.p.HighWatermark()
	if err != nil {
		c.errs++
	}
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.seen)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestEveryAppendIsAcknowledgedOnceAndNotTooEarly appends from many goroutines, with duplicates in between, whose offsets
// lie before the end.
func TestEveryAppendIsAcknowledgedOnceAndNotTooEarly(t *testing.T) {
	p := leadingPartition(t)
	c := &counter{p: p, seen: map[int]int{}, at: map[int]int64{}}
	var last [8 * 200]int64 // by tag: the last offset
	const writers, each = 8, 200
	var acked atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			sequence := int32(0)
			for i := range each {
				tag := w*each + i
				if i > 0 && r.IntN(4) == 0 {
					sequence-- // the last one again
				}
				res, done, err := p.Append(oneRecord(int64(w), sequence), c, tag)
				for errors.Is(err, engine.ErrBusy) {
					time.Sleep(time.Millisecond)
					res, done, err = p.Append(oneRecord(int64(w), sequence), c, tag)
				}
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				last[tag] = res.LastOffset
				if done {
					acked.Add(1)
					if p.HighWatermark() <= res.LastOffset {
						t.Errorf("offset %d was called acknowledged at high watermark %d", res.LastOffset, p.HighWatermark())
					}
				}
				sequence++
			}
		})
	}
	wg.Wait()
	eventually(t, "all are acknowledged", func() bool { return int64(c.count())+acked.Load() == writers*each })
	for tag, n := range c.seen {
		if n != 1 {
			t.Errorf("append %d was acknowledged %d times", tag, n)
		}
		if c.at[tag] <= last[tag] {
			t.Errorf("offset %d was acknowledged at high watermark %d", last[tag], c.at[tag])
		}
	}
	if c.errs > 0 {
		t.Errorf("%d errors", c.errs)
	}
	if end := p.Log().AppendedEnd(); p.HighWatermark() != end {
		t.Errorf("the high watermark is %d, the log ends at %d", p.HighWatermark(), end)
	}
}

func TestWaitersComeInTheOrderOfTheirOffsets(t *testing.T) {
	p := &Partition{}
	var got []int
	w := ackFunc(func(tag int) { got = append(got, tag) })
	for _, need := range []int64{5, 9, 3, 9, 1} {
		p.wait(need, w, int(need))
	}
	for i := 1; i < len(p.acks); i++ {
		if p.acks[i-1].need > p.acks[i].need {
			t.Fatalf("waiters out of order: %v", p.acks)
		}
	}
	p.resign(ErrPartitionGone)
	if len(got) != 5 {
		t.Errorf("%d of 5 waiters were told", len(got))
	}
}

type ackFunc func(tag int)

func (f ackFunc) Acked(tag int, _ error) { f(tag) }

func TestPartitionThatDoesNotLeadRefuses(t *testing.T) {
	p := leadingPartition(t)
	if err := p.CheckEpoch(1); !errors.Is(err, ErrUnknownEpoch) {
		t.Errorf("a newer epoch: %v", err)
	}
	if err := p.CheckEpoch(NoEpoch); err != nil {
		t.Errorf("no epoch: %v", err)
	}
	p.lead(3)
	if err := p.CheckEpoch(2); !errors.Is(err, ErrFencedEpoch) {
		t.Errorf("an older epoch: %v", err)
	}
	p.lead(1) // news from the past
	if epoch, leading := p.LeaderEpoch(); epoch != 3 || !leading {
		t.Errorf("epoch %d, leading %t", epoch, leading)
	}
	p.resign(ErrPartitionGone)
	if _, _, err := p.Append(oneRecord(-1, 0), nil, 0); !errors.Is(err, ErrPartitionGone) {
		t.Errorf("append after the end: %v", err)
	}
	if _, err := p.WaitFor(1000, ackFunc(func(int) {}), 0); !errors.Is(err, ErrPartitionGone) {
		t.Errorf("wait after the end: %v", err)
	}
}

// watcher counts its calls.
type watcher struct{ calls atomic.Int32 }

func (w *watcher) Progressed() { w.calls.Add(1) }

func TestWatchersAreCalledOnceForProgressOrNotKept(t *testing.T) {
	p := leadingPartition(t)
	var moved, taken, woken watcher
	if !p.Watch(&moved, p.HighWatermark()) || !p.Watch(&taken, p.HighWatermark()) {
		t.Fatal("a watch of what has not moved was refused")
	}
	p.Unwatch(&taken)
	if _, _, err := p.Append(oneRecord(-1, 0), nil, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the watcher is called", func() bool { return moved.calls.Load() == 1 })
	if p.Watch(&moved, 0) {
		t.Error("a watch of what has moved was kept")
	}
	if !p.Watch(&woken, p.HighWatermark()) {
		t.Fatal("a watch of what has not moved was refused")
	}
	p.WakeWatchers()
	p.WakeWatchers()
	if moved.calls.Load() != 1 || taken.calls.Load() != 0 || woken.calls.Load() != 1 {
		t.Errorf("calls: moved %d, taken back %d, woken %d", moved.calls.Load(), taken.calls.Load(), woken.calls.Load())
	}
}
