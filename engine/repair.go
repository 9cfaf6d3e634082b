package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"millrace/engine/disk"
	"millrace/engine/producer"
)

// Repair brings a damaged directory back to service at the price of what cannot be proved:
//
//	1. Check. Without accept that is all, and the report says what would be done.
//	2. What the directory does not open with is set aside. Where segments are damaged or the
//	   checkpoint cannot be read to its end, a new checkpoint takes its place, in which each damaged log ends behind its
//	   last provable batch and is quarantined, so that recovery applies no later record to it.
//	3. Recovery, and a round: now the checkpoint has everything that can be proved, and the WAL is not needed.
//	4. A new checkpoint in which no log is quarantined. This is the moment of repair.
//	5. Damaged WAL files, bad indexes and files that nothing names are set aside. Check.
//
// Each step can be interrupted and the whole run again. Nothing is deleted: it goes to set-aside/.

// RepairReport says what was wrong, what was done and what is lost.
type RepairReport struct {
	Before   *CheckReport `json:"before"`
	Actions  []string     `json:"actions"` // done, or to be done
	Lost     []LostRange  `json:"lost"`
	After    *CheckReport `json:"after,omitempty"`     // nil when nothing was done
	SetAside string       `json:"set_aside,omitempty"` // the folder
}

// LostRange is what a log has lost.
type LostRange struct {
	LogID     uint64 `json:"log_id"`
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"` // the log ends here now
	To        int64  `json:"to"`   // exclusive; From when nobody knows how much there was
	Reason    string `json:"reason,omitempty"`
}

func (r LostRange) String() string {
	switch {
	case r.To > r.From+1:
		return fmt.Sprintf("%s-%d: offsets %d to %d are lost; the log ends at %d", r.Topic, r.Partition, r.From, r.To-1, r.From)
	case r.To > r.From:
		return fmt.Sprintf("%s-%d: offset %d is lost; the log ends there", r.Topic, r.Partition, r.From)
	default:
		return fmt.Sprintf("%s-%d: nothing can be proved from offset %d on; the log ends there", r.Topic, r.Partition, r.From)
	}
}

// ErrNotRepaired says that a problem is left that Repair has no way out of.
var ErrNotRepaired = errors.New("engine: not everything could be repaired")

// repair is one run.
type repair struct {
	o      Options
	report *RepairReport
	x      *inspector // nil while the engine has the directory
	aside  string     // folder of this run, made at the first use
	wal    map[string]uint64
}

// Repair repairs the directory o.Dir. With accept false it changes nothing. NodeID and ClusterID of o do not matter.
func Repair(ctx context.Context, o Options, accept bool) (*RepairReport, error) {
	o = o.withDefaults()
	r := &repair{o: o, report: &RepairReport{}}
	defer r.unlock()
	c, err := r.check()
	if err != nil {
		return nil, err
	}
	r.report.Before = c.report
	r.wal = maps.Clone(c.bad.wal)
	r.plan(c)
	if len(c.report.Problems) == 0 {
		return r.report, nil
	}
	if !accept {
		return r.report, nil
	}
	r.report.Actions = nil
	if err := r.prepare(c); err != nil {
		return r.report, err
	}
	if err := r.recover(ctx); err != nil {
		return r.report, err
	}
	if c, err = r.check(); err != nil {
		return r.report, err
	}
	if err := r.release(c); err != nil {
		return r.report, err
	}
	if c, err = r.check(); err != nil {
		return r.report, err
	}
	r.report.After = c.report
	if len(c.report.Problems) > 0 {
		return r.report, fmt.Errorf("%w: %v", ErrNotRepaired, c.report.Problems[0])
	}
	return r.report, nil
}

func (r *repair) unlock() {
	if r.x != nil {
		r.x.close()
		r.x = nil
	}
}

// check looks at the directory (again) and keeps its lock.
func (r *repair) check() (*checker, error) {
	if r.x == nil {
		x, err := inspect(r.o.FS, r.o.Dir)
		if err != nil {
			return nil, err
		}
		r.x = x
	}
	return r.x.check()
}

func (r *repair) did(format string, args ...any) {
	r.report.Actions = append(r.report.Actions, fmt.Sprintf(format, args...))
}

// plan says what repair would do.
func (r *repair) plan(c *checker) {
	for _, st := range c.sorted() {
		if st.dropped || !st.Damaged() {
			continue
		}
		r.report.Lost = append(r.report.Lost, LostRange{LogID: st.LogID, Topic: st.Topic, Partition: st.Partition, From: st.End, To: st.LostTo, Reason: st.Quarantine})
		r.did("end %s at offset %d and bring it back to service", st.Name(), st.End)
	}
	for _, id := range slices.Sorted(maps.Keys(c.bad.checkpoints)) {
		r.did("write a new checkpoint of shard %d from what can be read of %s", id, c.bad.checkpoints[id].name)
	}
	for _, path := range c.bad.paths() {
		r.did("set %s aside", c.x.relative(path))
	}
}

