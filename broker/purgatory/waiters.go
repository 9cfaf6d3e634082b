package purgatory

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
)

// Reason says why a Wait is over.
type Reason uint8

const (
	// Progressed says that one of the keys has moved on.
	Progressed Reason = iota + 1
	// Expired says that the deadline has come.
	Expired
)

// Completer is told once that a Wait is over. It must not block.
type Completer interface{ Complete(Reason) }

// On is a key with what is known of it: the wait is over when the key's value is
// greater than Above.
type On[K comparable] struct {
	Key   K
	Above int64
}

// The state of a Wait is its generation and one of these, in one word: so that what is
// left of an earlier use (a timer that fired late) cannot touch a later one.
const (
	idle       uint64 = iota
	arming            // Watch is putting it under its keys
	missed            // progress came while it was arming
	armed             // it waits
	completing        // somebody won, and is taking it out
	phaseBits  = 3
	phaseMask  = 1<<phaseBits - 1
)

// Wait is one operation that waits. The zero value is ready; it lives in the request that
// waits and is used again with it. It must not be copied while it is watched.
type Wait[K comparable] struct {
	state     atomic.Uint64 // generation<<phaseBits | phase
	waiters   *Waiters[K]
	completer Completer
	links     []link[K]
	timed     bool
	timer     Timer
	next      *Wait[K] // of those that one Progress completes
}

// link is a Wait under one of its keys.
type link[K comparable] struct {
	wait       *Wait[K]
	list       *list[K] // nil: not linked. Guarded, like the rest, by the bucket
	bucket     *bucket[K]
	above      int64
	next, prev *link[K]
}

// list is all waits of one key.
type list[K comparable] struct {
	key   K
	first *link[K]
	free  *list[K] // of the bucket's lists that are not used
}

// bucketCount spreads the keys over locks. A power of two.
const bucketCount = 64

// bucket holds a part of the keys.
type bucket[K comparable] struct {
	count atomic.Int64 // links; Progress on a bucket that nobody watches takes no lock
	mu    sync.Mutex   // guards the rest
	lists map[K]*list[K]
	free  *list[K]
	_     [64]byte // no two locks in one cache line
}

// Waiters are the operations that wait, by key. Safe for concurrent use.
type Waiters[K comparable] struct {
	timers  *Timers
	seed    maphash.Seed
	buckets [bucketCount]bucket[K]
	waiting atomic.Int64
}

// NewWaiters returns an empty purgatory whose deadlines are in timers.
func NewWaiters[K comparable](timers *Timers) *Waiters[K] {
	w := &Waiters[K]{timers: timers, seed: maphash.MakeSeed()}
	for i := range w.buckets {
		w.buckets[i].lists = map[K]*list[K]{}
	}
	return w
}

// Len is how many operations wait.
func (w *Waiters[K]) Len() int { return int(w.waiting.Load()) }

// NoDeadline is a deadline that never comes.
const NoDeadline = math.MaxInt64

// Watch lets x wait for progress on any of the keys, or for its deadline. False: one of
// them came meanwhile, x does not wait and Complete is not called. A key may come more
// than once.
func (w *Waiters[K]) Watch(x *Wait[K], c Completer, deadlineMillis int64, on []On[K]) bool {
	before := x.state.Load()
	if before&phaseMask != idle {
		panic("BUG: a Wait that is in use is watched again")
	}
	generation := (before>>phaseBits + 1) << phaseBits
	x.waiters, x.completer, x.timed = w, c, deadlineMillis != NoDeadline
	if cap(x.links) < len(on) {
		x.links = make([]link[K], len(on))
	}
	x.links = x.links[:len(on)]
	x.state.Store(generation | arming)
	w.waiting.Add(1)
	for i := range on {
		w.link(&x.links[i], x, &on[i])
	}
	if x.timed {
		w.timers.Schedule(&x.timer, deadlineMillis, x, generation)
	}
	if x.state.CompareAndSwap(generation|arming, generation|armed) {
		return true
	}
	x.takeOut(generation)
	return false
}

// Cancel ends a wait without completing it. False: it does not wait, or somebody is
// completing it.
func (w *Waiters[K]) Cancel(x *Wait[K]) bool {
	state := x.state.Load()
	if state&phaseMask != armed || !x.state.CompareAndSwap(state, state&^phaseMask|completing) {
		return false
	}
	x.takeOut(state &^ phaseMask)
	return true
}

