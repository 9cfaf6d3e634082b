package purgatory

import (
	"testing"

	"pgregory.net/rapid"
)

type noted struct {
	tags  []uint64
	times []int64
	now   *int64
}

func (n *noted) Expire(tag uint64) {
	n.tags = append(n.tags, tag)
	if n.now != nil {
		n.times = append(n.times, *n.now)
	}
}

func TestTimerExpiresOnce(t *testing.T) {
	w := NewTimers(1000)
	var n noted
	var x Timer
	w.Schedule(&x, 1500, &n, 7)
	if w.Advance(1499) != 0 || w.Advance(1500) != 1 || w.Advance(9999) != 0 {
		t.Fatalf("expired %v", n.tags)
	}
	if len(n.tags) != 1 || n.tags[0] != 7 || w.Len() != 0 {
		t.Fatalf("expired %v, left %d", n.tags, w.Len())
	}
}

func TestTimerStopsAndMoves(t *testing.T) {
	w := NewTimers(0)
	var n noted
	var x, y Timer
	if w.Stop(&x) {
		t.Fatal("stopped what was not set")
	}
	w.Schedule(&x, 10, &n, 1)
	w.Schedule(&y, 10, &n, 2)
	if !w.Stop(&x) || w.Stop(&x) {
		t.Fatal("stops once")
	}
	w.Schedule(&y, 100_000, &n, 3)
	if w.Advance(99_999) != 0 || w.Advance(100_000) != 1 || n.tags[0] != 3 {
		t.Fatalf("expired %v", n.tags)
	}
	if _, ok := w.Next(); ok {
		t.Fatal("nothing is left")
	}
}

func TestPastDeadlineExpiresWithTheNextAdvance(t *testing.T) {
	w := NewTimers(1000)
	var n noted
	var x Timer
	w.Schedule(&x, 5, &n, 1)
	if len(n.tags) != 0 || w.Advance(1001) != 1 {
		t.Fatalf("expired %v", n.tags)
	}
}

func TestOnEarlierTellsOfANewFirstDeadline(t *testing.T) {
	w := NewTimers(0)
	var told []int64
	w.OnEarlier = func(at int64) { told = append(told, at) }
	var n noted
	x := make([]Timer, 4)
	for i, at := range []int64{50, 60, 40, 45} {
		w.Schedule(&x[i], at, &n, 0)
	}
	if len(told) != 2 || told[0] != 50 || told[1] != 40 {
		t.Fatalf("told %v", told)
	}
}

// The wheel against the simplest thing that could work.
func TestTimersAreLikeAList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := rapid.Int64Range(0, 1<<40).Draw(t, "start")
		w := NewTimers(now)
		n := &noted{now: &now}
		timers := make([]Timer, 8)
		due := map[int]int64{}
		// Near, far, beyond the wheel, and at the edges of its levels.
		ahead := func() int64 {
			level := rapid.IntRange(0, levels+1).Draw(t, "level")
			return max(rapid.Int64Range(0, 1<<(slotBits*level)).Draw(t, "ahead")+rapid.Int64Range(-2, 2).Draw(t, "edge"), 0)
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			i := rapid.IntRange(0, len(timers)-1).Draw(t, "timer")
			switch rapid.SampledFrom([]string{"schedule", "schedule", "stop", "advance", "next"}).Draw(t, "step") {
			case "schedule":
				at := now + ahead()
				w.Schedule(&timers[i], at, n, uint64(i))
				due[i] = max(at, now+1)
			case "stop":
				_, set := due[i]
				if w.Stop(&timers[i]) != set {
					t.Fatalf("timer %d: set %t", i, set)
				}
				delete(due, i)
			case "next", "advance":
				to := now + ahead()
				if at, ok := w.Next(); ok != (len(due) > 0) {
					t.Fatalf("next %d %t, with %v", at, ok, due)
				} else if ok && rapid.Bool().Draw(t, "to next") {
					to = at
				}
				n.tags = nil
				w.Advance(to)
				now = max(now, to)
				expired := map[int]bool{}
				last := int64(0)
				for _, tag := range n.tags {
					at, set := due[int(tag)]
					if !set || at > now || at < last {
						t.Fatalf("at %d expired %d, due %d (set %t), after %d", now, tag, at, set, last)
					}
					last = at
					delete(due, int(tag))
					expired[int(tag)] = true
				}
				for i, at := range due {
					if at <= now {
						t.Fatalf("at %d: %d was due at %d", now, i, at)
					}
				}
			}
			if w.Len() != len(due) {
				t.Fatalf("%d timers, want %d", w.Len(), len(due))
			}
			for _, at := range due {
				if next, ok := w.Next(); !ok || next > at || next <= now {
					t.Fatalf("next is %d, at %d, and %d is due", next, now, at)
				}
			}
		}
	})
}

func BenchmarkTimersScheduleStop(b *testing.B) {
	w := NewTimers(0)
	var n noted
	crowd := make([]Timer, 10_000)
	for i := range crowd {
		w.Schedule(&crowd[i], int64(500+i%500), &n, 0)
	}
	var x Timer
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.Schedule(&x, int64(500+i%500), &n, 0)
		w.Stop(&x)
	}
}
