package replica

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/broker/replica/broken"
	"millrace/raft"
)

// What a leader says to a stream.
var (
	// ErrStaleStint: the stream is not the newest one to its follower, or this broker does not lead any more.
	ErrStaleStint = errors.New("the stream does not count any more")
	// ErrNotReplica: the follower holds no replica of the partition, or the process that offers is not the registered one.
	ErrNotReplica = errors.New("the broker holds no replica of the partition")
	// ErrMustLeave: the follower offers less than it has acknowledged, and leaves the ISR before it gets anything.
	ErrMustLeave = errors.New("the follower lost what it acknowledged and has to leave the ISR first")
)

// leading is what a leader knows of its partition. Guarded by Partition.mu.
type leading struct {
	epochStart     int64 // where its log ended when the epoch began
	partitionEpoch int32
	isr            []int32          // committed, as the newest image has it
	pending        []int32          // proposed and not yet seen in an image; nil: nothing is
	members        []raft.ISRMember // pending, with the registrations that they had when it was decided
	proposing      bool             // a proposal of pending is under way
	// maybe are the members of proposals of this partition epoch whose answer was lost: each may still be applied, until
	// the partition epoch has moved on. fence: it is to be moved, because what was proposed is refused by now.
	maybe      []int32
	fence      bool
	notBefore  time.Time // a refused proposal is not repeated at once
	minISR     int
	recovering bool // elected uncleanly: alone until it has said that it is done
	followers  []remote
}

// remote is a follower as its leader knows it.
type remote struct {
	id          int32
	brokerEpoch int64 // of its registration, as the newest image has it; -1: none
	live        bool  // neither fenced nor on its way out
	generation  uint64
	agreed      bool // the handshake of this generation is done
	// stored is the greatest end that it acknowledged since its registration and in this epoch; -1: nothing. A cut
	// makes it less; no member of the ISR may be cut.
	stored int64
	lost   bool // it offered less than it should have
	// At targetAt the leader's log ended at target. Who has stored that was caught up then.
	target             int64
	targetAt, caughtUp time.Time
	behindSince        time.Time // of replica.lag.max.messages; zero: it is not
}

// newRemote is a follower of which nothing was heard yet; end is where the leader's log ends.
func newRemote(id int32, brokerEpoch, end int64, now time.Time) remote {
	return remote{id: id, brokerEpoch: brokerEpoch, stored: -1, target: end, targetAt: now, caughtUp: now}
}

// committedEnd is what the high watermark may be, given what it is and the end of this log. See the package documentation.
func (l *leading) committedEnd(hw, own int64) int64 {
	if len(l.isr) < l.minISR && !(broken.MaximalISRIsEnough && len(l.pending) >= l.minISR) {
		return hw
	}
	end := own
	for i := range l.followers {
		if r := &l.followers[i]; l.inMaximalISR(r.id) {
			end = min(end, r.stored)
		}
	}
	return end
}

func (l *leading) inMaximalISR(id int32) bool {
	return slices.Contains(l.isr, id) || slices.Contains(l.pending, id) || slices.Contains(l.maybe, id)
}

func (l *leading) follower(id int32) *remote {
	for i := range l.followers {
		if l.followers[i].id == id {
			return &l.followers[i]
		}
	}
	return nil
}

// begin makes this broker the leader in the epoch of an image's partition. It waits for room in a busy log.
func (p *Partition) begin(epoch int32) error {
	p.surgery.Lock()
	defer p.surgery.Unlock()
	p.resign(ErrNotLeader, false) // nobody appends while the epoch begins
	if err := beginEpoch(p.log, epoch); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return nil
	}
	p.role, p.epoch = leader, epoch
	p.lead = &leading{epochStart: p.log.AppendedEnd(), partitionEpoch: -1}
	return nil
}

