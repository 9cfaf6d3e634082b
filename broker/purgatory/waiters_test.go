package purgatory

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// operation is a request that waits.
type operation struct {
	Wait[int]
	reasons []Reason
}

func (o *operation) Complete(r Reason) { o.reasons = append(o.reasons, r) }

func (o *operation) want(t *testing.T, reasons ...Reason) {
	t.Helper()
	if len(o.reasons) != len(reasons) {
		t.Fatalf("completed %v, want %v", o.reasons, reasons)
	}
	for i := range reasons {
		if o.reasons[i] != reasons[i] {
			t.Fatalf("completed %v, want %v", o.reasons, reasons)
		}
	}
}

func newWaiters() (*Waiters[int], *Timers) {
	timers := NewTimers(0)
	return NewWaiters[int](timers), timers
}

func (w *Waiters[K]) wantEmpty(t *testing.T) {
	t.Helper()
	if w.Len() != 0 || w.timers.Len() != 0 {
		t.Fatalf("%d wait, %d timers", w.Len(), w.timers.Len())
	}
	for i := range w.buckets {
		if b := &w.buckets[i]; b.count.Load() != 0 || len(b.lists) != 0 {
			t.Fatalf("bucket %d: %d links, %d keys", i, b.count.Load(), len(b.lists))
		}
	}
}

func TestProgressOnAnyKeyCompletesOnce(t *testing.T) {
	for _, key := range []int{1, 2, 3} {
		w, timers := newWaiters()
		var o operation
		if !w.Watch(&o.Wait, &o, 100, []On[int]{{1, 10}, {2, 10}, {3, 10}}) {
			t.Fatal("refused")
		}
		if w.Progress(4, 99) != 0 || w.Progress(key, 10) != 0 {
			t.Fatal("completed by another key, or by what it knew")
		}
		if w.Progress(key, 11) != 1 || w.Progress(key, 12) != 0 || w.Progress(1, 99) != 0 {
			t.Fatal("not completed once")
		}
		timers.Advance(1000)
		o.want(t, Progressed)
		w.wantEmpty(t)
	}
}

func TestDeadlineCompletesOnce(t *testing.T) {
	w, timers := newWaiters()
	var o operation
	w.Watch(&o.Wait, &o, 100, []On[int]{{1, 0}, {2, 0}})
	timers.Advance(99)
	o.want(t)
	timers.Advance(100)
	o.want(t, Expired)
	if w.Progress(1, 1) != 0 || w.Cancel(&o.Wait) {
		t.Fatal("was over")
	}
	w.wantEmpty(t)
}

func TestCancelledIsNotCompleted(t *testing.T) {
	w, timers := newWaiters()
	var o operation
	if w.Cancel(&o.Wait) {
		t.Fatal("it did not wait")
	}
	w.Watch(&o.Wait, &o, 100, []On[int]{{1, 0}})
	if !w.Cancel(&o.Wait) || w.Cancel(&o.Wait) {
		t.Fatal("cancels once")
	}
	w.Progress(1, 1)
	timers.Advance(100)
	o.want(t)
	w.wantEmpty(t)
}

func TestWaitIsUsedAgain(t *testing.T) {
	w, timers := newWaiters()
	var o operation
	w.Watch(&o.Wait, &o, NoDeadline, []On[int]{{1, 0}})
	w.Progress(1, 1)
	w.Watch(&o.Wait, &o, 50, []On[int]{{1, 1}, {1, 5}, {2, 0}})
	timers.Advance(50)
	w.Watch(&o.Wait, &o, 60, nil)
	timers.Advance(60)
	w.Watch(&o.Wait, &o, NoDeadline, []On[int]{{7, 1 << 60}})
	w.Drop(7)
	o.want(t, Progressed, Expired, Expired, Progressed)
	w.wantEmpty(t)
}

// What is left of an earlier use must not end a later one.
func TestLateExpiryOfAnEarlierUseIsIgnored(t *testing.T) {
	w, _ := newWaiters()
	var o operation
	w.Watch(&o.Wait, &o, 100, []On[int]{{1, 0}})
	stale := o.state.Load() &^ phaseMask
	w.Progress(1, 1)
	w.Watch(&o.Wait, &o, 200, []On[int]{{1, 1}})
	o.Expire(stale)
	o.want(t, Progressed)
	if !w.Cancel(&o.Wait) {
		t.Fatal("it waited")
	}
}

func TestProgressWhileArmingRefusesToWait(t *testing.T) {
	w, _ := newWaiters()
	var o operation
	// As between two keys of Watch, on another thread.
	o.state.Store(1<<phaseBits | arming)
	w.link(&link[int]{}, &o.Wait, &On[int]{1, 0})
	if w.Progress(1, 1) != 0 || o.state.Load()&phaseMask != missed {
		t.Fatal("not told")
	}
	o.want(t)
}

