package replication

import (
	"bytes"
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"millrace/broker/replica"
	"millrace/broker/replica/broken"
	"millrace/engine"
	"millrace/raft/transport"
)

// Limits of a sender.
const (
	maxRounds   = 100 // of one handshake: then it goes on after a back-off, from where it has come
	maxResends  = 3   // of what the follower finds corrupt and the leader does not, before a back-off
	opensAtOnce = 512 // of one frame
)

// Sender is the leader's end of one connection to one follower: a step machine. Its driver calls Connected when there is a
// connection, then Next for frames to write, from one goroutine, and OnFrame for frames that came, from another
// if it likes; when both have ended, Lost. All other methods are safe for concurrent use at any time.
type Sender struct {
	n     *Node
	peer  int32
	kind  transport.Kind
	other *Sender
	inbox inbox[*outflow]

	mu        sync.Mutex // held while partitions are called, but not while logs are read
	connected bool
	mine      map[*outflow]struct{} // whose home this is
	streams   map[uint64]*outflow   // that are open on this connection
	closed    map[uint64]*outflow   // that were; only with broken.AnyAcknowledgement
	last      uint64                // stream id
	messages  queue[message]        // to be sent
	opening   queue[*outflow]       // to be opened
	ready     queue[*outflow]       // with batches to send
	waiting   waitHeap
	marks     []*outflow // whose marks may have moved
	marksDue  time.Time  // of the first of them
	inflight  int        // bytes not acknowledged as received
	budget    throttle
	now       time.Time // of the last call
	rearm     bool      // something waits for less long than Next knows

	frame     Frame
	frameOut  bool
	runs      []runHeader // of the frame
	underCRC  []byte      // batches of the runs in its head
	spans     []engine.Span
	sentBytes uint64
	sentCount uint64
	connects  uint64
}

func newSender(n *Node, peer int32, kind transport.Kind) *Sender {
	s := &Sender{n: n, peer: peer, kind: kind, mine: map[*outflow]struct{}{}, streams: map[uint64]*outflow{}}
	s.frame.from = -1
	return s
}

// SetNotify makes f be called when a sender that had nothing to send has something: Next is to be called again. f must
// not block and may run on any goroutine, under any lock.
func (s *Sender) SetNotify(f func()) { s.inbox.notify.Store(&f) }

// Peer is the follower's id.
func (s *Sender) Peer() int32 { return s.peer }

// Kind is the kind of connection.
func (s *Sender) Kind() transport.Kind { return s.kind }

// Wanted reports whether there is anything to have a connection for.
func (s *Sender) Wanted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.connected {
		return len(s.mine) > 0 || !s.inbox.empty()
	}
	s.takeNews()
	s.inbox.asleep.Store(sleepDeep)
	return len(s.mine) > 0 || !s.inbox.empty()
}

// Connected begins a connection: every stream opens, whatever it waited for.
func (s *Sender) Connected(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.connected {
		panic("BUG: replication: connected twice")
	}
	s.now, s.connected, s.last = now, true, 0
	s.connects++
	s.closed = nil
	s.inbox.asleep.Store(awake)
	for _, o := range s.inOrder() {
		if o.state == idle || o.state == waiting {
			s.open(o)
		}
	}
}

// inOrder lists the streams whose home this is: what happens to all of them happens in the same order in every run.
func (s *Sender) inOrder() []*outflow {
	return slices.SortedFunc(maps.Keys(s.mine), func(a, b *outflow) int {
		return cmp.Or(bytes.Compare(a.key.Topic[:], b.key.Topic[:]), cmp.Compare(a.key.Partition, b.key.Partition))
	})
}

// Lost ends the connection: what is not acknowledged counts for nothing.
func (s *Sender) Lost(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now, s.connected = now, false
	for _, o := range s.inOrder() {
		s.forget(o)
		if o.state != parked && o.state != verifying {
			s.rest(o, idle)
		}
	}
	s.messages.clear()
	s.opening.clear()
	s.ready.clear()
	s.marks, s.marksDue = nil, time.Time{}
	s.inflight = 0
	for o := range s.mine {
		o.queued, o.marked = false, false
	}
	s.releaseFrame()
}

