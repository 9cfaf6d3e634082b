package engine

import (
	"errors"
	"io"
	"io/fs"

	"millrace/engine/batch"
)

// uncompressedMax bounds what a look into one batch may unpack.
const uncompressedMax = 256 << 20

// OffsetForTimestamp returns the first record whose timestamp is at or after ts: its
// offset, timestamp and leader epoch. It may block.
func (l *Log) OffsetForTimestamp(ts int64) (offset, timestamp int64, epoch int32, ok bool, err error) {
	match := func(h *batch.Header) bool { return h.MaxTimestamp >= ts && h.LastOffset() >= l.logStart.Load() }
	for range 8 {
		b, err := l.firstBatch(ts, match)
		if errors.Is(err, fs.ErrNotExist) {
			continue // segments changed under us
		}
		if err != nil || b == nil {
			return 0, 0, -1, false, err
		}
		return firstRecord(b, ts, l.logStart.Load())
	}
	return 0, 0, -1, false, ErrOffsetOutOfRange
}

// MaxTimestampOffset returns the largest timestamp of the log and the offset of the first record
// that has it; (-1, -1) when the log is empty. It may block.
func (l *Log) MaxTimestampOffset() (ts, offset int64) {
	st := &l.stable
	ts, base := int64(-1), int64(-1)
	st.mu.Lock()
	for _, g := range st.segments {
		if g.maxTime > ts && g.next > l.logStart.Load() {
			ts, base = g.maxTime, g.maxBase
		}
	}
	st.mu.Unlock()
	l.mu.Lock()
	for i := range l.tail.live() {
		e := l.tail.at(i)
		if h, err := batch.ParseHeader(e.slab.mem[e.pos : e.pos+e.size]); err == nil && h.MaxTimestamp > ts {
			ts, base = h.MaxTimestamp, h.BaseOffset
		}
	}
	l.mu.Unlock()
	if base < 0 {
		return -1, -1
	}
	offset, _, _, ok, err := l.OffsetForTimestamp(ts)
	if err != nil || !ok {
		return ts, max(base, l.logStart.Load())
	}
	return ts, offset
}

// firstBatch returns a copy of the first batch that matches, nil if there is none.
func (l *Log) firstBatch(ts int64, match func(*batch.Header) bool) ([]byte, error) {
	st := &l.stable
	st.mu.Lock()
	segments := append([]*segment(nil), st.segments...)
	st.mu.Unlock()
	l.mu.Lock()
	seen, limit := int64(0), l.segmentLimit()
	l.mu.Unlock()
	inSegment := func(h *batch.Header) bool { return h.BaseOffset < limit && match(h) }
	for _, g := range segments {
		st.mu.Lock()
		candidate := g.maxTime >= ts && g.next > l.logStart.Load() && g.base < limit
		next := g.next
		st.mu.Unlock()
		if candidate {
			b, err := l.firstInSegment(g, ts, inSegment)
			if b != nil || err != nil {
				return b, err
			}
		}
		seen = max(seen, min(next, limit))
	}
	return l.firstInTail(seen, limit, match)
}

func (l *Log) firstInSegment(g *segment, ts int64, match func(*batch.Header) bool) ([]byte, error) {
	x, err := l.e.indexOf(g)
	if err != nil {
		return nil, err
	}
	s, err := l.openSegment(g)
	if err != nil {
		return nil, err
	}
	defer s.close()
	s.x = x
	st := &l.stable
	st.mu.Lock()
	// An entry at exactly ts may stand for a batch before it: go to the one before ts.
	_, from := x.times.Lookup(ts - 1)
	st.mu.Unlock()
	pos, h, err := s.find(from)
	for err == nil {
		if match(&h) {
			b := make([]byte, h.Size())
			return b, s.readAt(b, pos)
		}
		if pos += int64(h.Size()); pos >= s.size {
			break
		}
		h, err = s.header(pos)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return nil, err
}

// firstInTail looks at the ring from offset on.
func (l *Log) firstInTail(offset, limit int64, match func(*batch.Header) bool) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	live := l.tail.live()
	if (len(live) == 0 || live[0].base > max(offset, l.logStart.Load())) && min(l.stable.lastNext(), limit) > offset {
		return nil, fs.ErrNotExist // moved and evicted meanwhile
	}
	for i := range live {
		e := &live[i]
		b := e.slab.mem[e.pos : e.pos+e.size]
		h, err := batch.ParseHeader(b)
		if err != nil {
			return nil, err
		}
		if h.BaseOffset >= offset && match(&h) {
			return append([]byte(nil), b...), nil
		}
	}
	return nil, nil
}

// firstRecord returns the first record of a batch at or after ts and from.
func firstRecord(b []byte, ts, from int64) (offset, timestamp int64, epoch int32, ok bool, err error) {
	var r batch.Reader
	if err := r.Reset(b, uncompressedMax); err != nil {
		return 0, 0, -1, false, err
	}
	defer r.Close()
	epoch = r.Header().LeaderEpoch
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return 0, 0, -1, false, nil
		}
		if err != nil {
			return 0, 0, -1, false, err
		}
		if t := r.Timestamp(&rec); t >= ts && r.Offset(&rec) >= from {
			return r.Offset(&rec), t, epoch, true, nil
		}
	}
}
