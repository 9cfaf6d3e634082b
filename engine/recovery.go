package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/crc32"

	"millrace/engine/batch"
	"millrace/engine/disk"
	"millrace/engine/producer"
)

// Recovery of a shard: checkpoint, then the WAL forward from the replay LSN, then a flush of
// everything that was trusted. It runs on one goroutine before anybody else knows
// the shard.
type recovery struct {
	s       *Shard
	logs    map[uint64]*Log
	dropped map[uint64]uint64 // log id -> seq of the newest record of a log that the checkpoint calls dropped
	// suspects may have lost records in a gap; a record with the next sequence number clears them.
	suspects map[uint64]string
	used     []*walFile // in order of generation
	floor    uint64     // highest LSN known to have been flushed
	next     uint64     // LSN expected next
	replay   uint64
	maxLogID uint64
	// tail are the commits above floor, in order: nobody has said that they were flushed. They are
	// written again.
	tail []tailCommit
}

// tailCommit is a commit as it was read.
type tailCommit struct {
	head  commitHeader
	bytes []byte
}

// recover brings the shard to the state of its last durable commit (or a later one).
func (s *Shard) recover() error {
	e := s.e
	if err := disk.MkdirAllDurable(e.fs, s.dir, 0o755); err != nil {
		return err
	}
	entries, head, err := s.loadCheckpoint()
	if err != nil {
		return err
	}
	r := &recovery{
		s:        s,
		logs:     make(map[uint64]*Log),
		dropped:  make(map[uint64]uint64),
		suspects: make(map[uint64]string),
		floor:    head.lsnFloor,
		next:     head.replayLSN,
		replay:   head.replayLSN,
		maxLogID: head.nextLogID,
	}
	s.generation = head.generation
	if err := r.loadLogs(entries); err != nil {
		return err
	}
	if err := r.openFiles(); err != nil {
		return err
	}
	if err := r.replayAll(); err != nil {
		return err
	}
	r.quarantineSuspects()
	if err := r.flush(); err != nil {
		return err
	}
	if err := r.finish(); err != nil {
		return err
	}
	return r.rewriteTail()
}

// loadLogs makes the logs that the checkpoint holds.
func (r *recovery) loadLogs(entries map[uint64][]byte) error {
	ids := make([]uint64, 0, len(entries))
	for id := range entries {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		c, err := decodeLogEntry(entries[id])
		if err != nil {
			return fmt.Errorf("engine: checkpoint entry of log %d: %w", id, err)
		}
		r.maxLogID = max(r.maxLogID, id)
		if c.dropped {
			r.dropped[id] = c.seq
			continue
		}
		if err := r.adopt(c); err != nil {
			return err
		}
	}
	return nil
}

// adopt makes a log from its checkpoint entry: head and stable state are the same.
func (r *recovery) adopt(c *logEntry) error {
	l := newLog(r.s.e, r.s, c.logID, createPayload{topicID: c.topicID, partition: c.partition, topic: c.topic})
	st := &l.stable
	st.seq, st.start, st.end, st.hw, st.epoch = c.seq, c.start, c.end, c.hw, c.epoch
	st.written, st.tail = c.written, c.tail
	st.epochs, st.aborted = c.epochs, c.aborted
	st.quarantine = c.quarantine
	if c.producers != nil {
		p, err := producer.Decode(c.producers)
		if err != nil {
			return fmt.Errorf("engine: producers of log %d: %w", c.logID, err)
		}
		st.producers = p
		l.producers = p.Clone()
	}
	for i := range c.segments {
		e := &c.segments[i]
		g := &segment{
			log: l, base: e.base, generation: e.generation, size: e.size, next: e.next, sealed: e.sealed,
			maxTime: e.maxTime, maxBase: e.maxBase, created: e.created, hasFile: e.hasFile, indexed: -1,
		}
		if !g.sealed {
			g.index, g.indexed = c.active, c.indexed
		}
		st.dirMade = st.dirMade || g.hasFile
		st.size += g.size
		st.segments = append(st.segments, g)
	}
	l.seq = c.seq
	l.end = c.end
	l.epochs = c.epochs.Clone()
	l.aborted = c.aborted.Clone()
	l.quarantine = c.quarantine
	l.logStart.Store(c.start)
	l.highWater.Store(c.hw)
	l.leaderEpoch.Store(c.epoch)
	r.register(l)
	return nil
}

