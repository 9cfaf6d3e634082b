package netpoll

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

type netipAddr = netip.Addr

func parseAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

// TestTimersLikeASortedList compares the heap with a list that is sorted at every step.
func TestTimersLikeASortedList(t *testing.T) {
	rng := newRand(t)
	l := &Loop{}
	type entry struct {
		at    int64
		id    int
		timer Timer
	}
	var list []entry
	fired := -1
	for id := range 20_000 {
		switch rng.IntN(4) {
		case 0, 1:
			at := l.now + int64(rng.IntN(50))
			list = append(list, entry{at, id, l.Schedule(at, taskFunc(func() { fired = id }))})
		case 2:
			if len(list) > 0 {
				i := rng.IntN(len(list))
				if !list[i].timer.Stop() {
					t.Fatal("a waiting timer could not be stopped")
				}
				if list[i].timer.Stop() {
					t.Fatal("a timer was stopped twice")
				}
				list = slices.Delete(list, i, i+1)
			}
		case 3:
			l.now += int64(rng.IntN(5))
			for {
				task, ok := l.timers.expire(l.now)
				if !ok {
					break
				}
				task.Run()
				i := slices.IndexFunc(list, func(e entry) bool { return e.id == fired })
				if i < 0 || list[i].at > l.now {
					t.Fatalf("timer %d fired at %d", fired, l.now)
				}
				for _, e := range list {
					if e.at < list[i].at {
						t.Fatalf("timer of %d fired before one of %d", list[i].at, e.at)
					}
				}
				if list[i].timer.Stop() {
					t.Fatal("a timer that has fired was stopped")
				}
				list = slices.Delete(list, i, i+1)
			}
			for _, e := range list {
				if e.at <= l.now {
					t.Fatalf("timer of %d did not fire at %d", e.at, l.now)
				}
			}
		}
	}
	if (Timer{}).Stop() {
		t.Error("the zero timer was stopped")
	}
}

func TestAfterRoundsUp(t *testing.T) {
	l := &Loop{now: 100}
	for _, c := range []struct {
		d  time.Duration
		at int64
	}{{0, 100}, {1, 101}, {time.Millisecond, 101}, {1500 * time.Microsecond, 102}} {
		tm := l.After(c.d, taskFunc(func() {}))
		if tm.node.at != c.at {
			t.Errorf("%v after 100 is %d, want %d", c.d, tm.node.at, c.at)
		}
		tm.Stop()
	}
}

// TestSlotsLikeAMap compares the ring with a map.
func TestSlotsLikeAMap(t *testing.T) {
	rng := newRand(t)
	l := &Loop{}
	var s slots
	answers := map[Slot]*Response{}
	var open []Slot
	next := Slot(0)
	for range 50_000 {
		if rng.IntN(2) == 0 && len(open) < 500 {
			open = append(open, s.begin())
		} else if len(open) > 0 {
			i := rng.IntN(min(len(open), 20))
			slot := open[i]
			open = slices.Delete(open, i, i+1)
			r := l.NewResponse()
			if rng.IntN(5) == 0 {
				s.put(slot, skipped)
				answers[slot] = nil
			} else {
				s.put(slot, r)
				answers[slot] = r
			}
		}
		for {
			r, ok := s.pop()
			want, there := answers[next]
			if ok != there || r != want {
				t.Fatalf("slot %d: got %p %t, want %p %t", next, r, ok, want, there)
			}
			if !ok {
				break
			}
			delete(answers, next)
			next++
		}
	}
	n := 0
	s.each(func(*Response) { n++ })
	want := 0
	for _, r := range answers {
		if r != nil {
			want++
		}
	}
	if n != want {
		t.Errorf("%d answers wait, want %d", n, want)
	}
	s.drop()
	if s.inflight() != 0 {
		t.Error("slots are left after drop")
	}
}

func mustPanic(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s did not panic", what)
		}
	}()
	f()
}

