package engine

import (
	"errors"
	"io/fs"
)

// A round makes WAL files free: everything that they hold is moved to segments, flushed and
// named by a checkpoint. The order of its steps is the order in which a crash may
// interrupt it, see FORMAT.md.

// roundLogsMax bounds how many logs share one frame, and so how much is in memory at once.
const roundLogsMax = 256

// round covers every log whose oldest uncovered record is at or below limit, and those whose
// stable state changed without a record. It reports whether it covered any.
func (w *segmentWriter) round(limit uint64) (bool, error) {
	s := w.s
	// Records up to here are durable, and whoever holds one that is not covered has said so.
	durable := s.durableLSN.Load()
	if limit != ^uint64(0) && limit > durable {
		return false, errNotReady
	}
	if w.checkpoint.outgrown() {
		if err := w.checkpoint.rewrite(); err != nil {
			return false, err
		}
	}
	var due []*Log
	for _, l := range s.e.logsOf(s) {
		l.mu.Lock()
		dirty := l.dirtyLSN != 0 && l.dirtyLSN <= min(limit, durable)
		l.mu.Unlock()
		if dirty || l.checkpointDue.Load() {
			due = append(due, l)
		}
	}
	for len(due) > 0 {
		n := min(len(due), roundLogsMax)
		if err := w.cover(due[:n]); err != nil {
			return false, err
		}
		due = due[n:]
		if len(due) == 0 {
			break
		}
	}
	if err := w.advanceReplay(durable); err != nil {
		return false, err
	}
	w.rounds.Add(1)
	return true, w.unlink()
}

// coverage is what one frame of a round is made of.
type coverage struct {
	entries []byte
	places  []entryPlace
	ids     []uint64
	files   []*segment // to flush
	named   []*segment // whose names are to be flushed
	doomed  []*segment
	dropped []*Log
}

// cover moves, flushes and checkpoints some logs.
func (w *segmentWriter) cover(logs []*Log) (err error) {
	e := w.s.e
	var c coverage
	defer func() {
		if err != nil {
			// Without space everything comes again; after anything else nothing does.
			c.undo()
		}
	}()
	for _, l := range logs {
		if err := w.collect(l, &c); err != nil {
			return err
		}
	}
	if err := e.fsyncAll(c.files); err != nil {
		return err
	}
	if err := e.syncNames(c.named); err != nil {
		return err
	}
	if err := w.checkpoint.append(c.entries, c.places, c.ids, w.checkpoint.replayLSN); err != nil {
		return err
	}
	for _, l := range logs {
		l.snapshotDurable()
	}
	w.doomed = append(w.doomed, c.doomed...)
	e.forget(c.dropped)
	return nil
}

// collect moves what is durable of a log and takes its snapshot.
func (w *segmentWriter) collect(l *Log, c *coverage) error {
	st := &l.stable
	st.writeMu.Lock()
	defer st.writeMu.Unlock()
	if err := w.roundMover.moveLocked(l); err != nil {
		return err
	}
	for _, g := range st.segments {
		if g.indexDirty {
			if err := w.s.e.writeIndexFile(g); err != nil {
				return err
			}
		}
		if g.unsynced {
			g.unsynced = false
			c.files = append(c.files, g)
		}
		if g.dirDirty {
			g.dirDirty = false
			c.named = append(c.named, g)
		}
	}
	dropLSN := l.snapshotBegins()
	at := len(c.entries)
	c.entries = l.snapshot(c.entries, dropLSN)
	c.places = append(c.places, entryPlace{pos: int64(at), length: uint32(len(c.entries) - at), dropped: st.dropped, dropLSN: dropLSN})
	c.ids = append(c.ids, l.id)
	c.doomed = append(c.doomed, st.obsolete...)
	st.obsolete = nil
	if st.dropped {
		c.dropped = append(c.dropped, l)
	}
	return nil
}

// undo makes everything due again that a failed step had marked as done.
func (c *coverage) undo() {
	each := func(list []*segment, f func(*segment)) {
		for _, g := range list {
			g.log.stable.writeMu.Lock()
			f(g)
			g.log.checkpointDue.Store(true)
			g.log.stable.writeMu.Unlock()
		}
	}
	each(c.files, func(g *segment) { g.unsynced = true })
	each(c.named, func(g *segment) { g.dirDirty = true })
	each(c.doomed, func(g *segment) { g.log.stable.obsolete = append(g.log.stable.obsolete, g) })
}

