package sim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/broker/replica"
	"millrace/engine"
	"millrace/raft"
)

// streams is a node's replication, both ends: a model of package replication, in frames that are not bytes.
type streams struct {
	n       *node
	led     []*ledPart // sorted by topic and partition
	out     map[int32]*outlet
	in      []*inlet
	dirty   bool
	stored  []*replica.Partition
	waiting []func() // for an image
}

type ledPart struct {
	p         *replica.Partition
	followers []int32
}

// outlet is the leader's end of a connection to one follower.
type outlet struct {
	s     *streams
	peer  *node
	c     *conn
	parts []*outPart
}

type outPart struct {
	p        *replica.Partition
	stint    replica.Stint
	open     bool
	agreed   bool
	next     int64
	acked    int64
	hw       int64
	logStart int64
	again    time.Duration // not opened before
}

// inlet is the follower's end of a connection from one leader.
type inlet struct {
	s     *streams
	peer  *node
	c     *conn
	parts []*inPart
}

type inPart struct {
	p        *replica.Partition
	in       replica.Inflow
	received int64
	stored   int64
	agreed   bool
}

type (
	frameOpen struct {
		topic raft.UUID
		index int32
		stint replica.Stint
		image uint64
	}
	frameOffer struct {
		stint replica.Stint
		topic raft.UUID
		index int32
		offer replica.Offer
	}
	frameVerdict struct {
		stint   replica.Stint
		topic   raft.UUID
		index   int32
		verdict replica.Verdict
	}
	frameRun struct {
		stint replica.Stint
		topic raft.UUID
		index int32
		run   replica.Run
	}
	frameAck struct {
		stint            replica.Stint
		topic            raft.UUID
		index            int32
		received, stored int64
	}
	frameRefuse struct {
		stint replica.Stint
		topic raft.UUID
		index int32
		err   error
	}
)

func newStreams(n *node) *streams {
	s := &streams{n: n, out: map[int32]*outlet{}}
	n.every(100*ms, s.dial)
	return s
}

// Lead implements replica.Replicator.
func (s *streams) Lead(p *replica.Partition, followers []int32) {
	i, ok := slices.BinarySearchFunc(s.led, p, func(l *ledPart, p *replica.Partition) int { return comparePartitions(l.p, p) })
	if !ok {
		s.led = slices.Insert(s.led, i, &ledPart{p: p})
	}
	s.led[i].followers = slices.Clone(followers)
	for _, o := range s.out {
		o.drop(p) // another epoch, or another process of the follower
	}
	s.dirty = true
}

// Resign implements replica.Replicator.
func (s *streams) Resign(p *replica.Partition) {
	s.led = slices.DeleteFunc(s.led, func(l *ledPart) bool { return l.p == p })
	for _, o := range s.out {
		o.drop(p)
	}
}

// Appended implements replica.Replicator.
func (s *streams) Appended(*replica.Partition) { s.dirty = true }

// Moved implements replica.Replicator.
func (s *streams) Moved(*replica.Partition) { s.dirty = true }

// Stored implements replica.Replicator.
func (s *streams) Stored(*replica.Partition) { s.dirty = true }

func comparePartitions(a, b *replica.Partition) int {
	if c := strings.Compare(a.Topic, b.Topic); c != 0 {
		return c
	}
	return int(a.Index - b.Index)
}

func (o *outlet) drop(p *replica.Partition) {
	o.parts = slices.DeleteFunc(o.parts, func(x *outPart) bool { return x.p == p })
}

// dial connects to followers that have no connection.
func (s *streams) dial() {
	for _, peer := range s.n.w.nodes {
		if peer == s.n || s.out[peer.id] != nil || !peer.awake() || peer.set == nil || !s.n.w.net.both(s.n.id, peer.id) {
			continue
		}
		if !slices.ContainsFunc(s.led, func(l *ledPart) bool { return slices.Contains(l.followers, peer.id) }) {
			continue
		}
		c := s.n.w.net.dial(s.n, peer)
		o := &outlet{s: s, peer: peer, c: c}
		i := &inlet{s: peer.streams, peer: s.n, c: c}
		c.take = [2]func(any){o.take, i.take}
		c.gone = [2]func(){
			func() { delete(s.out, peer.id) },
			func() { i.s.in = slices.DeleteFunc(i.s.in, func(x *inlet) bool { return x == i }) },
		}
		s.out[peer.id] = o
		peer.streams.in = append(peer.streams.in, i)
		s.dirty = true
	}
	s.dirty = true
}

// applied lets streams that wait for metadata go on.
func (s *streams) applied(*raft.Image) {
	w := s.waiting
	s.waiting = nil
	for _, f := range w {
		f()
	}
	s.dirty = true
}