// paths are all files that Repair sets aside for themselves.
func (b *badFiles) paths() []string {
	all := make(map[string]bool)
	for _, m := range []map[string]bool{b.unusable, b.foreign, b.index} {
		maps.Copy(all, m)
	}
	for path := range b.wal {
		all[path] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// prepare makes the directory one that opens, and takes out of the logs what their segments do not have.
func (r *repair) prepare(c *checker) error {
	for _, p := range []map[string]bool{c.bad.unusable, c.bad.foreign} {
		for _, path := range slices.Sorted(maps.Keys(p)) {
			if err := r.setAside(path); err != nil {
				return err
			}
		}
	}
	ids, err := r.x.shardIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := r.cutShard(c, id); err != nil {
			return err
		}
	}
	return nil
}

// cutShard replaces the checkpoint of a shard if it cannot be read to its end or names damaged segments.
func (r *repair) cutShard(c *checker, shard int) error {
	cp, err := r.x.readCheckpoint(shard)
	if err != nil || cp == nil {
		return err // the engine makes the first one
	}
	edits := make(map[uint64]*logEntry)
	for id, ie := range cp.newest() {
		st := c.logs[id]
		if st == nil || st.cut == nil {
			continue
		}
		if err := r.cutLog(st, ie.log); err != nil {
			return err
		}
		edits[id] = ie.log
	}
	if len(edits) == 0 && c.bad.checkpoints[shard] == nil {
		return nil
	}
	if err := r.replaceCheckpoint(shard, cp, edits); err != nil {
		return err
	}
	if c.bad.checkpoints[shard] != nil {
		r.did("wrote a new checkpoint of shard %d from what can be read of %s", shard, cp.name)
		return r.setAside(cp.path)
	}
	return r.remove(cp.path)
}

// cutLog takes the damaged segment and those behind it out of a log: in its entry, and by setting them aside. Where the
// log start has not passed them, the log ends at its last provable offset.
func (r *repair) cutLog(st *checkedState, e *logEntry) error {
	to := st.cut.next
	if st.cutsLog() {
		to = st.End
	}
	n := 0
	for n < len(e.segments) && n < st.cut.segment && e.segments[n].next <= to {
		n++
	}
	// Segment n is the one to be cut; the rest goes.
	keep, err := r.goodPart(st, e, n, to)
	if err != nil {
		return err
	}
	for i := n; i < len(e.segments); i++ {
		g := &e.segments[i]
		path := r.x.path(logsName, st.dir, segmentFileName(g, "log"))
		if i == n && keep.size > 0 {
			if err := r.copyAside(path); err != nil {
				return err
			}
			continue
		}
		for _, path := range []string{path, r.x.path(logsName, st.dir, segmentFileName(g, "index"))} {
			if err := r.setAside(path); err != nil {
				return err
			}
		}
	}
	e.cutSegments(n, keep)
	if st.cutsLog() {
		lost := LostRange{Topic: e.topic, Partition: e.partition, From: to, To: st.LostTo}
		e.endAt(st.Start, to)
		e.quarantine = "being repaired: " + lost.String()
		r.did("ended %s at offset %d", st.Name(), to)
	} else {
		r.did("took segments of %s from offset %d on out of use: they are not part of the log any more", st.Name(), to)
	}
	if err := e.check(); err != nil {
		return fmt.Errorf("engine: cut %s at %d: %w", st.Name(), to, err)
	}
	return nil
}

// goodPart finds where segment n must end.
func (r *repair) goodPart(st *checkedState, e *logEntry, n int, end int64) (segmentCut, error) {
	keep := segmentCut{segment: n, maxTime: -1, maxBase: -1}
	if n == len(e.segments) {
		return keep, nil
	}
	g := &e.segments[n]
	s, err := r.x.openSegmentFile(st.dir, g, e.written, e.tail)
	if isMissing(err) {
		return keep, nil
	}
	if err != nil {
		return keep, err
	}
	defer s.close()
	err = s.walk(func(b inspectedBatch) error {
		if b.h.NextOffset() > end {
			return io.EOF
		}
		if b.h.MaxTimestamp > keep.maxTime {
			keep.maxTime, keep.maxBase = b.h.MaxTimestamp, b.h.BaseOffset
		}
		keep.size, keep.next = b.pos+int64(b.h.Size()), b.h.NextOffset()
		return nil
	})
	var damage *CorruptionError
	if errors.Is(err, io.EOF) || errors.As(err, &damage) {
		err = nil
	}
	return keep, err
}

// cutSegments ends the segments within segment n: keep is what stays of it, those behind it go.
func (e *logEntry) cutSegments(n int, keep segmentCut) {
	if n == len(e.segments) {
		return
	}
	g := &e.segments[n]
	hadActive := !e.segments[len(e.segments)-1].sealed
	stays := keep.size > 0
	isActive := stays && !g.sealed && keep.size > e.written
	e.segments = e.segments[:n]
	if stays {
		g.size, g.next, g.maxTime, g.maxBase = keep.size, keep.next, keep.maxTime, keep.maxBase
		e.segments = e.segments[:n+1]
	}
	switch {
	case isActive:
		e.tail = e.tail[:keep.size-e.written]
		e.active = e.active.truncated(keep.next)
		e.indexed = -1
		if _, pos, ok := e.active.offsets.Last(); ok {
			e.indexed = pos
		}
	case hadActive:
		if stays {
			g.sealed = true
		}
		e.written, e.tail, e.active, e.indexed = 0, nil, nil, 0
	}
}

// endAt makes [start, end) the log.
func (e *logEntry) endAt(start, end int64) {
	e.start = min(max(e.start, start), end)
	e.end = end
	e.hw = min(e.hw, end)
	e.epochs.TruncateFromEnd(end)
	e.epochs.TruncateFromStart(e.start)
	e.aborted.TruncateTo(end)
	if e.producers != nil {
		p, err := producer.Decode(e.producers)
		if err != nil {
			panic("BUG: producers were decoded before: " + err.Error())
		}
		p.TruncateTo(end)
		e.producers = p.AppendTo(nil)
	}
}

// replaceCheckpoint writes the next checkpoint of a shard: the newest entries of the last one, with edits.
func (r *repair) replaceCheckpoint(shard int, cp *inspectedCheckpoint, edits map[uint64]*logEntry) error {
	head := checkpointHead{features: knownFeatures, directoryID: r.x.meta.DirectoryID, shard: uint32(shard), number: cp.number + 1}
	h := cp.resume()
	b := head.encode()
	entries := cp.newest()
	var frame []byte
	flush := func(count int) {
		h.seq++
		h.length, h.count = uint32(len(frame)), uint32(count)
		at := len(b)
		b = append(append(b, make([]byte, frameHeadSz)...), frame...)
		h.put(b[at:])
		frame = frame[:0]
	}
	count := 0
	for _, id := range slices.Sorted(maps.Keys(entries)) {
		e := entries[id].log
		if edited := edits[id]; edited != nil {
			e = edited
		}
		frame = e.appendTo(frame)
		if count++; len(frame) >= frameBytesTarget {
			flush(count)
			count = 0
		}
	}
	flush(count)
	path := r.x.path(shardDirName(shard), checkpointName(head.number))
	if err := disk.WriteFileAtomic(r.x.fs, path, b); err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	return nil
}

// resume is the head that frames after these go on from: replay begins where the entries can be trusted to be
// complete, everything that must not be given out again stays given out.
func (c *inspectedCheckpoint) resume() frameHead {
	h := frameHead{replayLSN: 1}
	whole := true
	for i := range c.frames {
		f := &c.frames[i]
		bad := slices.ContainsFunc(f.entries, func(e inspectedEntry) bool { return e.err != nil })
		if whole = whole && !f.after && f.problem == "" && !bad; whole {
			h.replayLSN = f.head.replayLSN
		}
		h.nextLogID = max(h.nextLogID, f.head.nextLogID)
		h.lsnFloor = max(h.lsnFloor, f.head.lsnFloor)
		h.generation = max(h.generation, f.head.generation)
	}
	return h
}

// recover opens the directory as the broker does, and closes it with a checkpoint of everything.
func (r *repair) recover(ctx context.Context) error {
	o := r.o
	o.NodeID, o.ClusterID = r.x.meta.NodeID, r.x.meta.ClusterID
	var failure error
	o.OnFailed = func(err error) { failure = err }
	r.unlock()
	e, err := Open(o)
	if err != nil {
		return fmt.Errorf("the directory still does not open: %w", err)
	}
	if err := e.Close(ctx); err != nil {
		return err
	}
	return failure
}

// release brings the quarantined logs back to service and sets aside what is not needed any more.
func (r *repair) release(c *checker) error {
	if c.pending > 0 {
		return fmt.Errorf("engine: %d records are still in the WAL only (is the disk full?); run repair again", c.pending)
	}
	ids, err := r.x.shardIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := r.releaseShard(id); err != nil {
			return err
		}
	}
	for path, generation := range r.wal {
		if c.walGeneration[path] == generation {
			c.bad.wal[path] = generation
		}
	}
	c.olderWAL()
	paths := c.bad.paths()
	paths = append(paths, slices.Sorted(maps.Keys(c.bad.strays))...)
	for _, path := range paths {
		if err := r.setAside(path); err != nil {
			return err
		}
	}
	return nil
}

