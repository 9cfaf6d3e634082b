package group

import (
	"container/heap"
	"time"
)

// timer is one pending deadline of a shard. It sits in at most one place of the
// heap; a timer that is not armed has index -1.
type timer struct {
	at    time.Time
	seq   uint64 // order of arming: equal deadlines fire in it
	index int
	fire  func(*Shard)
}

// timers is a heap of what is armed. The zero value is ready.
type timers struct {
	armed []*timer
	seq   uint64
}

func newTimer(fire func(*Shard)) *timer { return &timer{index: -1, fire: fire} }

// arm sets a timer, or moves it when it was armed.
func (t *timers) arm(x *timer, at time.Time) {
	t.seq++
	x.at, x.seq = at, t.seq
	if x.index < 0 {
		heap.Push(t, x)
		return
	}
	heap.Fix(t, x.index)
}

func (t *timers) disarm(x *timer) {
	if x.index >= 0 {
		heap.Remove(t, x.index)
	}
}

// next is the earliest deadline.
func (t *timers) next() (time.Time, bool) {
	if len(t.armed) == 0 {
		return time.Time{}, false
	}
	return t.armed[0].at, true
}

// due takes one timer whose deadline is reached and that was armed no later than
// upTo: a timer that arms itself again at once must not hold its caller for ever.
func (t *timers) due(now time.Time, upTo uint64) *timer {
	if len(t.armed) == 0 || t.armed[0].at.After(now) || t.armed[0].seq > upTo {
		return nil
	}
	return heap.Pop(t).(*timer)
}

// The heap's own methods.

func (t *timers) Len() int { return len(t.armed) }

func (t *timers) Less(i, j int) bool {
	a, b := t.armed[i], t.armed[j]
	if a.at.Equal(b.at) {
		return a.seq < b.seq
	}
	return a.at.Before(b.at)
}

func (t *timers) Swap(i, j int) {
	t.armed[i], t.armed[j] = t.armed[j], t.armed[i]
	t.armed[i].index, t.armed[j].index = i, j
}

// Push implements heap.Interface.
func (t *timers) Push(x any) {
	y := x.(*timer)
	y.index = len(t.armed)
	t.armed = append(t.armed, y)
}

// Pop implements heap.Interface.
func (t *timers) Pop() any {
	last := len(t.armed) - 1
	x := t.armed[last]
	t.armed[last] = nil
	t.armed = t.armed[:last]
	x.index = -1
	return x
}
