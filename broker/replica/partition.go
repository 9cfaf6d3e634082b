package replica

import (
	"errors"
	"sync"
	"sync/atomic"

	"millrace/broker/replica/broken"
	"millrace/engine"
)

// What a partition refuses a request with.
var (
	ErrNotLeader      = errors.New("this broker does not lead the partition")
	ErrFencedEpoch    = errors.New("the request's leader epoch is older than the partition's")
	ErrUnknownEpoch   = errors.New("the request's leader epoch is newer than the partition's")
	ErrNotEnough      = errors.New("fewer in-sync replicas than min.insync.replicas")
	ErrNotEnoughAfter = errors.New("the in-sync replicas fell below min.insync.replicas after the append")
	ErrTimedOut       = errors.New("the in-sync replicas did not acknowledge in time")
	ErrPartitionGone  = errors.New("the partition is being deleted")
	ErrNotAvailable   = errors.New("the offset is not known to be committed yet")
	// ErrStopped: the replica found that it and its leader disagree about what was committed. It serves nothing.
	ErrStopped = errors.New("the replica was stopped: it would have to give up committed records")
)

// NoEpoch is the leader epoch of a client that knows none.
const NoEpoch int32 = -1

// role is what this broker is for a partition.
type role uint8

const (
	offline  role = iota // nobody leads, or nothing may be done
	leader               //
	follower             //
)

// Partition is one replica of one partition on this broker.
type Partition struct {
	Topic   string
	TopicID [16]byte
	Index   int32

	set *Set
	log *engine.Log
	hw  atomic.Int64 // see the package documentation

	// surgery is held while the role changes or the log is cut: both may wait for the device.
	surgery sync.Mutex

	mu       sync.Mutex
	role     role
	epoch    int32    // in which it leads; else the highest that it has heard of
	failed   error    // why it serves nothing any more; nil while healthy
	lead     *leading // while it leads
	inflow   Inflow   // the stream that may append, while it follows
	agreed   bool     // the handshake of that stream is done
	unclean  int32    // the last leader epoch that an unclean election began, as the metadata says
	wantFrom int64    // the leader's log start, which this log is to take over
	acks     waitList // by high watermark
	stored   waitList // by the log's own AckEnd: acks=1
	watchers []ProgressWaiter
	spare    []ProgressWaiter // the other half of a double buffer
}

// Log is the partition's log.
func (p *Partition) Log() *engine.Log { return p.log }

// HighWatermark is the offset after the last record that consumers may see.
func (p *Partition) HighWatermark() int64 { return p.hw.Load() }

// LastStableOffset is the offset after the last record that read_committed
// consumers may see.
func (p *Partition) LastStableOffset() int64 { return p.log.LastStableOffset(p.hw.Load()) }

// AckEnd is the end of what this replica may acknowledge: flushed, or written where the topic says so.
func (p *Partition) AckEnd() int64 {
	if broken.AckBeforeFlush {
		return p.log.AppendedEnd()
	}
	return p.log.AckEnd()
}

// LeaderEpoch returns the newest leader epoch that the partition knows, and whether this broker leads in it.
func (p *Partition) LeaderEpoch() (epoch int32, leading bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch, p.role == leader
}

// CheckEpoch compares the leader epoch that a client believes in (KIP-320), and insists on the leader.
func (p *Partition) CheckEpoch(current int32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.checkEpoch(current, false)
}

// CheckReader is CheckEpoch for consumers that may read from followers, too (KIP-392).
func (p *Partition) CheckReader(current int32) (leads bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.role == leader, p.checkEpoch(current, true)
}

func (p *Partition) checkEpoch(current int32, followers bool) error {
	switch {
	case p.failed != nil:
		return p.failed
	case current != NoEpoch && current < p.epoch:
		return ErrFencedEpoch
	case current != NoEpoch && current > p.epoch:
		return ErrUnknownEpoch
	case p.role == leader:
		return nil
	case followers && p.role == follower:
		if !p.agreed && p.unclean > p.log.LastEpoch() {
			return ErrNotAvailable // what this log says was committed may have been given up
		}
		return nil
	}
	return ErrNotLeader
}

// CheckLatest refuses to name the end of a partition whose leader does not know yet that everything before its own
// epoch is committed: the answer could lie below one that was given before (KIP-207).
func (p *Partition) CheckLatest() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.role == leader && p.hw.Load() < p.lead.epochStart {
		return ErrNotAvailable
	}
	return nil
}

// Acks is when a producer wants its answer.
type Acks struct {
	// All waits for every in-sync replica; else the leader's own device is enough.
	All bool
	// Deadline, in nanoseconds of the Set's clock, ends the wait for the others with ErrTimedOut; 0: never.
	Deadline int64
}

