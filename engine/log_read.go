package engine

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"sync"

	"golang.org/x/sys/unix"

	"millrace/engine/batch"
	"millrace/engine/disk"
)

// Span is a piece of a read's answer: memory (Mem != nil) or a range of a file.
type Span struct {
	Mem   []byte
	FD    int
	Pos   int64
	Len   int
	Owner Releaser // Release exactly once, when the bytes were sent
}

// ReadRequest asks for whole batches from the one that contains Offset.
type ReadRequest struct {
	Offset   int64
	UpTo     int64 // exclusive: no batch that reaches beyond it
	MaxBytes int
	MinOne   bool // return the first batch even if it is larger than MaxBytes
	// MayBlock allows file reads. Without it the answer is ErrWouldBlock when a file is needed.
	MayBlock bool
}

// ReadInfo describes what a read returned.
type ReadInfo struct {
	Bytes      int
	NextOffset int64 // where the next read goes on
}

// copyBelow is the size under which spans are copied: a pinned slab costs more.
const copyBelow = 4 << 10

// residentMax bounds how much of a file one read makes resident.
const residentMax = 4 << 20

// Read appends spans with whole batches to dst. It never returns half a batch and nothing at or beyond
// UpTo. Reading at the end returns no spans.
func (l *Log) Read(r ReadRequest, dst []Span) ([]Span, ReadInfo, error) {
	info := ReadInfo{NextOffset: r.Offset}
	for range 8 {
		done, out, info, err := l.readOnce(r, dst)
		if done {
			return out, info, err
		}
		// A segment went away between finding and opening it.
	}
	return dst, info, nil // and again and again: nothing for now
}

func (l *Log) readOnce(r ReadRequest, dst []Span) (done bool, out []Span, info ReadInfo, err error) {
	info.NextOffset = r.Offset
	end := l.appendedEnd.Load()
	if r.Offset < l.logStart.Load() || r.Offset > end {
		return true, dst, info, ErrOffsetOutOfRange
	}
	r.UpTo = min(r.UpTo, end)
	if r.Offset >= r.UpTo {
		return true, dst, info, nil
	}
	if out, info, ok := l.readTail(&r, dst); ok {
		return true, out, info, nil
	}
	l.mu.Lock()
	r.UpTo = min(r.UpTo, l.segmentLimit())
	l.mu.Unlock()
	out, info, err = l.readSegments(&r, dst)
	if errors.Is(err, fs.ErrNotExist) {
		return false, out, info, nil
	}
	return true, out, info, err
}

// readTail serves from the ring. ok is false when the ring does not hold the offset.
func (l *Log) readTail(r *ReadRequest, dst []Span) (_ []Span, info ReadInfo, ok bool) {
	info.NextOffset = r.Offset
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.tail.find(r.Offset)
	if i < 0 {
		if l.inSegments(r.Offset) {
			return dst, info, false
		}
		i = 0 // an offset hole: it goes on with the ring
	}
	live := l.tail.live()
	if i < len(live) && live[i].next() <= r.Offset {
		i++ // an offset hole behind a batch
	}
	first := len(dst)
	for ; i < len(live); i++ {
		e := &live[i]
		next := l.end
		if i+1 < len(live) {
			next = live[i+1].base
		}
		if next > r.UpTo {
			// There may be a hole behind the batch: only the batch itself must lie below the limit.
			if next = e.next(); next > r.UpTo {
				break
			}
		}
		size := int(e.size)
		if info.Bytes+size > r.MaxBytes && !(r.MinOne && info.Bytes == 0) {
			break
		}
		var grown bool
		if dst, grown = growSpan(dst, first, e); !grown {
			if !e.slab.pin() {
				// It is being evicted, and so has been moved.
				break
			}
			mem := e.slab.mem[e.pos : e.pos+e.size : e.pos+e.size]
			dst = append(dst, Span{Mem: mem, Len: size, Owner: e.slab})
		}
		info.Bytes += size
		info.NextOffset = next
	}
	if info.Bytes == 0 && len(dst) == first && i < len(live) && live[i].slab.pins.Load() < 0 {
		return dst, info, false
	}
	return dst, info, true
}

// inSegments reports whether a segment may have a batch at offset or above. What the ring has let go of is there: with mu held
// nothing leaves the ring. Called with mu.
func (l *Log) inSegments(offset int64) bool {
	return min(l.stable.lastNext(), l.segmentLimit()) > offset
}

