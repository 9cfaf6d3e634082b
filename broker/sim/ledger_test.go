package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"millrace/broker/replica"
	"millrace/engine"
	"millrace/engine/batch"
	"millrace/raft"
)

// ledger knows what must be there. Batches are known by an id, which is their timestamp.
type ledger struct {
	w     *world
	parts map[partID]*partLedger
	order []*partLedger
}

type partID struct {
	topic string
	index int32
}

// partLedger is one partition's page.
type partLedger struct {
	id        partID
	topicID   raft.UUID
	t         *topicPlan
	acked     map[int64]entry // acks=all, by base offset
	seen      map[int64]entry // given to consumers
	weak      []weakAck       // acks=1
	end       int64           // of what was acknowledged with acks=all
	unclean   int32           // the last unclean election that was accounted for
	excused   int             // acknowledged records that an unclean election or the loss of every copy took
	acks      int             // batches acknowledged with acks=all, excused ones included
	tainted   map[int32]int64 // brokers that lost records of it under this epoch, and did not leave ISR and ELR since
	doubles   bool            // a producer had to begin a new epoch: batches may be there twice
	mayStrand bool            // some copies were lost: an operator may have to choose among the others
	strands   bool            // nobody may lead it any more, and an operator chose
}

type entry struct {
	id    int64
	count int64
}

type weakAck struct {
	base  int64
	id    int64
	epoch int32
}

func newLedger(w *world) *ledger { return &ledger{w: w, parts: map[partID]*partLedger{}} }

func (l *ledger) add(t *topicPlan, index int32, topicID raft.UUID) {
	p := &partLedger{
		id: partID{t.name, index}, topicID: topicID, t: t, acked: map[int64]entry{}, seen: map[int64]entry{}, tainted: map[int32]int64{},
	}
	l.parts[p.id] = p
	l.order = append(l.order, p)
}

func (p *partLedger) String() string { return fmt.Sprintf("%s-%d", p.id.topic, p.id.index) }

// image is the partition as the metadata has it.
func (l *ledger) image(p *partLedger) *raft.Partition {
	return l.w.log.Head().Partition(p.id.topic, p.id.index)
}

// void reports whether what a leader of an epoch says does not count: an unclean election has replaced it.
func (l *ledger) void(p *partLedger, epoch int32) bool { return epoch < l.image(p).UncleanEpoch }

// acknowledged notes that a producer was told that its batch is at base, by a leader of an epoch.
func (l *ledger) acknowledged(p *partLedger, base int64, e entry, epoch int32) {
	l.w.note(2, base, e.id)
	p.acks++
	if l.void(p, epoch) {
		p.excused++
		return
	}
	if old, ok := p.acked[base]; ok && old != e {
		l.w.fail("%s: offset %d was acknowledged twice: as batch %d and as %d", p, base, old.id, e.id)
	}
	if s, ok := p.seen[base]; ok && s != e {
		l.w.fail("%s: batch %d is acknowledged at offset %d, consumers got %d there", p, e.id, base, s.id)
	}
	p.acked[base] = e
	p.end = max(p.end, base+e.count)
	l.onEveryISRMember(p, base+e.count)
}

// onEveryISRMember looks into the logs of the in-sync replicas that run: what was acknowledged is in all of them.
func (l *ledger) onEveryISRMember(p *partLedger, end int64) {
	for _, id := range l.image(p).ISR {
		n := l.w.node(id)
		_, lost := p.tainted[id]
		if lost || n.set == nil || n.epoch != l.w.log.Head().Broker(id).Epoch {
			continue
		}
		if rp := n.set.Get(p.id.topic, p.id.index); rp != nil && rp.Log().AckEnd() < end {
			l.w.fail("%s: acknowledged to %d, node %d is in the ISR and has stored to %d", p, end, id, rp.Log().AckEnd())
		}
	}
}

