package engine

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"millrace/engine/batch"
	"millrace/engine/disk"
)

// replayAll walks the WAL files in order.
func (r *recovery) replayAll() error {
	s := r.s
	first := -1
	for i, w := range r.used {
		if w.firstLSN <= r.replay {
			first = i
		}
	}
	if first < 0 {
		switch {
		case len(r.used) > 0:
			r.gap(r.used[0], blockSize, r.replay, r.used[0].firstLSN, "the WAL begins too late")
			r.next = r.used[0].firstLSN
			first = 0
		case r.floor >= r.replay:
			r.gap(nil, 0, r.replay, r.floor+1, "no WAL file is left")
			r.next = r.floor + 1
		}
	}
	for i, w := range r.used {
		if i < first {
			continue
		}
		limit := uint64(0)
		if i+1 < len(r.used) {
			limit = r.used[i+1].firstLSN
		}
		stop, err := r.replayFile(w, limit)
		if err != nil {
			return err
		}
		if stop {
			break
		}
	}
	if r.next <= r.floor {
		r.gap(nil, 0, r.next, r.floor+1, "the WAL ends before its last flushed commit")
		r.next = r.floor + 1
	}
	for i, w := range r.used {
		w.lastLSN = r.next - 1
		if i+1 < len(r.used) {
			w.lastLSN = r.used[i+1].firstLSN - 1
		}
	}
	s.nextLSN = max(r.next, r.replay)
	return nil
}

// replayFile applies the commits of one file. limit is the first LSN of the next file, 0 for the last
// one. stop says that the WAL ends here.
func (r *recovery) replayFile(w *walFile, limit uint64) (stop bool, err error) {
	v := &walWindow{f: w.f, size: w.end()}
	defer func() { r.s.e.report.WALBytes += v.read }()
	r.reading = w
	pos := int64(blockSize)
	expected := w.firstLSN
	for {
		if limit != 0 && expected >= limit {
			return false, nil
		}
		if limit == 0 && pos >= v.size {
			return false, nil
		}
		c, problem, err := r.readCommit(v, w, pos, expected)
		if err != nil {
			return false, err
		}
		if problem == unknownVersion {
			return false, fmt.Errorf("engine: %s: commit %d: %s", r.s.path(w.name), expected, problem)
		}
		if problem == commitOK {
			r.flushedUpTo(c.head.flushedLSN)
			if expected >= r.replay {
				if err := r.apply(c); err != nil {
					return false, err
				}
				if expected > r.floor {
					// A file that a crashed recovery wrote repeats what is here already.
					for len(r.tail) > 0 && r.tail[len(r.tail)-1].head.lsn >= expected {
						r.tail = r.tail[:len(r.tail)-1]
					}
					r.tail = append(r.tail, tailCommit{c.head, w})
				}
			}
			pos += int64(c.head.size)
			expected++
			r.next = max(r.next, expected)
			continue
		}
		found, err := r.scan(v, w, pos, expected)
		if err != nil {
			return false, err
		}
		if limit == 0 && max(found.flushed, r.floor) < expected {
			if found.lsn != 0 || found.torn {
				r.s.e.report.TornCommits++
				r.s.e.report.torn, r.s.e.report.behind = expected, found.last
			}
			return true, nil
		}
		// The commit had been flushed: this is damage. Save what can be proved.
		pos, expected, err = r.salvage(v, w, pos, expected, limit, problem, found)
		if err != nil {
			return false, err
		}
	}
}

// flushedUpTo takes the news that everything up to lsn was flushed.
func (r *recovery) flushedUpTo(lsn uint64) {
	if lsn <= r.floor {
		return
	}
	r.floor = lsn
	n := 0
	for n < len(r.tail) && r.tail[n].head.lsn <= lsn {
		n++
	}
	r.tail = r.tail[n:]
}

// apply replays one commit.
func (r *recovery) apply(c *replayCommit) error {
	s := r.s
	s.e.report.Commits++
	for i := range c.rows {
		row := &c.rows[i]
		if row.kind == recMark {
			continue
		}
		if !row.kind.known() {
			return fmt.Errorf("engine: commit %d has a record of unknown type %d", c.head.lsn, row.kind)
		}
		s.dataLSN.Store(c.head.lsn)
		if err := r.applyRow(c, row, c.bad != nil && c.bad[i]); err != nil {
			return err
		}
	}
	// What was applied may leave the ring from now on.
	s.durableLSN.Store(c.head.lsn)
	s.writtenLSN.Store(c.head.lsn)
	return nil
}

func (r *recovery) applyRow(c *replayCommit, row *walRow, bad bool) error {
	s := r.s
	s.e.report.Records++
	l := r.logs[row.logID]
	if l == nil {
		return r.applyUnknown(c, row, bad)
	}
	switch {
	case row.seq <= l.seq:
		return nil
	case row.kind == recDrop:
		// Whatever is missing before it, or damaged: the log is gone.
	case l.quarantine != "":
		return nil
	case row.seq > l.seq+1:
		r.quarantine(l, fmt.Sprintf("records %d to %d are missing before commit %d", l.seq+1, row.seq-1, c.head.lsn))
		return nil
	case bad:
		r.quarantine(l, fmt.Sprintf("record %d in commit %d is damaged", row.seq, c.head.lsn))
		return nil
	}
	delete(r.suspects, l.id)
	if row.kind == recAppend {
		return r.applyAppend(l, c, row)
	}
	if row.kind == recCreate && row.seq != 1 { // a checkpoint may name a log before it has seen its Create
		return fmt.Errorf("engine: %s created twice", l)
	}
	op := logOp{kind: row.kind, seq: row.seq, lsn: c.head.lsn, base: row.base, epoch: row.leaderEpoch}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq = row.seq
	if row.hw > l.highWater.Load() {
		l.highWater.Store(row.hw)
	}
	l.touched(op.lsn)
	if s.e.o.sabotage.skipTruncate && op.kind == recTruncate || s.e.o.sabotage.skipDrop && op.kind == recDrop {
		op.kind = recCreate // changes nothing
	}
	l.ops = append(l.ops, op)
	l.applyOpToHead(&op)
	if op.kind == recDrop {
		s.e.unlist(l)
	}
	return nil
}

