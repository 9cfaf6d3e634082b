package engine

import (
	"fmt"
	"slices"

	"millrace/engine/disk"
)

// tailCommit is a commit, and where it was read. A new file is begun only when the old one is flushed: all of
// them lie in one file, or in that and in the copies that a crashed recovery made.
type tailCommit struct {
	head commitHeader
	file *walFile
}

// readTail reads a commit of the tail again. What was replayed is what it held the first time.
func (r *recovery) readTail(t *tailCommit, b []byte) error {
	if err := readFull(t.file.f, b, t.head.filePos); err != nil {
		return err
	}
	c := replayCommit{mem: b}
	h, problem := peekCommit(b)
	if problem == commitOK {
		problem = r.checkHeader(&h, b, t.file, t.head.filePos)
	}
	if problem == commitOK && h != t.head {
		problem = wrongPlace
	}
	if problem == commitOK {
		c.head = h
		c.readRows(b[commitHeaderSz:])
		if c.verify(r.s.e.o.sabotage.ignoreCRC) > 0 {
			problem = badChecksum
		}
	}
	if problem != commitOK {
		return &CorruptionError{File: r.s.path(t.file.name), Pos: t.head.filePos, Reason: fmt.Sprintf("commit %d was there and reads differently now: %s", t.head.lsn, problem)}
	}
	return nil
}

// removeSmallFiles deletes free WAL files that were made when commits were smaller: not every commit would fit.
func (s *Shard) removeSmallFiles() error {
	kept := s.freeFiles[:0]
	for _, w := range s.freeFiles {
		if w.end()-blockSize >= int64(s.slabBytes) {
			kept = append(kept, w)
			continue
		}
		if err := s.e.fs.Remove(s.path(w.name)); err != nil {
			return err
		}
		if err := w.f.Close(); err != nil {
			return err
		}
	}
	s.freeFiles = kept
	return nil
}

// makeTailRoom adds WAL files, beyond the budget if it must, until the tail fits into the free ones. On a full
// disk the tail stays where it is, and so does one with commits of a size that is no longer made: it has been flushed.
func (r *recovery) makeTailRoom() error {
	s := r.s
	for i := range r.tail {
		if int(r.tail[i].head.size) > s.slabBytes {
			r.tail = nil
			return nil
		}
	}
	for !r.tailFits() {
		w, err := s.createWALFile(s.e.o.WALFileBytes)
		if noSpace(err) {
			s.e.o.Warn("shard %d: no space to write the end of the WAL again: it stays in its old file", s.id)
			r.tail = nil
			return nil
		}
		if err != nil {
			return err
		}
		s.freeFiles = append(s.freeFiles, w)
	}
	return nil
}

// tailFits reports whether rewriteTail will find room.
func (r *recovery) tailFits() bool {
	i, pos := 0, int64(blockSize)
	for n := range r.tail {
		size := int64(r.tail[n].head.size)
		for i < len(r.s.freeFiles) && pos+size > r.s.freeFiles[i].end() {
			i++
			pos = blockSize
		}
		if i == len(r.s.freeFiles) {
			return false
		}
		pos += size
	}
	return true
}

// rewriteTail writes the commits that may not be on the device into fresh WAL files. A flush of the old
// one is not enough: if the last process had met an error there, what can be read need
// not be what is stored. The file headers come last, and the last file's first: a file that has one is complete,
// and so are those that follow it, so that a crash in between hides no commit of the old files that is not there again.
func (r *recovery) rewriteTail() error {
	s := r.s
	if s.e.o.sabotage.noRecoveryFlush {
		return nil
	}
	var files []*walFile
	for len(r.tail) > 0 {
		if !s.beginFile(r.tail[0].head.lsn) {
			panic("BUG: no WAL file is free for the end of the old one")
		}
		if err := r.rewriteInto(s.cur); err != nil {
			return err
		}
		files = append(files, s.cur)
	}
	slices.Reverse(files)
	for _, w := range files {
		for _, pos := range []int64{0, w.end()} {
			if _, err := w.f.WriteAt(w.header, pos); err != nil {
				return err
			}
		}
		if err := w.f.Fdatasync(); err != nil {
			return err
		}
		w.fresh = false
	}
	return nil
}

// rewriteInto writes as much of the tail as fits into w.
func (r *recovery) rewriteInto(w *walFile) error {
	var buf []byte
	n := 0
	for n < len(r.tail) && w.fits(int(r.tail[n].head.size)) {
		c := &r.tail[n]
		if len(buf) < int(c.head.size) {
			buf = disk.AlignedAlloc(int(c.head.size))
		}
		if err := r.readTail(c, buf[:c.head.size]); err != nil {
			return err
		}
		h := c.head
		h.generation, h.filePos, h.flushedLSN = w.generation, w.pos, r.floor
		h.seal(buf[:h.size], &w.salt)
		if _, err := w.f.WriteAt(buf[:h.size], w.pos); err != nil {
			return err
		}
		w.pos += int64(h.size)
		n++
	}
	if n == 0 {
		return fmt.Errorf("engine: a commit of %d bytes does not fit into WAL file %s", r.tail[0].head.size, w.name)
	}
	r.tail = r.tail[n:]
	return w.f.Fdatasync()
}