func TestWaitersComeInTheOrderOfWaiting(t *testing.T) {
	w, _ := newWaiters()
	var order []int
	waits := make([]Wait[int], 5)
	for i := range waits {
		w.Watch(&waits[i], completeFunc(func(Reason) { order = append(order, i) }), NoDeadline, []On[int]{{1, 0}})
	}
	w.Cancel(&waits[0])
	w.Cancel(&waits[2])
	w.Cancel(&waits[4])
	w.Progress(1, 1)
	if len(order) != 2 || order[0] != 1 || order[1] != 3 {
		t.Fatalf("order %v", order)
	}
	w.wantEmpty(t)
}

type completeFunc func(Reason)

func (f completeFunc) Complete(r Reason) { f(r) }

func TestCompleteMayWatchAgain(t *testing.T) {
	w, _ := newWaiters()
	var x Wait[int]
	n := 0
	var again completeFunc
	again = func(Reason) {
		if n++; n < 5 {
			w.Watch(&x, again, NoDeadline, []On[int]{{1, int64(n)}})
		}
	}
	w.Watch(&x, again, NoDeadline, []On[int]{{1, 0}})
	for v := range int64(10) {
		w.Progress(1, v)
	}
	if n != 5 {
		t.Fatalf("completed %d times", n)
	}
	w.wantEmpty(t)
}

func TestWatchOfAWaitInUsePanics(t *testing.T) {
	w, _ := newWaiters()
	var o operation
	w.Watch(&o.Wait, &o, NoDeadline, nil)
	defer func() {
		if recover() == nil {
			t.Fatal("no panic")
		}
	}()
	w.Watch(&o.Wait, &o, NoDeadline, nil)
}

// worker is a consumer that waits for values of some keys, again and again, as a fetch
// does: look, wait, look again, cancel if there was something.
type worker struct {
	Wait[int]
	woken     chan Reason
	completed atomic.Int64
}

func (k *worker) Complete(r Reason) { k.completed.Add(1); k.woken <- r }

// Every round of every waiter ends exactly once, and none misses progress, though
// everything happens at the same time.
func TestConcurrentWaitsEndExactlyOnce(t *testing.T) {
	const keys, workers = 8, 8
	rounds := 800
	if testing.Short() {
		rounds = 300
	}
	w, timers := newWaiters()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var values [keys]atomic.Int64
	var stop atomic.Bool
	var background, foreground sync.WaitGroup
	for p := range 2 {
		background.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(p)))
			for !stop.Load() {
				key := rng.IntN(keys)
				w.Progress(key, values[key].Add(1))
				if rng.IntN(50) == 0 {
					time.Sleep(50 * time.Microsecond)
				}
			}
		})
	}
	background.Go(func() {
		for now := int64(1); !stop.Load(); now++ {
			timers.Advance(now)
			time.Sleep(20 * time.Microsecond)
		}
	})
	var progressed, expired, cancelled, refused atomic.Int64
	for i := range workers {
		foreground.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(100+i)))
			k := &worker{woken: make(chan Reason, 2)}
			for round := range rounds {
				var on []On[int]
				for range 1 + rng.IntN(4) {
					key := rng.IntN(keys)
					// Some ask for what is far away: their deadline ends it.
					on = append(on, On[int]{key, values[key].Load() + int64(rng.IntN(3))*1_000_000})
				}
				timers.mu.Lock()
				now := timers.now
				timers.mu.Unlock()
				before := k.completed.Load()
				if !w.Watch(&k.Wait, k, now+int64(rng.IntN(20)), on) {
					refused.Add(1)
					continue
				}
				there := false
				for _, o := range on {
					there = there || values[o.Key].Load() > o.Above
				}
				if (there || rng.IntN(10) == 0) && w.Cancel(&k.Wait) {
					cancelled.Add(1)
					if k.completed.Load() != before {
						t.Errorf("worker %d round %d: cancelled and completed", i, round)
					}
					continue
				}
				select {
				case r := <-k.woken:
					if r == Progressed {
						progressed.Add(1)
						there = false
						for _, o := range on {
							there = there || values[o.Key].Load() > o.Above
						}
						if !there {
							t.Errorf("worker %d round %d: woken for nothing", i, round)
						}
					} else {
						expired.Add(1)
					}
				case <-time.After(20 * time.Second):
					t.Errorf("worker %d round %d: never woken", i, round)
					return
				}
				if k.completed.Load() != before+1 {
					t.Errorf("worker %d round %d: completed %d times", i, round, k.completed.Load()-before)
				}
			}
		})
	}
	foreground.Wait()
	stop.Store(true)
	background.Wait()
	t.Logf("progressed %d, expired %d, cancelled %d, refused %d", progressed.Load(), expired.Load(), cancelled.Load(), refused.Load())
	w.wantEmpty(t)
}

func BenchmarkWaitAndProgress(b *testing.B) {
	w, _ := newWaiters()
	var o nothing
	on := []On[int]{{1, 0}, {2, 0}, {3, 0}, {4, 0}}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.Watch(&o.Wait, &o, int64(i%500), on)
		w.Progress(3, 1)
	}
}

func BenchmarkProgressOfKeyNobodyWaitsFor(b *testing.B) {
	w, _ := newWaiters()
	for i := 0; b.Loop(); i++ {
		w.Progress(i, 1)
	}
}

type nothing struct{ Wait[int] }

func (*nothing) Complete(Reason) {}