func (r *recovery) register(l *Log) {
	r.logs[l.id] = l
	r.maxLogID = max(r.maxLogID, l.id)
	e := r.s.e
	e.mu.Lock()
	e.byID[l.id] = l
	e.logs[logKey{l.topicID, l.partition}] = l
	e.mu.Unlock()
}

// openFiles opens and locks all WAL files of the shard and reads their headers.
func (r *recovery) openFiles() error {
	s := r.s
	names, err := s.e.fs.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, walTempSuffix) || strings.HasSuffix(name, disk.TempSuffix) {
			if err := s.e.fs.Remove(s.path(name)); err != nil {
				return err
			}
			continue
		}
		digits, ok := strings.CutPrefix(name, "wal-")
		if !ok {
			continue
		}
		n, err := strconv.Atoi(digits)
		if err != nil {
			continue
		}
		s.fileNumber = max(s.fileNumber, n)
		w, err := r.openFile(name)
		if err != nil {
			return err
		}
		if w.generation == 0 {
			s.freeFiles = append(s.freeFiles, w)
			continue
		}
		r.used = append(r.used, w)
		s.generation = max(s.generation, w.generation)
	}
	slices.SortFunc(r.used, func(a, b *walFile) int {
		switch {
		case a.generation < b.generation:
			return -1
		case a.generation > b.generation:
			return 1
		}
		return 0
	})
	return nil
}

// openFile opens one WAL file; generation stays 0 when no header is there.
func (r *recovery) openFile(name string) (*walFile, error) {
	s := r.s
	path := s.path(name)
	f, err := s.e.openDirect(path, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	w := &walFile{f: f, name: name}
	if err := lockWhenFree(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("engine: %s: %w", path, err)
	}
	if w.size, err = f.Size(); err != nil {
		_ = f.Close()
		return nil, err
	}
	if w.size < 4*blockSize || w.size%blockSize != 0 {
		_ = f.Close()
		return nil, &CorruptionError{File: path, Pos: w.size, Reason: "impossible size of a WAL file"}
	}
	b := disk.AlignedAlloc(blockSize)
	for _, pos := range []int64{0, w.end()} {
		if err := readFull(f, b, pos); err != nil {
			_ = f.Close()
			return nil, err
		}
		h, ok, err := parseWALFileHeader(b)
		if err == nil && ok && (h.directoryID != s.e.meta.DirectoryID || h.shard != uint32(s.id)) {
			err = &CorruptionError{File: path, Pos: pos, Reason: "WAL file of another directory or shard"}
		}
		if err != nil {
			_ = f.Close()
			return nil, err
		}
		// Two different headers: the file's newest use never got beyond its first commits.
		if ok && h.generation > w.generation {
			w.generation, w.firstLSN, w.salt = h.generation, h.firstLSN, h.salt
		}
	}
	return w, nil
}

// lockPatience is how long the last writes of a killed predecessor may take.
const lockPatience = 30 * time.Second

// lockWhenFree locks a WAL file. The directory is ours already, so whoever still holds the lock is a write that a
// killed predecessor left in the kernel: it must have ended before anything is read.
func lockWhenFree(f disk.File) error {
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		err := f.TryLock()
		if !errors.Is(err, disk.ErrLocked) || time.Since(began) > lockPatience {
			return err
		}
	}
}

// openDirect opens a file for direct I/O, or buffered where the filesystem has none.
func (e *Engine) openDirect(path string, flag int) (disk.File, error) {
	f, err := e.fs.OpenFile(path, flag|disk.Direct, 0o644)
	if errors.Is(err, syscall.EINVAL) {
		e.warnDirect.Do(func() {
			e.o.Warn("%s: the filesystem has no direct I/O; writes go through the page cache", e.o.Dir)
		})
		return e.fs.OpenFile(path, flag, 0o644)
	}
	return f, err
}

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

