package engine

import (
	"fmt"
	"sync/atomic"
)

// commit is one unit of the WAL: header, directory, payload, trailer, built in place
// in a slab. Batches of many logs share it.
//
//	open --(full, or the device is free)--> closed --> in a group, written --> durable --> forgotten
//
// Fields are guarded by Shard.mu while the commit is open; afterwards they belong
// to the driver. Row slots and payload ranges belong to the appender that reserved
// them until it calls landed.
type commit struct {
	lsn   uint64
	slab  *slab
	start int // in the slab
	mem   []byte
	limit int // bytes that it may grow to

	rows       []rowRef // len is the room; used of them are taken
	used       int
	payloadPos int
	fill       int  // end of the payload so far
	appends    int  // rows that are batches
	tight      bool // opened from the reserve: takes no batches

	// copies counts reservations whose bytes are not there yet, plus closedBit.
	copies atomic.Int64

	size       int    // set when closed
	filePos    int64  // set when placed
	flushedLSN uint64 // set when sealed: what it declares flushed
}

// closedBit in copies says that the driver waits for the last copy.
const closedBit = int64(1) << 32

// rowRef is what the driver needs to know of a row when it is durable.
type rowRef struct {
	log  *Log // nil for a Mark
	seq  uint64
	end  int64 // log end after this record; -1 leaves it
	msgs int32
	wait *waiter
}

// Row room comes in classes: small commits must stay within one block.
var rowClasses = [...]int{6, 62, 190, 510, 2046}

func rowRoomBytes(rows int) int { return commitHeaderSz + rows*commitRowSz }

// classFor returns the smallest class with room for rows.
func classFor(rows int) int {
	for i, n := range rowClasses {
		if rows <= n {
			return i
		}
	}
	return len(rowClasses) - 1
}

// sizeWith is the size of the commit on disk with its payload ending at fill and the given rows.
func commitSize(fill, rows int) int {
	n := fill + rows*commitRowSz + trailerSz
	return (n + blockSize - 1) &^ (blockSize - 1)
}

// fits reports whether another record of n bytes can join.
func (c *commit) fits(n int) bool {
	return c.used < len(c.rows) && commitSize(c.fill+n, c.used+1) <= c.limit
}

// isBefore reports whether next follows c in memory.
func (c *commit) isBefore(next *commit) bool {
	return c.slab == next.slab && c.start+c.size == next.start
}

// landed says that one reservation's bytes and row are complete. It reports whether the driver waits
// for exactly this one.
func (c *commit) landed() bool {
	switch n := c.copies.Add(-1); {
	case n == closedBit:
		return true
	case n&(closedBit-1) == closedBit-1:
		panic(fmt.Sprintf("BUG: commit %d: more copies landed than reserved", c.lsn))
	}
	return false
}

// putRow writes row i of the directory.
func (c *commit) putRow(i int, r *walRow) {
	r.put(c.mem[commitHeaderSz+i*commitRowSz:])
}

// seal computes the commit's bytes for its place in the WAL.
func (c *commit) seal(f *walFile, flushedLSN uint64) {
	c.flushedLSN = flushedLSN
	h := commitHeader{
		generation: f.generation,
		lsn:        c.lsn,
		flushedLSN: flushedLSN,
		filePos:    c.filePos,
		size:       uint32(c.size),
		rows:       uint32(c.used),
		payloadPos: uint32(c.payloadPos),
		trailerPos: uint32(c.fill),
	}
	h.seal(c.mem[:c.size], &f.salt)
}

// waiter is somebody who blocks until a record is durable.
type waiter struct {
	done chan struct{}
	err  error // valid once done is closed
}

func newWaiter() *waiter { return &waiter{done: make(chan struct{})} }

func (w *waiter) complete(err error) {
	w.err = err
	close(w.done)
}

// openCommit starts a commit that can take at least one record of n bytes. It
// returns nil when ring or WAL have no room. Called with Shard.mu.
func (s *Shard) openCommit(n int, isAppend bool) *commit {
	class := s.rowClass
	rows := rowClasses[class]
	payloadPos := rowRoomBytes(rows)
	least := commitSize(payloadPos+n, 1)
	if least > s.slabBytes && class > 0 {
		// A very large batch: the room for rows must not push it out.
		rows = rowClasses[0]
		payloadPos = rowRoomBytes(rows)
		least = commitSize(payloadPos+n, 1)
	}
	if least > s.slabBytes {
		return nil
	}
	room := s.slabBytes
	if s.filling != nil {
		room = s.slabBytes - s.filling.used
	}
	if room < least {
		room = s.slabBytes
	}
	// Pledge WAL room for the largest size that this commit can reach.
	if !s.walAdmits(int64(room), isAppend) {
		return nil
	}
	if s.filling == nil || s.slabBytes-s.filling.used < least {
		if !s.nextSlab() {
			return nil
		}
	}
	c := s.freeCommit()
	c.lsn = s.nextLSN
	s.nextLSN++
	c.slab = s.filling
	c.start = s.filling.used
	c.limit = s.slabBytes - s.filling.used
	c.mem = c.slab.mem[c.start:]
	if cap(c.rows) < rows {
		c.rows = make([]rowRef, rows)
	}
	c.rows = c.rows[:rows]
	c.payloadPos = payloadPos
	c.fill = payloadPos
	c.slab.busy.Add(1)
	s.open = c
	s.pledged += int64(c.limit)
	return c
}