// snapshotBegins notes what stays uncovered by the entry that is about to be
// encoded. Called with writeMu. It returns the LSN below which a dropped log has no records left.
func (l *Log) snapshotBegins() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inSnap = true
	l.nextDirty = 0
	if u := l.tail.unmoved(); len(u) > 0 {
		l.nextDirty = u[0].lsn
	}
	for i := range l.ops {
		for _, lsn := range []uint64{l.ops[i].lsn, l.ops[i].from} {
			if lsn != 0 && (l.nextDirty == 0 || lsn < l.nextDirty) {
				l.nextDirty = lsn
			}
		}
	}
	l.checkpointDue.Store(false)
	return l.dropLSN
}

// snapshotDurable says that the checkpoint holds the entry.
func (l *Log) snapshotDurable() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dirtyLSN = l.nextDirty
	l.inSnap = false
}

// syncNames makes new files' names durable: in their log's folder, and new folders in theirs.
func (e *Engine) syncNames(files []*segment) error {
	defer e.o.onWindow(winIdle)
	for i, g := range files {
		if i > 0 && files[i-1].log == g.log {
			continue
		}
		if err := e.syncDir(g.log.dir()); err != nil {
			return err
		}
	}
	// Another shard may have taken the flag and not be done: its folder could be ours.
	e.logsDirMu.Lock()
	defer e.logsDirMu.Unlock()
	if e.logsDirDirty.Swap(false) {
		if err := e.syncDir(e.o.path(logsName)); err != nil {
			e.logsDirDirty.Store(true)
			return err
		}
	}
	return nil
}

// advanceReplay finds the oldest record that is not covered, writes that down and frees
// the WAL files below it.
func (w *segmentWriter) advanceReplay(durable uint64) error {
	s := w.s
	replay := durable + 1
	for _, l := range s.e.logsOf(s) {
		l.mu.Lock()
		if l.dirtyLSN != 0 && l.dirtyLSN < replay {
			replay = l.dirtyLSN
		}
		l.mu.Unlock()
	}
	if s.e.o.sabotage.recycleEarly {
		w.recycle(durable + 1)
	}
	if replay > w.checkpoint.replayLSN {
		if err := w.checkpoint.append(nil, nil, nil, replay); err != nil {
			return err
		}
	}
	w.recycle(w.checkpoint.replayLSN)
	return nil
}

// recycle frees the WAL files whose records are all below replay. The next use overwrites them.
func (w *segmentWriter) recycle(replay uint64) {
	s := w.s
	s.e.o.onWindow(winRecycle)
	defer s.e.o.onWindow(winIdle)
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.fullFiles) > 0 && s.fullFiles[0].lastLSN < replay {
		f := s.fullFiles[0]
		s.fullFiles = s.fullFiles[1:]
		if f.damaged {
			s.keptFiles = append(s.keptFiles, f) // evidence: log repair needs it
			continue
		}
		s.freeFiles = append(s.freeFiles, f)
		s.stats.recycled.Add(1)
	}
}

// unlinkBatch bounds how many files one round deletes: unlinks of large files are slow.
const unlinkBatch = 64

// unlink deletes files that no durable checkpoint names.
func (w *segmentWriter) unlink() error {
	e := w.s.e
	n := min(len(w.doomed), unlinkBatch)
	for _, g := range w.doomed[:n] {
		e.o.onWindow(winUnlink)
		e.files.forget(g)
		e.indexes.forget(g)
		for _, path := range []string{g.path(), g.indexPath()} {
			if err := e.fs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				e.o.Warn("delete %s: %v", path, err)
			}
		}
		if g.log.stable.dropped {
			_ = e.fs.Remove(g.log.dir()) // succeeds with the last file
		}
	}
	e.o.onWindow(winIdle)
	w.doomed = append(w.doomed[:0], w.doomed[n:]...)
	if len(w.doomed) > 0 {
		w.urgent.Store(true)
	}
	return nil
}
