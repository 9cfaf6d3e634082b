package sim

import (
	"errors"
	"time"

	"millrace/broker/replica"
	"millrace/engine"
	"millrace/engine/batch"
	sequence "millrace/engine/producer"
	"millrace/raft"
)

// metadata is what a client believes of one partition. It never goes back to an older epoch (KIP-320).
type metadata struct {
	leader int32
	epoch  int32
}

// refresh asks any broker.
func (m *metadata) refresh(w *world, p *partLedger) {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	if !n.awake() || n.set == nil {
		return
	}
	rp := w.log.At(n.follows).Partition(p.id.topic, p.id.index)
	if rp == nil || rp.LeaderEpoch < m.epoch {
		return
	}
	m.leader, m.epoch = rp.Leader, rp.LeaderEpoch
}

// line is a client's connection to one broker: requests arrive in order, answers too. Once one is lost nothing more comes
// through, until the client gives the connection up.
type line struct {
	there, back time.Duration
	broken      bool
}

type lines map[int32]*line

// call asks a broker; do runs there and gets the way back. Either may be lost.
func (l lines) call(w *world, to *node, do func(back func(func()))) {
	c := l[to.id]
	if c == nil {
		c = new(line)
		l[to.id] = c
	}
	delay := func(after *time.Duration) time.Duration {
		d := w.between(100*time.Microsecond, 2*ms)
		if w.chance(2) {
			d += w.between(0, 400*ms)
		}
		*after = max(*after, w.now+d)
		return *after - w.now
	}
	if c.broken = c.broken || w.chance(w.plan.clientLoss); c.broken {
		return
	}
	w.after(delay(&c.there), func() {
		to.run(to.inc, func() {
			do(func(f func()) {
				if c.broken = c.broken || w.chance(w.plan.clientLoss); !c.broken {
					w.after(delay(&c.back), f)
				}
			})
		})
	})
}

// Ids name the producer and the number of its batch; they are timestamps, too.
const (
	idsPerProducer = 1_000_000
	weakProducers  = 500 // producers from here on send with acks=1, and once
)

func batchID(producer, n int64) int64 { return 1_700_000_000_000 + producer*idsPerProducer + n }
func producerOf(id int64) int64       { return (id - 1_700_000_000_000) / idsPerProducer }
func numberOf(id int64) int64         { return (id - 1_700_000_000_000) % idsPerProducer }
func (b *sent) entry() entry          { return entry{b.id, int64(b.count)} }
func (pr *producer) all() bool        { return pr.acks == -1 }
func (pr *producer) idempotent() bool { return pr.acks == -1 }

// producer sends batches to one partition.
type producer struct {
	w           *world
	id          int64
	p           *partLedger
	acks        int8
	inflightMax int
	meta        metadata
	lines       lines
	next        int64 // number of the next batch
	sequence    int32
	queue       []*sent // not acknowledged, in order
	stopped     bool
	epoch       int16
	bumped      int32 // unclean election after which the epoch was raised
	round       int   // of sending: raised when everything is sent again
	pausing     bool
	ackedAt     time.Duration // last acknowledgement
	acked       int
}

type sent struct {
	id    int64
	count int32
	size  int // of each record
	raw   []byte
	h     batch.Header
	round int // in which it is in flight; -1: it is not
	tries int
}

// produce is called now and then: something new, if there is room, and what is not under way.
func (pr *producer) produce() {
	// Brokers remember five batches: no producer runs further ahead of the oldest one that is not acknowledged. The first one
	// goes alone: of an unknown producer brokers take any sequence, as Kafka's do, so also the second batch without it.
	ahead := len(pr.queue) > 0 && pr.next-numberOf(pr.queue[0].id) >= int64(pr.inflightMax)
	if !pr.stopped && !ahead && (pr.acked > 0 || len(pr.queue) == 0) {
		pr.queue = append(pr.queue, pr.make())
	}
	pr.send()
}

func (pr *producer) make() *sent {
	s := &sent{id: batchID(pr.id, pr.next), count: int32(1 + pr.w.rng.IntN(3)), size: 16 + pr.w.rng.IntN(pr.w.plan.recordBytes)}
	pr.next++
	return pr.build(s)
}

func (pr *producer) build(s *sent) *sent {
	b := batch.NewBuilder(0, 0)
	if pr.idempotent() {
		b.SetProducer(pr.id, pr.epoch, pr.sequence)
	}
	for range s.count {
		b.Append(s.id, nil, make([]byte, s.size), nil)
	}
	pr.sequence += s.count
	s.raw, s.round = b.Build(), -1
	s.h, _ = batch.ParseHeader(s.raw)
	return s
}

