package engine

import (
	"fmt"

	"millrace/engine/batch"
	"millrace/engine/producer"
)

// AppendRequest is one batch from a producer (or a coordinator).
type AppendRequest struct {
	Batch       []byte // one validated batch; it is copied, the caller keeps it
	Header      batch.Header
	LeaderEpoch int32
	// NoKick promises that the caller, on the driver thread, calls Shard.Poll at the end of this turn.
	NoKick bool
}

// AppendResult says where a batch went.
type AppendResult struct {
	BaseOffset, LastOffset int64
	LogStart               int64
	// Duplicate: an idempotent producer sent this batch before; the offsets are those of the
	// original. As any append it may be acknowledged only when AckEnd is above LastOffset.
	Duplicate bool
	// AppendTime of a duplicate's original, or of this batch: its maximum timestamp.
	AppendTime int64
}

// Append adds one batch at the end and gives it offsets. It never blocks on the
// device: the batch is durable when AckEnd has passed LastOffset.
func (l *Log) Append(r AppendRequest) (AppendResult, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.admits(r.LeaderEpoch); err != nil {
		return AppendResult{LogStart: l.logStart.Load()}, err
	}
	h := r.Header
	if h.HasProducer() && !h.IsControl() {
		if v, err := l.checkProducer(h); err != nil || v.Duplicate {
			return AppendResult{BaseOffset: v.BaseOffset, LastOffset: v.LastOffset, LogStart: l.logStart.Load(), Duplicate: v.Duplicate, AppendTime: v.AppendTime}, err
		}
	}
	h.BaseOffset = l.end
	h.LeaderEpoch = r.LeaderEpoch
	if err := l.place(r.Batch, &h, r.NoKick); err != nil {
		return AppendResult{LogStart: l.logStart.Load()}, err
	}
	return AppendResult{BaseOffset: h.BaseOffset, LastOffset: h.LastOffset(), LogStart: l.logStart.Load(), AppendTime: h.MaxTimestamp}, nil
}

// admits checks everything that has nothing to do with the batch. Called with mu.
func (l *Log) admits(leaderEpoch int32) error {
	if err := l.usable(); err != nil {
		return err
	}
	if l.e.diskFull.Load() {
		return ErrDiskFull
	}
	if leaderEpoch < l.leaderEpoch.Load() {
		return ErrStaleEpoch
	}
	return nil
}

// newestEpoch is the epoch of the last batch or EpochStart. Called with mu.
func (l *Log) newestEpoch() int32 {
	newest, _ := l.epochs.Latest()
	return newest.Epoch
}

func (l *Log) checkProducer(h batch.Header) (producer.Verdict, error) {
	if l.producers == nil {
		l.producers = producer.New()
	}
	return l.producers.Check(h)
}

// place reserves room for a batch whose header has its final offsets, copies it and
// makes it part of the head. Called with mu: offset order is WAL order, and what
// appendedEnd covers has been copied.
func (l *Log) place(b []byte, h *batch.Header, noKick bool) error {
	res, err := l.s.reserve(l, len(b), true, noKick)
	if err != nil {
		return err
	}
	dst := res.payload(len(b))
	copy(dst, b)
	batch.SetBaseOffset(dst, h.BaseOffset)
	batch.SetLeaderEpoch(dst, h.LeaderEpoch)
	l.seq++
	row := walRow{
		logID:       l.id,
		base:        h.BaseOffset,
		hw:          l.highWater.Load(),
		seq:         l.seq,
		length:      uint32(len(b)),
		crc:         h.CRC,
		leaderEpoch: h.LeaderEpoch,
		pos:         uint32(res.pos),
		lastDelta:   h.LastOffsetDelta,
		kind:        recAppend,
		flags:       batchFlags(h),
		maxTime:     h.MaxTimestamp,
	}
	res.c.putRow(res.row, &row)
	l.end = h.NextOffset()
	res.c.rows[res.row] = rowRef{log: l, seq: l.seq, end: l.end, msgs: h.NumRecords}
	l.tail.push(tailEntry{base: h.BaseOffset, seq: l.seq, lsn: res.c.lsn, slab: res.c.slab, pos: uint32(res.c.start + res.pos), size: uint32(len(b))})
	l.unmoved += int64(len(b))
	l.touched(res.c.lsn)
	l.applyToHead(dst, h)
	l.appendedEnd.Store(l.end)
	if l.unmoved >= int64(l.e.o.chunkBytes) {
		l.s.writer.want(l)
	}
	// Last: the commit may be written the moment this is known.
	l.s.landed(&res)
	return nil
}

