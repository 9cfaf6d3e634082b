package replication

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/broker/replica"
	"millrace/engine"
	"millrace/engine/batch"
)

// until runs a simulation without trouble until something is so.
func (s *sim) until(what string, ok func() bool) {
	s.t.Helper()
	s.calm.Store(true)
	for began := time.Now(); !ok(); s.step() {
		s.now = s.now.Add(100 * time.Microsecond)
		if time.Since(began) > 30*time.Second {
			s.fatal("never: %s", what)
		}
	}
}

// link is the connection of a kind from one node to another.
func (s *sim) link(from, to int32, tail bool) *simLink {
	for _, l := range s.links {
		if l.from.id == from && l.to.id == to && (l.s.Kind() == KindTail) == tail {
			return l
		}
	}
	s.fatal("no link")
	return nil
}

func mustAppend(t *testing.T, p *testPartition, n, size int) {
	t.Helper()
	for range n {
		for {
			ok, err := p.append(size)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				break
			}
			room := make(chan struct{})
			p.log.Shard().OnRoom(func() { close(room) })
			<-room
		}
	}
}

// TestALeaderWhoseOwnCopyIsBadResigns, and does not send it for ever.
func TestALeaderWhoseOwnCopyIsBadResigns(t *testing.T) {
	s := newSim(t, 1, 2, 1, smallEngine(), engine.LogConfig{})
	s.lead(key(0), 0)
	p := s.replicaOf(0, key(0))
	mustAppend(t, p, 5, 100)
	s.settle()
	b := batch.NewBuilder(0, 0)
	b.Append(0, nil, []byte("value"), nil)
	raw := b.Build()
	h, err := batch.ParseHeader(raw)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1
	if _, err := p.log.Append(engine.AppendRequest{Batch: raw, Header: h, LeaderEpoch: 1}); err != nil {
		t.Fatal(err)
	}
	s.nodes[0].n.tell(p, newsAppended)
	bad := func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.bad
	}
	s.until("the leader finds its copy bad", func() bool { return bad() != nil })
	var damage *engine.CorruptionError
	if !errors.As(bad(), &damage) {
		t.Fatal(bad())
	}
	if end := s.replicaOf(1, key(0)).log.AppendedEnd(); end != 5 {
		t.Fatalf("the follower's log ends at %d", end)
	}
	s.until("its stream is gone", func() bool { return s.link(0, 1, true).s.stats().Streams == 0 })
}

// TestWhatIsGoodHereAndCorruptThereIsNotSentForEver counts how often the leader tries in a minute.
func TestWhatIsGoodHereAndCorruptThereIsNotSentForEver(t *testing.T) {
	s := newSim(t, 2, 2, 2, smallEngine(), engine.LogConfig{})
	s.lead(key(0), 0)
	s.lead(key(1), 0)
	p, sick := s.replicaOf(0, key(0)), s.replicaOf(1, key(0))
	var tries atomic.Int64
	sick.setRefuse(func() error {
		tries.Add(1)
		return fmt.Errorf("%w: it says", replica.ErrCorrupt)
	})
	mustAppend(t, p, 1, 100)
	from := s.now
	s.until("a minute is over", func() bool { return s.now.Sub(from) > time.Minute })
	if n := tries.Load(); n < maxResends+1 || n > maxResends+40 {
		t.Fatalf("sent %d times in a minute", n)
	}
	if p.bad != nil {
		t.Fatalf("the leader blames itself: %v", p.bad)
	}
	// The other partition of the connection does not notice.
	q := s.replicaOf(0, key(1))
	mustAppend(t, q, 10, 100)
	s.until("the other partition goes on", func() bool { return q.HighWatermark() == 10 })
	sick.setRefuse(nil)
	s.settle()
}

// TestARefusedStreamIsOpenedAgainAtOnceWhenLeadIsCalled: not after the back-off.
func TestARefusedStreamIsOpenedAgainAtOnceWhenLeadIsCalled(t *testing.T) {
	s := newSim(t, 3, 2, 1, smallEngine(), engine.LogConfig{})
	s.sync.Store(true) // what runs aside takes none of the simulated time
	s.lead(key(0), 0)
	p, sick := s.replicaOf(0, key(0)), s.replicaOf(1, key(0))
	sick.setRefuse(func() error { return errors.New("no") })
	mustAppend(t, p, 1, 100)
	l := s.link(0, 1, true)
	fails := func() int {
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		for o := range l.s.mine {
			return o.fails
		}
		return -1
	}
	s.until("it has failed often", func() bool { return fails() >= 8 })
	sick.setRefuse(nil)
	s.nodes[0].n.lead(p, p.key, []int32{1})
	from := s.now
	s.until("it flows", func() bool {
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		for o := range l.s.mine {
			return o.state == flowing && o.next == 1
		}
		return false
	})
	if d := s.now.Sub(from); d > backoffMax/2 {
		t.Fatalf("it took %v", d)
	}
	s.settle()
}

