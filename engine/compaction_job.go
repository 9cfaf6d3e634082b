package engine

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"millrace/engine/batch"
	"millrace/engine/disk"
	"millrace/engine/index"
)

// compactionUncompressed bounds the memory for the records of one batch.
const compactionUncompressed = 128 << 20

// errCompactionRoom says that the new file might not fit.
var errCompactionRoom = errors.New("engine: too little free space for compaction")

// cleanJob is one compaction of one log.
type cleanJob struct {
	c    *compactor
	l    *Log
	cfg  LogConfig
	now  time.Time
	plan cleanPlan

	limits   planLimits
	segments []*segment    // those that may be cleaned, once the job runs
	frozen   []planSegment // as they were when the job was prepared
	start    int64         // log start offset
	dirty    int64         // the map begins here
	end      int64         // the map ends here
	ring     int64         // from here on readers may still get the original batches
	aborted  []index.AbortedTxn
	newest   map[int64]newestBatch // by producer
	txns     *cleanTxns
	scan     batchScanner
	gone     map[int64]bool // offsets of markers that this job has removed
	out      []byte         // one filtered batch
	buf      []byte         // of the segment builder
}

// newestBatch is what has to stay of a producer: its newest batch, or the marker of its newest
// epoch if it has written nothing in that.
type newestBatch struct {
	lastOffset int64 // -1: only a marker
	epoch      int16
}

// prepare looks at a log. nil if there is nothing that may be cleaned.
func (c *compactor) prepare(l *Log, now time.Time) *cleanJob {
	j := &cleanJob{c: c, l: l, cfg: l.Config(), now: now}
	// The leader of a log says how much is replicated; where nobody does, nothing has to be.
	hw := l.highWater.Load()
	if hw < 0 {
		hw = l.DurableEnd()
	}
	j.limits = planLimits{
		nowMillis:  now.UnixMilli(),
		stable:     l.LastStableOffset(hw),
		minLag:     j.cfg.MinCompactionLagMillis,
		maxLag:     j.cfg.MaxCompactionLagMillis,
		dirtyRatio: j.cfg.MinCleanableRatio,
	}
	st := &l.stable
	st.mu.Lock()
	j.segments = slices.Clone(st.segments)
	j.start = st.start
	for _, g := range j.segments {
		j.frozen = append(j.frozen, planSegment{base: g.base, next: g.next, size: g.size, maxTime: g.maxTime, created: g.created, settled: g.sealed})
	}
	st.mu.Unlock()
	j.dirty = max(j.start, c.cleanedUpTo(l.id, j.segments, j.frozen))
	j.limits.dirty = j.dirty
	j.plan = planClean(j.frozen, j.limits)
	if j.plan.dirtyBytes == 0 {
		return nil
	}
	return j
}

// cleanedUpTo is the dirty offset that an earlier job left, 0 if it does not hold any more.
func (c *compactor) cleanedUpTo(logID uint64, segments []*segment, frozen []planSegment) int64 {
	p, ok := c.cleaned[logID]
	if !ok {
		return 0
	}
	for i, g := range segments {
		if g.generation == p.generation && frozen[i].base < p.offset && frozen[i].next >= p.offset {
			return p.offset
		}
	}
	return 0
}

// run cleans the log.
func (j *cleanJob) run() error {
	if err := j.takeState(); err != nil {
		return err
	}
	if err := j.buildMap(); err != nil {
		return err
	}
	// Segments at or above the end of the map have nothing to be cleaned by.
	n := 0
	for n < len(j.frozen) && j.frozen[n].base < j.end {
		n++
	}
	j.txns = newCleanTxns(j.aborted)
	j.gone = make(map[int64]bool)
	at := 0
	var last *segment
	for _, count := range groupSegments(j.frozen[:n], j.cfg.SegmentBytes) {
		g, err := j.cleanGroup(at, count)
		if err != nil {
			return err
		}
		last = g
		at += count
	}
	j.c.cleaned[j.l.id] = cleanPoint{offset: j.end, generation: last.generation}
	return nil
}

