package engine

import (
	"fmt"

	"millrace/engine/batch"
	"millrace/engine/disk"
)

// mover copies a log's durable records from the ring into its stable state: batches into
// segments, everything else into what it means. One goroutine at a time uses a mover; the log's
// writeMu keeps two of them apart.
type mover struct {
	s   *Shard
	buf []byte // aligned; begins with the active segment's partial block

	// The run that is being written.
	l       *Log
	entries []tailEntry
	placed  []placedBatch
	seg     *segment
	n       int   // bytes in buf
	written int64 // where buf goes in the file
	pos     int64 // logical end of the segment
	file    *openFile
}

// placedBatch is a batch that has its position in the segment.
type placedBatch struct {
	h   batch.Header
	pos int64
	e   tailEntry
}

func newMover(s *Shard) *mover {
	return &mover{s: s, buf: disk.AlignedAlloc(s.e.o.chunkBytes)}
}

// moveLog moves everything durable of a log.
func (m *mover) moveLog(l *Log) error {
	l.stable.writeMu.Lock()
	defer l.stable.writeMu.Unlock()
	return m.moveLocked(l)
}

// moveLocked is moveLog for callers that hold writeMu.
func (m *mover) moveLocked(l *Log) error {
	for {
		more, err := m.moveSome(l)
		if err != nil {
			return fmt.Errorf("%s: %w", l, err)
		}
		if !more {
			return nil
		}
	}
}

// moveSome moves one run of batches, or applies one other record. Called with writeMu.
func (m *mover) moveSome(l *Log) (bool, error) {
	durable := m.s.durableLSN.Load()
	l.mu.Lock()
	unmoved := l.tail.unmoved()
	var op *logOp
	if len(l.ops) > 0 {
		o := l.ops[0]
		op = &o
	}
	opsReady := op != nil && op.lsn <= durable && l.swallowersDurable(durable)
	m.entries = m.entries[:0]
	bytes := 0
	for i := range unmoved {
		e := &unmoved[i]
		if e.lsn > durable || (op != nil && e.seq > op.seq) || (bytes > 0 && bytes+int(e.size) > len(m.buf)) {
			break
		}
		m.entries = append(m.entries, *e)
		bytes += int(e.size)
	}
	l.mu.Unlock()
	switch {
	case len(m.entries) > 0:
		return true, m.writeRun(l)
	case op != nil && opsReady && (len(unmoved) == 0 || unmoved[0].seq > op.seq):
		return true, m.applyOp(l, op)
	}
	return false, nil
}

// swallowersDurable reports that no batch is missing from the ring because of a record that could
// still be lost: the records before that one would then be applied without the batch. Called
// with mu.
func (l *Log) swallowersDurable(durable uint64) bool {
	for i := range l.ops {
		if l.ops[i].from != 0 && l.ops[i].lsn > durable {
			return false
		}
	}
	return true
}

// writeRun writes the collected batches behind the log's segments.
func (m *mover) writeRun(l *Log) error {
	m.begin(l)
	defer m.end()
	cfg := l.config()
	for i := range m.entries {
		e := &m.entries[i]
		b := e.slab.mem[e.pos : e.pos+e.size]
		h, err := batch.ParseHeader(b)
		if err != nil || h.Size() != int(e.size) {
			panic(fmt.Sprintf("BUG: no batch in the ring at %d of %s: %v", e.base, l, err))
		}
		if m.seg != nil && m.mustRoll(cfg, &h) {
			if err := m.seal(); err != nil {
				return err
			}
		}
		if m.seg == nil {
			m.newSegment(h.BaseOffset)
		}
		m.placed = append(m.placed, placedBatch{h: h, pos: m.pos, e: *e})
		if err := m.put(b); err != nil {
			return err
		}
	}
	if err := m.flush(false); err != nil {
		return err
	}
	m.publish()
	return nil
}

// begin loads the active segment's end.
func (m *mover) begin(l *Log) {
	st := &l.stable
	m.l = l
	m.placed = m.placed[:0]
	m.seg = st.active()
	m.n, m.written, m.pos = 0, 0, 0
	if m.seg != nil {
		m.written = st.written
		m.n = copy(m.buf, st.tail)
		m.pos = m.seg.size
	}
}

// end lets go of the file.
func (m *mover) end() {
	if m.file != nil {
		m.file.Release()
		m.file = nil
	}
	clear(m.placed)
	m.l, m.seg = nil, nil
}

func (m *mover) mustRoll(cfg *LogConfig, h *batch.Header) bool {
	if m.pos == 0 {
		return false
	}
	return m.pos+int64(h.Size()) > cfg.SegmentBytes ||
		m.s.e.now().UnixMilli()-m.seg.created >= cfg.SegmentMillis ||
		h.LastOffset()-m.seg.base >= 1<<31
}