// applyToHead updates epochs, producers and transactions for a batch at the end. Called with mu.
func (l *Log) applyToHead(b []byte, h *batch.Header) {
	if h.LeaderEpoch > l.leaderEpoch.Load() {
		l.leaderEpoch.Store(h.LeaderEpoch)
	}
	l.producers = applyBatch(b, h, l.producers, &l.epochs, &l.aborted)
}

// AppendAt adds batches whose offsets and epochs were given by the leader. start must be the
// log's end: what lies between it and the first batch, and between batches of one call, is an offset
// hole that compaction left in the leader's log. All or none of them are added, except with ErrBusy or
// ErrDiskFull, where a prefix may have been: the caller goes on from AppendedEnd.
func (l *Log) AppendAt(start int64, batches []byte, hw int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if start != l.end {
		return fmt.Errorf("%w: got %d, log end is %d", ErrNotContiguous, start, l.end)
	}
	if err := l.checkGiven(batches); err != nil {
		return err
	}
	if hw > l.highWater.Load() {
		l.highWater.Store(hw)
	}
	for len(batches) > 0 {
		h, err := batch.ParseHeader(batches)
		if err != nil {
			return err
		}
		// Epochs below the newest begun one are right here: they are the leader's history.
		if err := l.admits(l.leaderEpoch.Load()); err != nil {
			return err
		}
		n := h.Size()
		if err := l.place(batches[:n], &h, false); err != nil {
			return err
		}
		batches = batches[n:]
	}
	return nil
}

// checkGiven verifies that batches continue the log. Called with mu.
func (l *Log) checkGiven(batches []byte) error {
	next, leaderEpoch := l.end, l.newestEpoch()
	for len(batches) > 0 {
		h, err := batch.ParseHeader(batches)
		if err != nil {
			return err
		}
		n := h.Size()
		if n > len(batches) {
			return fmt.Errorf("%w: batch of %d bytes in %d", batch.ErrShort, n, len(batches))
		}
		if h.BaseOffset < next {
			return fmt.Errorf("%w: got %d, log end is %d", ErrNotContiguous, h.BaseOffset, next)
		}
		if h.LeaderEpoch < leaderEpoch {
			return fmt.Errorf("%w: batch of epoch %d, log is in %d", ErrStaleEpoch, h.LeaderEpoch, leaderEpoch)
		}
		next, leaderEpoch = h.NextOffset(), h.LeaderEpoch
		batches = batches[n:]
	}
	return nil
}

// BeginEpoch makes epoch the newest one, starting at the current end. It does not
// wait: the record is durable when the next append is.
func (l *Log) BeginEpoch(epoch int32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if epoch < l.leaderEpoch.Load() {
		return ErrStaleEpoch
	}
	if epoch == l.leaderEpoch.Load() {
		return nil
	}
	if _, err := l.record(logOp{kind: recEpochStart, base: l.end, epoch: epoch}, nil); err != nil {
		return err
	}
	l.leaderEpoch.Store(epoch)
	l.epochs.Assign(epoch, l.end)
	return nil
}

// record adds a record other than a batch. Called with mu. The returned op has its place.
func (l *Log) record(op logOp, durable *waiter) (logOp, error) {
	res, err := l.s.reserve(l, 0, false, false)
	if err != nil {
		return op, err
	}
	l.seq++
	op.seq, op.lsn = l.seq, res.c.lsn
	row := walRow{logID: l.id, base: op.base, hw: l.highWater.Load(), seq: l.seq, leaderEpoch: op.epoch, pos: uint32(res.pos), kind: op.kind}
	res.c.putRow(res.row, &row)
	end := int64(-1)
	if op.kind == recReset || op.kind == recTruncate {
		// Records before this one do not move the ends any more (cutEnds); what they brought below base is on the device with it.
		end = op.base
	}
	res.c.rows[res.row] = rowRef{log: l, seq: l.seq, end: end, wait: durable}
	l.ops = append(l.ops, op)
	l.touched(op.lsn)
	l.s.landed(&res)
	return op, nil
}