// bump begins a new producer epoch with what is not acknowledged (KIP-360): an unclean election took acknowledged
// batches, and no leader will take what comes after them. What did survive comes twice.
func (pr *producer) bump(unclean int32) {
	pr.bumped, pr.p.doubles = unclean, true
	pr.epoch++
	pr.sequence = 0
	for i, s := range pr.queue {
		pr.queue[i] = pr.build(&sent{id: s.id, count: s.count, size: s.size})
	}
}

// send sends what is not in flight, in order, to whom the producer takes for the leader.
func (pr *producer) send() {
	if pr.pausing {
		return
	}
	to := pr.w.node(pr.meta.leader)
	if to == nil {
		pr.pause()
		return
	}
	for _, b := range pr.queue {
		if b.round != pr.round {
			b.round = pr.round
			b.tries++
			pr.request(to, b)
		}
	}
}

func (pr *producer) request(to *node, b *sent) {
	w, round := pr.w, pr.round
	w.after(w.between(800*ms, 3*time.Second), func() {
		if len(pr.queue) > 0 && round == pr.round && b.round == round { // no answer to this one
			pr.failed(round, errNoAnswer)
		}
	})
	pr.lines.call(w, to, func(back func(func())) {
		inc := to.inc
		to.handleProduce(pr, b, func(base int64, epoch int32, err error) {
			if to.inc != inc {
				return
			}
			back(func() { pr.answer(round, b, base, epoch, err) })
		})
	})
}

func (pr *producer) answer(round int, b *sent, base int64, epoch int32, err error) {
	if err != nil {
		if b.round == round {
			pr.failed(round, err)
		}
		return
	}
	i := 0
	for i < len(pr.queue) && pr.queue[i] != b {
		i++
	}
	if i == len(pr.queue) {
		return // an earlier try was answered before
	}
	pr.queue = append(pr.queue[:i:i], pr.queue[i+1:]...)
	b.round = -1
	pr.acked++
	pr.ackedAt = pr.w.now
	if pr.all() {
		pr.w.stats.acked++
		pr.w.ledger.acknowledged(pr.p, base, b.entry(), epoch)
	} else {
		pr.w.stats.weak++
		pr.w.note(3, base, b.id)
		pr.p.weak = append(pr.p.weak, weakAck{base, b.id, epoch})
	}
}

// failed sends everything again, in order, after a pause and with newer metadata. Without idempotence it would be there
// twice: such a producer goes on with something else.
func (pr *producer) failed(round int, err error) {
	if round != pr.round {
		return
	}
	pr.w.note(4, pr.id, int64(round))
	pr.round++
	clear(pr.lines)
	if !pr.idempotent() {
		pr.queue = nil
	}
	unclean := pr.w.ledger.image(pr.p).UncleanEpoch
	if errors.Is(err, sequence.ErrOutOfOrderSequence) && unclean > pr.bumped && len(pr.queue) > 0 {
		pr.bump(unclean)
	}
	pr.pause()
}

func (pr *producer) pause() {
	if pr.pausing {
		return
	}
	pr.pausing = true
	pr.w.after(pr.w.between(10*ms, 150*ms), func() {
		pr.pausing = false
		pr.meta.refresh(pr.w, pr.p)
		pr.send()
	})
}

// acker waits for an acknowledgement.
type acker struct {
	n    *node
	then func(err error)
}

// Acked implements replica.AckWaiter.
func (a *acker) Acked(_ int, err error, _ bool) { a.then(err) }

// handleProduce is the broker's: see api_produce.go.
func (n *node) handleProduce(pr *producer, b *sent, answer func(base int64, epoch int32, err error)) {
	if n.set == nil || n.stopping && n.e == nil {
		return
	}
	p := n.set.Get(pr.p.id.topic, pr.p.id.index)
	if p == nil {
		answer(-1, -1, replica.ErrNotLeader)
		return
	}
	epoch, _ := p.LeaderEpoch()
	var res engine.AppendResult
	w := &acker{n: n, then: func(err error) { answer(res.BaseOffset, epoch, err) }}
	res, acked, err := p.Append(engine.AppendRequest{Batch: b.raw, Header: b.h}, replica.Acks{All: pr.all(), Deadline: (n.w.now + 2*time.Second).Nanoseconds()}, w, 0)
	if n.w.verbose {
		n.w.tracef("node %d takes batch %d of producer %d for %s: %+v, acknowledged %t, %v", n.id, numberOf(b.id), pr.id, pr.p, res, acked, err)
	}
	if err != nil {
		answer(-1, epoch, err)
		return
	}
	if acked {
		answer(res.BaseOffset, epoch, nil)
	}
}