// Progress tells that a key has got to a value, and completes those who waited for less.
// It says how many.
func (w *Waiters[K]) Progress(key K, value int64) int {
	b := w.bucket(key)
	if b.count.Load() == 0 {
		return 0
	}
	var won, last *Wait[K]
	b.mu.Lock()
	if l := b.lists[key]; l != nil {
		for k := l.first; k != nil; k = k.next {
			if k.above >= value || !k.wait.win() {
				continue
			}
			// In the order of the list, which is that of waiting.
			k.wait.next = nil
			if last == nil {
				won = k.wait
			} else {
				last.next = k.wait
			}
			last = k.wait
		}
	}
	b.mu.Unlock()
	n := 0
	for won != nil {
		x := won
		won, x.next = x.next, nil
		x.complete(Progressed)
		n++
	}
	return n
}

// Drop completes all that wait for a key, whatever for: the key is gone.
func (w *Waiters[K]) Drop(key K) int { return w.Progress(key, math.MaxInt64) }

// win claims a wait that is linked, under its bucket's lock. A wait that is still arming
// is told that it is too late to wait; that is no win.
func (x *Wait[K]) win() bool {
	for {
		state := x.state.Load()
		switch generation := state &^ phaseMask; state & phaseMask {
		case armed:
			if x.state.CompareAndSwap(state, generation|completing) {
				return true
			}
		case arming:
			if x.state.CompareAndSwap(state, generation|missed) {
				return false
			}
		default:
			return false
		}
	}
}

// Expire implements Expirer, for the wheel.
func (x *Wait[K]) Expire(generation uint64) {
	for {
		switch x.state.Load() {
		case generation | armed:
			if x.state.CompareAndSwap(generation|armed, generation|completing) {
				x.complete(Expired)
				return
			}
		case generation | arming: // a deadline that short
			if x.state.CompareAndSwap(generation|arming, generation|missed) {
				return
			}
		default:
			return
		}
	}
}

// complete ends a wait that was won.
func (x *Wait[K]) complete(r Reason) {
	c := x.completer
	x.takeOut(x.state.Load() &^ phaseMask)
	c.Complete(r) // x may be used again from here on, by another thread too
}

// takeOut removes a wait from its keys and from the wheel, and frees it.
func (x *Wait[K]) takeOut(generation uint64) {
	w := x.waiters
	if x.timed {
		w.timers.Stop(&x.timer)
	}
	for i := range x.links {
		x.links[i].unlink()
	}
	x.completer = nil
	w.waiting.Add(-1)
	x.state.Store(generation) // and idle, which is zero
}

func (w *Waiters[K]) bucket(key K) *bucket[K] {
	return &w.buckets[maphash.Comparable(w.seed, key)&(bucketCount-1)]
}

// link puts a wait at the end of a key's list.
func (w *Waiters[K]) link(k *link[K], x *Wait[K], on *On[K]) {
	b := w.bucket(on.Key)
	// Counted before the lock is taken: a Progress that sees no count must be earlier
	// than anything that the owner looks at after Watch.
	b.count.Add(1)
	b.mu.Lock()
	l := b.lists[on.Key]
	if l == nil {
		if l = b.free; l != nil {
			b.free, l.free = l.free, nil
		} else {
			l = &list[K]{}
		}
		l.key = on.Key
		b.lists[on.Key] = l
	}
	k.wait, k.list, k.bucket, k.above = x, l, b, on.Above
	if l.first == nil {
		l.first, k.prev, k.next = k, k, nil
	} else {
		// The first link's prev is the last link.
		last := l.first.prev
		last.next, k.prev, k.next = k, last, nil
		l.first.prev = k
	}
	b.mu.Unlock()
}

func (k *link[K]) unlink() {
	b := k.bucket
	b.mu.Lock()
	l := k.list
	if k == l.first {
		l.first = k.next
	} else {
		k.prev.next = k.next
	}
	switch {
	case k.next != nil:
		k.next.prev = k.prev
	case l.first != nil: // it was the last
		l.first.prev = k.prev
	default:
		delete(b.lists, l.key)
		var none K
		l.key = none
		l.free, b.free = b.free, l
	}
	k.wait, k.list, k.next, k.prev = nil, nil, nil, nil
	b.mu.Unlock()
	b.count.Add(-1)
}