// olderWAL adds to the damaged WAL files those before them: their commits would seem to end in a gap. No record in them is
// needed any more.
func (c *checker) olderWAL() {
	newest := make(map[string]uint64) // by folder
	for path, generation := range c.bad.wal {
		dir := filepath.Dir(path)
		newest[dir] = max(newest[dir], generation)
	}
	for path, generation := range c.walGeneration {
		if generation != 0 && generation < newest[filepath.Dir(path)] {
			c.bad.wal[path] = generation
		}
	}
}

// releaseShard writes a checkpoint in which no log is quarantined.
func (r *repair) releaseShard(shard int) error {
	cp, err := r.x.readCheckpoint(shard)
	if err != nil {
		return err
	}
	if cp == nil {
		return fmt.Errorf("engine: shard %d has no checkpoint", shard)
	}
	edits := make(map[uint64]*logEntry)
	for id, ie := range cp.newest() {
		if !ie.log.dropped && ie.log.quarantine != "" {
			ie.log.quarantine = ""
			edits[id] = ie.log
		}
	}
	if len(edits) == 0 {
		return nil
	}
	if err := r.replaceCheckpoint(shard, cp, edits); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(edits)) {
		e := edits[id]
		r.did("brought %s-%d back to service: it ends at offset %d", e.topic, e.partition, e.end)
	}
	return r.remove(cp.path)
}