// Append appends one validated batch (see engine.Log.Append: it never blocks, and the caller keeps the batch). When the
// result is not yet acknowledged and w is given, w.Acked(tag) is called later, exactly once, on any goroutine; acked
// tells that this is not needed.
func (p *Partition) Append(r engine.AppendRequest, a Acks, w AckWaiter, tag int) (res engine.AppendResult, acked bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.mayAppend(a.All); err != nil {
		return res, false, err
	}
	r.LeaderEpoch = p.epoch
	res, err = p.log.Append(r)
	if err != nil {
		return res, false, err
	}
	if len(p.lead.followers) > 0 && !res.Duplicate {
		p.set.replicator.Appended(p, r.NoKick)
	}
	e := waitEntry{need: res.LastOffset + 1, tag: tag, w: w, deadline: a.Deadline}
	if p.reached(e.need, a.All) {
		return res, true, nil
	}
	if w != nil {
		p.list(a.All).add(e)
	}
	return res, false, nil
}

// mayAppend checks everything that has nothing to do with the batch. Called with mu.
func (p *Partition) mayAppend(all bool) error {
	switch {
	case p.failed != nil:
		return p.failed
	case p.role != leader:
		return ErrNotLeader
	case all && len(p.lead.isr) < p.lead.minISR && !(broken.MaximalISRIsEnough && len(p.lead.pending) >= p.lead.minISR):
		return ErrNotEnough
	case !all && len(p.lead.followers) > 0 && !p.set.leaseValid():
		// Another one may lead by now. With acks=all nothing is acknowledged without its followers, who would know.
		return ErrNotLeader
	}
	return nil
}

// reached reports whether the records below need are acknowledged. Called with mu.
func (p *Partition) reached(need int64, all bool) bool {
	return p.hw.Load() >= need || !all && p.log.AckEnd() >= need
}

func (p *Partition) list(all bool) *waitList {
	if all {
		return &p.acks
	}
	return &p.stored
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
	if p.role != leader {
		return false, ErrNotLeader
	}
	p.acks.add(waitEntry{need: need, tag: tag, w: w})
	return false, nil
}

// Progress implements engine.Observer: the log's own end has moved.
func (p *Partition) Progress(*engine.Log) {
	p.mu.Lock()
	switch p.role {
	case leader:
		p.settle(true)
	case follower:
		p.mu.Unlock()
		p.set.replicator.Stored(p)
	default:
		p.mu.Unlock()
	}
}

// settle moves the high watermark as far as it may go and tells who waits; driver: on the shard's driver thread. Called with
// mu, which it gives back.
func (p *Partition) settle(driver bool) {
	moved := p.raise(p.lead.committedEnd(p.hw.Load(), p.log.AckEnd()))
	done := takeWaiters()
	done.entries = p.acks.take(p.hw.Load(), done.entries)
	done.entries = p.stored.take(p.log.AckEnd(), done.entries)
	tell := moved && len(p.lead.followers) > 0
	p.release(moved, done, nil, driver)
	if tell {
		p.set.replicator.Moved(p)
	}
}

// raise moves the high watermark up to end. Called with mu.
func (p *Partition) raise(end int64) bool {
	if end <= p.hw.Load() {
		return false
	}
	p.hw.Store(end)
	p.log.SetHighWatermarkHint(end) // compaction stays below it, recovery starts from it
	return true
}

// release gives mu back and calls those who waited, and if the high watermark moved, those who watch it.
func (p *Partition) release(moved bool, done *waiters, err error, driver bool) {
	var watchers []ProgressWaiter
	if moved && len(p.watchers) > 0 {
		watchers = p.watchers
		p.watchers, p.spare = p.spare[:0], nil
	}
	p.mu.Unlock()
	done.call(err, driver)
	if watchers == nil {
		return
	}
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

// resign ends a leadership, or the partition's service if why is to stay: whoever waits is told why.
func (p *Partition) resign(why error, stays bool) {
	p.mu.Lock()
	led := p.role == leader
	p.role, p.lead, p.inflow = offline, nil, Inflow{}
	if stays {
		p.failed = why
	}
	done := takeWaiters()
	done.entries = p.acks.all(p.stored.all(done.entries))
	p.release(true, done, why, false)
	if led {
		p.set.replicator.Resign(p)
	}
}

// Expire ends waits of which the time is over.
func (p *Partition) expire(now int64) {
	p.mu.Lock()
	done := takeWaiters()
	done.entries = p.acks.expired(now, done.entries)
	p.release(false, done, ErrTimedOut, false)
}
