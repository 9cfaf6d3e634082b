package sim

import (
	"container/heap"
	"fmt"
	"time"
)

// event is something that happens at a time; of one time in the order in which they were asked for.
type event struct {
	at  time.Duration
	seq uint64
	f   func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*h = old[:len(old)-1]
	return e
}

// after lets f happen in a while.
func (w *world) after(d time.Duration, f func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now + max(d, 0), w.seq, f})
}

// every lets f happen again and again.
func (w *world) every(d time.Duration, f func()) {
	w.after(d, func() { f(); w.every(d, f) })
}

// pass lets time go by.
func (w *world) pass(d time.Duration) {
	end := w.now + d
	for len(w.queue) > 0 && w.queue[0].at <= end {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		w.events++
		e.f()
	}
	w.now = end
}

// until lets time go by until ok, at most for d.
func (w *world) until(d time.Duration, ok func() bool) bool {
	for end := w.now + d; w.now < end; {
		if ok() {
			return true
		}
		w.pass(50 * ms)
	}
	return ok()
}

// between draws a time.
func (w *world) between(from, to time.Duration) time.Duration {
	return from + time.Duration(w.rng.Int64N(int64(to-from)+1))
}

// chance is true in n of 100 cases.
func (w *world) chance(n int) bool { return w.rng.IntN(100) < n }

// wall is the time of day.
func (w *world) wall() time.Time { return time.Unix(1_700_000_000, 0).Add(w.now) }

// failure is what a run ends with when a rule is broken.
type failure string

// fail ends the run.
func (w *world) fail(format string, args ...any) {
	panic(failure(fmt.Sprintf("at %v: ", w.now) + fmt.Sprintf(format, args...)))
}

// tracef notes an event for people. The hash of all of them tells whether two runs were the same.
func (w *world) tracef(format string, args ...any) {
	if w.verbose {
		w.trace = append(w.trace, fmt.Sprintf("%9.4f ", w.now.Seconds())+fmt.Sprintf(format, args...))
	}
}

// note mixes numbers into the effect hash: what happened, and when.
func (w *world) note(values ...int64) {
	h := w.effect
	for _, v := range append(values, int64(w.now)) {
		for range 8 {
			h = (h ^ uint64(v)&0xff) * 1099511628211
			v >>= 8
		}
	}
	w.effect = h
}

const ms = time.Millisecond