// delivered notes that a consumer was given a batch, by a broker of an epoch.
func (l *ledger) delivered(p *partLedger, base int64, e entry, epoch int32) {
	if l.void(p, epoch) {
		return
	}
	if old, ok := p.seen[base]; ok && old != e {
		l.w.fail("%s: consumers got batch %d at offset %d, and %d before", p, e.id, base, old.id)
	}
	if a, ok := p.acked[base]; ok && a != e {
		l.w.fail("%s: consumers got batch %d at offset %d, where %d was acknowledged", p, e.id, base, a.id)
	}
	p.seen[base] = e
}

// leads is called when a node begins to lead a partition.
func (l *ledger) leads(n *node) func(*replica.Partition) {
	return func(rp *replica.Partition) {
		p := l.parts[partID{rp.Topic, rp.Index}]
		epoch, _ := rp.LeaderEpoch()
		img := l.image(p)
		end := rp.Log().AppendedEnd()
		l.w.tracef("node %d leads %s in epoch %d: log to %d, high watermark %d; acknowledged to %d", n.id, p, epoch, end, rp.HighWatermark(), p.end)
		if epoch < img.LeaderEpoch || l.void(p, epoch) {
			return // it is late
		}
		if img.UncleanEpoch > p.unclean {
			if !p.t.unclean && !p.strands {
				l.w.fail("%s: an unclean election of %d in epoch %d, which the topic does not allow", p, n.id, img.UncleanEpoch)
			}
			p.unclean = img.UncleanEpoch
			l.excuse(p, rp.Log())
		}
		if end < p.end {
			l.w.fail("%s: node %d leads in epoch %d with records to %d, acknowledged is to %d", p, n.id, epoch, end, p.end)
		}
	}
}

// excuse forgets exactly what a log does not have.
func (l *ledger) excuse(p *partLedger, log *engine.Log) {
	has := l.content(log)
	before := len(p.acked)
	maps.DeleteFunc(p.acked, func(base int64, e entry) bool { return has[base] != e })
	maps.DeleteFunc(p.seen, func(base int64, e entry) bool { return has[base] != e })
	p.excused += before - len(p.acked)
	p.end = 0
	for base, e := range p.acked {
		p.end = max(p.end, base+e.count)
	}
	l.w.stats.unclean++
	l.w.tracef("%s: an unclean election takes %d acknowledged batches", p, before-len(p.acked))
}

// stopped hears of a partition that was given up: nothing in a run is a reason for that.
func (l *ledger) stopped(n *node, p *replica.Partition, err error) {
	l.w.fail("node %d stops %s-%d: %v", n.id, p.Topic, p.Index, err)
}

// committed looks at new metadata.
func (l *ledger) committed(old, now *raft.Image) {
	for _, c := range raft.TopicChanges(old, now) {
		if c.New == nil {
			continue
		}
		for i, rp := range c.New.Partitions {
			p := l.parts[partID{c.New.Name, int32(i)}]
			if p == nil || rp == c.Old.Partition(int32(i)) {
				continue
			}
			maps.DeleteFunc(p.tainted, func(id int32, epoch int64) bool {
				return now.Broker(id).Epoch > epoch && !slices.Contains(rp.ISR, id) && !slices.Contains(rp.ELR, id)
			})
		}
	}
}

// spare reports whether a broker's records may be destroyed: of everything that it is trusted with somebody else, who
// is trusted too, has a copy that stays.
func (l *ledger) spare(n *node, all bool) bool {
	img := l.w.log.Head()
	for _, p := range l.order {
		if !all && !p.t.relaxed {
			continue
		}
		rp := img.Partition(p.id.topic, p.id.index)
		if !slices.Contains(rp.Replicas, n.id) {
			continue
		}
		if !slices.ContainsFunc(rp.ISR, func(id int32) bool { _, lost := p.tainted[id]; return id != n.id && !lost }) {
			return false
		}
	}
	return true
}

// taint notes that a broker's records are gone.
func (l *ledger) taint(n *node, all bool) {
	for _, p := range l.order {
		if all || p.t.relaxed {
			p.tainted[n.id] = l.w.log.Head().Broker(n.id).Epoch
			p.mayStrand = true
		}
	}
}