func (m *mover) newSegment(base int64) {
	st := &m.l.stable
	st.generation++
	m.seg = &segment{
		log:        m.l,
		base:       base,
		generation: m.s.e.meta.Incarnation<<20 | st.generation,
		next:       base,
		maxTime:    -1,
		maxBase:    -1,
		indexed:    -1,
		created:    m.s.e.now().UnixMilli(),
		index:      newSegmentIndex(base),
	}
	m.n, m.written, m.pos = 0, 0, 0
	st.mu.Lock()
	st.segments = append(st.segments, m.seg)
	st.written, st.tail = 0, nil
	st.mu.Unlock()
}

// put adds a batch's bytes to the chunk and writes the chunk when it is full.
func (m *mover) put(b []byte) error {
	m.pos += int64(len(b))
	for len(b) > 0 {
		n := copy(m.buf[m.n:], b)
		m.n += n
		b = b[n:]
		if m.n == len(m.buf) {
			if err := m.write(m.n); err != nil {
				return err
			}
			m.n = 0
		}
	}
	return nil
}

// flush writes the whole blocks of the chunk, and with pad also the last partial one.
func (m *mover) flush(pad bool) error {
	whole := disk.AlignDown(m.n)
	if pad && whole < m.n {
		whole += blockSize
		clear(m.buf[m.n:whole])
		m.n = whole
	}
	if whole == 0 {
		return nil
	}
	if err := m.write(whole); err != nil {
		return err
	}
	m.n = copy(m.buf, m.buf[whole:m.n])
	return nil
}

// write puts the first n bytes of the chunk into the file.
func (m *mover) write(n int) error {
	if err := m.open(); err != nil {
		return err
	}
	m.s.e.o.onWindow(winSegmentWrite)
	defer m.s.e.o.onWindow(winIdle)
	m.seg.unsynced = true
	if _, err := m.file.WriteAt(m.buf[:n], m.written); err != nil {
		return err
	}
	m.written += int64(n)
	m.s.stats.segmentBytes.Add(uint64(n))
	return nil
}

// open opens (or creates) the segment's file for direct writes.
func (m *mover) open() error {
	if m.file != nil {
		return nil
	}
	st := &m.l.stable
	if !m.seg.hasFile && !st.dirMade {
		if err := m.s.e.fs.MkdirAll(m.l.dir(), 0o755); err != nil {
			return err
		}
		st.dirMade = true
		m.s.e.logsDirDirty.Store(true)
	}
	f, err := m.s.e.files.acquire(m.seg, true, !m.seg.hasFile)
	if err != nil {
		return err
	}
	if !m.seg.hasFile {
		m.seg.hasFile = true
		m.seg.dirDirty = true
	}
	m.file = f
	return nil
}

// publish makes the placed batches part of the stable state and lets the ring have them.
func (m *mover) publish() {
	l, g, st := m.l, m.seg, &m.l.stable
	if len(m.placed) == 0 {
		return
	}
	tail := append([]byte(nil), m.buf[:m.n]...)
	interval := indexInterval(l.config())
	last := &m.placed[len(m.placed)-1]
	st.mu.Lock()
	for i := range m.placed {
		p := &m.placed[i]
		g.addToIndex(&p.h, p.pos, interval)
	}
	st.size += m.pos - g.size
	g.size = m.pos
	g.next = last.h.NextOffset()
	st.end = g.next
	st.written, st.tail = m.written, tail
	st.mu.Unlock()
	for i := range m.placed {
		p := &m.placed[i]
		b := p.e.slab.mem[p.e.pos : p.e.pos+p.e.size]
		st.producers = applyBatch(b, &p.h, st.producers, &st.epochs, &st.aborted)
		st.epoch = max(st.epoch, p.h.LeaderEpoch)
	}
	st.seq = last.e.seq

	l.mu.Lock()
	l.tail.moved += len(m.placed)
	for i := range m.placed {
		l.unmoved -= int64(m.placed[i].e.size)
	}
	l.mu.Unlock()
	for i := range m.placed {
		m.placed[i].e.slab.busy.Add(-1)
	}
	clear(m.placed)
	m.placed = m.placed[:0]
}

// addToIndex adds a batch to the sparse indexes. Called with stableState.mu.
func (g *segment) addToIndex(h *batch.Header, pos, interval int64) {
	if h.MaxTimestamp > g.maxTime {
		g.maxTime, g.maxBase = h.MaxTimestamp, h.BaseOffset
	}
	if g.indexed >= 0 && pos-g.indexed < interval {
		return
	}
	g.indexed = pos
	g.index.add(h.BaseOffset, pos, g.maxTime, g.maxBase)
}

// seal ends the active segment: its last block is padded, its index goes to a file.
// Called with writeMu, between begin and end.
func (m *mover) seal() error {
	m.s.e.o.onWindow(winSeal)
	defer m.s.e.o.onWindow(winIdle)
	if err := m.flush(true); err != nil {
		return err
	}
	m.publish()
	g, st := m.seg, &m.l.stable
	st.mu.Lock()
	g.sealed = true
	st.written, st.tail = 0, nil
	st.mu.Unlock()
	m.l.checkpointDue.Store(true)
	if m.file != nil {
		m.file.Release()
		m.file = nil
	}
	m.seg = nil
	m.n, m.written, m.pos = 0, 0, 0
	g.indexDirty = true
	return m.s.e.writeIndexFile(g)
}