// refresh takes over what an image says of the partition that this broker leads.
func (p *Partition) refresh(img *raft.Image, t *raft.Topic, rp *raft.Partition, now time.Time) {
	p.mu.Lock()
	if p.role != leader || rp.LeaderEpoch != p.epoch {
		p.mu.Unlock()
		return
	}
	l := p.lead
	before := len(l.isr) >= l.minISR
	if rp.PartitionEpoch > l.partitionEpoch {
		l.partitionEpoch = rp.PartitionEpoch
		l.isr, l.recovering = rp.ISR, rp.Recovering
		l.pending, l.maybe, l.fence = nil, nil, false
	}
	l.minISR = img.MinISR(t, rp)
	changed := p.refreshFollowers(img, rp, now)
	var fallen *waiters
	if before && len(l.isr) < l.minISR {
		// What they wait for will not come before others are back; their clients may want to know now.
		fallen = takeWaiters()
		fallen.entries = p.acks.all(fallen.entries)
	}
	var others []int32
	if changed {
		for i := range l.followers {
			others = append(others, l.followers[i].id)
		}
	}
	p.settle(false)
	if fallen != nil {
		fallen.call(ErrNotEnoughAfter, false)
	}
	if changed {
		p.set.replicator.Lead(p, others)
	}
}

// refreshFollowers keeps the list of the other replicas in step with an image. Called with mu.
func (p *Partition) refreshFollowers(img *raft.Image, rp *raft.Partition, now time.Time) (changed bool) {
	old := p.lead.followers
	next := make([]remote, 0, len(rp.Replicas))
	for _, id := range rp.Replicas {
		if id == p.set.nodeID {
			continue
		}
		r := newRemote(id, -1, p.log.AppendedEnd(), now)
		if i := slices.IndexFunc(old, func(o remote) bool { return o.id == id }); i >= 0 {
			r = old[i]
		}
		b := img.Broker(id)
		live := b != nil && !b.Fenced && !b.ShuttingDown
		if b != nil && b.Epoch != r.brokerEpoch {
			// Another process: nothing that the last one said counts.
			r = newRemote(id, b.Epoch, p.log.AppendedEnd(), now)
			changed = true
		}
		changed = changed || live != r.live
		r.live = live
		next = append(next, r)
	}
	changed = changed || len(next) != len(old)
	for i := range min(len(next), len(old)) {
		changed = changed || next[i].id != old[i].id
	}
	p.lead.followers = next
	return changed
}

// Followers lists the other replicas of a partition that this broker leads, and the committed ISR.
func (p *Partition) Followers() (others, isr []int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.role != leader {
		return nil, nil
	}
	for i := range p.lead.followers {
		others = append(others, p.lead.followers[i].id)
	}
	return others, p.lead.isr
}

// FollowerLag is how many records a follower has not stored yet; false if this broker does not lead it.
func (p *Partition) FollowerLag(id int32) (int64, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.role != leader {
		return 0, false
	}
	r := p.lead.follower(id)
	if r == nil {
		return 0, false
	}
	return p.log.AppendedEnd() - max(r.stored, p.log.LogStartOffset()), true
}

// OpenStint begins a stream to a follower. Earlier ones do not count any more.
func (p *Partition) OpenStint(follower int32) (s Stint, logStart, hw int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.role != leader {
		return s, 0, 0, ErrNotLeader
	}
	r := p.lead.follower(follower)
	if r == nil || r.brokerEpoch < 0 {
		return s, 0, 0, fmt.Errorf("%w: %d", ErrNotReplica, follower)
	}
	r.generation = p.set.generations.Add(1)
	r.agreed = false
	return Stint{Follower: follower, LeaderEpoch: p.epoch, Generation: r.generation}, p.log.LogStartOffset(), p.hw.Load(), nil
}

// current finds the follower of a stint that counts. Called with mu.
func (p *Partition) current(s Stint) (*remote, error) {
	if p.role != leader || p.epoch != s.LeaderEpoch && !broken.AnyAcknowledgement {
		return nil, ErrStaleStint
	}
	r := p.lead.follower(s.Follower)
	if broken.AnyAcknowledgement && r != nil {
		return r, nil
	}
	if r == nil || r.generation != s.Generation {
		return nil, ErrStaleStint
	}
	return r, nil
}