// segmentLimit is the offset from which on the segments do not count: a truncation that the
// stable state has not seen yet removed it there. What came after it is in the ring. Called with mu.
func (l *Log) segmentLimit() int64 {
	limit := int64(math.MaxInt64)
	for i := range l.ops {
		switch op := &l.ops[i]; op.kind {
		case recTruncate:
			limit = min(limit, op.base)
		case recReset, recDrop:
			limit = 0
		default: // the others take nothing away from the end
		}
	}
	return limit
}

// growSpan extends the last span when the batch follows it in memory.
func growSpan(dst []Span, first int, e *tailEntry) ([]Span, bool) {
	if len(dst) == first {
		return dst, false
	}
	s := &dst[len(dst)-1]
	if s.Owner != Releaser(e.slab) {
		return dst, false
	}
	start := spanStart(s, e.slab)
	if start+len(s.Mem) != int(e.pos) {
		return dst, false
	}
	s.Mem = e.slab.mem[start : int(e.pos)+int(e.size) : int(e.pos)+int(e.size)]
	s.Len = len(s.Mem)
	return dst, true
}

// segmentReader reads the logical bytes of one segment: file and, for the active one, tail
// block. It is a snapshot: what is appended later is not in it.
type segmentReader struct {
	g     *segment
	x     *segmentIndex // may be nil; lookups take stableState.mu, because an active one grows
	size  int64
	disk  int64 // bytes that are in the file
	end   int64 // bytes that can be read: less than size in a quarantined log whose file is too short
	tail  []byte
	next  int64
	file  *openFile
	buf   []byte // a window of the segment
	at    int64
	owned *[]byte
}

// windowBytes is how much a segmentReader reads at once while it looks at headers.
const windowBytes = 64 << 10

var windows = sync.Pool{New: func() any { b := make([]byte, windowBytes); return &b }}

// openSegment opens a snapshot of g for reading.
func (l *Log) openSegment(g *segment) (*segmentReader, error) {
	st := &l.stable
	st.mu.Lock()
	r := &segmentReader{g: g, size: g.size, disk: g.size, end: g.size, next: g.next}
	if !g.sealed {
		r.disk, r.tail = st.written, st.tail
	}
	gone := g.gone
	st.mu.Unlock()
	if gone {
		return nil, fs.ErrNotExist
	}
	if r.disk > 0 {
		f, err := l.e.files.acquire(g, false, false)
		if isMissing(err) {
			st.mu.Lock()
			gone = g.gone
			st.mu.Unlock()
			if !gone {
				err = &CorruptionError{File: g.path(), Pos: -1, Reason: "the segment's file is missing"}
			}
		}
		if err != nil {
			return nil, err
		}
		r.file = f
		if st.quarantine != "" {
			have, err := f.Size()
			if err != nil {
				r.close()
				return nil, err
			}
			if have < r.disk {
				r.end = have
			}
		}
	}
	return r, nil
}

func (r *segmentReader) close() {
	if r.file != nil {
		r.file.Release()
		r.file = nil
	}
	if r.owned != nil {
		windows.Put(r.owned)
		r.owned, r.buf = nil, nil
	}
}

// readAt reads logical bytes.
func (r *segmentReader) readAt(p []byte, pos int64) error {
	if pos < 0 || pos+int64(len(p)) > r.size {
		return io.ErrUnexpectedEOF
	}
	if pos+int64(len(p)) > r.end {
		return r.damaged(r.end, "the file ends here")
	}
	if pos < r.disk {
		n := min(int64(len(p)), r.disk-pos)
		if err := readFull(r.file, p[:n], pos); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
				err = r.damaged(pos, "the file is too short")
			}
			return err
		}
		p, pos = p[n:], pos+n
	}
	copy(p, r.tail[max(0, pos-r.disk):])
	return nil
}

// window returns at least n bytes at pos, or all that are left.
func (r *segmentReader) window(pos int64, n int) ([]byte, error) {
	if pos >= r.at && pos+int64(n) <= r.at+int64(len(r.buf)) {
		return r.buf[pos-r.at:], nil
	}
	if r.owned == nil {
		r.owned = windows.Get().(*[]byte)
	}
	b := *r.owned
	b = b[:min(int64(len(b)), max(r.end-pos, int64(n)))]
	if err := r.readAt(b, pos); err != nil {
		return nil, err
	}
	r.buf, r.at = b, pos
	return b, nil
}

