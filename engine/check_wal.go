package engine

import (
	"fmt"

	"millrace/engine/epoch"
	"millrace/engine/producer"
)

type epochCache = epoch.Cache

// shard verifies a shard's checkpoint and WAL.
func (c *checker) shard(id int) error {
	cp, err := c.x.readCheckpoint(id)
	if err != nil {
		return err
	}
	head := c.checkpoint(id, cp)
	files, err := c.x.openWAL(id)
	if err != nil {
		return err
	}
	defer closeWAL(files)
	w := &walCheck{c: c, shard: id, replay: head.replayLSN, floor: head.lsnFloor}
	return w.run(files)
}

// checkpoint verifies a checkpoint and takes its entries.
func (c *checker) checkpoint(shard int, cp *inspectedCheckpoint) frameHead {
	head := frameHead{replayLSN: 1}
	if cp == nil {
		c.problem(c.x.path(shardDirName(shard)), -1, "there is no checkpoint")
		c.strays = false
		return head
	}
	c.report.Bytes += cp.size
	before := len(c.report.Problems)
	if cp.headErr != nil {
		c.problem(cp.path, 0, "%v", cp.headErr)
	}
	last, ok := cp.last()
	switch {
	case cp.broken != 0:
		c.problem(cp.path, cp.broken, "damaged frame: there are valid ones behind it")
	case !ok:
		c.problem(cp.path, cp.end, "no valid frame")
	case cp.end < cp.size:
		c.note(cp.path, cp.end, "an unfinished frame")
	}
	if ok {
		head = last
	}
	c.frames(cp)
	if len(c.report.Problems) > before {
		c.strays = false
		c.bad.checkpoints[shard] = cp
	}
	for id, e := range cp.newest() {
		c.entry(shard, cp, id, e)
	}
	return head
}

// frames verifies what holds from frame to frame.
func (c *checker) frames(cp *inspectedCheckpoint) {
	var prev frameHead
	for i := range cp.frames {
		f := &cp.frames[i]
		h := f.head
		if f.problem != "" {
			c.problem(cp.path, f.pos, "%s", f.problem)
		}
		if h.replayLSN < prev.replayLSN || h.nextLogID < prev.nextLogID || h.lsnFloor < prev.lsnFloor || h.generation < prev.generation {
			c.problem(cp.path, f.pos, "frame %d takes back what frame %d said: replay LSN %d, durable LSN %d, log id %d, generation %d", h.seq, prev.seq, h.replayLSN, h.lsnFloor, h.nextLogID, h.generation)
		}
		if h.replayLSN > h.lsnFloor+1 {
			c.problem(cp.path, f.pos, "replay LSN %d lies beyond the durable LSN %d", h.replayLSN, h.lsnFloor)
		}
		prev = h
		c.nextID = max(c.nextID, h.nextLogID)
		for j := range f.entries {
			switch e := &f.entries[j]; {
			case e.err != nil:
				c.problem(cp.path, e.pos, "entry %d of the frame: %v", j, e.err)
			case e.log.logID == 0 || e.log.logID > h.nextLogID:
				c.problem(cp.path, e.pos, "log %d was never given out (%d were)", e.log.logID, h.nextLogID)
			}
		}
	}
}

// entry verifies the newest entry of a log and makes it the log's state.
func (c *checker) entry(shard int, cp *inspectedCheckpoint, id uint64, ie *inspectedEntry) {
	e := ie.log
	if e.dropped {
		c.gone[id] = e.seq
		return
	}
	if other := c.logs[id]; other != nil {
		c.logProblem(other, cp.path, ie.pos, "log %d is in shard %d as well", id, other.Shard)
		return
	}
	st := &checkedState{
		CheckedLog: CheckedLog{LogID: id, Topic: e.topic, TopicID: e.topicID, Partition: e.partition, Shard: shard, Start: e.start, End: e.end, LostTo: e.end},
		dir:        logDirName(e.topic, e.partition, id),
		entry:      e,
		seq:        e.seq,
		epochs:     e.epochs.Clone(),
	}
	c.logs[id] = st
	if e.quarantine != "" {
		st.Quarantine = e.quarantine
		c.logProblem(st, cp.path, ie.pos, "quarantined at offset %d: %s", e.end, e.quarantine)
	}
	if newest, ok := e.epochs.Latest(); ok && newest.StartOffset > e.end {
		c.logProblem(st, cp.path, ie.pos, "epoch %d begins at %d, behind the end %d", newest.Epoch, newest.StartOffset, e.end)
	}
	for _, t := range e.aborted.Entries() {
		if t.LastOffset >= e.end {
			c.logProblem(st, cp.path, ie.pos, "aborted transaction of producer %d ends at %d, behind the end %d", t.ProducerID, t.LastOffset, e.end)
		}
	}
	if e.producers == nil {
		return
	}
	p, err := producer.Decode(e.producers)
	if err != nil {
		c.logProblem(st, cp.path, ie.pos, "%v", err)
		return
	}
	for _, p := range p.Entries() {
		if p.LastOffset >= e.end || p.TxnStartOffset >= e.end {
			c.logProblem(st, cp.path, ie.pos, "producer %d has written offset %d, behind the end %d", p.ProducerID, max(p.LastOffset, p.TxnStartOffset), e.end)
		}
	}
}