// OnFrame takes a frame that the follower sent. An error ends the connection.
func (s *Sender) OnFrame(now time.Time, frameType byte, head, bulk []byte) error {
	if frameType != frameToLeader || len(bulk) > 0 {
		return fmt.Errorf("%w: type %d from a follower", errMalformed, frameType)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.connected {
		return nil
	}
	s.now = now
	var m message
	err := decodeMessages(head, false, &m, s.onMessage)
	s.wakeForWork()
	return err
}

func (s *Sender) wakeForWork() {
	if s.hasWork() {
		s.inbox.wake(sleepFull)
	}
}

func (s *Sender) onMessage(m *message) error {
	if m.kind == msgReady {
		for len(s.waiting) > 0 {
			s.open(s.waiting[0])
		}
		return nil
	}
	o := s.streams[m.stream]
	if broken.AnyAcknowledgement && o == nil && m.kind == msgAck {
		o = s.closed[m.stream]
	}
	if o == nil {
		return nil // of a stream that was closed meanwhile
	}
	switch m.kind {
	case msgOffer:
		s.onOffer(o, m.offer)
	case msgAck:
		s.onAck(o, m)
	case msgFail:
		s.onFail(o, m)
	default:
	}
	return nil
}

func (s *Sender) onOffer(o *outflow, offer replica.Offer) {
	if o.state != opening {
		s.backOff(o, errors.New("an offer out of turn"))
		return
	}
	v, err := o.p.Offered(o.stint, offer)
	if err != nil {
		s.refused(o, err)
		return
	}
	if v.Kind != replica.Agreed {
		if o.rounds++; o.rounds > maxRounds {
			s.backOff(o, errors.New("no agreement on where the logs are the same"))
			return
		}
	}
	s.messages.push(message{kind: msgVerdict, stream: o.stream, verdict: v})
	if v.Kind == replica.Agreed {
		o.state = flowing
		o.next, o.received, o.stored = offer.End, offer.End, 0
		o.epochEnd = 0
		o.sentHW, o.sentLogStart = -1, -1 // what Open said was for the handshake
		s.makeReady(o)
		s.mark(o)
	}
}

func (s *Sender) onAck(o *outflow, m *message) {
	if broken.AnyAcknowledgement && o.stream != m.stream {
		_ = o.p.Acknowledged(replica.Stint{Follower: s.peer, LeaderEpoch: m.epoch, Generation: m.generation}, m.received, m.stored)
		return
	}
	if o.state != flowing && o.state != draining || m.epoch != o.stint.LeaderEpoch || m.generation != o.stint.Generation {
		return // it says nothing of this stint
	}
	if m.received > o.next {
		s.backOff(o, fmt.Errorf("%d is acknowledged, %d was sent", m.received, o.next))
		return
	}
	if m.received < o.received || m.stored < o.stored {
		return
	}
	if m.received > o.received {
		o.fails, o.corrupt = 0, 0
	}
	o.received, o.stored = m.received, m.stored
	s.inflight -= o.sent.acknowledged(m.received)
	if err := o.p.Acknowledged(o.stint, m.received, m.stored); err != nil {
		s.refused(o, err)
		return
	}
	s.moveDrained(o)
}

func (s *Sender) onFail(o *outflow, m *message) {
	err := fmt.Errorf("follower: %s: %s", m.code, m.text)
	switch {
	case m.code == failUnproven && !o.checked && o.state == flowing:
		s.close(o)
		o.mistrust = true // it has holes, or a bit was flipped on the way
		s.open(o)
	case m.code == failCorrupt && (o.state == flowing || o.state == draining):
		s.n.o.Logger.Warn("a follower has got corrupt batches: this broker reads its own copy again",
			"partition", o.key.String(), "follower", s.peer, "from", o.received, "to", o.next, "text", m.text)
		s.verify(o)
	default:
		s.backOff(o, err)
	}
}

// takeNews looks at what others have left.
func (s *Sender) takeNews() {
	for _, o := range s.inbox.take() {
		if home := o.home.Load(); home != s {
			home.inbox.put(o) // it has moved: its news goes after it
			home.inbox.wake(sleepFull)
			continue
		}
		s.onNews(o, o.news.Swap(0))
	}
}

func (s *Sender) onNews(o *outflow, news uint32) {
	if o.unwanted.Load() {
		s.close(o)
		s.rest(o, parked)
		delete(s.mine, o)
		return
	}
	if _, known := s.mine[o]; !known {
		s.mine[o] = struct{}{}
		if s.connected {
			s.open(o)
		}
		return
	}
	if news&newsVerified != 0 && o.state == verifying {
		s.onVerified(o)
	}
	if news&newsChanged != 0 {
		s.onChanged(o)
	}
	if o.state != flowing {
		return
	}
	if news&newsAppended != 0 {
		s.makeReady(o)
	}
	if news&newsMoved != 0 {
		s.mark(o)
	}
}

// onChanged looks at a stream whose partition's Lead was called again.
func (s *Sender) onChanged(o *outflow) {
	switch o.state {
	case opening, flowing, draining:
		if epoch, leading := o.p.LeaderEpoch(); leading && epoch == o.stint.LeaderEpoch {
			return
		}
		s.close(o)
	case verifying:
		return // its news is still to come
	case idle, waiting, parked:
	}
	o.fails, o.corrupt = 0, 0
	if !s.connected {
		s.rest(o, idle)
		return
	}
	s.open(o)
}

// open has a stream opened by the next frame.
func (s *Sender) open(o *outflow) {
	s.rest(o, opening)
	s.opening.push(o)
}

// rest puts a stream that is not open into a state.
func (s *Sender) rest(o *outflow, state outflowState) {
	if o.index >= 0 {
		heap.Remove(&s.waiting, o.index)
	}
	o.state = state
}

// openNow takes a stint for a stream and queues its Open.
func (s *Sender) openNow(o *outflow) {
	if o.state != opening || o.stream != 0 || o.home.Load() != s || o.unwanted.Load() {
		return
	}
	index := s.n.o.ImageIndex() // before the stint: the follower's image must know at least who leads now
	stint, logStart, hw, err := o.p.OpenStint(s.peer)
	if err != nil {
		s.refused(o, err)
		return
	}
	s.last++
	o.stint, o.stream, o.rounds = stint, s.last, 0
	o.fromMemory = 0
	o.checked, o.mistrust = o.mistrust || o.p.Log().Config().Compact, false
	s.streams[o.stream] = o
	s.messages.push(message{
		kind: msgOpen, stream: o.stream, key: o.key, epoch: stint.LeaderEpoch, generation: stint.Generation,
		logStart: logStart, hw: hw, index: index,
	})
}

// close ends a stream's stint. The follower is told, if the connection goes on.
func (s *Sender) close(o *outflow) {
	if o.stream != 0 && s.connected {
		s.messages.push(message{kind: msgClose, stream: o.stream})
	}
	s.forget(o)
}

func (s *Sender) forget(o *outflow) {
	if o.stream == 0 {
		return
	}
	delete(s.streams, o.stream)
	if broken.AnyAcknowledgement {
		if s.closed == nil {
			s.closed = map[uint64]*outflow{}
		}
		s.closed[o.stream] = o
	}
	o.stream = 0
	s.inflight -= o.sent.clear()
	o.p.CloseStint(o.stint)
}

// refused ends a stream because the partition says so.
func (s *Sender) refused(o *outflow, err error) {
	if errors.Is(err, replica.ErrNotLeader) {
		s.close(o)
		s.rest(o, parked) // until Lead or Resign
		return
	}
	s.backOff(o, err)
}

// backOff ends a stream and opens it again later.
func (s *Sender) backOff(o *outflow, err error) {
	s.close(o)
	o.fails++
	if o.fails == 1 || o.fails == 6 { // one that goes on is worth a second line, not a line each two seconds
		s.n.o.Logger.Warn("a replication stream is refused; it is tried again", "partition", o.key.String(), "follower", s.peer, "fails", o.fails, "err", err)
	}
	s.rest(o, waiting)
	o.due = s.now.Add(min(backoffMin<<min(o.fails-1, 10), backoffMax))
	heap.Push(&s.waiting, o)
	s.rearm = true
}

// moveDrained moves a stream to the other connection when all it has sent is acknowledged.
func (s *Sender) moveDrained(o *outflow) {
	if o.state != draining || o.stored < o.next {
		return
	}
	s.close(o)
	s.rest(o, idle)
	delete(s.mine, o)
	o.queued, o.marked = false, false // what the queues still hold is not this sender's any more
	o.home.Store(s.other)
	o.tell(newsArrived)
}

// drain has no more sent on a stream, so that it can move.
func (s *Sender) drain(o *outflow) {
	o.state = draining
	s.moveDrained(o)
}

func (s *Sender) makeReady(o *outflow) {
	if !o.queued {
		o.queued = true
		s.ready.push(o)
	}
}

// mark notes that a stream's high watermark or log start may have moved.
func (s *Sender) mark(o *outflow) {
	if o.marked {
		return
	}
	if len(s.marks) == 0 {
		s.marksDue = s.now.Add(markDelay)
	}
	o.marked = true
	s.marks = append(s.marks, o)
}

// waitHeap orders streams by when they are due.
type waitHeap []*outflow

func (h waitHeap) Len() int           { return len(h) }
func (h waitHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h waitHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *waitHeap) Push(x any) {
	o := x.(*outflow)
	o.index = len(*h)
	*h = append(*h, o)
}

// Pop implements heap.Interface.
func (h *waitHeap) Pop() any {
	last := len(*h) - 1
	o := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	o.index = -1
	return o
}