// Offered judges what a follower has. After Agreed the stream goes on with batches from o.End; after the others the
// follower offers again.
func (p *Partition) Offered(s Stint, o Offer) (Verdict, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := p.current(s)
	if err != nil {
		return Verdict{}, err
	}
	if o.BrokerEpoch != r.brokerEpoch {
		return Verdict{}, fmt.Errorf("%w: broker %d of epoch %d, registered is %d", ErrNotReplica, r.id, o.BrokerEpoch, r.brokerEpoch)
	}
	v := p.judge(o)
	keeps := o.End
	switch v.Kind {
	case Cut:
		keeps = min(keeps, v.Offset)
	case Restart:
		keeps = -1
	}
	if keeps < r.stored || p.lead.inMaximalISR(r.id) && keeps < min(p.hw.Load(), p.log.AppendedEnd()) {
		if p.lead.inMaximalISR(r.id) {
			r.lost = true
			p.set.pokeISR()
			return Verdict{}, ErrMustLeave
		}
		r.stored = min(r.stored, keeps)
	}
	if v.Kind == Agreed {
		r.agreed, r.lost = true, false
	}
	return v, nil
}

// judge compares the logs by epoch (KIP-101, KIP-279). Called with mu.
func (p *Partition) judge(o Offer) Verdict {
	start, end := p.log.LogStartOffset(), p.log.AppendedEnd()
	if broken.TruncateByHighWatermark && o.End >= start && o.End <= end {
		if hw := max(p.hw.Load(), start); o.End > hw {
			return Verdict{Kind: Cut, Epoch: o.LastEpoch, Offset: hw}
		}
		return Verdict{Kind: Agreed, Epoch: o.LastEpoch, Offset: o.End}
	}
	restart := Verdict{Kind: Restart, Epoch: NoEpoch, Offset: start}
	if o.End < start {
		return restart
	}
	if o.LastEpoch == NoEpoch {
		// Nothing in the follower's log has an epoch: it is empty, or it cannot be compared.
		if o.End == start {
			return Verdict{Kind: Agreed, Epoch: NoEpoch, Offset: o.End}
		}
		return restart
	}
	epoch, to := p.log.EndOffsetForEpoch(o.LastEpoch)
	switch {
	case epoch == NoEpoch:
		return restart
	case epoch == o.LastEpoch && o.End <= to && o.End <= end:
		return Verdict{Kind: Agreed, Epoch: epoch, Offset: o.End}
	case to < start:
		return restart
	}
	return Verdict{Kind: Cut, Epoch: epoch, Offset: to}
}

// Acknowledged takes a follower's cumulative acknowledgement: what it has appended, and what it answers for.
func (p *Partition) Acknowledged(s Stint, received, stored int64) error {
	p.mu.Lock()
	r, err := p.current(s)
	if err == nil && !r.agreed && !broken.AnyAcknowledgement {
		err = ErrStaleStint
	}
	if err == nil && (stored > p.log.AppendedEnd() || received > p.log.AppendedEnd()) {
		err = fmt.Errorf("%w: broker %d acknowledges %d of %d", ErrStaleStint, r.id, stored, p.log.AppendedEnd())
	}
	if err != nil {
		p.mu.Unlock()
		return err
	}
	r.stored = max(r.stored, stored)
	r.keepPace(p.log.AppendedEnd(), p.set.now())
	if p.lead.pending == nil && !slices.Contains(p.lead.isr, r.id) && p.mayJoin(r) {
		p.set.pokeISR()
	}
	p.settle(false)
	return nil
}

// keepPace notes when the follower was last caught up: it has what the log held at some time.
func (r *remote) keepPace(end int64, now time.Time) {
	if r.stored >= end {
		r.caughtUp, r.target, r.targetAt = now, end, now
		return
	}
	if r.stored >= r.target {
		r.caughtUp, r.target, r.targetAt = r.targetAt, end, now
	}
}

// CloseStint ends a stream. What its follower acknowledged stays acknowledged.
func (p *Partition) CloseStint(s Stint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r, err := p.current(s); err == nil {
		r.generation, r.agreed = 0, false
	}
}

// Damaged stops the partition: the leader's own copy of what it should send is bad. Others may lead.
func (p *Partition) Damaged(err error) {
	p.resign(fmt.Errorf("%w: %w", ErrStopped, err), true)
	p.set.reportStopped(p, err)
}