// walCheck verifies the WAL of one shard and replays it on the logs' states.
type walCheck struct {
	c      *checker
	shard  int
	replay uint64
	floor  uint64 // highest LSN known to have been flushed
	next   uint64
	// trailers are bad ones of commits that are otherwise good: damage if the commit was flushed, which only
	// what follows says.
	trailers []badTrailer
}

type badTrailer struct {
	f      *inspectedWAL
	pos    int64
	lsn    uint64
	reason string
}

func (w *walCheck) run(files []*inspectedWAL) error {
	c := w.c
	c.report.WALFiles += len(files)
	used := files[:0:0]
	for _, f := range files {
		c.walGeneration[f.path] = f.generation
		if f.busy {
			c.problem(f.path, -1, "somebody has the file locked: the last writes of a killed process are under way")
		}
		if f.problem != "" {
			c.problem(f.path, -1, "%s", f.problem)
			c.bad.unusable[f.path] = true
		}
		if f.damaged && f.problem == "" {
			c.problem(f.path, -1, keptReason)
			c.bad.wal[f.path] = f.generation
		}
		if f.generation != 0 {
			used = append(used, f)
		}
	}
	first := -1
	for i, f := range used {
		if i > 0 && f.generation == used[i-1].generation {
			c.problem(f.path, 0, "generation %d is that of %s as well", f.generation, used[i-1].name)
			c.bad.unusable[f.path] = true
		}
		if f.firstLSN <= w.replay {
			first = i
		}
	}
	w.next = w.replay
	dir := c.x.path(shardDirName(w.shard))
	if first < 0 {
		switch {
		case len(used) > 0:
			w.gap(used[0].path, blockSize, w.replay, used[0].firstLSN, "the WAL begins too late")
			w.next = used[0].firstLSN
			first = 0
		case w.floor >= w.replay:
			w.gap(dir, -1, w.replay, w.floor+1, "no WAL file is left")
			w.next = w.floor + 1
		default:
			first = 0
		}
	}
	for i := first; i >= 0 && i < len(used); i++ {
		limit := uint64(0)
		if i+1 < len(used) {
			limit = used[i+1].firstLSN
		}
		if err := w.file(used[i], limit); err != nil {
			return err
		}
	}
	if w.next <= w.floor {
		w.gap(dir, -1, w.next, w.floor+1, "the WAL ends before its last flushed commit")
	}
	w.headers(files, used, first)
	for _, b := range w.trailers {
		if b.lsn > w.floor {
			c.note(b.f.path, b.pos, "commit %d: %s; it was not flushed", b.lsn, b.reason)
			continue
		}
		c.problem(b.f.path, b.pos, "commit %d: %s", b.lsn, b.reason)
		c.bad.wal[b.f.path] = b.f.generation
	}
	w.endSuspects()
	return nil
}

// file verifies the commits of one file.
func (w *walCheck) file(f *inspectedWAL, limit uint64) error {
	c := w.c
	flushed := uint64(0)
	e, err := f.walk(limit, w.floor, func(k *inspectedCommit) error {
		if k.lostTo != 0 {
			c.bad.wal[f.path] = f.generation
			if k.lostTo > w.replay {
				w.gap(f.path, k.pos, max(k.head.lsn, w.replay), k.lostTo, k.problems[0])
			} else {
				c.problem(f.path, k.pos, "commit %d: %s; covered by the checkpoint", k.head.lsn, k.problems[0])
			}
			w.next = max(w.next, k.lostTo)
			return nil
		}
		c.report.Commits++
		c.report.Records += len(k.rows)
		c.report.Bytes += int64(k.head.size)
		how := ""
		if !k.byHeader {
			how = "; the commit was read by its trailer"
		}
		for _, p := range k.problems {
			c.problem(f.path, k.pos, "commit %d: %s%s", k.head.lsn, p, how)
			c.bad.wal[f.path] = f.generation
		}
		if k.trailer != "" {
			w.trailers = append(w.trailers, badTrailer{f, k.pos, k.head.lsn, k.trailer})
		}
		if k.head.flushedLSN < flushed {
			c.problem(f.path, k.pos, "commit %d takes back that commit %d was flushed", k.head.lsn, flushed)
			c.bad.wal[f.path] = f.generation
		}
		flushed = k.head.flushedLSN
		w.rows(f, k)
		w.next = max(w.next, k.head.lsn+1)
		return nil
	})
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	w.floor = max(w.floor, e.flushed)
	if e.torn {
		c.note(f.path, e.pos, "commit %d is unfinished: the WAL ends before it", e.next)
	}
	return nil
}

