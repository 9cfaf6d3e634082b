package engine

import (
	"errors"
	"fmt"

	"millrace/engine/batch"
)

// What changes a log other than by appending. These calls block until their WAL record
// is durable: never on a loop thread.

// Truncate removes everything from end on, as a follower does after the epoch handshake;
// epoch is the leader's. It returns when the record is durable and the stable state has it. Epochs that
// begin at end or above go too, also where no batch does: an epoch that was begun and never written in is
// unknown to the leader. Truncating above all of that changes nothing.
func (l *Log) Truncate(end int64, epoch int32) error {
	return l.change(logOp{kind: recTruncate, base: end, epoch: epoch}, func() (bool, error) {
		if end < l.logStart.Load() {
			return false, fmt.Errorf("%w: truncate to %d below log start %d", ErrOffsetOutOfRange, end, l.logStart.Load())
		}
		newest, ok := l.epochs.Latest()
		return end < l.end || end == l.end && ok && newest.StartOffset >= end, nil
	})
}

// Reset empties the log and lets it go on at start, as a follower does whose leader
// no longer has what it needs.
func (l *Log) Reset(start int64) error {
	return l.change(logOp{kind: recReset, base: start, epoch: l.leaderEpoch.Load()}, func() (bool, error) {
		if start < 0 {
			return false, fmt.Errorf("%w: reset to %d", ErrOffsetOutOfRange, start)
		}
		return true, nil
	})
}

// SetLogStart makes offset the first one that may be read (DeleteRecords, retention). It never goes
// back. Segments wholly below it are deleted after the next checkpoint.
func (l *Log) SetLogStart(offset int64) error {
	return l.change(logOp{kind: recStartOffset, base: offset, epoch: l.leaderEpoch.Load()}, func() (bool, error) {
		if offset > l.end {
			return false, fmt.Errorf("%w: log start %d above the end %d", ErrOffsetOutOfRange, offset, l.end)
		}
		return offset > l.logStart.Load(), nil
	})
}

// change adds one record, applies it to the head and waits for durability and for the
// stable state. admit runs under mu and says whether there is anything to do.
func (l *Log) change(op logOp, admit func() (bool, error)) error {
	durable, stable := newWaiter(), newWaiter()
	op.done = stable
	for {
		done, err := l.tryChange(op, durable, admit)
		if errors.Is(err, ErrBusy) {
			if err := l.e.waitRoom(l.s); err != nil {
				return err
			}
			continue
		}
		if err != nil || done {
			return err
		}
		break
	}
	if err := l.e.await(durable); err != nil {
		return err
	}
	l.s.writer.want(l)
	return l.e.await(stable)
}

func (l *Log) tryChange(op logOp, durable *waiter, admit func() (bool, error)) (done bool, err error) {
	// The mover must not be in the middle of batches that this removes.
	l.stable.writeMu.Lock()
	defer l.stable.writeMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.dropped:
		return false, ErrDropped
	case l.quarantine != "" && op.kind != recDrop:
		return false, ErrQuarantined // recovery would not replay it
	}
	if err := l.e.refusal(); err != nil {
		return false, err
	}
	if todo, err := admit(); err != nil || !todo {
		return true, err
	}
	if op.kind == recDrop {
		l.dropped = true
	}
	op, err = l.record(op, durable)
	if err != nil {
		l.dropped = false
		return false, err
	}
	l.applyOpToHead(&op)
	return false, nil
}

// applyOpToHead changes the head for the newest entry of ops. Called with mu (and writeMu, or
// at recovery).
func (l *Log) applyOpToHead(op *logOp) {
	l.swallowed = 0
	l.changeHead(op)
	l.ops[len(l.ops)-1].from = l.swallowed
}

func (l *Log) changeHead(op *logOp) {
	switch op.kind {
	case recTruncate:
		l.truncateHead(op)
	case recReset:
		l.clearTail()
		l.producers = nil
		l.epochs.Clear()
		l.aborted.TruncateTo(0)
		l.end = op.base
		l.logStart.Store(op.base)
		l.cutEnds(op.base, op.seq)
		l.raiseEpoch(op.epoch)
	case recStartOffset:
		if op.base > l.logStart.Load() {
			l.logStart.Store(op.base)
			l.epochs.TruncateFromStart(op.base)
			l.aborted.DropBefore(op.base)
		}
	case recEpochStart:
		l.raiseEpoch(op.epoch)
		l.epochs.Assign(op.epoch, op.base)
	case recDrop:
		l.dropped = true
		l.dropLSN = op.lsn
		l.clearTail()
		l.producers = nil
	default: // the others leave the head as it is
	}
}

func (l *Log) raiseEpoch(epoch int32) {
	if epoch > l.leaderEpoch.Load() {
		l.leaderEpoch.Store(epoch)
	}
}

// truncateHead removes the batches that reach beyond the new end.
func (l *Log) truncateHead(op *logOp) {
	live := l.tail.live()
	keep := len(live)
	for keep > 0 {
		e := &live[keep-1]
		h, err := batch.ParseHeader(e.slab.mem[e.pos : e.pos+e.size])
		if err != nil {
			panic(fmt.Sprintf("BUG: no batch in the ring at %d of %s: %v", e.base, l, err))
		}
		if h.NextOffset() <= op.base {
			break
		}
		keep--
	}
	l.tail.cutFrom(keep, l.dropUnmoved)
	l.end = op.base
	if l.producers != nil {
		l.producers.TruncateTo(op.base)
	}
	l.epochs.TruncateFromEnd(op.base)
	l.aborted.TruncateTo(op.base)
	l.raiseEpoch(op.epoch)
	l.cutEnds(op.base, op.seq)
}

// clearTail removes every batch from the tail index.
func (l *Log) clearTail() { l.tail.cutFrom(0, l.dropUnmoved) }

func (l *Log) dropUnmoved(e *tailEntry) {
	if l.swallowed == 0 {
		l.swallowed = e.lsn // the first is the oldest
	}
	l.unmoved -= int64(e.size)
	e.slab.busy.Add(-1)
}

// DropLogs deletes logs and returns when their Drop records are durable; files go
// after the next checkpoint. It blocks.
func (e *Engine) DropLogs(logs []*Log) error {
	waits := make([]*waiter, 0, len(logs))
	for _, l := range logs {
		durable := newWaiter()
		for {
			done, err := l.tryChange(logOp{kind: recDrop}, durable, func() (bool, error) { return true, nil })
			if errors.Is(err, ErrBusy) {
				if err := e.waitRoom(l.s); err != nil {
					return err
				}
				continue
			}
			if err != nil {
				return fmt.Errorf("drop %s: %w", l, err)
			}
			if !done {
				waits = append(waits, durable)
			}
			break
		}
		e.unlist(l)
	}
	for _, w := range waits {
		if err := e.await(w); err != nil {
			return err
		}
	}
	for _, l := range logs {
		l.s.writer.want(l)
	}
	return nil
}

// unlist hides a dropped log from lookups; byID keeps it until a checkpoint has its Drop.
func (e *Engine) unlist(l *Log) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if k := (logKey{l.topicID, l.partition}); e.logs[k] == l {
		delete(e.logs, k)
	}
}