// gap says that commits [from, to) are lost although they had been flushed: no log is above suspicion.
func (r *recovery) gap(w *walFile, pos int64, from, to uint64, reason string) {
	name := r.s.dir
	if w != nil {
		name = r.s.path(w.name)
		w.damaged = true
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

// quarantineSuspects ends recovery for logs that no later record has cleared.
func (r *recovery) quarantineSuspects() {
	for id, reason := range r.suspects {
		if l := r.logs[id]; l != nil && !l.dropped {
			r.quarantine(l, "cannot be proved complete: "+reason)
		}
	}
}

// walWindow reads a WAL file through one aligned buffer.
type walWindow struct {
	f    disk.File
	size int64
	buf  []byte
	at   int64 // position of buf[0]
	n    int
	read int64 // bytes read so far
}

// get returns n bytes at pos; both are multiples of blockSize. What is in the buffer
// already is not read again.
func (v *walWindow) get(pos int64, n int) ([]byte, error) {
	if pos >= v.at && pos+int64(n) <= v.at+int64(v.n) {
		return v.buf[pos-v.at : pos-v.at+int64(n)], nil
	}
	want := int(min(max(int64(n), writeBytesMax), v.size-pos))
	if want < n {
		return nil, errors.New("beyond the end of the file")
	}
	kept := 0
	old := v.buf
	if pos >= v.at && pos < v.at+int64(v.n) {
		kept = int(v.at + int64(v.n) - pos)
	}
	if want > len(v.buf) {
		v.buf = disk.AlignedAlloc(want)
	}
	if kept > 0 {
		copy(v.buf[:kept], old[pos-v.at:])
	}
	v.at, v.n = pos, kept
	if err := readFull(v.f, v.buf[kept:want], pos+int64(kept)); err != nil {
		return nil, err
	}
	v.n = want
	v.read += int64(want - kept)
	return v.buf[:n], nil
}

// replayFile applies the commits of one file. limit is the first LSN of the next file, 0 for the last
// one. stop says that the WAL ends here.
func (r *recovery) replayFile(w *walFile, limit uint64) (stop bool, err error) {
	v := &walWindow{f: w.f, size: w.end()}
	defer func() { r.s.e.report.WALBytes += v.read }()
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
					r.tail = append(r.tail, tailCommit{c.head, append([]byte(nil), c.mem[:c.head.size]...)})
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

// readCommit reads and verifies the commit at pos.
func (r *recovery) readCommit(v *walWindow, w *walFile, pos int64, expected uint64) (*replayCommit, commitProblem, error) {
	if pos+blockSize > v.size {
		return nil, noMagic, nil
	}
	b, err := v.get(pos, blockSize)
	if err != nil {
		return nil, noMagic, err
	}
	h, problem := peekCommit(b)
	if problem != commitOK {
		return nil, problem, nil
	}
	if pos+int64(h.size) > v.size {
		return nil, badShape, nil
	}
	need := int(h.size)
	if expected < r.replay {
		need = disk.AlignUp(rowRoomBytes(int(h.rows))) // the rest is not looked at
	}
	if b, err = v.get(pos, need); err != nil {
		return nil, noMagic, err
	}
	if problem := r.checkHeader(&h, b, w, pos); problem != commitOK {
		return nil, problem, nil
	}
	if h.lsn != expected {
		return nil, wrongPlace, nil
	}
	if expected < r.replay {
		return &replayCommit{head: h}, commitOK, nil // covered by the checkpoint: its payload does not matter
	}
	c := &replayCommit{head: h, mem: b}
	c.readRows(b[commitHeaderSz:])
	if bad := c.verify(r.s.e.o.sabotage.ignoreCRC); bad > 0 {
		return c, commitProblem(fmt.Sprintf("%d of %d records damaged", bad, len(c.rows))), nil
	}
	return c, commitOK, nil
}

func (r *recovery) checkHeader(h *commitHeader, b []byte, w *walFile, pos int64) commitProblem {
	if r.s.e.o.sabotage.ignoreCRC {
		return commitOK
	}
	return h.checkHeader(b, &w.salt, pos, w.generation)
}

// replayCommit is a commit read back.
type replayCommit struct {
	head commitHeader
	mem  []byte
	rows []walRow
	bad  []bool // by row; nil when all are good
}

func (c *replayCommit) readRows(b []byte) {
	c.rows = make([]walRow, c.head.rows)
	for i := range c.rows {
		c.rows[i].get(b[i*commitRowSz:])
	}
}

func (c *replayCommit) payload(r *walRow) []byte {
	return c.mem[r.pos : r.pos+r.length : r.pos+r.length]
}

// verify checks every payload and returns how many are bad.
func (c *replayCommit) verify(believe bool) int {
	bad := 0
	for i := range c.rows {
		if c.rowOK(&c.rows[i], believe) {
			continue
		}
		if c.bad == nil {
			c.bad = make([]bool, len(c.rows))
		}
		c.bad[i] = true
		bad++
	}
	return bad
}

func (c *replayCommit) rowOK(r *walRow, believe bool) bool {
	if r.length == 0 {
		return true
	}
	if uint64(r.pos)+uint64(r.length) > uint64(c.head.size) || r.pos < c.head.payloadPos {
		return false
	}
	p := c.payload(r)
	if r.kind != recAppend {
		return crc32.Checksum(p, castagnoli) == r.crc
	}
	h, err := batch.ParseHeader(p)
	if err != nil || h.Size() != len(p) {
		return false
	}
	if believe {
		return true
	}
	// What the batch's own CRC does not cover is repeated in the row.
	return h.BaseOffset == r.base && h.LeaderEpoch == r.leaderEpoch && h.CRC == r.crc && h.LastOffsetDelta == r.lastDelta &&
		crc32.Checksum(p[21:], castagnoli) == r.crc
}

// scanResult is what lies behind a bad commit.
type scanResult struct {
	flushed uint64        // highest LSN that a later valid commit declares flushed
	lsn     uint64        // of the first later valid commit; 0: none
	pos     int64         // where it is
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

func (r *recovery) damage(w *walFile, pos int64, reason string) {
	w.damaged = true
	r.s.e.report.Damage = append(r.s.e.report.Damage, CorruptionError{File: r.s.path(w.name), Pos: pos, Reason: reason})
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
	case row.seq <= l.seq, l.quarantine != "":
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
	if row.kind != recCreate || bad {
		s.e.report.Damage = append(s.e.report.Damage, CorruptionError{File: s.dir, Reason: fmt.Sprintf("commit %d has a %v record of log %d, whose Create record is lost", c.head.lsn, row.kind, row.logID)})
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
		for _, l := range s.e.logsOf(s) {
			if err := s.writer.mover.moveLog(l); err != nil {
				return nil, 0, fmt.Errorf("engine: recovery: %w", err)
			}
		}
		s.reclaim()
	}
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

// flush makes durable what was read and believed: data that a killed process had
// written could otherwise be served now and vanish in a power cut.
func (r *recovery) flush() error {
	if r.s.e.o.sabotage.noRecoveryFlush {
		return nil
	}
	for _, w := range r.used {
		if err := w.f.Fdatasync(); err != nil {
			return err
		}
	}
	return nil
}

// finish sets the ends and sorts the WAL files. A new one is begun with the next commit:
// nothing is ever written behind a torn tail.
func (r *recovery) finish() error {
	s := r.s
	e := s.e
	for _, w := range r.used {
		// A file that holds some of the tail ends at or above the replay LSN: it is kept until the tail is elsewhere.
		if w.lastLSN < r.replay && !w.damaged {
			s.freeFiles = append(s.freeFiles, w)
			continue
		}
		s.fullFiles = append(s.fullFiles, w)
	}
	if err := s.removeSmallFiles(); err != nil {
		return err
	}
	if len(s.freeFiles) < walFilesReady {
		size := min(e.o.WALFileBytes, int64(4*s.slabBytes))
		for len(s.freeFiles) < walFilesReady {
			w, err := s.createWALFile(size)
			if err != nil {
				if noSpace(err) && len(s.freeFiles) > 0 {
					break
				}
				return err
			}
			s.freeFiles = append(s.freeFiles, w)
		}
	}
	if err := r.makeTailRoom(); err != nil {
		return err
	}
	if len(r.tail) > 0 {
		for _, w := range r.used {
			w.lastLSN = min(w.lastLSN, r.tail[0].head.lsn-1)
		}
	}
	if s.filling != nil {
		s.filling.used = disk.AlignUp(s.filling.used) // commits begin at whole blocks
	}
	s.durableLSN.Store(s.nextLSN - 1)
	s.writtenLSN.Store(s.nextLSN - 1)
	s.markedLSN.Store(r.floor)
	if e.nextLogID.Load() < r.maxLogID {
		e.nextLogID.Store(r.maxLogID)
	}
	for _, l := range e.logsOf(s) {
		for _, v := range []interface{ Store(int64) }{&l.appendedEnd, &l.writtenEnd, &l.durableEnd, &l.ackEnd} {
			v.Store(l.end)
		}
		if l.quarantine != "" {
			e.report.Quarantined = append(e.report.Quarantined, QuarantinedLog{
				LogID: l.id, Topic: l.topic, TopicID: l.topicID, Partition: l.partition, Offset: l.end, Reason: l.quarantine,
			})
		}
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
		if len(buf) < len(c.bytes) {
			buf = disk.AlignedAlloc(len(c.bytes))
		}
		copy(buf, c.bytes)
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

// isMissing reports that a file is not there.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