// rows verifies and replays the rows of a commit.
func (w *walCheck) rows(f *inspectedWAL, k *inspectedCommit) {
	c := w.c
	for i := range k.rows {
		r := &k.rows[i]
		bad := ""
		if k.bad != nil {
			bad = k.bad[i]
		}
		if bad != "" {
			c.bad.wal[f.path] = f.generation
			c.problem(f.path, k.pos+commitHeaderSz+int64(i)*commitRowSz, "commit %d, row %d (log %d, %v, offset %d): %s", k.head.lsn, i, r.logID, r.kind, r.base, bad)
		}
		if r.kind != recMark && k.head.lsn >= w.replay {
			c.pending++
			w.apply(f, k, r, bad != "")
		}
	}
}

// apply replays one row.
func (w *walCheck) apply(f *inspectedWAL, k *inspectedCommit, r *walRow, bad bool) {
	c := w.c
	st := c.logs[r.logID]
	if st == nil {
		w.applyUnknown(f, k, r, bad)
		return
	}
	if st.dropped {
		if r.seq > st.seq {
			c.logProblem(st, f.path, k.pos, "commit %d has a record of a dropped log", k.head.lsn)
		}
		return
	}
	end := st.End
	if r.kind == recAppend {
		end = r.base + int64(r.lastDelta) + 1
	}
	switch {
	case r.seq <= st.seq:
		return
	case r.kind == recDrop:
		st.suspect, st.dropped = "", true
		return
	case st.Quarantine != "":
		st.LostTo = max(st.LostTo, end)
		return
	case r.seq > st.seq+1:
		c.quarantine(st, f.path, k.pos, "records %d to %d are missing before commit %d", st.seq+1, r.seq-1, k.head.lsn)
		st.LostTo = max(st.LostTo, end)
		return
	case bad:
		c.quarantine(st, f.path, k.pos, "record %d in commit %d is damaged", r.seq, k.head.lsn)
		st.LostTo = max(st.LostTo, end)
		return
	}
	st.suspect = ""
	st.seq = r.seq
	st.change(c, f, k, r)
	st.LostTo = st.End
}

// change applies a record to the state.
func (st *checkedState) change(c *checker, f *inspectedWAL, k *inspectedCommit, r *walRow) {
	newest, _ := st.epochs.Latest()
	switch r.kind {
	case recAppend:
		if r.base < st.End {
			c.quarantine(st, f.path, k.pos, "commit %d has offset %d again, the log ended at %d", k.head.lsn, r.base, st.End)
			return
		}
		if r.leaderEpoch < newest.Epoch {
			c.logProblem(st, f.path, k.pos, "commit %d: offset %d has epoch %d, epoch %d had begun", k.head.lsn, r.base, r.leaderEpoch, newest.Epoch)
		}
		st.epochs.Assign(r.leaderEpoch, r.base)
		st.End = r.base + int64(r.lastDelta) + 1
	case recTruncate:
		if r.base > st.End || r.base < st.Start {
			c.logProblem(st, f.path, k.pos, "commit %d truncates to %d, the log is %d to %d", k.head.lsn, r.base, st.Start, st.End)
		}
		if !st.truncated || r.base < st.truncatedTo {
			st.truncated, st.truncatedTo = true, r.base
		}
		st.End = min(st.End, r.base)
		st.Start = min(st.Start, st.End)
		st.epochs.TruncateFromEnd(r.base)
	case recStartOffset:
		if r.base > st.End {
			c.logProblem(st, f.path, k.pos, "commit %d moves the log start to %d, behind the end %d", k.head.lsn, r.base, st.End)
		}
		st.Start = max(st.Start, r.base)
		st.End = max(st.End, st.Start)
		st.epochs.TruncateFromStart(st.Start)
	case recReset:
		st.Start, st.End, st.reset = r.base, r.base, true
		st.epochs.Clear()
	case recEpochStart:
		if r.base != st.End || r.leaderEpoch <= newest.Epoch {
			c.logProblem(st, f.path, k.pos, "commit %d begins epoch %d at %d; the log ends at %d in epoch %d", k.head.lsn, r.leaderEpoch, r.base, st.End, newest.Epoch)
		}
		st.epochs.Assign(r.leaderEpoch, r.base)
	case recDrop:
		st.dropped = true
	case recCreate:
		if r.seq != 1 {
			c.logProblem(st, f.path, k.pos, "commit %d creates the log again", k.head.lsn)
		}
	default: // a mark changes no log
	}
}

