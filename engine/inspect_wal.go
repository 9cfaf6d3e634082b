package engine

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/klauspost/crc32"

	"millrace/engine/batch"
	"millrace/engine/disk"
)

// inspectedWAL is one WAL file as it lies there.
type inspectedWAL struct {
	name string
	path string
	f    disk.File
	size int64
	busy bool // flock'ed: the last writes of a killed process are not through

	damaged bool // says its name: an opening met damage in it

	heads     [2]walFileHeader // first block, last block
	headOK    [2]bool
	headError [2]string // why a block is no header
	problem   string    // the file cannot be used at all

	// Of the copy that counts.
	generation uint64 // 0: the file is free
	firstLSN   uint64
	salt       [saltSz]byte
}

func (w *inspectedWAL) end() int64 { return w.size - blockSize }

func (w *inspectedWAL) close() {
	if w.f != nil {
		_ = w.f.Close()
	}
}

func closeWAL(files []*inspectedWAL) {
	for _, w := range files {
		w.close()
	}
}

// openWAL opens the WAL files of a shard: those in use by generation, then the free ones.
func (x *inspector) openWAL(shard int) ([]*inspectedWAL, error) {
	dir := x.path(shardDirName(shard))
	names, err := x.fs.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	var files []*inspectedWAL
	for _, name := range names {
		_, damaged, ok := parseWALName(name)
		if !ok {
			continue
		}
		w, err := x.openWALFile(shard, name)
		if err != nil {
			closeWAL(files)
			return nil, err
		}
		w.damaged = damaged
		files = append(files, w)
	}
	slices.SortStableFunc(files, func(a, b *inspectedWAL) int {
		switch {
		case a.generation == 0 || b.generation == 0:
			return -cmp.Compare(min(a.generation, 1), min(b.generation, 1))
		default:
			return cmp.Compare(a.generation, b.generation)
		}
	})
	return files, nil
}