// TestAStreamWaitsForItsImageAndForTheRegistration, and holds up no other.
func TestAStreamWaitsForItsImageAndForTheRegistration(t *testing.T) {
	s := newSim(t, 4, 2, 2, smallEngine(), engine.LogConfig{})
	var image, epoch atomic.Uint64
	image.Store(1)
	s.nodes[1].n.o.ImageIndex = image.Load
	s.nodes[1].n.o.BrokerEpoch = func() int64 { return int64(epoch.Load()) }
	s.lead(key(0), 0)
	p, q := s.replicaOf(0, key(0)), s.replicaOf(0, key(1))
	mustAppend(t, p, 3, 100)
	offers := func() bool { return s.replicaOf(1, key(0)).log.AppendedEnd() > 0 }
	from := s.now
	s.until("a second is over", func() bool { return s.now.Sub(from) > time.Second })
	if offers() {
		t.Fatal("a broker that is not registered takes a stream")
	}
	epoch.Store(9)
	s.nodes[1].n.ImageChanged()
	s.until("it flows", func() bool { return p.HighWatermark() == 3 })

	s.nodes[0].n.o.ImageIndex = func() uint64 { return 7 } // the leader knows more than the follower
	s.lead(key(1), 0)
	mustAppend(t, q, 3, 100)
	mustAppend(t, p, 3, 100)
	s.until("the first goes on", func() bool { return p.HighWatermark() == 6 })
	from = s.now
	s.until("a second is over", func() bool { return s.now.Sub(from) > time.Second })
	if end := s.replicaOf(1, key(1)).log.AppendedEnd(); end != 0 {
		t.Fatal("a stream did not wait for its image")
	}
	image.Store(7)
	s.nodes[1].n.ImageChanged()
	s.until("the second flows", func() bool { return q.HighWatermark() == 3 })
}

// TestCatchUpGoesOverItsOwnConnectionAndComesBack: a follower that is behind the ring is fed from segments, not faster than the
// throttle, and the tail stream has the partition again afterwards.
func TestCatchUpGoesOverItsOwnConnectionAndComesBack(t *testing.T) {
	s := newSim(t, 5, 2, 1, smallEngine(), engine.LogConfig{SegmentBytes: 1 << 20})
	const rate = 4 << 20
	s.nodes[0].n.o.CatchUpBytesPerSecond = func() int64 { return rate }
	s.lead(key(0), 0)
	p := s.replicaOf(0, key(0))
	mustAppend(t, p, 300, 10<<10) // six times the ring
	from := s.now
	s.until("all is there", func() bool { return p.HighWatermark() == 300 })
	took := s.now.Sub(from)
	catchUp, tail := s.link(0, 1, false).s, s.link(0, 1, true).s
	sent := catchUp.stats().BytesSent
	if sent < 1<<20 {
		t.Fatalf("%d bytes went over the catch-up connection", sent)
	}
	if least := time.Duration(float64(sent-catchUpRunBytes-rate/10) / rate * float64(time.Second)); took < least {
		t.Errorf("%d bytes took %v, at the rate it is %v", sent, took, least)
	}
	s.until("the tail has it", func() bool { return catchUp.stats().Streams == 0 && tail.stats().Open == 1 })
	s.settle()
}

// TestTheWindowPausesTheSender: a follower without room does not acknowledge, and gets no more than the window.
func TestTheWindowPausesTheSender(t *testing.T) {
	o := smallEngine()
	o.RingBytes, o.WALFileBytes, o.WALBytes = 64<<20, 16<<20, 64<<20
	s := newSim(t, 6, 2, 1, o, engine.LogConfig{})
	s.lead(key(0), 0)
	p, full := s.replicaOf(0, key(0)), s.replicaOf(1, key(0))
	var stuck atomic.Bool
	stuck.Store(true)
	full.setRefuse(func() error {
		if stuck.Load() {
			return engine.ErrBusy
		}
		return nil
	})
	s.until("the stream is open", func() bool { return s.link(0, 1, true).s.stats().Open == 1 })
	mustAppend(t, p, 400, 40<<10)
	l := s.link(0, 1, true)
	s.until("the window is full", func() bool { return l.s.stats().BytesInFlight >= windowBytes })
	from := s.now
	s.until("time has passed", func() bool { return s.now.Sub(from) > time.Second })
	st := l.s.stats()
	if st.BytesInFlight < windowBytes || st.BytesInFlight > windowBytes+runBytes {
		t.Fatalf("%d bytes are in flight, the window is %d", st.BytesInFlight, windowBytes)
	}
	stuck.Store(false)
	s.settle()
}

