package engine

import (
	"errors"
	"fmt"
	"io/fs"

	"millrace/engine/batch"
	"millrace/engine/disk"
)

// segments verifies the segments that a log's checkpoint entry names, and finds where the provable part ends.
func (c *checker) segments(st *checkedState) error {
	e := st.entry
	if e == nil {
		return nil
	}
	good := e.start // where the log ends if the next segment is lost
	for i := range e.segments {
		cut, err := c.segment(st, i)
		if err != nil {
			return err
		}
		if cut != nil && st.cut == nil {
			if cut.size == 0 {
				cut.next = good
			}
			cut.next = max(cut.next, e.start)
			st.cut = cut
		}
		good = max(e.start, e.segments[i].next)
	}
	// What the WAL has done since may have taken the damaged part out of the log.
	if st.cut != nil && st.cutsLog() && st.End > st.cut.next {
		st.LostTo = max(st.LostTo, st.End)
		st.End = max(st.cut.next, st.Start)
	}
	return nil
}

// cutsLog reports that the damaged part of the segments is a part of the log: the WAL has not dropped or emptied the log,
// moved its start beyond what the checkpoint has, or truncated it before the damage.
func (st *checkedState) cutsLog() bool {
	return !st.dropped && !st.reset && st.Start < st.entry.end && (!st.truncated || st.truncatedTo > st.cut.next)
}

// segment verifies one segment. It returns where its good part ends if that is not its end.
func (c *checker) segment(st *checkedState, i int) (*segmentCut, error) {
	e := &st.entry.segments[i]
	c.report.Segments++
	s, err := c.x.openSegmentFile(st.dir, e, st.entry.written, st.entry.tail)
	if errors.Is(err, fs.ErrNotExist) {
		path := c.x.path(logsName, st.dir, segmentFileName(e, "log"))
		c.logProblem(st, path, -1, "the segment is missing: offsets %d to %d, %d bytes", e.base, e.next-1, e.size)
		return &segmentCut{segment: i, maxTime: -1, maxBase: -1}, nil
	}
	if err != nil {
		return nil, err
	}
	defer s.close()
	if s.f != nil {
		size, err := s.f.Size()
		if err != nil {
			return nil, err
		}
		if need := int64(disk.AlignUp(int(s.file))); size < need {
			c.logProblem(st, s.path, size, "the file ends here, %d bytes of it are needed", need)
		}
	}
	if e.generation>>generationBits > c.x.meta.Incarnation {
		c.logProblem(st, s.path, -1, "generation %d is of a later incarnation than the directory's (%d)", e.generation, c.x.meta.Incarnation)
	}
	cut := &segmentCut{segment: i, next: e.base, maxTime: -1, maxBase: -1}
	before, hole := *cut, false // before the last batch, and whether offsets are missing in front of it
	withRecords := int64(minTime)
	lastEpoch := int32(-1)
	var places []batchPlace
	err = s.walk(func(b inspectedBatch) error {
		c.report.Batches++
		c.report.Bytes += int64(len(b.raw))
		if p := st.epochProblem(&b.h, lastEpoch); p != "" {
			return &CorruptionError{File: s.path, Pos: b.pos, Reason: p}
		}
		if b.h.NextOffset() > st.entry.start {
			lastEpoch = b.h.LeaderEpoch
		}
		before, hole = *cut, b.h.BaseOffset > cut.next
		if b.h.MaxTimestamp > cut.maxTime {
			cut.maxTime, cut.maxBase = b.h.MaxTimestamp, b.h.BaseOffset
		}
		if b.h.NumRecords > 0 {
			withRecords = max(withRecords, b.h.MaxTimestamp)
		}
		cut.size, cut.next = b.pos+int64(b.h.Size()), b.h.NextOffset()
		places = append(places, batchPlace{pos: b.pos, base: b.h.BaseOffset, newest: cut.maxTime, newestWithRecord: withRecords})
		return nil
	})
	var damage *CorruptionError
	if errors.As(err, &damage) {
		c.logProblem(st, s.path, damage.Pos, "%s; what follows it up to offset %d cannot be served", damage.Reason, e.next-1)
		if hole && s.goesBack(damage.Pos, cut.next) {
			// The base offset lies outside the batch's checksum: rather the last batch is at a wrong one.
			cut = &before
		}
		return cut, nil
	}
	if err != nil {
		return nil, err
	}
	if cut.next != e.next {
		c.logProblem(st, s.path, e.size, "the last batch ends at offset %d, the checkpoint says %d", cut.next, e.next)
	}
	if e.maxTime > cut.maxTime || e.maxTime < min(withRecords, cut.maxTime) {
		c.logProblem(st, s.path, -1, "the newest timestamp is %d, the checkpoint says %d", cut.maxTime, e.maxTime)
	}
	c.index(st, e, places)
	return nil, nil //nolint:nilnil // no cut
}

// epochProblem says whether a batch is in the epoch that the checkpoint knows. The epoch lies outside the batch's checksum. What
// is below the log start does not matter.
func (st *checkedState) epochProblem(h *batch.Header, last int32) string {
	e := st.entry
	if h.NextOffset() <= e.start {
		return ""
	}
	if h.LeaderEpoch < last {
		return fmt.Sprintf("offset %d has epoch %d, the batch before it %d", h.BaseOffset, h.LeaderEpoch, last)
	}
	if want, ok := e.epochs.EpochAt(max(h.BaseOffset, e.start)); ok && h.LeaderEpoch != want {
		return fmt.Sprintf("offset %d has epoch %d, the checkpoint says %d", h.BaseOffset, h.LeaderEpoch, want)
	}
	return ""
}

// goesBack reports that the batch at pos begins below offset next.
func (s *inspectedSegment) goesBack(pos, next int64) bool {
	b := make([]byte, batch.HeaderSize)
	if _, err := s.ReadAt(b, pos); err != nil {
		return false
	}
	h, err := batch.ParseHeader(b)
	return err == nil && h.BaseOffset < next
}

// index compares a segment's index with its batches.
func (c *checker) index(st *checkedState, e *segmentEntry, places []batchPlace) {
	if !e.sealed {
		if p := indexProblem(st.entry.active, places, e.next); p != "" {
			c.logProblem(st, c.x.path(logsName, st.dir, segmentFileName(e, "log")), -1, "its index in the checkpoint: %s", p)
		}
		return
	}
	path := c.x.path(logsName, st.dir, segmentFileName(e, "index"))
	x, err := c.x.readIndexFile(st.dir, e)
	switch {
	case err != nil:
		c.logProblem(st, path, -1, "%v; it can be rebuilt", err)
		c.bad.index[path] = true
	case x == nil && e.size > 0:
		c.note(path, -1, "no index file; it is rebuilt when it is needed")
	case x != nil:
		if p := indexProblem(x, places, e.next); p != "" {
			c.logProblem(st, path, -1, "%s; it can be rebuilt", p)
			c.bad.index[path] = true
		}
	}
}
