package replication

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"millrace/broker/replica"
	"millrace/broker/replica/broken"
	"millrace/engine"
	"millrace/raft/transport"
)

// Limits of a receiver.
const (
	maxStreams = 1 << 18 // of one connection
	// maxHeldBytes is what may wait for room: a leader that keeps to the window never gets there.
	maxHeldBytes = 2*windowBytes + maxFrameBytes
	ackBytes     = 256 << 10 // received after which an acknowledgement does not wait for the device
)

// Receiver is the follower's end of one connection from one leader: a step machine, driven as a Sender is.
type Receiver struct {
	n      *Node
	leader int32
	kind   transport.Kind
	inbox  inbox[*inflow]

	mu       sync.Mutex // held while partitions are called
	lost     bool
	streams  map[uint64]*inflow
	expected []*inflow
	image    atomic.Bool // has changed
	epoch    int64       // broker epoch that the leader knows
	messages queue[message]
	acks     []*inflow // that have something to acknowledge
	acksDue  time.Time // of the first of them, unless stored
	ackNow   bool
	received int // bytes since the last acknowledgements
	held     int // bytes that wait for room
	now      time.Time

	frame Frame
	runs  []runHeader
}

func newReceiver(n *Node, leader int32, kind transport.Kind) *Receiver {
	r := &Receiver{n: n, leader: leader, kind: kind, streams: map[uint64]*inflow{}}
	r.frame.from = -1
	return r
}

// SetNotify is as for a Sender.
func (r *Receiver) SetNotify(f func()) { r.inbox.notify.Store(&f) }

// Leader is the id of the broker at the other end.
func (r *Receiver) Leader() int32 { return r.leader }

// imageChanged may be called under any lock.
func (r *Receiver) imageChanged() {
	r.image.Store(true)
	r.inbox.wake(sleepFull)
}

// Lost ends the connection and all its streams.
func (r *Receiver) Lost() {
	r.mu.Lock()
	r.lost = true
	for _, in := range r.streams {
		r.drop(in)
	}
	r.expected, r.acks = nil, nil
	r.messages.clear()
	r.mu.Unlock()
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	delete(r.n.receivers, r)
}