// applyUnknown handles a record of a log that no checkpoint has.
func (w *walCheck) applyUnknown(f *inspectedWAL, k *inspectedCommit, r *walRow, bad bool) {
	c := w.c
	if seq, ok := c.gone[r.logID]; ok && r.seq <= seq {
		return
	}
	if r.kind != recCreate || bad {
		c.bad.wal[f.path] = f.generation
		if !c.unread[r.logID] {
			c.unread[r.logID] = true
			c.strays = false
			c.problem(f.path, k.pos, "commit %d has a record (%v, offset %d) of log %d, whose create record is lost", k.head.lsn, r.kind, r.base, r.logID)
		}
		return
	}
	p, ok := parseCreatePayload(k.payload(r))
	if !ok {
		panic("BUG: a create record was verified and cannot be read")
	}
	if r.seq != 1 {
		c.problem(f.path, k.pos, "commit %d creates log %d with record %d", k.head.lsn, r.logID, r.seq)
	}
	c.nextID = max(c.nextID, r.logID)
	c.logs[r.logID] = &checkedState{
		CheckedLog: CheckedLog{LogID: r.logID, Topic: p.topic, TopicID: p.topicID, Partition: p.partition, Shard: w.shard},
		dir:        logDirName(p.topic, p.partition, r.logID),
		seq:        r.seq,
	}
}

// gap says that flushed commits [from, to) are lost: every log of the shard is suspect.
func (w *walCheck) gap(file string, pos int64, from, to uint64, reason string) {
	reason = fmt.Sprintf("%s: commits %d to %d are lost", reason, from, to-1)
	w.c.problem(file, pos, "%s", reason)
	w.c.strays = false
	for _, st := range w.c.logs {
		if st.Shard == w.shard && st.Quarantine == "" && !st.dropped && st.suspect == "" {
			st.suspect = reason
			st.suspectAt = Problem{File: file, Pos: pos}
		}
	}
}

// endSuspects ends the service of the logs that no later record has cleared.
func (w *walCheck) endSuspects() {
	for _, st := range w.c.sorted() {
		if st.Shard == w.shard && st.suspect != "" && !st.dropped {
			w.c.quarantine(st, st.suspectAt.File, st.suspectAt.Pos, "cannot be proved complete: %s", st.suspect)
		}
	}
}

// headers verifies both copies of each file's header. They are written with the first commits of a use: while none of
// those has been flushed, one copy or both may be missing.
func (w *walCheck) headers(files, used []*inspectedWAL, first int) {
	c := w.c
	for i, f := range used {
		begun := f.firstLSN <= w.floor
		if i+1 < len(used) {
			begun = used[i+1].firstLSN > f.firstLSN
		}
		for j, pos := range []int64{0, f.end()} {
			reason := f.headError[j]
			if f.headOK[j] && f.heads[j] != f.heads[1-j] && f.heads[j].generation != f.generation {
				reason = fmt.Sprintf("header of generation %d, the other copy is of %d", f.heads[j].generation, f.generation)
			}
			switch {
			case reason == "":
			case begun && i >= first:
				c.problem(f.path, pos, "%s; the other copy of the header counts", reason)
				c.bad.wal[f.path] = f.generation
			default:
				c.note(f.path, pos, "%s; nothing in the file is needed", reason)
			}
		}
		if f.headOK[0] && f.headOK[1] && f.heads[0].generation == f.heads[1].generation && f.heads[0] != f.heads[1] {
			c.problem(f.path, 0, "the two headers of generation %d differ", f.generation)
			c.bad.wal[f.path] = f.generation
		}
	}
	for _, f := range files {
		if f.generation == 0 && !f.damaged && f.problem == "" && (f.headError[0] != "never written" || f.headError[1] != "never written") {
			c.note(f.path, 0, "no header: the file was not in use, or both copies are damaged")
		}
	}
}
