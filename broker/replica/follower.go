package replica

import (
	"errors"
	"fmt"

	"millrace/broker/replica/broken"
	"millrace/engine"
	"millrace/engine/batch"
)

// What a follower says to a stream.
var (
	// ErrStaleEpoch: the stream's leader epoch is older than one that the follower has heard of or logged.
	ErrStaleEpoch = errors.New("the stream's leader epoch is older than the follower's")
	// ErrStaleInflow: another stream was opened since.
	ErrStaleInflow = errors.New("another stream took over")
	// ErrGap: a run does not start where the log ends.
	ErrGap = errors.New("the run does not start at the end of the log")
	// ErrCorrupt: a batch of a run is damaged.
	ErrCorrupt = errors.New("the run has a damaged batch")
)

// Inflow is the follower's end of a stream.
type Inflow struct {
	Leader      int32
	LeaderEpoch int32
	Generation  uint64
}

// Run is a piece of the leader's log: whole batches from Start to End, and what else the follower should know.
type Run struct {
	Start, End              int64
	LogStart, HighWatermark int64
	Batches                 []byte
}

// Follow gives the partition to a stream; others may not append from then on. The caller has seen to it that the
// broker's partitions have followed the metadata as far as the leader has. It waits for a cut that is under way: what it
// offers, and acknowledges, must not be cut a moment later by what an older leader asked for.
func (p *Partition) Follow(leaderID, epoch int32, generation uint64) (Inflow, Offer, error) {
	p.surgery.Lock()
	defer p.surgery.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.failed != nil:
		return Inflow{}, Offer{}, p.failed
	case (epoch < p.epoch || epoch < p.log.LeaderEpoch()) && !broken.AnyEpoch || p.role == leader:
		// What leads here leads in an epoch of its own: the same one cannot have two leaders.
		return Inflow{}, Offer{}, fmt.Errorf("%w: %d, known is %d", ErrStaleEpoch, epoch, max(p.epoch, p.log.LeaderEpoch()))
	case p.log.Quarantined() != "":
		return Inflow{}, Offer{}, fmt.Errorf("%w: %s", engine.ErrQuarantined, p.log.Quarantined())
	}
	p.role, p.epoch, p.agreed = follower, epoch, false
	p.inflow = Inflow{Leader: leaderID, LeaderEpoch: epoch, Generation: generation}
	return p.inflow, p.offer(), nil
}

// offer says what the log has. Called with mu.
func (p *Partition) offer() Offer {
	return Offer{BrokerEpoch: p.set.brokerEpoch.Load(), LastEpoch: p.log.LastEpoch(), End: p.log.AppendedEnd(), HighWatermark: p.hw.Load()}
}

// check reports whether a stream is the one that may change the log. Called with mu.
func (p *Partition) check(in Inflow) error {
	switch {
	case p.failed != nil:
		return p.failed
	case p.role != follower || p.inflow != in:
		return ErrStaleInflow
	case in.LeaderEpoch < p.epoch && !broken.AnyEpoch:
		return ErrStaleEpoch
	}
	return nil
}

// Agree notes that both logs are the same up to this one's end. Only then runs and marks are taken: a high watermark
// above a tail that is still to be cut would show records that were never committed (KAFKA-10706).
func (p *Partition) Agree(in Inflow, v Verdict) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.check(in); err != nil {
		return err
	}
	if end := p.log.AppendedEnd(); v.Kind != Agreed || v.Offset != end {
		return fmt.Errorf("%w: the leader agrees up to %d, the log ends at %d", ErrGap, v.Offset, end)
	}
	p.agreed = true
	return nil
}

// flows is check for what comes after the handshake. Called with mu.
func (p *Partition) flows(in Inflow) error {
	if err := p.check(in); err != nil {
		return err
	}
	if !p.agreed {
		return fmt.Errorf("%w: the handshake is not done", ErrStaleInflow)
	}
	return nil
}

