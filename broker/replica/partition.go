package replica

import (
	"errors"
	"sync"
	"sync/atomic"

	"millrace/engine"
)

// What a partition refuses a request with.
var (
	ErrNotLeader     = errors.New("this broker does not lead the partition")
	ErrFencedEpoch   = errors.New("the request's leader epoch is older than the partition's")
	ErrUnknownEpoch  = errors.New("the request's leader epoch is newer than the partition's")
	ErrNotEnough     = errors.New("fewer in-sync replicas than min.insync.replicas")
	ErrPartitionGone = errors.New("the partition is being deleted")
)

// NoEpoch is the leader epoch of a client that knows none.
const NoEpoch int32 = -1

// AckWaiter is told when the records that it waits for are acknowledged, or
// that they never will be. It runs on the shard's driver thread.
type AckWaiter interface {
	Acked(tag int, err error)
}

// ProgressWaiter is told once that the high watermark of a partition moved.
type ProgressWaiter interface {
	Progressed()
}

// Partition is one replica of one partition on this broker.
type Partition struct {
	Topic   string
	TopicID [16]byte
	Index   int32

	log *engine.Log
	hw  atomic.Int64 // never moves back

	mu       sync.Mutex
	leading  bool
	epoch    int32
	failed   error      // why nothing can be appended any more; nil while healthy
	acks     []ackEntry // ascending by need
	ackHead  int        // acks[:ackHead] are done
	watchers []ProgressWaiter
	spare    []ProgressWaiter // the other half of a double buffer
	scratch  []ackEntry       // of Progress alone
}

type ackEntry struct {
	need int64 // acknowledged when the high watermark is at least this
	tag  int
	w    AckWaiter
}

// Log is the partition's log.
func (p *Partition) Log() *engine.Log { return p.log }

// HighWatermark is the offset after the last record that consumers may see.
func (p *Partition) HighWatermark() int64 { return p.hw.Load() }

// LastStableOffset is the offset after the last record that read_committed
// consumers may see.
func (p *Partition) LastStableOffset() int64 { return p.log.LastStableOffset(p.hw.Load()) }

// LeaderEpoch returns the epoch in which this broker leads the partition.
func (p *Partition) LeaderEpoch() (epoch int32, leading bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch, p.leading
}

// CheckEpoch compares the leader epoch that a client believes in (KIP-320).
func (p *Partition) CheckEpoch(current int32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.checkEpoch(current)
}

func (p *Partition) checkEpoch(current int32) error {
	switch {
	case current != NoEpoch && current < p.epoch:
		return ErrFencedEpoch
	case current != NoEpoch && current > p.epoch:
		return ErrUnknownEpoch
	case !p.leading:
		return ErrNotLeader
	}
	return nil
}

// lead makes this broker the leader in an epoch whose start is in the log.
func (p *Partition) lead(epoch int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if epoch >= p.epoch {
		p.epoch, p.leading = epoch, true
	}
}

// resign stops the partition: whoever waits is told err.
func (p *Partition) resign(err error) {
	p.mu.Lock()
	p.leading = false
	acks := append([]ackEntry(nil), p.acks[p.ackHead:]...)
	p.acks, p.ackHead = p.acks[:0], 0
	watchers := append([]ProgressWaiter(nil), p.watchers...)
	p.watchers = p.watchers[:0]
	p.failed = err
	p.mu.Unlock()
	for _, a := range acks {
		a.w.Acked(a.tag, err)
	}
	for _, w := range watchers {
		w.Progressed()
	}
}

// Append appends one validated batch (see engine.Log.Append: it never blocks,
// and the caller keeps the batch). When the result is not yet acknowledged and
// w is given, w.Acked(tag) is called later, exactly once, on the shard's
// driver thread; acked tells that this is not needed.
func (p *Partition) Append(r engine.AppendRequest, w AckWaiter, tag int) (res engine.AppendResult, acked bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.leading {
		if p.failed != nil {
			return res, false, p.failed
		}
		return res, false, ErrNotLeader
	}
	r.LeaderEpoch = p.epoch
	res, err = p.log.Append(r)
	if err != nil {
		return res, false, err
	}
	need := res.LastOffset + 1
	if p.hw.Load() >= need {
		return res, true, nil
	}
	if w != nil {
		p.wait(need, w, tag)
	}
	return res, false, nil
}