// takeState copies what the stable state knows about producers and transactions, and leaves out
// segments that are not flushed yet.
func (j *cleanJob) takeState() error {
	st := &j.l.stable
	st.writeMu.Lock()
	defer st.writeMu.Unlock()
	if st.dropped || st.quarantine != "" {
		return errCompactionConflict
	}
	j.l.mu.Lock()
	j.ring = j.l.end
	if live := j.l.tail.live(); len(live) > 0 {
		j.ring = live[0].base
	}
	j.l.mu.Unlock()
	for i, g := range j.segments {
		if j.frozen[i].settled && (g.unsynced || g.dirDirty || !g.hasFile) {
			j.frozen[i].settled = false
			j.nudge()
		}
	}
	// The head may know a transaction's end that the stable state, and so the index of aborted ones that
	// is used here, has not reached.
	if st.producers != nil {
		if first, ok := st.producers.FirstUnstable(); ok {
			j.limits.stable = min(j.limits.stable, first)
		}
	}
	if j.plan = planClean(j.frozen, j.limits); j.plan.dirtyBytes == 0 {
		return errCompactionConflict
	}
	j.segments, j.frozen = j.segments[:j.plan.count], j.frozen[:j.plan.count]
	j.aborted = st.aborted.Overlapping(0, j.frozen[len(j.frozen)-1].next)
	if st.producers != nil {
		j.newest = make(map[int64]newestBatch, st.producers.Len())
		for _, p := range st.producers.Entries() {
			j.newest[p.ProducerID] = newestBatch{lastOffset: p.LastOffset, epoch: p.ProducerEpoch}
		}
	}
	return nil
}

// nudge asks for a round that covers this log.
func (j *cleanJob) nudge() {
	j.l.checkpointDue.Store(true)
	j.l.s.writer.urgent.Store(true)
	j.l.s.writer.poke()
}

// buildMap collects the newest offset of each key in the dirty part, as far as the map has room.
func (j *cleanJob) buildMap() error {
	keys := &j.c.keys
	keys.reset()
	j.end = j.frozen[len(j.frozen)-1].next
	first := 0
	for j.frozen[first].next <= j.dirty {
		first++
	}
	// Only transactions whose marker this walk will meet: an older one would never end.
	txns := newCleanTxns(slices.DeleteFunc(slices.Clone(j.aborted), func(t index.AbortedTxn) bool { return t.LastOffset < j.frozen[first].base }))
	var r batch.Reader
	defer r.Close()
	for i := first; i < len(j.segments); i++ {
		full := false
		err := j.walk(i, func(b []byte, h batch.Header, _ bool) error {
			if h.IsControl() {
				txns.control(&h, b)
				return nil
			}
			if txns.data(&h) || h.NextOffset() <= j.dirty {
				return nil
			}
			if full = keys.full(); full {
				j.end = h.BaseOffset
				return io.EOF
			}
			return addKeys(keys, &r, b, j.dirty)
		})
		if err != nil || full {
			return err
		}
	}
	return nil
}

// addKeys puts the keys of one batch into the map. Records that cannot be read have no
// keys: the filter leaves their batch alone.
func addKeys(keys *keyOffsets, r *batch.Reader, b []byte, from int64) error {
	if err := r.Reset(b, compactionUncompressed); err != nil {
		return nil //nolint:nilerr // see above
	}
	// A batch counts as a whole or not at all, as in the filter.
	if _, err := batch.CheckRecords(b, false, compactionUncompressed); err != nil {
		return nil //nolint:nilerr // see above
	}
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			panic("BUG: a batch changed after it was checked: " + err.Error())
		}
		if offset := r.Offset(&rec); rec.Key != nil && offset >= from {
			keys.put(rec.Key, offset)
		}
	}
}