// sealActive seals the active segment if there is one with data. Called with writeMu.
func (m *mover) sealActive(l *Log) error {
	m.begin(l)
	defer m.end()
	if m.seg == nil || m.pos == 0 {
		return nil
	}
	return m.seal()
}

// applyOp gives the stable state a record that is not a batch. Called with writeMu.
func (m *mover) applyOp(l *Log, op *logOp) error {
	st := &l.stable
	switch op.kind {
	case recCreate:
	case recEpochStart:
		st.epochs.Assign(op.epoch, op.base)
		st.epoch = max(st.epoch, op.epoch)
	case recStartOffset:
		st.moveStart(op.base)
	case recTruncate:
		if err := m.truncate(l, op.base); err != nil {
			return err
		}
	case recReset:
		st.reset(op.base)
	case recDrop:
		m.s.e.o.onWindow(winDrop)
		st.reset(st.end)
		st.dropped = true
	default:
		panic(fmt.Sprintf("BUG: record %v in the queue of %s", op.kind, l))
	}
	st.seq = op.seq
	if len(st.obsolete) > 0 {
		// Their space comes back with the next checkpoint.
		l.checkpointDue.Store(true)
		m.s.writer.urgent.Store(true)
	}
	l.mu.Lock()
	done := l.ops[0].done
	l.ops = l.ops[1:]
	if len(l.ops) == 0 {
		l.ops = nil
	}
	l.mu.Unlock()
	if done != nil {
		done.complete(nil)
	}
	return nil
}

// moveStart drops the segments wholly below the new log start. Called with writeMu.
func (st *stableState) moveStart(start int64) {
	st.mu.Lock()
	st.start = max(st.start, start)
	st.end = max(st.end, st.start) // batches in between fell to a Reset that comes next
	n := 0
	for n < len(st.segments) && st.segments[n].sealed && st.segments[n].next <= st.start {
		st.size -= st.segments[n].size
		n++
	}
	gone := st.segments[:n:n]
	st.segments = append([]*segment(nil), st.segments[n:]...)
	st.abandon(gone)
	st.mu.Unlock()
	st.epochs.TruncateFromStart(st.start)
	st.aborted.DropBefore(st.start)
}

// abandon remembers files to delete once no checkpoint names them. Called with mu and writeMu.
func (st *stableState) abandon(gone []*segment) {
	for _, g := range gone {
		g.gone = true
		if g.hasFile {
			st.obsolete = append(st.obsolete, g)
		}
	}
}

// reset empties the log; it goes on at start. Called with writeMu.
func (st *stableState) reset(start int64) {
	st.mu.Lock()
	st.abandon(st.segments)
	st.segments = nil
	st.written, st.tail, st.size = 0, nil, 0
	st.start, st.end = start, start
	st.mu.Unlock()
	st.producers = nil
	st.epochs.Clear()
	st.aborted.TruncateTo(0)
}

// truncate removes everything from end on. A segment that holds end is ended logically
// there, and the next batch begins a new file. Called with writeMu.
func (m *mover) truncate(l *Log, end int64) error {
	m.s.e.o.onWindow(winTruncate)
	defer m.s.e.o.onWindow(winIdle)
	st := &l.stable
	keep := len(st.segments)
	for keep > 0 && st.segments[keep-1].base >= end {
		keep--
	}
	var g *segment // the one that holds end
	var c cut
	if keep > 0 && st.segments[keep-1].next > end {
		g = st.segments[keep-1]
		var err error
		if c, err = l.cutPosition(g, end); err != nil {
			return err
		}
		if c.pos == 0 {
			keep--
			g = nil
		}
	}
	if g != nil && !g.sealed && c.pos > st.written {
		// The cut goes through the tail block: what stays of it must reach the file now.
		m.begin(l)
		m.n = int(c.pos - st.written)
		err := m.flush(true)
		m.end()
		if err != nil {
			return err
		}
	}
	st.mu.Lock()
	gone := st.segments[keep:]
	st.segments = append([]*segment(nil), st.segments[:keep]...)
	st.abandon(gone)
	if g != nil {
		g.size, g.next, g.maxTime, g.maxBase = c.pos, c.next, c.maxTime, c.maxBase
		g.sealed = true
		if g.index != nil {
			g.index = g.index.truncated(c.next)
		}
	}
	if len(gone) > 0 || g != nil {
		st.written, st.tail = 0, nil
	}
	st.size = 0
	for _, g := range st.segments {
		st.size += g.size
	}
	st.end = min(st.end, end)
	if st.end < st.start {
		st.start = st.end
	}
	st.mu.Unlock()
	if st.producers != nil {
		st.producers.TruncateTo(end)
	}
	st.epochs.TruncateFromEnd(end)
	st.aborted.TruncateTo(end)
	if g != nil && g.index != nil {
		g.indexDirty = true
		return m.s.e.writeIndexFile(g)
	}
	return nil
}
