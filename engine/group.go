package engine

import (
	"fmt"

	"millrace/engine/disk"
)

// groupsMax bounds the groups in flight: one is written while the one before it is flushed. More would be smaller ones.
const groupsMax = 2

// groupPartsMax bounds the writes of a group, so that all groups in flight fit into the queue with their
// file headers and flushes.
const groupPartsMax = queueDepth/groupsMax - 4

// group is what one flush covers: commits in one WAL file. The groups in flight follow each other in that file.
//
//	written (its writes, and those of all groups before it) --> flushed, if it must be --> done, in order
//
// Driver only.
type group struct {
	id      uint64 // names its operations, so that a completion cannot be counted for another group
	commits []*commit
	file    *walFile
	ops     int // not yet completed: writes, later the flush
	parts   int // writes of commits
	run     int // bytes of the newest commits that lie side by side
	bytes   int
	flush   bool // must be flushed before it is done
	dsync   bool // its write is its flush
	written bool
	cover   *group // the newest one under the flush that covers this one: itself, or one behind it
	err     error
	began   int64
	since   int64 // as Shard.oldest
}

// complete takes one completion.
func (s *Shard) complete(c *disk.Completion) {
	for _, g := range s.groups {
		if g.id == c.ID && g.ops > 0 {
			g.ops--
			if c.Err != nil && g.err == nil {
				g.err = c.Err
			}
			return
		}
	}
	panic(fmt.Sprintf("BUG: completion of group %d, %d groups are in flight, the newest is %d", c.ID, len(s.groups), s.groupID))
}

// advance moves the groups in flight to their next steps. It returns those that are done, oldest first: a group is not
// before all that came before it, because nobody may hear of a record whose predecessors could still be lost.
func (s *Shard) advance() []*group {
	for _, g := range s.groups {
		if g.err != nil {
			// The bytes on the device are undefined. Never retried, never trusted.
			s.e.fail(fmt.Errorf("engine: WAL %s: %w", g.file.name, g.err))
			s.failWaiters()
			return nil
		}
	}
	s.flushWritten()
	done := s.done[:0]
	for {
		i := 0
		for s.e.o.sabotage.ackOutOfOrder && i < len(s.groups) && !s.isDone(s.groups[i]) {
			i++
		}
		if i == len(s.groups) || !s.isDone(s.groups[i]) {
			break
		}
		g := s.groups[i]
		s.groups = append(s.groups[:i], s.groups[i+1:]...)
		s.tuner.observe(g, s.e.now().UnixNano())
		if n := len(g.commits); n > 0 {
			s.writtenLSN.Store(g.commits[n-1].lsn)
		}
		s.walDirty = !g.flush
		if g.flush {
			s.durableLSN.Store(s.writtenLSN.Load())
		}
		done = append(done, g)
	}
	s.noteOldest()
	s.done = done
	return done
}

// noteOldest keeps for how long the device has been busy with the oldest group.
func (s *Shard) noteOldest() {
	if len(s.groups) == 0 {
		s.oldest.Store(0)
		return
	}
	s.oldest.Store(s.groups[0].since)
}

// isDone reports whether a group is written, and flushed if it must be.
func (s *Shard) isDone(g *group) bool {
	if !g.written || g.ops > 0 {
		return false
	}
	return !g.flush || g.dsync || s.e.o.sabotage.noFlush || g.cover != nil && g.cover.ops == 0
}

// flushWritten submits one flush for the groups that are written and wait for it. A flush covers only what had been
// written when it was submitted, and whoever hears of it takes it for everything up to its group: so no group is
// flushed before those ahead of it are written.
func (s *Shard) flushWritten() {
	var cover *group
	for _, g := range s.groups {
		if !g.written && g.ops > 0 {
			if s.e.o.sabotage.ackOutOfOrder {
				continue
			}
			break
		}
		g.written = true
		if g.flush && !g.dsync && g.cover == nil {
			cover = g
		}
	}
	if cover == nil || s.e.o.sabotage.noFlush {
		return
	}
	for _, g := range s.groups {
		if g.flush && !g.dsync && g.cover == nil {
			g.cover = cover
		}
		if g == cover {
			break
		}
	}
	cover.ops = 1
	s.stats.flushes.Add(1)
	s.e.o.onWindow(winWALFlush)
	if err := s.queue.Fsync(cover.file.f, cover.id); err != nil {
		s.e.fail(fmt.Errorf("engine: WAL %s: %w", cover.file.name, err))
		return
	}
	s.submitQueue()
}

func (s *Shard) submitQueue() {
	if err := s.queue.Submit(); err != nil {
		s.e.fail(fmt.Errorf("engine: submit to the WAL queue: %w", err))
	}
}

// submitNext gathers the closed and the open commits into groups and submits them.
func (s *Shard) submitNext() {
	for len(s.groups) < groupsMax {
		s.mu.Lock()
		s.kickPending = false
		s.inFlight = len(s.groups)
		if !s.worthGroup() {
			s.mu.Unlock()
			return
		}
		if s.open != nil {
			s.closeOpen()
		}
		g := s.spares[len(s.spares)-1]
		filled := s.fillGroup(g)
		if filled {
			s.enough = g.bytes / 2
			s.inFlight++
			s.spares = s.spares[:len(s.spares)-1]
		}
		s.mu.Unlock()
		if !filled {
			return
		}
		s.groupID++
		g.id = s.groupID
		now := s.e.now()
		g.began, g.since = now.UnixNano(), max(1, int64(now.Sub(s.e.opened)))
		s.queueGroup(g)
	}
}