// applyUnknown handles a record of a log that is not (or no longer) there.
func (r *recovery) applyUnknown(c *replayCommit, row *walRow, bad bool) error {
	s := r.s
	if seq, ok := r.dropped[row.logID]; ok && row.seq <= seq {
		return nil
	}
	// Whatever became of it, its id has been given out.
	r.maxLogID = max(r.maxLogID, row.logID)
	if row.kind != recCreate || bad {
		// Nobody can serve these records, and they may be all that is left of the log: the file stays as it is.
		if o := (orphan{row.logID, r.reading}); !r.orphans[o] {
			r.orphans[o] = true
			r.damage(r.reading, c.head.filePos, fmt.Sprintf("commit %d has a %v record of log %d, whose Create record is lost", c.head.lsn, row.kind, row.logID))
		}
		return nil
	}
	payload, ok := parseCreatePayload(c.payload(row))
	if !ok {
		return fmt.Errorf("engine: commit %d: Create record of log %d cannot be read", c.head.lsn, row.logID)
	}
	l := newLog(s.e, s, row.logID, payload)
	l.seq = row.seq
	l.ops = append(l.ops, logOp{kind: recCreate, seq: row.seq, lsn: c.head.lsn})
	l.dirtyLSN = c.head.lsn
	r.register(l)
	return nil
}

// applyAppend puts a batch back into the ring and the head.
func (r *recovery) applyAppend(l *Log, c *replayCommit, row *walRow) error {
	p := c.payload(row)
	h, err := batch.ParseHeader(p)
	if err != nil {
		return fmt.Errorf("engine: commit %d: %w", c.head.lsn, err)
	}
	if h.BaseOffset < l.end {
		r.quarantine(l, fmt.Sprintf("commit %d has offset %d again", c.head.lsn, h.BaseOffset))
		return nil
	}
	b, at, err := r.ringSpace(len(p))
	if err != nil {
		return err
	}
	copy(b.mem[at:], p)
	b.busy.Add(1)
	if l.lastSlab != b {
		l.lastSlab = b
		b.logs = append(b.logs, l)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq = row.seq
	l.end = h.NextOffset()
	if row.hw > l.highWater.Load() {
		l.highWater.Store(row.hw)
	}
	l.tail.push(tailEntry{base: h.BaseOffset, seq: row.seq, lsn: c.head.lsn, slab: b, pos: uint32(at), size: row.length})
	l.unmoved += int64(row.length)
	l.touched(c.head.lsn)
	l.applyToHead(b.mem[at:at+len(p)], &h)
	return nil
}

// ringSpace finds room for a replayed batch, moving older ones to segments when the ring is full.
func (r *recovery) ringSpace(n int) (*slab, int, error) {
	s := r.s
	if n > s.slabBytes {
		return r.oversizeSlab(n)
	}
	for tries := 0; ; tries++ {
		if b := s.filling; b != nil && b.used+n <= len(b.mem) {
			at := b.used
			b.used += n
			return b, at, nil
		}
		if s.nextSlab() {
			continue
		}
		if tries > 2 {
			return nil, 0, errors.New("engine: the tail ring stays full at recovery")
		}
		if err := r.moveAll(); err != nil {
			return nil, 0, fmt.Errorf("engine: recovery: %w", err)
		}
		s.reclaim()
	}
}

// recoveryMovers is how many logs are moved at the same time: their writes wait for the device.
const recoveryMovers = 4

// moveAll moves what is in the ring to segments.
func (r *recovery) moveAll() error {
	s := r.s
	logs := s.e.logsOf(s)
	if s.e.o.syncWorkers <= 1 {
		for _, l := range logs {
			if err := s.writer.mover.moveLog(l); err != nil {
				return err
			}
		}
		return nil
	}
	for len(r.movers) < recoveryMovers {
		r.movers = append(r.movers, newMover(s))
	}
	var next atomic.Int64
	var first atomic.Pointer[error]
	var group sync.WaitGroup
	for _, m := range r.movers {
		group.Go(func() {
			for first.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(logs) {
					return
				}
				if err := m.moveLog(logs[i]); err != nil {
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	group.Wait()
	if p := first.Load(); p != nil {
		return *p
	}
	return nil
}

// oversizeSlab is for a batch that was appended when commits could be larger.
func (r *recovery) oversizeSlab(n int) (*slab, int, error) {
	s := r.s
	own, err := disk.NewSlab(n)
	if err != nil {
		return nil, 0, err
	}
	b := &slab{mem: own.Bytes(), own: own, fin: len(s.slabs), used: n}
	s.slabs = append(s.slabs, b)
	s.usedSlabs = append([]*slab{b}, s.usedSlabs...)
	return b, 0, nil
}