// CutTo does what a leader's verdict asks for and offers again. It returns when the cut is flushed: nothing that it removed
// comes back. Committed records are given up only if the metadata knows of an unclean election.
func (p *Partition) CutTo(in Inflow, v Verdict) (Offer, error) {
	p.surgery.Lock()
	defer p.surgery.Unlock()
	p.mu.Lock()
	if err := p.check(in); err != nil {
		p.mu.Unlock()
		return Offer{}, err
	}
	to, restart := v.Offset, v.Kind == Restart
	if v.Kind == Cut {
		epoch, own := p.log.EndOffsetForEpoch(v.Epoch)
		switch {
		case epoch != NoEpoch:
			to = min(to, own)
		default:
			to = min(to, p.log.AppendedEnd())
		}
		to = max(to, p.log.LogStartOffset())
	}
	hw := p.hw.Load()
	if to < hw && p.unclean <= p.log.LastEpoch() {
		err := fmt.Errorf("%w: leader %d of epoch %d wants it cut to %d, %d is committed", ErrStopped, in.Leader, in.LeaderEpoch, to, hw)
		p.mu.Unlock()
		p.resign(err, true)
		p.set.reportStopped(p, err)
		return Offer{}, err
	}
	p.mu.Unlock()

	var err error
	if restart {
		err = p.log.Reset(to)
	} else {
		err = p.log.Truncate(to, in.LeaderEpoch)
	}
	if err != nil {
		return Offer{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if end := p.log.AppendedEnd(); restart || end < hw {
		p.hw.Store(end)
		p.log.SetHighWatermarkHint(end)
	}
	return p.offer(), p.check(in)
}

// AppendRun appends a run that starts where the log ends. On engine.ErrBusy and ErrDiskFull the run is trimmed to what
// was not taken: the caller waits for room and calls again. Nothing of it is kept afterwards.
func (p *Partition) AppendRun(in Inflow, run *Run) error {
	if err := checkRun(run); err != nil {
		return err
	}
	p.mu.Lock()
	if err := p.flows(in); err != nil {
		p.mu.Unlock()
		return err
	}
	if end := p.log.AppendedEnd(); broken.NoContiguity && run.Start > end {
		run.Start = end
	}
	if end := p.log.AppendedEnd(); run.Start != end {
		p.mu.Unlock()
		return fmt.Errorf("%w: it starts at %d, the log ends at %d", ErrGap, run.Start, end)
	}
	if len(run.Batches) > 0 {
		if err := p.log.AppendAt(run.Start, run.Batches, min(run.HighWatermark, run.End)); err != nil {
			run.trim(p.log.AppendedEnd())
			p.mu.Unlock()
			return err
		}
	}
	p.take(run.HighWatermark, run.LogStart)
	return nil
}

// checkRun verifies every batch of a run.
func checkRun(run *Run) error {
	end := run.Start
	for b := run.Batches; len(b) > 0; {
		h, err := batch.ParseHeader(b)
		if err == nil && h.Size() > len(b) {
			err = batch.ErrShort
		}
		if err == nil {
			h, err = batch.Validate(b[:h.Size()])
		}
		if err != nil {
			return fmt.Errorf("%w: at %d: %w", ErrCorrupt, end, err)
		}
		if h.BaseOffset < end {
			return fmt.Errorf("%w: batch at %d behind %d", ErrCorrupt, h.BaseOffset, end)
		}
		end = h.NextOffset()
		b = b[h.Size():]
	}
	if end != run.End {
		return fmt.Errorf("%w: it ends at %d, its batches at %d", ErrCorrupt, run.End, end)
	}
	return nil
}

// trim drops the batches below end.
func (r *Run) trim(end int64) {
	for len(r.Batches) > 0 {
		h, err := batch.ParseHeader(r.Batches)
		if err != nil || h.NextOffset() > end {
			break
		}
		r.Batches, r.Start = r.Batches[h.Size():], h.NextOffset()
	}
}

// TakeMark hears the leader's high watermark and log start.
func (p *Partition) TakeMark(in Inflow, hw, logStart int64) error {
	p.mu.Lock()
	if err := p.flows(in); err != nil {
		p.mu.Unlock()
		return err
	}
	p.take(hw, logStart)
	return nil
}

// take follows the leader's high watermark as far as this log goes. Called with mu, which it gives back.
func (p *Partition) take(hw, logStart int64) {
	if logStart > p.wantFrom {
		p.wantFrom = logStart
		p.set.dirtyStarts.Store(true)
	}
	p.release(p.raise(min(hw, p.log.AppendedEnd())), takeWaiters(), nil, false)
}

// takeLogStart removes what the leader has removed, as far as it is committed here. It blocks.
func (p *Partition) takeLogStart() (done bool, err error) {
	p.mu.Lock()
	want := min(p.wantFrom, p.hw.Load())
	done = want == p.wantFrom || p.role != follower
	follows := p.role == follower
	p.mu.Unlock()
	if !follows || want <= p.log.LogStartOffset() {
		return done, nil
	}
	return done, p.log.SetLogStart(want)
}

// follow makes this broker a follower of another one's leadership, or of nobody.
func (p *Partition) follow(leaderID, epoch int32) {
	p.mu.Lock()
	if p.role == follower && leaderID != NoLeader && epoch == p.epoch && p.failed == nil {
		p.mu.Unlock() // its stream has been faster than the image
		return
	}
	newer := epoch > p.epoch
	leads := p.role == leader
	p.mu.Unlock()
	if !newer && !leads && leaderID == NoLeader {
		return
	}
	p.surgery.Lock()
	defer p.surgery.Unlock()
	p.resign(ErrNotLeader, false)
	p.mu.Lock()
	defer p.mu.Unlock()
	if epoch > p.epoch {
		p.epoch = epoch
	}
	if leaderID != NoLeader {
		p.role = follower // a stream will come
	}
}
