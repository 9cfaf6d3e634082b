//go:build !race

package purgatory

import "testing"

func TestWaitingAllocatesNothing(t *testing.T) {
	w, timers := newWaiters()
	var o nothing
	on := []On[int]{{1, 0}, {2, 0}, {3, 0}}
	now := int64(0)
	if n := testing.AllocsPerRun(1000, func() {
		w.Watch(&o.Wait, &o, now+500, on)
		w.Progress(2, 1)
		w.Watch(&o.Wait, &o, now+1, on)
		now += 2
		timers.Advance(now)
		w.Watch(&o.Wait, &o, now+500, on)
		w.Cancel(&o.Wait)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