// header reads the batch header at pos. Anything else than a batch that ends within the segment is corruption.
func (r *segmentReader) header(pos int64) (batch.Header, error) {
	if pos+batch.HeaderSize > r.size {
		return batch.Header{}, r.damaged(pos, "a batch header is cut off")
	}
	b, err := r.window(pos, batch.HeaderSize)
	if err != nil {
		return batch.Header{}, err
	}
	h, err := batch.ParseHeader(b)
	if err != nil {
		return h, r.damaged(pos, err.Error())
	}
	if pos+int64(h.Size()) > r.size || h.BaseOffset < r.g.base || h.NextOffset() > r.next {
		return h, r.damaged(pos, "a batch reaches beyond its segment")
	}
	return h, nil
}

func (r *segmentReader) damaged(pos int64, reason string) error {
	return &CorruptionError{File: r.g.path(), Pos: pos, Reason: reason}
}

// lookup returns the last index entry at or below offset, or the start of the segment.
func (r *segmentReader) lookup(offset int64) (at, pos int64) {
	if r.x == nil {
		return r.g.base, 0
	}
	st := &r.g.log.stable
	st.mu.Lock()
	defer st.mu.Unlock()
	return r.x.offsets.Lookup(offset)
}

// lookupPosition returns the last index entry at or below a position.
func (r *segmentReader) lookupPosition(position int64) (at, pos int64) {
	if r.x == nil {
		return r.g.base, 0
	}
	st := &r.g.log.stable
	st.mu.Lock()
	defer st.mu.Unlock()
	return r.x.offsets.LookupPosition(position)
}

// find returns the position of the batch that contains offset, or of the first one after it.
func (r *segmentReader) find(offset int64) (pos int64, h batch.Header, err error) {
	_, pos = r.lookup(offset)
	for pos < r.size {
		if h, err = r.header(pos); err != nil {
			return pos, h, err
		}
		if h.NextOffset() > offset {
			return pos, h, nil
		}
		pos += int64(h.Size())
	}
	return pos, h, io.EOF
}