// consumer reads one partition, at the leader or where it likes, and asks for the end of the log.
type consumer struct {
	w         *world
	p         *partLedger
	followers bool // it reads from followers, too
	meta      metadata
	lines     lines
	position  int64 // next offset
	latest    int64 // the greatest end that it was told
	void      int32 // unclean election up to which it was set back
	waiting   bool
	got       int
}

// poll is called now and then.
func (c *consumer) poll() {
	if c.waiting {
		return
	}
	if c.w.chance(30) || c.meta.leader == raft.NoLeader {
		c.meta.refresh(c.w, c.p)
	}
	to := c.w.node(c.meta.leader)
	leader := true
	if c.followers && c.w.chance(70) {
		to, leader = c.w.nodes[c.w.rng.IntN(len(c.w.nodes))], false
	}
	if to == nil {
		return
	}
	c.waiting = true
	token := c.got
	c.w.after(c.w.between(500*ms, 1500*ms), func() {
		if c.got == token {
			c.waiting = false
			c.got++
			clear(c.lines)
		}
	})
	if leader && c.w.chance(30) {
		c.list(to, token)
		return
	}
	c.fetch(to, token, leader)
}

// fresh reports whether an answer is the one that is waited for, and takes an unclean election into account: what such a
// one takes back consumers see.
func (c *consumer) fresh(token int, epoch int32) bool {
	if c.got != token {
		return false
	}
	c.got++
	c.waiting = false
	c.setBack()
	return !c.w.ledger.void(c.p, epoch)
}

func (c *consumer) setBack() {
	if u := c.w.ledger.image(c.p).UncleanEpoch; u > c.void {
		c.void, c.position, c.latest = u, 0, 0
	}
}

// list asks for the end of the log: see api_list_offsets.go.
func (c *consumer) list(to *node, token int) {
	believed := c.meta.epoch
	c.lines.call(c.w, to, func(back func(func())) {
		if to.set == nil {
			return
		}
		p := to.set.Get(c.p.id.topic, c.p.id.index)
		if p == nil || p.CheckEpoch(believed) != nil || p.CheckLatest() != nil {
			back(func() { c.fresh(token, 0) })
			return
		}
		epoch, _ := p.LeaderEpoch()
		end := p.HighWatermark()
		back(func() {
			if !c.fresh(token, epoch) {
				return
			}
			c.w.note(5, end)
			if end < c.latest || end < c.position {
				c.w.fail("%s: node %d says that the log ends at %d; a client has seen %d and read to %d", c.p, to.id, end, c.latest, c.position)
			}
			c.latest = end
		})
	})
}

// fetch reads: see api_fetch.go.
func (c *consumer) fetch(to *node, token int, leader bool) {
	believed := c.meta.epoch
	c.lines.call(c.w, to, func(back func(func())) {
		if to.set == nil {
			return
		}
		p := to.set.Get(c.p.id.topic, c.p.id.index)
		if p == nil {
			back(func() { c.fresh(token, 0) })
			return
		}
		var err error
		if leader {
			err = p.CheckEpoch(believed)
		} else {
			_, err = p.CheckReader(believed)
		}
		hw := p.HighWatermark()
		if err != nil || c.position >= hw {
			back(func() { c.fresh(token, 0) })
			return
		}
		epoch, _ := p.LeaderEpoch()
		from := c.position
		spans, info, err := p.Log().Read(engine.ReadRequest{Offset: from, UpTo: hw, MaxBytes: 4 << 10, MinOne: true, MayBlock: true}, nil)
		if err != nil && !errors.Is(err, engine.ErrOffsetOutOfRange) {
			c.w.fail("node %d: read %s at %d: %v", to.id, c.p, from, err)
		}
		var b []byte
		for i := range spans {
			b = append(b, spans[i].Mem...)
			spans[i].Owner.Release()
		}
		back(func() {
			if c.fresh(token, epoch) && c.position == from {
				c.take(b, info.NextOffset, epoch)
			}
		})
	})
}

func (c *consumer) take(b []byte, next int64, epoch int32) {
	for len(b) > 0 {
		h, err := batch.ParseHeader(b)
		if err != nil {
			c.w.fail("%s: %v", c.p, err)
		}
		c.w.ledger.delivered(c.p, h.BaseOffset, entry{h.BaseTimestamp, int64(h.LastOffsetDelta) + 1}, epoch)
		c.w.stats.delivered++
		b = b[h.Size():]
	}
	c.position = max(c.position, next)
}