func (x *inspector) openWALFile(shard int, name string) (*inspectedWAL, error) {
	w := &inspectedWAL{name: name, path: x.path(shardDirName(shard), name)}
	f, err := x.openForRead(w.path)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	w.f = f
	if w.size, err = f.Size(); err != nil {
		w.close()
		return nil, fmt.Errorf("engine: %w", err)
	}
	w.busy = errors.Is(lockWhenFree(f), disk.ErrLocked)
	if w.size < 4*blockSize || w.size%blockSize != 0 {
		w.problem = fmt.Sprintf("impossible size of a WAL file: %d bytes", w.size)
		return w, nil
	}
	b := disk.AlignedAlloc(blockSize)
	for i, pos := range []int64{0, w.end()} {
		if err := readFull(f, b, pos); err != nil {
			w.close()
			return nil, fmt.Errorf("engine: %w", err)
		}
		h, ok, err := parseWALFileHeader(b)
		switch {
		case err != nil:
			w.headError[i] = err.Error()
			w.problem = err.Error()
			continue
		case !ok && allZero(b):
			w.headError[i] = "never written"
			continue
		case !ok:
			w.headError[i] = "not a header, or damaged"
			continue
		case h.directoryID != x.meta.DirectoryID || h.shard != uint32(shard):
			w.problem = "WAL file of another directory or shard"
		}
		w.heads[i], w.headOK[i] = h, true
		if h.generation > w.generation {
			w.generation, w.firstLSN, w.salt = h.generation, h.firstLSN, h.salt
		}
	}
	if w.problem != "" {
		w.generation = 0
	}
	return w, nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// inspectedCommit is a commit, or the place of one that is lost.
type inspectedCommit struct {
	pos  int64
	head commitHeader
	mem  []byte // valid during the visit; nil for a gap
	rows []walRow
	bad  []string // by row: what is wrong with it; nil when all are good

	// What is wrong with the commit itself; its rows are good unless lostTo is set.
	problems []string
	trailer  string // what is wrong with the trailer alone
	byHeader bool   // read by header, not by trailer
	lostTo   uint64 // a gap: the commits [head.lsn, lostTo) cannot be read
}

func (c *inspectedCommit) payload(r *walRow) []byte { return c.mem[r.pos : r.pos+r.length] }

// walEnd says how the commits of a file ended.
type walEnd struct {
	next    uint64 // LSN expected next
	pos     int64
	torn    bool // by a commit that was not finished
	flushed uint64
}

// walk visits the commits of a file in order. limit is the first LSN of the next file, 0 for the newest one;
// floor the highest LSN that is known to have been flushed.
func (w *inspectedWAL) walk(limit, floor uint64, visit func(*inspectedCommit) error) (walEnd, error) {
	v := &walWindow{f: w.f, size: w.end()}
	e := walEnd{next: w.firstLSN, pos: blockSize, flushed: floor}
	for {
		if limit != 0 && e.next >= limit || limit == 0 && e.pos >= v.size {
			return e, nil
		}
		c, problem, err := w.commitAt(v, e.pos, e.next)
		if err != nil {
			return e, err
		}
		if problem != commitOK {
			var torn bool
			if c, torn, err = w.lost(v, &e, limit, problem); err != nil {
				return e, err
			}
			if c == nil {
				e.torn = torn
				return e, nil
			}
		} else if c.bad != nil && limit == 0 && e.flushed < e.next {
			// Its header is good and its payload is not: an unfinished commit unless somebody says that it was flushed.
			c.mem = bytes.Clone(c.mem)
			other, _, err := w.lost(v, &e, limit, problem)
			if err != nil {
				return e, err
			}
			if other == nil {
				e.torn = true
				return e, nil
			}
		}
		e.flushed = max(e.flushed, c.head.flushedLSN)
		if err := visit(c); err != nil {
			return e, err
		}
		switch {
		case c.lostTo == 0:
			e.pos, e.next = c.pos+int64(c.head.size), c.head.lsn+1
		case c.head.size == 0: // nothing behind the gap
			e.pos, e.next = v.size, c.lostTo
		default:
			e.pos, e.next = c.pos+int64(c.head.size), c.lostTo
		}
	}
}

// commitAt reads the commit at pos.
func (w *inspectedWAL) commitAt(v *walWindow, pos int64, expected uint64) (*inspectedCommit, commitProblem, error) {
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
	if b, err = v.get(pos, int(h.size)); err != nil {
		return nil, noMagic, err
	}
	if problem := h.checkHeader(b, &w.salt, pos, w.generation); problem != commitOK {
		return nil, problem, nil
	}
	if h.lsn != expected {
		return nil, wrongPlace, nil
	}
	c := &inspectedCommit{pos: pos, head: h, mem: b, byHeader: true}
	c.readRows(b[commitHeaderSz:])
	th, rowsAt, problem := parseTrailer(b, &w.salt, pos+int64(h.size), w.generation)
	th.features = h.features
	switch rowsLen := int(h.rows) * commitRowSz; {
	case problem != commitOK:
		c.trailer = "trailer: " + string(problem)
	case th != h || !bytes.Equal(b[rowsAt:rowsAt+rowsLen], b[commitHeaderSz:commitHeaderSz+rowsLen]):
		c.trailer = "trailer does not repeat the header"
	}
	return c, commitOK, nil
}

func (c *inspectedCommit) readRows(b []byte) {
	c.rows = make([]walRow, c.head.rows)
	end := c.head.payloadPos
	for i := range c.rows {
		r := &c.rows[i]
		r.get(b[i*commitRowSz:])
		problem := c.rowProblem(r, end)
		if problem != "" {
			if c.bad == nil {
				c.bad = make([]string, len(c.rows))
			}
			c.bad[i] = problem
		}
		if uint64(r.pos)+uint64(r.length) <= uint64(c.head.size) {
			end = r.pos + r.length
		}
	}
	if end != c.head.trailerPos {
		c.problems = append(c.problems, fmt.Sprintf("payload ends at %d, trailer begins at %d", end, c.head.trailerPos))
	}
	if c.head.flushedLSN >= c.head.lsn {
		c.problems = append(c.problems, fmt.Sprintf("declares commit %d flushed", c.head.flushedLSN))
	}
}

// rowProblem says what is wrong with a row whose payload should begin at want.
func (c *inspectedCommit) rowProblem(r *walRow, want uint32) string {
	switch {
	case !r.kind.known():
		return fmt.Sprintf("unknown record type %d", uint8(r.kind))
	case uint64(r.pos)+uint64(r.length) > uint64(c.head.trailerPos) || r.pos != want:
		return fmt.Sprintf("payload at %d, %d bytes, does not follow the last one (%d)", r.pos, r.length, want)
	case r.kind == recMark:
		if r.logID != 0 || r.seq != 0 || r.length != 0 {
			return "a mark that belongs to a log"
		}
		return ""
	case r.logID == 0 || r.seq == 0:
		return "no log id or sequence"
	case r.kind == recAppend:
		return appendProblem(r, c.payload(r))
	case r.length == 0 && r.kind != recCreate:
		return ""
	case crc32.Checksum(c.payload(r), castagnoli) != r.crc:
		return "payload checksum mismatch"
	case r.kind != recCreate:
		return "a payload where none belongs"
	}
	if p, ok := parseCreatePayload(c.payload(r)); !ok || p.topic == "" || len(p.topic) > maxTopicBytes || p.partition < 0 {
		return "payload of the create record cannot be read"
	}
	return ""
}

func appendProblem(r *walRow, p []byte) string {
	h, err := batch.Validate(p)
	switch {
	case err != nil:
		return "batch: " + err.Error()
	case h.BaseOffset != r.base || h.LeaderEpoch != r.leaderEpoch || h.CRC != r.crc || h.LastOffsetDelta != r.lastDelta:
		return fmt.Sprintf("row (offset %d, epoch %d) and batch (offset %d, epoch %d) differ", r.base, r.leaderEpoch, h.BaseOffset, h.LeaderEpoch)
	case r.flags != batchFlags(&h) || r.maxTime != h.MaxTimestamp:
		return "row and batch differ in flags or timestamp"
	}
	return ""
}

// lost looks at what follows a commit that cannot be read by its header. It returns the commit read by its
// trailer, or a gap, or nil when the WAL ends here.
func (w *inspectedWAL) lost(v *walWindow, e *walEnd, limit uint64, problem commitProblem) (c *inspectedCommit, torn bool, err error) {
	gap := &inspectedCommit{pos: e.pos, head: commitHeader{lsn: e.next, generation: w.generation}, problems: []string{string(problem)}}
	flushed := e.flushed
	for at := e.pos; at+blockSize <= v.size; at += blockSize {
		b, err := v.get(at, blockSize)
		if err != nil {
			return nil, false, err
		}
		// Old commits are everywhere in a recycled file: the bytes before a trailer are read only if it names this one.
		t := b[blockSize-trailerSz:]
		isTrailer := leUint64(t) == trailerMagic && leUint64(t[16:]) == w.generation && leUint64(t[24:]) == e.next && leUint64(t[40:]) == uint64(e.pos)
		h, p := peekCommit(b)
		switch {
		case p != commitOK:
		case at == e.pos:
			torn = h.lsn == e.next && h.generation == w.generation
		case h.lsn > e.next && h.generation == w.generation && at+int64(h.size) <= v.size:
			full, err := v.get(at, int(h.size))
			if err != nil {
				return nil, false, err
			}
			if h.checkHeader(full, &w.salt, at, w.generation) != commitOK {
				break
			}
			flushed = max(flushed, h.flushedLSN)
			if gap.lostTo == 0 {
				gap.lostTo, gap.head.size = h.lsn, uint32(at-e.pos)
			}
			torn = true
		}
		if c == nil && isTrailer && at+blockSize-e.pos <= maxCommitBytes {
			if c, err = w.byTrailer(v, e.pos, at+blockSize, e.next); err != nil {
				return nil, false, err
			}
			if c != nil {
				flushed = max(flushed, c.head.flushedLSN)
			}
		}
	}
	switch {
	case limit == 0 && flushed < e.next:
		return nil, torn, nil
	case c != nil:
		c.problems = append(c.problems, string(problem))
		return c, false, nil
	}
	if gap.lostTo == 0 || limit != 0 && gap.lostTo > limit {
		gap.lostTo, gap.head.size = limit, 0
		if limit == 0 {
			gap.lostTo = flushed + 1
		}
	}
	gap.lostTo = max(gap.lostTo, e.next+1)
	return gap, false, nil
}

// byTrailer reads the commit [pos, end) by its trailer; nil when there is none.
func (w *inspectedWAL) byTrailer(v *walWindow, pos, end int64, expected uint64) (*inspectedCommit, error) {
	b, err := v.get(pos, int(end-pos))
	if err != nil {
		return nil, err
	}
	h, rowsAt, problem := parseTrailer(b, &w.salt, end, w.generation)
	if problem != commitOK || h.lsn != expected || h.filePos != pos {
		return nil, nil //nolint:nilnil // there is none
	}
	c := &inspectedCommit{pos: pos, head: h, mem: bytes.Clone(b)}
	c.readRows(b[rowsAt:])
	return c, nil
}