// walk calls visit for each batch of a segment; last marks the segment's last one. io.EOF
// from visit ends the walk.
func (j *cleanJob) walk(i int, visit func(b []byte, h batch.Header, last bool) error) error {
	g := j.segments[i]
	if j.frozen[i].size == 0 {
		return nil
	}
	f, err := j.c.e.files.acquire(g, false, false)
	if err != nil {
		return fmt.Errorf("%w %s: %w", errCompactionRead, g.path(), err)
	}
	defer f.Release()
	j.scan.reset(g.path(), f, &j.frozen[i])
	began, paced := time.Now(), int64(0) //nolint:forbidigo // how long the work took, not what time it is
	for {
		b, h, err := j.scan.scan()
		if err == io.EOF { //nolint:errorlint // a wrapped one is a file that is too short, not the end
			return nil
		}
		if err != nil {
			return err
		}
		if j.scan.pos-paced >= scanBytes {
			if j.c.stopped() {
				return errCompactionStopped
			}
			paced = j.scan.pos
			j.c.pace(time.Since(began)) //nolint:forbidigo // as above
			began = time.Now()          //nolint:forbidigo // as above
		}
		err = visit(b, h, j.scan.pos == j.scan.size)
		if err == io.EOF { //nolint:errorlint // as above: visit may read too
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// cleanGroup filters some neighbouring segments into one new one and puts it in their place. A
// single segment that loses nothing stays. It returns the segment that is there now.
func (j *cleanJob) cleanGroup(at, count int) (*segment, error) {
	old := j.segments[at : at+count]
	var w *segmentBuilder
	fail := func(err error) (*segment, error) {
		if w != nil {
			w.discard()
		}
		return nil, err
	}
	var markers []int64
	for i := at; i < at+count; i++ {
		err := j.walk(i, func(b []byte, h batch.Header, last bool) error {
			out, res := j.filter(b, &h, last && i == at+count-1)
			if res.Removed > 0 && h.IsControl() {
				markers = append(markers, h.BaseOffset)
			}
			if w == nil {
				if !res.Changed && count == 1 {
					return nil
				}
				var err error
				if w, err = j.begin(old); err != nil {
					return err
				}
				if count == 1 {
					if err := j.copyUnchanged(w, at, h.BaseOffset); err != nil {
						return err
					}
				}
			}
			if len(out) == 0 {
				return nil
			}
			if res.Changed {
				var err error
				if h, err = batch.ParseHeader(out); err != nil {
					panic("BUG: compaction built a bad batch: " + err.Error())
				}
			}
			return w.add(out, &h)
		})
		if err != nil {
			return fail(err)
		}
	}
	if w == nil {
		return old[count-1], nil
	}
	if w.g.next != j.frozen[at+count-1].next {
		return fail(w.shrunk(j.frozen[at+count-1].next))
	}
	if err := w.finish(); err != nil {
		return fail(err)
	}
	if err := j.swap(at, count, w.g, markers); err != nil {
		return fail(err)
	}
	return w.g, nil
}

// shrunk is the error for segments whose metadata names offsets that no batch has.
func (w *segmentBuilder) shrunk(next int64) error {
	return &CorruptionError{File: w.g.path(), Pos: w.g.size, Reason: fmt.Sprintf("the segments before it end at %d, their last batch at %d", next, w.g.next)}
}

// begin creates the new file for a group.
func (j *cleanJob) begin(old []*segment) (*segmentBuilder, error) {
	e, st := j.c.e, &j.l.stable
	size := int64(0)
	g := &segment{log: j.l, base: old[0].base, created: old[0].created}
	for _, o := range old {
		size += o.size
		g.created = min(g.created, o.created)
	}
	if free := e.FreeBytes(); free < size+e.o.DiskReserveBytes/2 {
		return nil, fmt.Errorf("%w: %d bytes free, %d wanted", errCompactionRoom, free, size)
	}
	st.writeMu.Lock()
	st.generation++
	g.generation = e.meta.Incarnation<<20 | st.generation
	st.writeMu.Unlock()
	if j.buf == nil {
		j.buf = disk.AlignedAlloc(chunkBytesMax)
	}
	return e.newSegmentBuilder(g, j.buf)
}

// copyUnchanged adds the batches of a segment that lie below an offset as they are. It walks
// with a scanner of its own: the caller is in the middle of the same segment.
func (j *cleanJob) copyUnchanged(w *segmentBuilder, i int, below int64) error {
	outer := j.scan
	j.scan = batchScanner{}
	defer func() { j.scan = outer }()
	return j.walk(i, func(b []byte, h batch.Header, _ bool) error {
		if h.BaseOffset >= below {
			return io.EOF
		}
		return w.add(b, &h)
	})
}

// filter decides what stays of a batch. The result is b itself, or in j.out, or empty.
func (j *cleanJob) filter(b []byte, h *batch.Header, lastOfGroup bool) ([]byte, batch.FilterResult) {
	now := j.now.UnixMilli()
	horizon, hasHorizon := h.DeleteHorizon()
	passed := hasHorizon && horizon <= now
	o := batch.FilterOptions{
		RetainEmpty:         lastOfGroup || j.isNewestOfProducer(h),
		DeleteHorizonMillis: now + j.cfg.DeleteRetentionMillis,
		MaxUncompressed:     compactionUncompressed,
	}
	if h.IsControl() {
		empty := j.txns.control(h, b)
		if !empty {
			o.DeleteHorizonMillis = 0
		}
		// With an abort marker goes its transaction's entry in the index, without which the
		// original batches would pass for committed: not while the ring has any.
		drop := empty && passed && h.BaseOffset < j.ring
		o.Keep = func(*batch.Record) bool { return !drop }
	} else {
		aborted := j.txns.data(h)
		o.Keep = func(r *batch.Record) bool {
			offset := h.BaseOffset + int64(r.OffsetDelta)
			switch {
			case aborted:
				return false
			case offset >= j.end:
				return true // the map knows nothing of what comes behind it
			case r.Key == nil:
				return false
			case offset < j.c.keys.get(r.Key):
				return false
			default:
				return !r.IsTombstone() || !passed
			}
		}
	}
	kept, res, err := batch.Filter(j.out[:0], b, o)
	if err != nil {
		// Records that cannot be read: the batch came from a time when nobody looked at
		// them. It is not ours to delete.
		return b, batch.FilterResult{}
	}
	if !res.Changed {
		return b, res
	}
	j.out = kept
	return kept, res
}

// isNewestOfProducer reports whether the producer's sequence or epoch is known from this batch.
func (j *cleanJob) isNewestOfProducer(h *batch.Header) bool {
	if !h.HasProducer() {
		return false
	}
	n, ok := j.newest[h.ProducerID]
	switch {
	case !ok:
		return false
	case n.lastOffset >= 0:
		return n.lastOffset == h.LastOffset()
	default:
		return h.IsControl() && h.ProducerEpoch == n.epoch
	}
}

// swap puts g in the place of the group. It fails if somebody has touched a segment that the
// decision was made on.
func (j *cleanJob) swap(at, count int, g *segment, markers []int64) error {
	st, e := &j.l.stable, j.c.e
	st.writeMu.Lock()
	defer st.writeMu.Unlock()
	if st.dropped {
		return errCompactionConflict
	}
	st.mu.Lock()
	first := slices.Index(st.segments, j.segments[at])
	// Not only the group: what is behind it has said which records are old.
	if first < 0 || first+len(j.segments)-at > len(st.segments) {
		st.mu.Unlock()
		return errCompactionConflict
	}
	for i := at; i < len(j.segments); i++ {
		now := st.segments[first+i-at]
		if now != j.segments[i] || now.gone || now.size != j.frozen[i].size || now.next != j.frozen[i].next {
			st.mu.Unlock()
			return errCompactionConflict
		}
	}
	old := st.segments[first : first+count]
	for _, o := range old {
		st.size -= o.size
	}
	st.size += g.size
	segments := slices.Clone(st.segments[:first])
	segments = append(segments, g)
	segments = append(segments, st.segments[first+count:]...)
	st.segments = segments
	st.abandon(old)
	st.mu.Unlock()

	if len(markers) > 0 {
		j.removeMarkers(markers)
	}
	j.nudge()
	e.indexes.touch(g)
	return nil
}

// removeMarkers takes the transactions whose abort marker has gone out of the index, in the stable state
// and in the head. Called with writeMu.
func (j *cleanJob) removeMarkers(markers []int64) {
	for _, offset := range markers {
		j.gone[offset] = true
	}
	removed := func(t index.AbortedTxn) bool { return j.gone[t.LastOffset] }
	j.l.stable.aborted.Remove(removed)
	j.l.mu.Lock()
	j.l.aborted.Remove(removed)
	j.l.mu.Unlock()
}
