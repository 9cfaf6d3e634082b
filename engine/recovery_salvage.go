package engine

import (
	"fmt"
)

// gap says that commits [from, to) are lost although they had been flushed: no log is above suspicion.
func (r *recovery) gap(w *walFile, pos int64, from, to uint64, reason string) {
	name := r.s.dir
	if w != nil {
		name = r.s.path(w.name)
		w.damaged = true
		r.met[w] = true
	}
	reason = fmt.Sprintf("%s: commits %d to %d are lost", reason, from, to-1)
	r.s.e.report.Damage = append(r.s.e.report.Damage, CorruptionError{File: name, Pos: pos, Reason: reason})
	for id, l := range r.logs {
		if l.quarantine == "" && r.suspects[id] == "" {
			r.suspects[id] = reason
		}
	}
}

func (r *recovery) quarantine(l *Log, reason string) {
	if l.quarantine != "" {
		return
	}
	delete(r.suspects, l.id)
	l.quarantine = reason
	l.stable.quarantine = reason
	l.checkpointDue.Store(true)
}

const keptReason = "an earlier start met damage in this file; it is kept for log repair"

// keepDamaged gives the files in which damage was met a name that says so, over restarts, until Repair sets them aside. Those that
// have such a name from an earlier opening are reported each time.
func (r *recovery) keepDamaged() error {
	s := r.s
	renamed := false
	for _, w := range r.used {
		switch {
		case !w.damaged:
			continue
		case w.named:
			if !r.met[w] {
				r.damage(w, -1, keptReason)
			}
			continue
		}
		name := w.name + walDamagedSuffix
		err := s.e.fs.Rename(s.path(w.name), s.path(name))
		if noSpace(err) {
			s.e.o.Warn("%s is damaged and could not be renamed: %v; the next start may use it again", s.path(w.name), err)
			continue
		}
		if err != nil {
			return err
		}
		for i := range s.e.report.Damage {
			if d := &s.e.report.Damage[i]; d.File == s.path(w.name) {
				d.File = s.path(name)
			}
		}
		w.name, w.named = name, true
		renamed = true
	}
	if !renamed {
		return nil
	}
	return s.e.syncDir(s.dir)
}

// quarantineSuspects ends recovery for logs that no later record has cleared.
func (r *recovery) quarantineSuspects() {
	for id, reason := range r.suspects {
		if l := r.logs[id]; l != nil && !l.dropped {
			r.quarantine(l, "cannot be proved complete: "+reason)
		}
	}
}

// scanResult is what lies behind a bad commit.
type scanResult struct {
	flushed uint64        // highest LSN that a later valid commit declares flushed
	lsn     uint64        // of the first later valid commit; 0: none
	pos     int64         // where it is
	last    uint64        // LSN of the last one
	torn    bool          // the bad commit claims to be the one that is expected
	trailer *replayCommit // the bad commit itself, read by its trailer
	end     int64         // where the bad commit ends, if trailer
}

// scan looks for valid commits and trailers behind pos, block by block.
func (r *recovery) scan(v *walWindow, w *walFile, pos int64, expected uint64) (scanResult, error) {
	var found scanResult
	for at := pos; at+blockSize <= v.size; at += blockSize {
		b, err := v.get(at, blockSize)
		if err != nil {
			return found, err
		}
		tail := b[blockSize-trailerSz:]
		if h, problem := peekCommit(b); at == pos && problem == commitOK {
			found.torn = h.lsn == expected && h.generation == w.generation
		}
		if h, problem := peekCommit(b); problem == commitOK && at > pos && at+int64(h.size) <= v.size && h.lsn > expected {
			full, err := v.get(at, int(h.size))
			if err != nil {
				return found, err
			}
			if r.checkHeader(&h, full, w, at) == commitOK {
				found.flushed = max(found.flushed, h.flushedLSN)
				found.last = max(found.last, h.lsn)
				if found.lsn == 0 {
					found.lsn, found.pos = h.lsn, at
				}
			}
			if tail, err = v.get(at, blockSize); err != nil {
				return found, err
			}
			tail = tail[blockSize-trailerSz:]
		}
		if found.trailer == nil {
			if err := r.tryTrailer(v, w, pos, at, expected, tail, &found); err != nil {
				return found, err
			}
		}
	}
	return found, nil
}

// tryTrailer looks whether the block at position at ends with the trailer of the bad commit.
func (r *recovery) tryTrailer(v *walWindow, w *walFile, pos, at int64, expected uint64, tail []byte, found *scanResult) error {
	le := leUint64(tail)
	if le != trailerMagic {
		return nil
	}
	// Old trailers are everywhere in a recycled file: the bytes before this one are read only if it says that it is the one.
	if leUint64(tail[16:]) != w.generation || leUint64(tail[24:]) != expected || leUint64(tail[40:]) != uint64(pos) {
		return nil
	}
	end := at + blockSize
	if end-pos > maxCommitBytes {
		return nil
	}
	b, err := v.get(pos, int(end-pos))
	if err != nil {
		return err
	}
	h, rowsAt, problem := parseTrailer(b, &w.salt, end, w.generation)
	if problem != commitOK || h.lsn != expected || h.filePos != pos {
		return nil
	}
	c := &replayCommit{head: h, mem: append([]byte(nil), b...)}
	c.readRows(b[rowsAt:])
	c.verify(false)
	found.trailer, found.end = c, end
	found.flushed = max(found.flushed, h.flushedLSN)
	return nil
}

// salvage deals with a damaged commit that had been flushed.
func (r *recovery) salvage(v *walWindow, w *walFile, pos int64, expected, limit uint64, problem commitProblem, found scanResult) (int64, uint64, error) {
	if found.trailer != nil {
		r.damage(w, pos, fmt.Sprintf("commit %d: %s; read by its trailer", expected, problem))
		if expected >= r.replay {
			if err := r.apply(found.trailer); err != nil {
				return 0, 0, err
			}
		}
		r.next = max(r.next, expected+1)
		return found.end, expected + 1, nil
	}
	to := found.lsn
	next := found.pos
	if to == 0 || (limit != 0 && to > limit) {
		to, next = limit, v.size
		if limit == 0 {
			to = r.floor + 1
		}
	}
	to = max(to, expected+1)
	if to > r.replay {
		r.gap(w, pos, max(expected, r.replay), to, string(problem))
	} else {
		r.damage(w, pos, fmt.Sprintf("commit %d: %s; covered by the checkpoint", expected, problem))
	}
	r.next = max(r.next, to)
	return next, to, nil
}

// damage reports a damaged place in a WAL file, which is not used again.
func (r *recovery) damage(w *walFile, pos int64, reason string) {
	w.damaged = true
	r.met[w] = true
	r.s.e.report.Damage = append(r.s.e.report.Damage, CorruptionError{File: r.s.path(w.name), Pos: pos, Reason: reason})
}