// OnFrame takes a frame that the leader sent. An error ends the connection. What is wrong with one partition is told to
// the leader and hurts no other.
func (r *Receiver) OnFrame(now time.Time, frameType byte, head, bulk []byte) error {
	switch {
	case frameType == frameRuns:
		return decodeRuns(head, bulk, &r.runs, func(h *runHeader, batches []byte) error { return r.onRun(now, h, batches) })
	case frameType != frameToFollower || len(bulk) > 0:
		return fmt.Errorf("%w: type %d from a leader", errMalformed, frameType)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost {
		return nil
	}
	r.now = now
	var m message
	err := decodeMessages(head, true, &m, r.onMessage)
	r.wakeForWork()
	return err
}

func (r *Receiver) wakeForWork() {
	if r.messages.len() > 0 || r.ackNow {
		r.inbox.wake(sleepFull)
	} else if len(r.acks) > 0 {
		r.inbox.wake(sleepDeep) // to set its alarm
	}
}

func (r *Receiver) onMessage(m *message) error {
	in := r.streams[m.stream]
	if m.kind == msgOpen {
		if in != nil || len(r.streams) >= maxStreams {
			return fmt.Errorf("%w: stream %d is open, or one of too many", errMalformed, m.stream)
		}
		in = &inflow{r: r, stream: m.stream, key: m.key, epoch: m.epoch, generation: m.generation, index: m.index}
		r.streams[m.stream] = in
		if !r.begin(in) {
			r.expected = append(r.expected, in)
		}
		return nil
	}
	if in == nil {
		return nil
	}
	switch m.kind {
	case msgVerdict:
		r.onVerdict(in, m.verdict)
	case msgMark:
		if in.state == taking || in.state == stalled {
			if err := in.p.TakeMark(in.in, m.hw, m.logStart); err != nil {
				r.fail(in, failRefused, err)
			}
		}
	case msgClose:
		r.drop(in)
	default:
	}
	return nil
}

// begin takes up a stream whose image has come; false when it has not.
func (r *Receiver) begin(in *inflow) bool {
	// Before its image holds its own registration a broker takes nothing from anybody.
	if r.n.o.BrokerEpoch() == 0 || r.n.o.ImageIndex() < in.index {
		return false
	}
	in.p = r.n.o.Find(in.key)
	if in.p == nil {
		r.fail(in, failUnknown, errors.New("no replica of it here"))
		return true
	}
	in.state, in.seat = following, r.n.acquireSeat(in.p)
	leader := r.leader // that is who the handshake found, whatever a message says
	r.aside(in, newsFollowed, func() { in.follow(leader) })
	return true
}

// aside runs f, which may block on the device, and has its end seen.
func (r *Receiver) aside(in *inflow, news uint32, f func()) {
	r.n.acquireSeat(in.p) // once more: the stream may be dropped before f ends
	r.n.o.Aside(func() {
		defer r.n.releaseSeat(in.p, in.seat, nil)
		in.seat.following.Lock()
		defer in.seat.following.Unlock()
		f()
		in.tell(news)
	})
}

func (r *Receiver) onFollowed(in *inflow) {
	if in.result.err != nil {
		r.failed(in, in.result.err)
		return
	}
	in.in = in.result.in
	r.offer(in)
}

func (r *Receiver) offer(in *inflow) {
	in.state = offered
	o := in.result.offer
	o.BrokerEpoch = r.n.o.BrokerEpoch()
	r.messages.push(message{kind: msgOffer, stream: in.stream, offer: o})
}

func (r *Receiver) onVerdict(in *inflow, v replica.Verdict) {
	switch {
	case in.state != offered:
		r.fail(in, failRefused, errors.New("a verdict out of turn"))
	case v.Kind == replica.Agreed:
		if err := in.p.Agree(in.in, v); err != nil {
			r.failed(in, err)
			return
		}
		in.state = taking
		in.end, in.got, in.gotLog = v.Offset, v.Offset, v.Offset
		r.acknowledge(in, true) // the leader learns what is on the device already
	default:
		in.state = cutting
		r.aside(in, newsCut, func() { in.cut(v) })
	}
}

func (r *Receiver) onCut(in *inflow) {
	if in.result.err != nil {
		r.failed(in, in.result.err)
		return
	}
	r.offer(in)
}

// onRun takes one run of a frame.
func (r *Receiver) onRun(now time.Time, h *runHeader, batches []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	in := r.streams[h.stream]
	if r.lost || in == nil || in.state != taking && in.state != stalled {
		return nil // it was closed, or has failed, when this was under way
	}
	r.now = now
	defer r.wakeForWork()
	if h.start != in.end && !(broken.NoContiguity && h.start > in.end) {
		r.fail(in, failGap, fmt.Errorf("a run from %d where %d is next", h.start, in.end))
		return nil
	}
	next, proof := prove(h, batches)
	switch proof {
	case damaged:
		r.fail(in, failCorrupt, fmt.Errorf("a run of %d bytes from %d to %d has something that is no batch", h.length, h.start, h.end))
		return nil
	case unproven:
		r.fail(in, failUnproven, fmt.Errorf("a run from %d to %d", h.start, h.end))
		return nil
	case proven:
	}
	in.end = h.end
	run := heldRun{wireEnd: h.end}
	run.Start, run.End, run.LogStart, run.HighWatermark, run.Batches = h.start, next, h.logStart, h.hw, batches
	if in.state == taking && r.append(in, &run) {
		return nil
	}
	if in.state != stalled {
		return nil // failed
	}
	if run.bytes = len(run.Batches); r.held+run.bytes > maxHeldBytes {
		return fmt.Errorf("%w: the leader does not keep to the window", errMalformed)
	}
	r.held += run.bytes
	run.Batches = append(make([]byte, 0, run.bytes), run.Batches...)
	in.held.push(run)
	return nil
}

// append appends a run to the log; false when it has no room for all of it, or the stream has failed.
func (r *Receiver) append(in *inflow, run *heldRun) bool {
	// What lies between the end of the log and the run is an offset hole that the run before ended in: to the log it is one
	// that this one begins with.
	run.Start = in.gotLog
	if len(run.Batches) > 0 {
		r.received += len(run.Batches)
		err := in.p.AppendRun(in.in, &run.Run)
		if errors.Is(err, engine.ErrBusy) {
			r.received -= len(run.Batches)
			in.gotLog, in.got = run.Start, max(in.got, run.Start)
			r.stall(in)
			return false
		}
		if err != nil {
			r.failed(in, err)
			return false
		}
		in.gotLog = run.End
	}
	in.got = run.wireEnd
	r.acknowledge(in, false)
	return true
}

// stall waits for room.
func (r *Receiver) stall(in *inflow) {
	in.state = stalled
	in.p.Log().Shard().OnRoom(func() { in.tell(newsRoom) })
}

// onRoom goes on with what has waited.
func (r *Receiver) onRoom(in *inflow) {
	in.state = taking
	for in.held.len() > 0 {
		run := in.held.front()
		if !r.append(in, run) {
			return
		}
		r.held -= run.bytes
		in.held.pop()
	}
}

// acknowledge has a stream acknowledged: soon, or with the next acknowledgements.
func (r *Receiver) acknowledge(in *inflow, soon bool) {
	if !in.dirty {
		if len(r.acks) == 0 {
			r.acksDue = r.now.Add(ackDelay)
		}
		in.dirty = true
		r.acks = append(r.acks, in)
	}
	r.ackNow = r.ackNow || soon || r.received >= ackBytes
}

// failed tells the leader of an error of the partition.
func (r *Receiver) failed(in *inflow, err error) {
	switch {
	case errors.Is(err, replica.ErrStaleEpoch):
		r.fail(in, failStale, err)
	case errors.Is(err, replica.ErrCorrupt):
		r.fail(in, failCorrupt, err)
	case errors.Is(err, replica.ErrGap), errors.Is(err, engine.ErrNotContiguous):
		r.fail(in, failGap, err)
	default:
		r.fail(in, failRefused, err)
	}
}

// fail ends a stream from this end; the leader closes it.
func (r *Receiver) fail(in *inflow, code failCode, err error) {
	r.release(in)
	in.state = failed
	r.messages.push(message{kind: msgFail, stream: in.stream, code: code, text: err.Error()})
}

// drop forgets a stream.
func (r *Receiver) drop(in *inflow) {
	r.release(in)
	in.state = failed
	in.dropped.Store(true)
	delete(r.streams, in.stream)
}

// release gives back what a stream holds.
func (r *Receiver) release(in *inflow) {
	for in.held.len() > 0 {
		r.held -= in.held.pop().bytes
	}
	if in.seat != nil && in.state != failed {
		r.n.releaseSeat(in.p, in.seat, in)
	}
}

// Next returns the next frame to write, or nil and when to call again at the latest (zero: not before the notification).
// The frame before must have been released.
func (r *Receiver) Next(now time.Time) (f *Frame, again time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next(now)
}

// TryNext is as for a Sender.
func (r *Receiver) TryNext(now time.Time) (f *Frame, again time.Time, ok bool) {
	if !r.mu.TryLock() {
		return nil, again, false
	}
	defer r.mu.Unlock()
	f, again = r.next(now)
	return f, again, true
}

func (r *Receiver) takeQuiet() bool { return r.inbox.quiet.Load() && r.inbox.quiet.Swap(false) }

func (r *Receiver) rouse() { r.inbox.wake(sleepFull) }

func (r *Receiver) next(now time.Time) (f *Frame, again time.Time) {
	r.frame.Release()
	r.now = now
	for !r.lost {
		r.takeNews()
		if r.messageFrame() || r.ackFrame() {
			return &r.frame, time.Time{}
		}
		how, again := sleepDeep, time.Time{}
		if len(r.acks) > 0 {
			how, again = sleepMarks, r.acksDue
		}
		if r.inbox.sleep(how) && !r.image.Load() {
			return nil, again
		}
	}
	return nil, time.Time{}
}

func (r *Receiver) takeNews() {
	for _, in := range r.inbox.take() {
		news := in.news.Swap(0)
		if in.state == failed {
			continue
		}
		if news&newsOusted != 0 && in.state != expected && in.state != following {
			r.fail(in, failRefused, replica.ErrStaleInflow)
			continue
		}
		if news&newsFollowed != 0 && in.state == following {
			r.onFollowed(in)
		}
		if news&newsCut != 0 && in.state == cutting {
			r.onCut(in)
		}
		if news&newsRoom != 0 && in.state == stalled {
			r.onRoom(in)
		}
		if news&newsStored != 0 && (in.state == taking || in.state == stalled) {
			r.acknowledge(in, true)
		}
	}
	if !r.image.Swap(false) {
		return
	}
	waiting := r.expected
	r.expected = nil
	for _, in := range waiting {
		if in.state == expected && !r.begin(in) {
			r.expected = append(r.expected, in)
		}
	}
	if e := r.n.o.BrokerEpoch(); e != 0 && e != r.epoch {
		r.epoch = e
		r.messages.push(message{kind: msgReady, broker: e})
	}
}

func (r *Receiver) messageFrame() bool {
	f := &r.frame
	f.Type = frameToLeader
	for r.messages.len() > 0 && len(f.Head) < messagesBytes {
		m := r.messages.pop()
		f.Head = appendMessage(f.Head, &m)
	}
	return len(f.Head) > 0
}

// ackFrame makes one frame of what all streams have to acknowledge, when some of it is on the device or has waited.
func (r *Receiver) ackFrame() bool {
	if len(r.acks) == 0 || !r.ackNow && r.acksDue.After(r.now) {
		return false
	}
	f := &r.frame
	f.Type = frameToLeader
	n := 0
	for ; n < len(r.acks) && len(f.Head) < maxMessagesBytes/2; n++ {
		in := r.acks[n]
		in.dirty = false
		if in.state != taking && in.state != stalled {
			continue
		}
		stored := r.storedOf(in)
		if in.seat.taken.Load() != in && !broken.AnyAcknowledgement {
			continue // another stream has taken the partition over, and may have cut it before this one looked
		}
		f.Head = appendMessage(f.Head, &message{
			kind: msgAck, stream: in.stream, epoch: in.epoch, generation: in.generation, received: in.got, stored: stored,
		})
	}
	left := copy(r.acks, r.acks[n:])
	clear(r.acks[left:])
	if r.acks = r.acks[:left]; left == 0 {
		r.ackNow, r.received = false, 0
	}
	return len(f.Head) > 0
}

// storedOf is the end of what a stream has brought and the device has. The partition's own end may lie beyond: when this
// broker leads now, it appends.
func (r *Receiver) storedOf(in *inflow) int64 {
	if end := in.p.AckEnd(); end < in.gotLog {
		return min(end, in.got)
	}
	return in.got
}