// closeOpen ends the open commit. Called with Shard.mu.
func (s *Shard) closeOpen() {
	c := s.open
	s.open = nil
	c.size = commitSize(c.fill, c.used)
	c.slab.used = c.start + c.size
	s.pledged += int64(c.size) - int64(c.limit)
	s.closed = append(s.closed, c)
	// The next commit gets room for as many rows as the fuller of the last two had.
	class := classFor(c.used)
	if c.used == len(c.rows) && c.used >= rowClasses[0] {
		class = min(class+1, len(rowClasses)-1)
	}
	s.rowClass = max(class, s.lastRowClass)
	s.lastRowClass = class
	if c.copies.Add(closedBit) == closedBit {
		return
	}
}

// nextSlab takes a fresh slab for filling. Called with Shard.mu.
func (s *Shard) nextSlab() bool {
	if len(s.freeSlabs) == 0 {
		return false
	}
	if s.filling != nil {
		s.filling.busy.Add(-1)
	}
	b := s.freeSlabs[len(s.freeSlabs)-1]
	s.freeSlabs = s.freeSlabs[:len(s.freeSlabs)-1]
	b.used = 0
	b.warm = true // or will be
	if n := len(s.freeSlabs); n > 0 && !s.freeSlabs[n-1].warm {
		select {
		case s.cold <- struct{}{}:
		default:
		}
	}
	b.busy.Store(1)
	b.pins.Store(0)
	s.usedSlabs = append(s.usedSlabs, b)
	s.filling = b
	return true
}

func (s *Shard) freeCommit() *commit {
	if n := len(s.commitPool); n > 0 {
		c := s.commitPool[n-1]
		s.commitPool = s.commitPool[:n-1]
		return c
	}
	return new(commit)
}

// recycleCommit forgets a commit. Called with Shard.mu.
func (s *Shard) recycleCommit(c *commit) {
	clear(c.rows[:c.used])
	rows := c.rows
	*c = commit{rows: rows}
	s.commitPool = append(s.commitPool, c)
}

// reservation is a place in the open commit.
type reservation struct {
	c    *commit
	row  int
	pos  int // of the payload, in the commit
	kick bool
}

func (r *reservation) payload(n int) []byte { return r.c.mem[r.pos : r.pos+n : r.pos+n] }

// reserve takes a row and n payload bytes in the open commit. The caller holds the
// log's mutex, so that WAL order within a log is offset order, and must call landed.
func (s *Shard) reserve(l *Log, n int, isAppend, noKick bool) (reservation, error) {
	s.mu.Lock()
	c := s.open
	if c != nil && (!c.fits(n) || c.tight && isAppend) {
		if c.tight && isAppend && !s.walAdmits(0, true) {
			s.wantRoom = true
			s.mu.Unlock()
			return reservation{}, ErrBusy
		}
		s.closeOpen()
		c = nil
	}
	if c == nil {
		if c = s.openCommit(n, isAppend); c == nil {
			s.wantRoom = true
			tooLarge := commitSize(rowRoomBytes(rowClasses[0])+n, 1) > s.slabBytes
			s.mu.Unlock()
			s.pressure()
			if tooLarge {
				return reservation{}, ErrTooLarge
			}
			return reservation{}, ErrBusy
		}
		c.tight = !isAppend && !s.walAdmits(0, true)
	}
	r := reservation{c: c, row: c.used, pos: c.fill}
	c.used++
	c.fill += n
	c.copies.Add(1)
	if isAppend {
		c.appends++
		c.slab.busy.Add(1)
		if l.lastSlab != c.slab {
			l.lastSlab = c.slab
			c.slab.logs = append(c.slab.logs, l)
		}
	}
	if !noKick && !s.kickPending && s.worthGroup() {
		s.kickPending = true
		r.kick = true
	}
	s.mu.Unlock()
	return r, nil
}

// landed completes a reservation and wakes the driver when it must know.
func (s *Shard) landed(r *reservation) {
	if r.c.landed() || r.kick {
		s.kick()
	}
}