func TestOwnBugsPanic(t *testing.T) {
	l := &Loop{}
	var s slots
	a := s.begin()
	mustPanic(t, "answering a slot that was not begun", func() { s.put(a+1, l.NewResponse()) })
	b := s.begin()
	s.put(b, l.NewResponse())
	mustPanic(t, "answering a slot twice", func() { s.put(b, l.NewResponse()) })
	m := newMemory(1<<20, 1)
	k := m.alloc(100)
	m.charge(len(k.mem))
	k.Release()
	mustPanic(t, "releasing a chunk twice", func() { k.Release() })
	r := l.NewResponse()
	r.Append([]byte("abc"))
	mustPanic(t, "committing less than there was", func() { r.Commit(nil) })
}

func TestMemoryChunksAreDistinctAndCounted(t *testing.T) {
	rng := newRand(t)
	m := newMemory(1<<30, 1)
	type taken struct {
		k    *chunk
		mark byte
		size int
	}
	var all []taken
	var sum int64
	for i := range 3000 {
		if rng.IntN(2) == 0 || len(all) == 0 {
			n := 1 + rng.IntN(1<<rng.IntN(23))
			m.charge(sizeFor(n))
			k := m.alloc(n)
			if len(k.mem) < n || len(k.mem) != sizeFor(n) {
				t.Fatalf("asked for %d, got %d", n, len(k.mem))
			}
			mark := byte(i)
			k.mem[0], k.mem[len(k.mem)-1] = mark, mark
			all = append(all, taken{k, mark, len(k.mem)})
			sum += int64(len(k.mem))
		} else {
			j := rng.IntN(len(all))
			x := all[j]
			if x.k.mem[0] != x.mark || x.k.mem[x.size-1] != x.mark {
				t.Fatal("two chunks share bytes")
			}
			if x.k.class == mappedClass && rng.IntN(2) == 0 {
				m.charge(1 << 20)
				m.grow(x.k, x.size+1<<20)
				if x.k.mem[0] != x.mark || x.k.mem[x.size-1] != x.mark {
					t.Fatal("bytes were lost by growing")
				}
				sum += 1 << 20
			}
			sum -= int64(len(x.k.mem))
			x.k.Release()
			all = slices.Delete(all, j, j+1)
		}
		if i%100 == 0 {
			m.trim()
		}
		if m.used.Load() != sum {
			t.Fatalf("%d charged, %d in use", m.used.Load(), sum)
		}
	}
	for _, x := range all {
		x.k.Release()
	}
	for m.trim() {
	}
	if m.idle.Load() != 0 || m.used.Load() != 0 {
		t.Error("memory is left")
	}
}

func TestMemoryLeavesRoomForSmallFrames(t *testing.T) {
	m := newMemory(64<<20, 1)
	for m.admit(1<<20, 100<<20) {
	}
	if used := m.used.Load(); used != 56<<20 {
		t.Errorf("large frames took %d of %d", used, m.total)
	}
	for m.admit(256<<10, 1<<20) {
	}
	if used := m.used.Load(); used < 62<<20 || used > 64<<20-256<<10 {
		t.Errorf("with middling ones %d", used)
	}
	if !m.admit(16<<10, 16<<10) {
		t.Error("a small frame was refused")
	}
	woken := 0
	m.onFree = func() { woken++ }
	m.uncharge(100)
	m.hungry.Store(true)
	m.uncharge(100)
	m.uncharge(100)
	if woken != 1 {
		t.Errorf("woken %d times", woken)
	}
}

func TestResponseIsReusedClean(t *testing.T) {
	l := &Loop{}
	rng := rand.New(rand.NewPCG(5, 6))
	for range 1000 {
		r := l.NewResponse()
		if len(r.Buffer()) != sizeBytes || len(r.parts) != 0 || r.Len() != 0 || r.next != nil || r.at != 0 {
			t.Fatalf("not clean: %+v", r)
		}
		o := new(owner)
		for range rng.IntN(5) {
			r.Append(make([]byte, rng.IntN(100_000)))
			r.AppendMem(make([]byte, rng.IntN(10)), nil)
		}
		r.AppendMem([]byte{1}, o)
		r.AppendFile(0, 0, 0, nil)
		if rng.IntN(2) == 0 {
			r.seal()
		}
		r.Drop()
		if o.released.Load() != 1 {
			t.Fatal("owner not released")
		}
	}
	if len(l.responses) > responsesKeptMax {
		t.Errorf("%d responses are kept", len(l.responses))
	}
}