// wait queues w in the order of need. Appends come in order; only the answer
// to a duplicate may have to go before the end.
func (p *Partition) wait(need int64, w AckWaiter, tag int) {
	if p.ackHead > 0 && p.ackHead == len(p.acks) {
		p.acks, p.ackHead = p.acks[:0], 0
	}
	p.acks = append(p.acks, ackEntry{need, tag, w})
	for i := len(p.acks) - 1; i > p.ackHead && p.acks[i-1].need > need; i-- {
		p.acks[i-1], p.acks[i] = p.acks[i], p.acks[i-1]
	}
}

// WaitFor calls w.Acked(tag) once the high watermark has reached need; acked
// tells that it has already.
func (p *Partition) WaitFor(need int64, w AckWaiter, tag int) (acked bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hw.Load() >= need {
		return true, nil
	}
	if p.failed != nil {
		return false, p.failed
	}
	p.wait(need, w, tag)
	return false, nil
}

// Progress implements engine.Observer.
func (p *Partition) Progress(l *engine.Log) {
	end := l.AckEnd()
	p.mu.Lock()
	if end <= p.hw.Load() {
		p.mu.Unlock()
		return
	}
	p.hw.Store(end)
	l.SetHighWatermarkHint(end) // compaction stays below it, recovery starts from it
	head := p.ackHead
	for head < len(p.acks) && p.acks[head].need <= end {
		head++
	}
	// The entries are taken out before the lock is given back: wait may lay new
	// ones over them. Only the shard's driver thread comes here, so the scratch
	// slice needs no lock.
	p.scratch = append(p.scratch[:0], p.acks[p.ackHead:head]...)
	clear(p.acks[p.ackHead:head])
	p.ackHead = head
	if p.ackHead > 64 && p.ackHead*2 > len(p.acks) {
		p.acks = p.acks[:copy(p.acks, p.acks[p.ackHead:])]
		p.ackHead = 0
	}
	watchers := p.watchers
	p.watchers, p.spare = p.spare[:0], nil
	p.mu.Unlock()

	for _, e := range p.scratch {
		e.w.Acked(e.tag, nil)
	}
	clear(p.scratch)
	for i, w := range watchers {
		watchers[i] = nil
		w.Progressed()
	}
	p.mu.Lock()
	if p.spare == nil {
		p.spare = watchers[:0]
	}
	p.mu.Unlock()
}

// Watch asks for one call of w.Progressed when the high watermark moves past
// seen; it returns false, and keeps nothing, when it has already moved.
func (p *Partition) Watch(w ProgressWaiter, seen int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hw.Load() != seen || p.failed != nil {
		return false
	}
	p.watchers = append(p.watchers, w)
	return true
}

// WakeWatchers calls everyone who watches, although nothing has moved.
func (p *Partition) WakeWatchers() {
	p.mu.Lock()
	watchers := append([]ProgressWaiter(nil), p.watchers...)
	clear(p.watchers)
	p.watchers = p.watchers[:0]
	p.mu.Unlock()
	for _, w := range watchers {
		w.Progressed()
	}
}

// Unwatch takes back a Watch that has not been answered; it is a no-op
// otherwise.
func (p *Partition) Unwatch(w ProgressWaiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.watchers {
		if p.watchers[i] == w {
			last := len(p.watchers) - 1
			p.watchers[i] = p.watchers[last]
			p.watchers[last] = nil
			p.watchers = p.watchers[:last]
			return
		}
	}
}

// raiseHighWatermark takes over the log's acknowledged end, at the start.
func (p *Partition) raiseHighWatermark() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if end := p.log.AckEnd(); end > p.hw.Load() {
		p.hw.Store(end)
		p.log.SetHighWatermarkHint(end)
	}
}
