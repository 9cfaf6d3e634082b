package engine

import (
	"sync/atomic"

	"millrace/engine/batch"
	"millrace/engine/disk"
)

// slab is one piece of a shard's tail ring. Commits are built in it, written from it,
// and stay in it as the cache of their logs' tails until the ring wants it back.
//
//	free -> filling -> full, busy > 0 -> clean (busy == 0) -> evicted = free
//
// busy and pins are the only fields that other threads than the driver touch
// without the shard's lock.
type slab struct {
	mem []byte
	own *disk.Slab
	fin int // index, for messages

	used int  // bytes given to commits; guarded by Shard.mu
	warm bool // its pages are there; guarded by Shard.mu

	// busy counts reasons why the bytes are needed by the engine itself: one while it
	// is being filled, one a commit not yet written, one a batch not yet moved to
	// its segment.
	busy atomic.Int32
	// pins counts spans handed to readers; -1 while the slab is free. A reader may pin only
	// while it holds the mutex of a log whose tail index has an entry here.
	pins atomic.Int32

	// logs have entries in their tail indexes that point here. Guarded by Shard.mu.
	logs []*Log
}

// pin takes a reference for a span. It fails when the slab is being evicted.
func (b *slab) pin() bool {
	for {
		n := b.pins.Load()
		if n < 0 {
			return false
		}
		if b.pins.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Release gives a span's reference back. It implements Releaser.
func (b *slab) Release() {
	if b.pins.Add(-1) < 0 {
		panic("BUG: span released twice")
	}
}

// newSlabs allocates the ring of a shard.
func newSlabs(ringBytes int64, slabBytes int) ([]*slab, error) {
	slabs := make([]*slab, 0, ringBytes/int64(slabBytes))
	for i := range int(ringBytes / int64(slabBytes)) {
		own, err := disk.NewSlab(slabBytes)
		if err != nil {
			freeSlabs(slabs)
			return nil, err
		}
		b := &slab{mem: own.Bytes(), own: own, fin: i}
		b.pins.Store(-1)
		slabs = append(slabs, b)
	}
	return slabs, nil
}

func freeSlabs(slabs []*slab) {
	for _, b := range slabs {
		b.own.Free()
	}
}

// tailEntry locates one batch of a log in the ring.
type tailEntry struct {
	base int64
	seq  uint64 // of the record within the log
	lsn  uint64
	slab *slab
	pos  uint32
	size uint32
}

// next is the offset after the batch.
func (e *tailEntry) next() int64 {
	return e.base + int64(batch.PeekLastOffsetDelta(e.slab.mem[e.pos:e.pos+e.size])) + 1
}

// tailIndex is the queue of a log's batches that are in the ring, in offset order.
// Entries before moved are in the segment (or tail block) as well. Not safe for
// concurrent use.
type tailIndex struct {
	entries []tailEntry // live ones start at head
	head    int
	moved   int // absolute index into entries
}

func (t *tailIndex) len() int { return len(t.entries) - t.head }

func (t *tailIndex) at(i int) *tailEntry { return &t.entries[t.head+i] }

// live returns the entries, oldest first.
func (t *tailIndex) live() []tailEntry { return t.entries[t.head:] }

// unmoved returns the entries that are not in the segment yet.
func (t *tailIndex) unmoved() []tailEntry { return t.entries[t.moved:] }

func (t *tailIndex) push(e tailEntry) { t.entries = append(t.entries, e) }

// dropFront removes the first n live entries; all must have been moved.
func (t *tailIndex) dropFront(n int) {
	t.head += n
	if t.head > t.moved {
		panic("BUG: batch evicted before it was moved to its segment")
	}
	switch {
	case t.head == len(t.entries):
		if cap(t.entries) > 64 {
			t.entries = nil // an idle log keeps no memory
		}
		t.entries = t.entries[:0]
		t.head, t.moved = 0, 0
	case t.head > 64 && t.head > len(t.entries)/2:
		n := copy(t.entries, t.entries[t.head:])
		clear(t.entries[n:])
		t.entries = t.entries[:n]
		t.moved -= t.head
		t.head = 0
	}
}

// dropBack removes the last entries with base >= offset and calls drop for each that
// had not been moved.
func (t *tailIndex) cutFrom(n int, drop func(*tailEntry)) {
	for i := t.head + n; i < len(t.entries); i++ {
		if i >= t.moved {
			drop(&t.entries[i])
		}
	}
	clear(t.entries[t.head+n:])
	t.entries = t.entries[:t.head+n]
	t.moved = min(t.moved, len(t.entries))
}

// find returns the index of the last live entry with base <= offset, or -1.
func (t *tailIndex) find(offset int64) int {
	live := t.live()
	lo, hi := 0, len(live)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if live[mid].base <= offset {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1
}