// pump sends what there is to send.
func (s *streams) pump() {
	for rounds := 0; s.dirty && s.n.up && s.n.streams == s; rounds++ {
		if rounds > 1000 {
			s.n.w.fail("node %d: its streams never come to rest", s.n.id)
		}
		s.dirty = false
		for _, peer := range s.n.w.nodes {
			if o := s.out[peer.id]; o != nil {
				o.step()
			}
		}
		for _, i := range slices.Clone(s.in) {
			i.step()
		}
	}
}

func (o *outlet) step() {
	w := o.s.n.w
	for _, l := range o.s.led {
		if !slices.Contains(l.followers, o.peer.id) {
			o.drop(l.p)
			continue
		}
		x := o.part(l.p)
		if x == nil {
			x = &outPart{p: l.p}
			o.parts = append(o.parts, x)
		}
		if !x.open {
			if w.now < x.again {
				continue
			}
			stint, _, _, err := l.p.OpenStint(o.peer.id)
			if err != nil {
				x.again = w.now + 100*ms
				continue
			}
			x.stint, x.open, x.agreed = stint, true, false
			o.c.send(0, frameOpen{l.p.TopicID, l.p.Index, stint, w.log.At(o.s.n.follows).Index})
			continue
		}
		if x.agreed {
			o.push(x)
		}
	}
}

func (o *outlet) part(p *replica.Partition) *outPart {
	for _, x := range o.parts {
		if x.p == p {
			return x
		}
	}
	return nil
}

// windowRecords bounds what is under way.
const windowRecords = 60

func (o *outlet) push(x *outPart) {
	log := x.p.Log()
	for x.next < log.AppendedEnd() && x.next-x.acked < windowRecords {
		spans, info, err := log.Read(engine.ReadRequest{Offset: x.next, UpTo: log.AppendedEnd(), MaxBytes: 4 << 10, MinOne: true, MayBlock: true}, nil)
		if err != nil {
			if errors.Is(err, engine.ErrOffsetOutOfRange) {
				x.open = false
				return
			}
			o.s.n.w.fail("node %d reads %s-%d at %d: %v", o.s.n.id, x.p.Topic, x.p.Index, x.next, err)
		}
		r := replica.Run{Start: x.next, End: info.NextOffset, LogStart: log.LogStartOffset(), HighWatermark: x.p.HighWatermark()}
		for i := range spans {
			r.Batches = append(r.Batches, spans[i].Mem...)
			spans[i].Owner.Release()
		}
		if info.NextOffset <= x.next {
			return
		}
		x.next, x.hw, x.logStart = r.End, r.HighWatermark, r.LogStart
		o.c.send(0, frameRun{x.stint, x.p.TopicID, x.p.Index, r})
	}
	if hw, start := x.p.HighWatermark(), log.LogStartOffset(); hw != x.hw || start != x.logStart {
		x.hw, x.logStart = hw, start
		o.c.send(0, frameRun{x.stint, x.p.TopicID, x.p.Index, replica.Run{Start: -1, HighWatermark: hw, LogStart: start}})
	}
}

func (s *streams) find(topic raft.UUID, index int32) *replica.Partition {
	if t := s.n.set.TopicByID(topic); t != nil {
		return t.Partition(index)
	}
	return nil
}

func (o *outlet) take(msg any) {
	o.s.dirty = true
	var x *outPart
	find := func(topic raft.UUID, index int32, stint replica.Stint) bool {
		for _, y := range o.parts {
			if y.p.TopicID == topic && y.p.Index == index && y.stint == stint && y.open {
				x = y
			}
		}
		return x != nil
	}
	switch m := msg.(type) {
	case frameOffer:
		if !find(m.topic, m.index, m.stint) {
			return
		}
		v, err := x.p.Offered(m.stint, m.offer)
		o.s.n.w.tracef("node %d judges %s-%d of node %d: offer %+v: %+v %v", o.s.n.id, x.p.Topic, x.p.Index, o.peer.id, m.offer, v, err)
		if err != nil {
			x.open, x.again = false, o.s.n.w.now+50*ms
			return
		}
		if v.Kind == replica.Agreed {
			x.agreed, x.next, x.acked, x.hw = true, v.Offset, v.Offset, -1
		}
		o.c.send(0, frameVerdict{m.stint, m.topic, m.index, v})
	case frameAck:
		if p := o.s.find(m.topic, m.index); p != nil {
			if err := p.Acknowledged(m.stint, m.received, m.stored); err != nil {
				o.s.n.w.tracef("node %d: acknowledgement of node %d for %s-%d: %v", o.s.n.id, o.peer.id, p.Topic, p.Index, err)
			}
		}
		if find(m.topic, m.index, m.stint) {
			x.acked = max(x.acked, m.received)
		}
		o.s.pokeISR()
	case frameRefuse:
		o.s.n.w.tracef("node %d: node %d refuses: %v", o.s.n.id, o.peer.id, m.err)
		if find(m.topic, m.index, m.stint) {
			x.p.CloseStint(x.stint)
			x.open, x.again = false, o.s.n.w.now+o.s.n.w.between(20*ms, 300*ms)
		}
	}
}