// TestALateAcknowledgementOfAnOlderStintDoesNotCount sends one with everything right but its generation, and one with an older
// epoch.
func TestALateAcknowledgementOfAnOlderStintDoesNotCount(t *testing.T) {
	s := newSim(t, 7, 2, 1, smallEngine(), engine.LogConfig{})
	s.lead(key(0), 0)
	p := s.replicaOf(0, key(0))
	s.until("the stream is open", func() bool { return s.link(0, 1, true).s.stats().Open == 1 })
	s.cut(s.link(0, 1, true))
	s.until("and open again", func() bool { return s.link(0, 1, true).s.stats().Open == 1 })
	l := s.link(0, 1, true)
	mustAppend(t, p, 5, 100)
	f, _ := l.s.Next(s.now)
	for ; f == nil || f.Type != frameRuns; f, _ = l.s.Next(s.now) {
		s.now = s.now.Add(time.Millisecond)
		if l.r == nil {
			t.Fatal("no link")
		}
		s.deliver(&l.forth, func(p packet) error { return l.r.OnFrame(s.now, p.kind, p.head, p.bulk) })
		if b, _ := l.r.Next(s.now); b != nil {
			_ = l.s.OnFrame(s.now, b.Type, b.Head, nil)
		}
	}
	var o *outflow
	for o = range l.s.mine {
	}
	for _, m := range []message{
		{kind: msgAck, stream: o.stream, epoch: o.stint.LeaderEpoch, generation: o.stint.Generation - 1, received: 5, stored: 5},
		{kind: msgAck, stream: o.stream, epoch: o.stint.LeaderEpoch - 1, generation: o.stint.Generation, received: 5, stored: 5},
		{kind: msgAck, stream: o.stream - 1, epoch: o.stint.LeaderEpoch, generation: o.stint.Generation, received: 5, stored: 5},
	} {
		if err := l.s.OnFrame(s.now, frameToLeader, appendMessage(nil, &m), nil); err != nil {
			t.Fatal(err)
		}
	}
	if o.received != 0 || o.stored != 0 || p.HighWatermark() != 0 {
		t.Fatalf("received %d, stored %d, high watermark %d", o.received, o.stored, p.HighWatermark())
	}
	// More than was sent ends the stream, whatever it says.
	m := message{kind: msgAck, stream: o.stream, epoch: o.stint.LeaderEpoch, generation: o.stint.Generation, received: 6, stored: 6}
	if err := l.s.OnFrame(s.now, frameToLeader, appendMessage(nil, &m), nil); err != nil {
		t.Fatal(err)
	}
	if o.state != waiting || p.HighWatermark() != 0 {
		t.Fatalf("state %d, high watermark %d", o.state, p.HighWatermark())
	}
}

// TestNoiseEndsTheConnectionAlone: what is no frame is an error, not a panic, whatever the state.
func TestNoiseEndsTheConnectionAlone(t *testing.T) {
	s := newSim(t, 8, 2, 1, smallEngine(), engine.LogConfig{})
	s.lead(key(0), 0)
	l := s.link(0, 1, true)
	s.until("the stream is open", func() bool { return l.r != nil && len(l.r.streams) == 1 })
	for _, f := range []struct {
		kind byte
		head string
	}{{0, ""}, {9, ""}, {frameRuns, ""}, {frameToLeader, "\xff"}, {frameToFollower, "\x01"}} {
		if err := l.s.OnFrame(s.now, f.kind, []byte(f.head), nil); !errors.Is(err, errMalformed) {
			t.Errorf("sender: %+v: %v", f, err)
		}
		if err := l.r.OnFrame(s.now, f.kind, []byte(f.head), nil); !errors.Is(err, errMalformed) {
			t.Errorf("receiver: %+v: %v", f, err)
		}
	}
	open := appendMessage(nil, &message{kind: msgOpen, stream: 1, key: key(0)})
	if err := l.r.OnFrame(s.now, frameToFollower, open, nil); err == nil || !strings.Contains(err.Error(), "stream 1") {
		t.Errorf("a stream is opened twice: %v", err)
	}
	s.settle()
}