// content reads the batches of a log.
func (l *ledger) content(log *engine.Log) map[int64]entry {
	has := map[int64]entry{}
	for b := l.bytes(log, log.AppendedEnd()); len(b) > 0; {
		h, err := batch.ParseHeader(b)
		if err == nil {
			h, err = batch.Validate(b[:h.Size()])
		}
		if err != nil {
			l.w.fail("%s: %v", log, err)
		}
		has[h.BaseOffset] = entry{h.BaseTimestamp, int64(h.LastOffsetDelta) + 1}
		b = b[h.Size():]
	}
	return has
}

// bytes reads a log up to an offset.
func (l *ledger) bytes(log *engine.Log, upTo int64) (all []byte) {
	for at := log.LogStartOffset(); at < upTo; {
		spans, info, err := log.Read(engine.ReadRequest{Offset: at, UpTo: upTo, MaxBytes: 64 << 10, MinOne: true, MayBlock: true}, nil)
		if err != nil {
			l.w.fail("%s: read at %d: %v", log, at, err)
		}
		for i := range spans {
			all = append(all, spans[i].Mem...)
			spans[i].Owner.Release()
		}
		if info.NextOffset <= at {
			break
		}
		at = info.NextOffset
	}
	return all
}

// check is the end of a run: all is healed and quiet.
func (l *ledger) check() {
	for _, p := range l.order {
		rp := l.image(p)
		leader := l.w.node(rp.Leader)
		lp := leader.set.Get(p.id.topic, p.id.index)
		log := lp.Log()
		has := l.content(log)
		for _, base := range slices.Sorted(maps.Keys(p.acked)) {
			if has[base] != p.acked[base] {
				l.w.fail("%s: batch %d was acknowledged at offset %d; node %d, the leader, has %+v there", p, p.acked[base].id, base, leader.id, has[base])
			}
		}
		for _, base := range slices.Sorted(maps.Keys(p.seen)) {
			if has[base] != p.seen[base] {
				l.w.fail("%s: a consumer got batch %d at offset %d; node %d, the leader, has %+v there", p, p.seen[base].id, base, leader.id, has[base])
			}
		}
		l.checkOrder(p, has)
		for _, a := range p.weak {
			if has[a.base].id == a.id {
				continue
			}
			l.w.stats.weakLost++
			if rp.LeaderEpoch == a.epoch {
				l.w.fail("%s: batch %d of acks=1 at offset %d was lost, its leader's epoch %d lasts", p, a.id, a.base, a.epoch)
			}
		}
		hw := lp.HighWatermark()
		want := l.bytes(log, hw)
		for _, id := range rp.Replicas {
			f := l.w.node(id).set.Get(p.id.topic, p.id.index)
			if f.HighWatermark() != hw || string(l.bytes(f.Log(), hw)) != string(want) {
				l.w.fail("%s: node %d (high watermark %d, end %d) differs from node %d (%d, %d)", p, id, f.HighWatermark(), f.Log().AppendedEnd(), leader.id, hw, log.AppendedEnd())
			}
		}
	}
}

// checkOrder looks for batches that are there twice, and for idempotent ones that are not in the order of their sequence.
func (l *ledger) checkOrder(p *partLedger, has map[int64]entry) {
	at := map[int64]int64{}
	last := map[int64]int64{}
	for _, base := range slices.SortedFunc(maps.Keys(has), cmp.Compare[int64]) {
		id := has[base].id
		if p.doubles {
			return
		}
		if other, ok := at[id]; ok {
			l.w.fail("%s: batch %d is there twice, at %d and at %d", p, id, other, base)
		}
		at[id] = base
		who := producerOf(id)
		if prev, ok := last[who]; ok && id < prev && who < weakProducers {
			l.w.fail("%s: batch %d comes after %d", p, id, prev)
		}
		last[who] = id
	}
}
