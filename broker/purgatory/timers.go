package purgatory

import (
	"math/bits"
	"sync"
)

// The wheel: levels of 64 slots, each slot of a level as long as the whole level below.
// With 5 levels and 1 ms it reaches 12 days; what is later waits in the last slot and is
// sorted in again when its turn comes.
const (
	slotBits = 6
	slots    = 1 << slotBits
	levels   = 5
)

// Expirer is told that a timer's time has come, with the tag that it was scheduled with.
// A tag that is out of date means that the timer was stopped too late: ignore it.
type Expirer interface{ Expire(tag uint64) }

// Timer is one deadline. It must not be copied while it is scheduled.
type Timer struct {
	expirer    Expirer
	tag        uint64
	due        int64
	next, prev *Timer
	level      int8 // -1: not scheduled (held as level+1, so that zero is ready)
	slot       uint8
}

// Timers is a hierarchical timer wheel with a resolution of one millisecond: to schedule
// and to stop cost the same however many there are. It has no clock and no thread: the
// caller advances it.
type Timers struct {
	advancing sync.Mutex // held by Advance throughout; taken before mu
	expired   []expiry   // of the Advance under way

	mu    sync.Mutex // guards what follows, and all timers' fields
	now   int64      // everything due up to here has been expired
	count int
	wheel [levels][slots]*Timer
	used  [levels]uint64 // which slots are not empty

	// OnEarlier, when set before first use, is called with a new deadline that is
	// earlier than all others, without locks held.
	OnEarlier func(atMillis int64)
}

type expiry struct {
	expirer Expirer
	tag     uint64
}

// NewTimers returns a wheel that stands at a time.
func NewTimers(nowMillis int64) *Timers { return &Timers{now: nowMillis} }

// Schedule sets a timer; a timer that was set is moved. A deadline that has passed
// expires with the next Advance that moves the wheel, never in here.
func (t *Timers) Schedule(x *Timer, atMillis int64, e Expirer, tag uint64) {
	t.mu.Lock()
	t.unlink(x)
	first, any := t.nextLocked()
	x.expirer, x.tag = e, tag
	x.due = max(atMillis, t.now+1)
	t.link(x)
	earlier := !any || x.due < first
	due := x.due
	t.mu.Unlock()
	if earlier && t.OnEarlier != nil {
		t.OnEarlier(due)
	}
}

// Stop takes a timer out. False: it was not set, or Advance has taken it already, and
// its Expire may still come.
func (t *Timers) Stop(x *Timer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unlink(x)
}

// Len is the number of timers that are set.
func (t *Timers) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}

// Next says when Advance should be called: never after the first deadline. It may be
// before, when timers only move down the wheel then.
func (t *Timers) Next() (atMillis int64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nextLocked()
}

// Advance moves the wheel to a time and expires what is due by then, the earlier deadline
// first, equal ones in no order. It says how many there were. Time that goes back is ignored.
func (t *Timers) Advance(nowMillis int64) int {
	t.advancing.Lock()
	defer t.advancing.Unlock()
	t.mu.Lock()
	t.expired = t.expired[:0]
	for t.now < nowMillis {
		at, ok := t.nextLocked()
		if !ok || at > nowMillis {
			t.now = nowMillis
			break
		}
		t.now = at
		t.turn()
	}
	t.mu.Unlock()
	n := len(t.expired)
	for i := range t.expired {
		e := t.expired[i]
		t.expired[i] = expiry{}
		e.expirer.Expire(e.tag)
	}
	return n
}

// turn handles the slots that begin now: those of higher levels are sorted into lower
// ones, then the lowest level's slot has expired.
func (t *Timers) turn() {
	for level := levels - 1; level > 0; level-- {
		shift := uint(level) * slotBits
		if t.now&(1<<shift-1) != 0 {
			continue
		}
		slot := int(t.now>>shift) & (slots - 1)
		for x := t.wheel[level][slot]; x != nil; x = t.wheel[level][slot] {
			t.unlink(x)
			t.link(x)
		}
	}
	slot := int(t.now) & (slots - 1)
	for x := t.wheel[0][slot]; x != nil; x = t.wheel[0][slot] {
		t.unlink(x)
		t.expired = append(t.expired, expiry{x.expirer, x.tag})
		x.expirer = nil
	}
}

// link puts a timer into the slot where its time is found again. due >= now; due == now
// only while turn sorts it down into the slot that expires next.
func (t *Timers) link(x *Timer) {
	level, at := 0, x.due
	for level < levels-1 && (at>>(uint(level)*slotBits))-(t.now>>(uint(level)*slotBits)) >= slots {
		level++
	}
	shift := uint(level) * slotBits
	if farthest := (t.now >> shift) + slots - 1; at>>shift > farthest {
		at = farthest << shift // beyond the wheel: sorted in again from there
	}
	slot := int(at>>shift) & (slots - 1)
	x.level, x.slot = int8(level+1), uint8(slot)
	head := &t.wheel[level][slot]
	x.next, x.prev = *head, nil
	if x.next != nil {
		x.next.prev = x
	}
	*head = x
	t.used[level] |= 1 << slot
	t.count++
}

func (t *Timers) unlink(x *Timer) bool {
	if x.level == 0 {
		return false
	}
	level, slot := x.level-1, x.slot
	if x.prev != nil {
		x.prev.next = x.next
	} else {
		t.wheel[level][slot] = x.next
		if x.next == nil {
			t.used[level] &^= 1 << slot
		}
	}
	if x.next != nil {
		x.next.prev = x.prev
	}
	x.next, x.prev, x.level = nil, nil, 0
	t.count--
	return true
}

// nextLocked finds the beginning of the first slot that is not empty: a rotation of a
// bit mask for each level.
func (t *Timers) nextLocked() (int64, bool) {
	var next int64
	found := false
	for level := range levels {
		if t.used[level] == 0 {
			continue
		}
		shift := uint(level) * slotBits
		position := t.now >> shift
		// Slot 0 of the rotated mask is the one after the present position.
		rotated := bits.RotateLeft64(t.used[level], -int((position+1)&(slots-1)))
		at := (position + 1 + int64(bits.TrailingZeros64(rotated))) << shift
		if !found || at < next {
			next, found = at, true
		}
	}
	return next, found
}