func (s *streams) pokeISR() {
	select {
	case <-s.n.set.ISRPoke():
		s.n.after(2*ms, s.n.proposeISR)
	default:
	}
}

func (i *inlet) take(msg any) {
	i.s.dirty = true
	switch m := msg.(type) {
	case frameOpen:
		i.open(m)
	case frameVerdict:
		x := i.part(m.topic, m.index, m.stint)
		if x == nil {
			return
		}
		if m.verdict.Kind == replica.Agreed {
			if err := x.p.Agree(x.in, m.verdict); err != nil {
				i.refuse(m.stint, m.topic, m.index, err)
				return
			}
			x.agreed, x.received, x.stored = true, -1, -1
			return
		}
		i.s.n.w.tracef("node %d cuts %s-%d: %+v", i.s.n.id, x.p.Topic, x.p.Index, m.verdict)
		o, err := x.p.CutTo(x.in, m.verdict)
		if err != nil {
			i.refuse(m.stint, m.topic, m.index, err)
			return
		}
		i.c.send(1, frameOffer{m.stint, m.topic, m.index, o})
	case frameRun:
		x := i.part(m.topic, m.index, m.stint)
		if x == nil {
			return
		}
		if m.run.Start < 0 {
			if err := x.p.TakeMark(x.in, m.run.HighWatermark, m.run.LogStart); err != nil {
				i.refuse(m.stint, m.topic, m.index, err)
			}
			return
		}
		run := m.run
		err := x.p.AppendRun(x.in, &run)
		for errors.Is(err, engine.ErrBusy) {
			if werr := x.p.Log().WaitRoom(); werr != nil {
				return
			}
			err = x.p.AppendRun(x.in, &run)
		}
		if err != nil {
			i.refuse(m.stint, m.topic, m.index, err)
		}
	}
}

func (i *inlet) part(topic raft.UUID, index int32, stint replica.Stint) *inPart {
	for _, x := range i.parts {
		if x.p.TopicID == topic && x.p.Index == index && x.in.Generation == stint.Generation {
			return x
		}
	}
	return nil
}

// refuse ends one partition's stream.
func (i *inlet) refuse(stint replica.Stint, topic raft.UUID, index int32, err error) {
	i.parts = slices.DeleteFunc(i.parts, func(x *inPart) bool { return x.p.TopicID == topic && x.p.Index == index })
	i.c.send(1, frameRefuse{stint, topic, index, err})
}

func (i *inlet) open(m frameOpen) {
	n := i.s.n
	if n.w.log.At(n.follows).Index < m.image {
		i.s.waiting = append(i.s.waiting, func() {
			if !i.c.lost[1] {
				i.open(m)
			}
		})
		return
	}
	p := i.s.find(m.topic, m.index)
	if p == nil {
		i.refuse(m.stint, m.topic, m.index, fmt.Errorf("no replica"))
		return
	}
	in, o, err := p.Follow(i.peer.id, m.stint.LeaderEpoch, m.stint.Generation)
	if err != nil {
		i.refuse(m.stint, m.topic, m.index, err)
		return
	}
	i.parts = slices.DeleteFunc(i.parts, func(x *inPart) bool { return x.p == p })
	i.parts = append(i.parts, &inPart{p: p, in: in})
	i.c.send(1, frameOffer{m.stint, m.topic, m.index, o})
}

// step acknowledges what is new.
func (i *inlet) step() {
	for _, x := range i.parts {
		received, stored := x.p.Log().AppendedEnd(), x.p.AckEnd()
		if !x.agreed || received == x.received && stored == x.stored {
			continue
		}
		if err := x.p.TakeMark(x.in, 0, 0); err != nil {
			x.agreed = false // another stream took over: what the log holds is not what this leader sent
			continue
		}
		x.received, x.stored = received, stored
		i.c.send(1, frameAck{replica.Stint{Follower: i.s.n.id, LeaderEpoch: x.in.LeaderEpoch, Generation: x.in.Generation}, x.p.TopicID, x.p.Index, received, stored})
	}
}