// worthGroup reports whether what waits may become a group. Beside one in flight a small one does not pay: it costs as much, and
// the next would be small again. Called with mu.
func (s *Shard) worthGroup() bool {
	switch {
	case s.inFlight == 0:
		return true
	case s.inFlight == groupsMax:
		return false
	}
	return s.wantFlush || len(s.closed) > 0 || s.open != nil && s.open.fill >= s.enough
}

// fillGroup takes commits whose copies are done, in order, as far as they fit into the
// current WAL file. Called with mu. It reports whether there is anything to submit.
func (s *Shard) fillGroup(g *group) bool {
	*g = group{commits: g.commits[:0]}
	taken := 0
	newFile := false
	for taken < len(s.closed) {
		c := s.closed[taken]
		if c.copies.Load() != closedBit || (g.bytes > 0 && g.bytes+c.size > groupBytesMax) {
			break
		}
		if s.cur == nil || !s.cur.fits(c.size) {
			if len(g.commits) > 0 {
				break
			}
			newFile = true
			if len(s.groups) > 0 || s.walDirty {
				// The old file still has unflushed commits; a flush of the new one would not cover them.
				break
			}
			if !s.beginFile(c.lsn) {
				break
			}
		}
		if !s.addToGroup(g, c) {
			break
		}
		taken++
	}
	// Moved down, not sliced off: the list would lose its room and allocate for every commit.
	s.closed = s.closed[:copy(s.closed, s.closed[taken:])]
	g.file = s.cur
	if s.wantFlush || newFile && len(g.commits) == 0 {
		g.flush = g.flush || s.isDirty()
	}
	s.wantFlush = false
	return len(g.commits) > 0 || g.flush
}

// addToGroup gives the next commit its place in the file. It reports false when the group has as many writes as it
// may. Called with mu.
func (s *Shard) addToGroup(g *group, c *commit) bool {
	run := 0
	if n := len(g.commits); n > 0 && g.commits[n-1].isBefore(c) {
		run = g.run
	}
	parts := writesFor(run+c.size) - writesFor(run)
	if g.parts > 0 && g.parts+parts > groupPartsMax {
		return false
	}
	g.run = run + c.size
	g.parts += parts
	c.filePos = s.cur.pos
	s.cur.pos += int64(c.size)
	s.pledged -= int64(c.size)
	g.commits = append(g.commits, c)
	g.bytes += c.size
	for i := range c.used {
		if r := &c.rows[i]; r.wait != nil || r.log == nil || !r.log.config().acksBeforeFlush() {
			g.flush = true
		}
	}
	return true
}

// writesFor is how many writes n bytes take.
func writesFor(n int) int { return (n + writeBytesMax - 1) / writeBytesMax }

// isDirty reports whether commits have been written, or are being written, that no flush under way or to come with
// the groups in flight will cover.
func (s *Shard) isDirty() bool {
	for i := len(s.groups) - 1; i >= 0; i-- {
		switch g := s.groups[i]; {
		case !g.flush:
			return true
		case !g.dsync:
			return false
		}
	}
	return s.walDirty
}

// queueGroup seals the commits and submits their writes: neighbours in memory and file
// share one.
func (s *Shard) queueGroup(g *group) {
	s.e.o.onWindow(winWALWrite)
	flushed := s.durableLSN.Load()
	for _, c := range g.commits {
		c.seal(g.file, flushed)
	}
	// RWF_DSYNC may reach the medium without flushing what was written before.
	clean := !s.isDirty() || s.e.o.sabotage.dsyncIsFlush
	g.dsync = g.flush && !g.file.fresh && clean && oneWrite(g) && s.tuner.wantsDsync(g.bytes)
	if s.e.o.sabotage.noFlush {
		g.dsync = false
	}
	if s.groups = append(s.groups, g); len(s.groups) > 1 {
		s.e.o.onWindow(winOverlap)
	}
	s.noteOldest()
	if g.file.fresh && len(g.commits) > 0 {
		g.file.fresh = false
		s.queueWrite(g, g.file.header, 0)
		s.queueWrite(g, g.file.header, g.file.end())
	}
	for i := 0; i < len(g.commits); {
		c := g.commits[i]
		n := c.size
		for i++; i < len(g.commits) && g.commits[i-1].isBefore(g.commits[i]); i++ {
			n += g.commits[i].size
		}
		for at := 0; at < n; at += writeBytesMax {
			part := min(writeBytesMax, n-at)
			s.queueWrite(g, c.slab.mem[c.start+at:c.start+at+part], c.filePos+int64(at))
		}
	}
	s.stats.commits.Add(uint64(len(g.commits)))
	s.stats.walBytes.Add(uint64(g.bytes))
	if g.dsync {
		s.stats.flushes.Add(1)
	}
	if g.ops == 0 {
		s.flushWritten() // nothing but a flush
		return
	}
	s.submitQueue()
}

// oneWrite reports whether the group is one contiguous write.
func oneWrite(g *group) bool {
	if len(g.commits) == 0 || g.bytes > writeBytesMax {
		return false
	}
	for i := 1; i < len(g.commits); i++ {
		if !g.commits[i-1].isBefore(g.commits[i]) {
			return false
		}
	}
	return true
}

func (s *Shard) queueWrite(g *group, p []byte, off int64) {
	g.ops++
	if err := s.queue.Write(g.file.f, p, off, g.dsync, g.id); err != nil {
		s.e.fail(fmt.Errorf("engine: WAL %s: %w", g.file.name, err))
	}
}