// locate returns the segment that holds offset (or the first one after it).
func (l *Log) locate(offset int64) *segment {
	st := &l.stable
	st.mu.Lock()
	defer st.mu.Unlock()
	lo, hi := 0, len(st.segments)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if st.segments[mid].next > offset {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if lo == len(st.segments) {
		return nil
	}
	return st.segments[lo]
}

// readSegments serves from a segment: whole batches from one file, and what follows in its tail block.
func (l *Log) readSegments(r *ReadRequest, dst []Span) ([]Span, ReadInfo, error) {
	info := ReadInfo{NextOffset: r.Offset}
	g := l.locate(r.Offset)
	if g == nil {
		// Truncated since readTail looked.
		return dst, info, fs.ErrNotExist
	}
	if !r.MayBlock && !l.inTailBlock(g) {
		return dst, info, ErrWouldBlock
	}
	x, err := l.e.indexOf(g)
	if err != nil {
		return dst, info, err
	}
	s, err := l.openSegment(g)
	if err != nil {
		return dst, info, err
	}
	defer s.close()
	s.x = x
	start, h, err := s.find(r.Offset)
	if errors.Is(err, io.EOF) {
		return dst, info, fs.ErrNotExist
	}
	if err != nil {
		return dst, info, err
	}
	if h.BaseOffset >= r.UpTo || h.NextOffset() > r.UpTo {
		return dst, info, nil
	}
	if h.Size() > r.MaxBytes && !r.MinOne {
		return dst, info, nil
	}
	end, next, err := s.extent(start, h, r)
	if err != nil {
		return dst, info, err
	}
	info.Bytes, info.NextOffset = int(end-start), next
	dst, err = s.spans(dst, start, end)
	return dst, info, err
}

// inTailBlock reports whether all of a segment is in memory.
func (l *Log) inTailBlock(g *segment) bool {
	st := &l.stable
	st.mu.Lock()
	defer st.mu.Unlock()
	if g.sealed || g.gone || g.index == nil {
		return false
	}
	if st.written == 0 {
		return true
	}
	return false
}

// extent finds the end of the range of whole batches that begins with h at start.
func (r *segmentReader) extent(start int64, h batch.Header, q *ReadRequest) (end, next int64, err error) {
	end, next = start+int64(h.Size()), h.NextOffset()
	limit := min(start+int64(min(q.MaxBytes, residentMax)), r.end)
	if limit <= end {
		return end, next, nil
	}
	if limit == r.size && r.next <= q.UpTo {
		return r.size, r.next, nil
	}
	// Jump to the last index entry within both limits, then walk.
	offset, pos := r.lookupPosition(limit)
	if offset > q.UpTo {
		offset, pos = r.lookup(q.UpTo)
	}
	if pos > end && pos <= r.size {
		end, next = pos, offset
	}
	for end < limit {
		h, err := r.header(end)
		if err != nil && r.end < r.size {
			break // the file ends in a batch: what lies before it can be read
		}
		if err != nil {
			return 0, 0, err
		}
		if end+int64(h.Size()) > limit || h.NextOffset() > q.UpTo {
			break
		}
		end += int64(h.Size())
		next = h.NextOffset()
	}
	return end, next, nil
}

// spans turns [start, end) into spans: a range of the file, and a copy of what is in the tail
// block or too small to be worth a file range.
func (r *segmentReader) spans(dst []Span, start, end int64) ([]Span, error) {
	fd := disk.NoFD
	if r.file != nil {
		fd = r.file.Fd()
	}
	fileEnd := min(end, r.disk)
	if fd == disk.NoFD || fileEnd-start < copyBelow {
		mem := make([]byte, end-start)
		if err := r.readAt(mem, start); err != nil {
			return dst, err
		}
		return append(dst, Span{Mem: mem, Len: len(mem), Owner: noRelease{}}), nil
	}
	if end > r.end {
		return dst, r.damaged(r.end, "the file ends here")
	}
	if err := makeResident(r.file, start, fileEnd); err != nil {
		if errors.Is(err, io.EOF) {
			err = r.damaged(start, "the file is too short")
		}
		return dst, err
	}
	f := r.file
	r.file = nil // the span's owner now
	dst = append(dst, Span{FD: int(fd), Pos: start, Len: int(fileEnd - start), Owner: f})
	if fileEnd < end {
		mem := make([]byte, end-fileEnd)
		copy(mem, r.tail[fileEnd-r.disk:])
		dst = append(dst, Span{Mem: mem, Len: len(mem), Owner: noRelease{}})
	}
	return dst, nil
}

// noRelease is the owner of memory that the garbage collector looks after.
type noRelease struct{}

// Release does nothing.
func (noRelease) Release() {}

// residentStep is how much is asked of the kernel at once: larger advice is cut short.
const residentStep = 1 << 20

// makeResident brings a file range into the page cache: advice for a step, then one
// byte of its last page, which waits for it.
func makeResident(f disk.File, from, to int64) error {
	fd := int(f.Fd())
	var b [1]byte
	for at := from; at < to; at += residentStep {
		n := min(residentStep, to-at)
		_ = unix.Fadvise(fd, at, n, unix.FADV_WILLNEED)
		if at+n < to {
			_ = unix.Fadvise(fd, at+n, min(residentStep, to-at-n), unix.FADV_WILLNEED)
		}
		for p := at; p < at+n; p += residentStep / 4 {
			if _, err := f.ReadAt(b[:], min(p+residentStep/4, at+n)-1); err != nil {
				return err
			}
		}
	}
	return nil
}

// cut is where a segment must end so that no batch reaches an offset or goes beyond.
type cut struct {
	pos              int64
	next             int64 // offset after the last batch that stays
	maxTime, maxBase int64 // of what stays
}

// cutPosition finds where the segment must end for the log to end at offset.
func (l *Log) cutPosition(g *segment, offset int64) (cut, error) {
	c := cut{next: g.base, maxTime: -1, maxBase: -1}
	x, err := l.e.indexOf(g)
	if err != nil {
		return c, err
	}
	s, err := l.openSegment(g)
	if err != nil {
		return c, err
	}
	defer s.close()
	s.x = x
	at, pos := s.lookup(offset)
	if pos > 0 {
		// Begin one entry earlier: the batch before an entry may be the last to stay.
		at, pos = s.lookupPosition(pos - 1)
	}
	early := x.truncated(at + 1)
	if t, o, ok := early.times.Last(); ok {
		c.maxTime, c.maxBase = t, o
	}
	for c.pos = pos; c.pos < s.size; {
		h, err := s.header(c.pos)
		if err != nil {
			return c, err
		}
		if h.NextOffset() > offset {
			break
		}
		if h.MaxTimestamp > c.maxTime {
			c.maxTime, c.maxBase = h.MaxTimestamp, h.BaseOffset
		}
		c.pos += int64(h.Size())
		c.next = h.NextOffset()
	}
	return c, nil
}