func (r *repair) remove(path string) error {
	if err := r.x.fs.Remove(path); err != nil && !isMissing(err) {
		return fmt.Errorf("engine: %w", err)
	}
	return r.x.fs.SyncDir(filepath.Dir(path))
}

// asidePath is where a file goes. The first call makes the folder of this run.
func (r *repair) asidePath(path string) (string, error) {
	if r.aside == "" {
		names, err := r.x.fs.ReadDir(r.x.path(setAsideName))
		if err != nil && !isMissing(err) {
			return "", fmt.Errorf("engine: %w", err)
		}
		newest := 0
		for _, name := range names {
			if n, err := strconv.Atoi(name); err == nil {
				newest = max(newest, n)
			}
		}
		r.aside = r.x.path(setAsideName, fmt.Sprintf("%04d", newest+1))
		r.report.SetAside = r.aside
	}
	to := filepath.Join(r.aside, r.x.relative(path))
	if err := disk.MkdirAllDurable(r.x.fs, filepath.Dir(to), 0o755); err != nil {
		return "", fmt.Errorf("engine: %w", err)
	}
	return to, nil
}

// setAside moves a file, or a folder file by file; one that is not there is not missed.
func (r *repair) setAside(path string) error {
	info, err := r.x.fs.Stat(path)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	if info.IsDir {
		names, err := r.x.fs.ReadDir(path)
		if err != nil {
			return fmt.Errorf("engine: %w", err)
		}
		for _, name := range names {
			if err := r.setAside(filepath.Join(path, name)); err != nil {
				return err
			}
		}
		return r.remove(path)
	}
	to, err := r.asidePath(path)
	if err != nil {
		return err
	}
	if err := r.x.fs.Rename(path, to); err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	for _, dir := range []string{filepath.Dir(to), filepath.Dir(path)} {
		if err := r.x.fs.SyncDir(dir); err != nil {
			return fmt.Errorf("engine: %w", err)
		}
	}
	r.did("set %s aside", r.x.relative(path))
	return nil
}

// copyAside keeps a copy of a file of which a part stays in use.
func (r *repair) copyAside(path string) error {
	to, err := r.asidePath(path)
	if err != nil {
		return err
	}
	from, err := r.x.fs.OpenFile(path, os.O_RDONLY, 0)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	defer func() { _ = from.Close() }()
	f, err := r.x.fs.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	err = copyFile(f, from)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = r.x.fs.SyncDir(filepath.Dir(to))
	}
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	r.did("copied %s aside", r.x.relative(path))
	return nil
}

func copyFile(to, from disk.File) error {
	size, err := from.Size()
	if err != nil {
		return err
	}
	b := make([]byte, writeBytesMax)
	for at := int64(0); at < size; at += int64(len(b)) {
		p := b[:min(int64(len(b)), size-at)]
		if err := readFull(from, p, at); err != nil {
			return err
		}
		if _, err := to.WriteAt(p, at); err != nil {
			return err
		}
	}
	return to.Fdatasync()
}
