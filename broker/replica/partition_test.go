package replica

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/engine"
	"millrace/engine/batch"
)

// leadingPartition is a partition that a broker alone leads, in epoch 0.
func leadingPartition(t *testing.T) *Partition {
	t.Helper()
	w := newWorld(t, 1, 1)
	return w.nodes[1].set.Get("t", 0)
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

// end is what an append has to be below: with an even tag it waits for the high watermark, else for the log itself.
func (c *counter) end(tag int) int64 {
	if tag%2 == 0 {
		return c.p.HighWatermark()
	}
	return c.p.AckEnd()
}

// counter is an AckWaiter that notes how often each tag came, and what was acknowledged then.
type counter struct {
	p    *Partition
	mu   sync.Mutex
	seen map[int]int
	at   map[int]int64
	errs int
}

func (c *counter) Acked(tag int, err error, _ bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[tag]++
	c.at[tag] = c.end(tag)
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
				res, done, err := p.Append(oneRecord(int64(w), sequence), Acks{All: tag%2 == 0}, c, tag)
				for errors.Is(err, engine.ErrBusy) {
					time.Sleep(time.Millisecond)
					res, done, err = p.Append(oneRecord(int64(w), sequence), Acks{All: tag%2 == 0}, c, tag)
				}
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				last[tag] = res.LastOffset
				if done {
					acked.Add(1)
					if end := c.end(tag); end <= res.LastOffset {
						t.Errorf("offset %d was called acknowledged at %d", res.LastOffset, end)
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
			t.Errorf("offset %d was acknowledged at %d", last[tag], c.at[tag])
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
	var l waitList
	for _, need := range []int64{5, 9, 3, 9, 1} {
		l.add(waitEntry{need: need, deadline: need})
	}
	if got := l.take(3, nil); len(got) != 2 || got[0].need != 1 || got[1].need != 3 {
		t.Fatalf("those that need 3 or less: %v", got)
	}
	l.add(waitEntry{need: 2})
	if got := l.expired(5, nil); len(got) != 1 || got[0].need != 5 {
		t.Fatalf("those that wait until 5 at most: %v", got)
	}
	if got := l.all(nil); len(got) != 3 || got[0].need != 2 || got[2].need != 9 {
		t.Fatalf("the others: %v", got)
	}
}

type ackFunc func(tag int)

func (f ackFunc) Acked(tag int, _ error, _ bool) { f(tag) }

func TestPartitionThatDoesNotLeadRefuses(t *testing.T) {
	p := leadingPartition(t)
	if err := p.CheckEpoch(1); !errors.Is(err, ErrUnknownEpoch) {
		t.Errorf("a newer epoch: %v", err)
	}
	if err := p.CheckEpoch(NoEpoch); err != nil {
		t.Errorf("no epoch: %v", err)
	}
	if err := p.begin(3); err != nil {
		t.Fatal(err)
	}
	if err := p.CheckEpoch(2); !errors.Is(err, ErrFencedEpoch) {
		t.Errorf("an older epoch: %v", err)
	}
	if err := p.begin(1); err == nil {
		t.Error("an epoch from the past began")
	}
	if err := p.begin(3); err != nil {
		t.Fatal(err)
	}
	if epoch, leading := p.LeaderEpoch(); epoch != 3 || !leading {
		t.Errorf("epoch %d, leading %t", epoch, leading)
	}
	p.resign(ErrPartitionGone, true)
	if _, _, err := p.Append(oneRecord(-1, 0), Acks{All: true}, nil, 0); !errors.Is(err, ErrPartitionGone) {
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
	if _, _, err := p.Append(oneRecord(-1, 0), Acks{All: true}, nil, 0); err != nil {
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
