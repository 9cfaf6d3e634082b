package replica

import (
	"errors"
	"slices"
	"time"

	"millrace/broker/replica/broken"
	"millrace/raft"
)

// Lag is when a follower leaves the ISR.
type Lag struct {
	Time     time.Duration // replica.lag.time.max.ms
	Messages int64         // replica.lag.max.messages; 0: no such bound
}

// messagesGrace is how long a follower may be beyond Lag.Messages: a burst is no lag.
const messagesGrace = time.Second

// mayJoin reports whether a follower may become a member of the ISR: it has everything that is committed, and all
// that was there when the epoch began. Called with mu.
func (p *Partition) mayJoin(r *remote) bool {
	if broken.EarlyJoin {
		return r.live && r.agreed
	}
	return r.live && r.agreed && !r.lost && !p.lead.recovering && r.stored >= max(p.hw.Load(), p.lead.epochStart)
}

// mustLeave reports whether a follower has fallen behind. Called with mu.
func (p *Partition) mustLeave(r *remote, now time.Time, lag Lag) bool {
	end := p.log.AppendedEnd()
	r.keepPace(end, now)
	if lag.Messages > 0 && end-r.stored > lag.Messages {
		if r.behindSince.IsZero() {
			r.behindSince = now
		}
	} else {
		r.behindSince = time.Time{}
	}
	late := now.Sub(r.caughtUp) > lag.Time
	return r.lost || late || !r.behindSince.IsZero() && now.Sub(r.behindSince) > messagesGrace
}

// isrChange returns what the leader wants the metadata to agree on, if anything.
func (p *Partition) isrChange(now time.Time, lag Lag) (c raft.ISRChangeV2, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.role != leader || p.lead.partitionEpoch < 0 || p.lead.proposing {
		return c, false
	}
	l := p.lead
	if l.pending == nil {
		if now.Before(l.notBefore) {
			return c, false
		}
		wanted := l.isr
		for i := range l.followers {
			r := &l.followers[i]
			in, behind := slices.Contains(l.isr, r.id), p.mustLeave(r, now, lag)
			switch {
			case in && behind:
				wanted = slices.DeleteFunc(slices.Clone(wanted), func(id int32) bool { return id == r.id })
			case !in && !behind && p.mayJoin(r): // one that stands still at the high watermark would leave again at once
				wanted = append(slices.Clip(wanted), r.id)
			}
		}
		if slices.Equal(wanted, l.isr) && !l.recovering && !l.fence {
			return c, false
		}
		l.pending, l.members = wanted, make([]raft.ISRMember, 0, len(wanted))
		for _, id := range wanted {
			m := raft.ISRMember{ID: id, BrokerEpoch: p.set.brokerEpoch.Load()}
			if r := l.follower(id); r != nil {
				m.BrokerEpoch = r.brokerEpoch
			}
			l.members = append(l.members, m)
		}
	}
	// A proposal whose outcome is unknown is made again: it is compare-and-set.
	l.proposing = true
	c = raft.ISRChangeV2{
		ISRChange: raft.ISRChange{TopicID: p.TopicID, Partition: p.Index, LeaderEpoch: p.epoch, PartitionEpoch: l.partitionEpoch},
		Recovered: l.recovering,
	}
	// The processes that were looked at, whoever is registered under their ids by now (KIP-903).
	c.ISR = slices.Clone(l.members)
	return c, true
}

// isrChanged hears what came of a change. Until an image shows the outcome both ISRs hold the high watermark back.
func (p *Partition) isrChanged(c *raft.ISRChangeV2, code raft.Code, known bool, now time.Time) {
	p.mu.Lock()
	if p.role != leader || p.epoch != c.LeaderEpoch {
		p.mu.Unlock()
		return
	}
	l := p.lead
	l.proposing = false
	if l.partitionEpoch != c.PartitionEpoch {
		p.mu.Unlock()
		return // an image was faster
	}
	switch {
	case !known:
		// It may be applied at any time from now on, and so may every repetition of it.
		for _, id := range l.pending {
			if !slices.Contains(l.maybe, id) {
				l.maybe = append(l.maybe, id)
			}
		}
	case code == raft.IneligibleReplica || code == raft.InvalidCommand:
		l.pending, l.notBefore = nil, now.Add(refusedPause)
		l.fence = l.maybe != nil
	}
	p.settle(false)
}

const refusedPause = 300 * time.Millisecond

// pokeISR asks for ISRChanges soon.
func (s *Set) pokeISR() {
	select {
	case s.isrPoke <- struct{}{}:
	default:
	}
}

// ISRPoke is readable when ISRChanges has something new to say.
func (s *Set) ISRPoke() <-chan struct{} { return s.isrPoke }

// maxISRChanges bounds one command of them.
const maxISRChanges = 1000

// ISRChanges looks at every partition that this broker leads and returns what to propose, as one AlterPartitionsV2.
// The outcome must be told with ISRChanged before the next call sees these partitions again. It forgives followers the time
// that this process itself stood still.
func (s *Set) ISRChanges(now time.Time) []raft.ISRChangeV2 {
	lag := s.lag()
	if gap := now.Sub(s.lastLook); !s.lastLook.IsZero() && gap > lag.Time/4 {
		s.eachPartition(func(p *Partition) bool { p.forgive(gap); return true })
	}
	s.lastLook = now
	var out []raft.ISRChangeV2
	s.eachPartition(func(p *Partition) bool {
		if c, ok := p.isrChange(now, lag); ok {
			out = append(out, c)
		}
		return len(out) < maxISRChanges
	})
	return out
}

// forgive moves the times at which followers were caught up.
func (p *Partition) forgive(gap time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.role != leader {
		return
	}
	for i := range p.lead.followers {
		r := &p.lead.followers[i]
		r.caughtUp, r.targetAt = r.caughtUp.Add(gap), r.targetAt.Add(gap)
		if !r.behindSince.IsZero() {
			r.behindSince = r.behindSince.Add(gap)
		}
	}
}

// ISRChanged is told what came of the changes of one command: err when there was no answer.
func (s *Set) ISRChanged(changes []raft.ISRChangeV2, res raft.Result, err error) {
	if errors.Is(err, raft.ErrClosed) {
		return
	}
	for i := range changes {
		c := &changes[i]
		t := s.TopicByID(c.TopicID)
		if t == nil {
			continue
		}
		p := t.Partition(c.Partition)
		if p == nil {
			continue
		}
		code := res.Code
		if err == nil && i < len(res.Items) {
			code = res.Items[i].Code
		}
		if err == nil && code == raft.OK {
			s.countISRChange(p, c)
		}
		p.isrChanged(c, code, err == nil, s.now())
	}
}

func (s *Set) countISRChange(p *Partition, c *raft.ISRChangeV2) {
	p.mu.Lock()
	before := 0
	if p.role == leader {
		before = len(p.lead.isr)
	}
	p.mu.Unlock()
	switch {
	case len(c.ISR) < before:
		s.shrinks.Add(1)
	case len(c.ISR) > before:
		s.expands.Add(1)
	}
}
