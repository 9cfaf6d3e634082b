package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"millrace/engine"
)

// Next returns the next frame to write, or nil and when to call again at the latest (zero: not before the notification).
// The frame before must have been released.
func (s *Sender) Next(now time.Time) (f *Frame, again time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next(now)
}

// TryNext is Next for a thread that must not wait: ok is false when somebody else is at the sender.
func (s *Sender) TryNext(now time.Time) (f *Frame, again time.Time, ok bool) {
	if !s.mu.TryLock() {
		return nil, again, false
	}
	defer s.mu.Unlock()
	f, again = s.next(now)
	return f, again, true
}

func (s *Sender) takeQuiet() bool { return s.inbox.quiet.Load() && s.inbox.quiet.Swap(false) }

func (s *Sender) rouse() { s.inbox.wake(sleepMarks) }

func (s *Sender) next(now time.Time) (f *Frame, again time.Time) {
	if s.frameOut {
		s.releaseFrame()
	}
	s.now = now
	for s.connected {
		s.takeNews()
		s.rearm = false
		for len(s.waiting) > 0 && !s.waiting[0].due.After(now) {
			s.open(s.waiting[0])
		}
		if s.messageFrame() || s.markFrame() || s.runsFrame() {
			s.frameOut = true
			s.sentBytes += uint64(s.frame.Size())
			s.sentCount++
			return &s.frame, time.Time{}
		}
		if s.hasWork() {
			continue // it came while a log was read
		}
		if how, again := s.idle(); s.inbox.sleep(how) {
			return nil, again
		}
	}
	return nil, time.Time{}
}

// hasWork reports whether there is something that Next can make a frame of, or has to look at.
func (s *Sender) hasWork() bool {
	return s.messages.len() > 0 || s.opening.len() > 0 || s.rearm ||
		s.ready.len() > 0 && s.inflight < windowBytes && !s.budget.empty()
}

// idle says how to sleep, and until when.
func (s *Sender) idle() (how uint32, again time.Time) {
	how = sleepDeep
	sooner := func(t time.Time) {
		if again.IsZero() || t.Before(again) {
			again = t
		}
	}
	if len(s.waiting) > 0 {
		sooner(s.waiting[0].due)
	}
	if len(s.marks) > 0 {
		how = sleepMarks
		sooner(s.marksDue)
	}
	if s.ready.len() > 0 { // the window is full, or the rate used up
		how = sleepFull
		sooner(s.now.Add(markDelay)) // for marks that nobody wakes it for
		if s.inflight < windowBytes {
			sooner(s.budget.until(s.now))
		}
	}
	return how, again
}

func (s *Sender) releaseFrame() {
	s.frame.Release()
	s.frameOut = false
}

// messageFrame makes a frame of what there is to say.
func (s *Sender) messageFrame() bool {
	for n := 0; n < opensAtOnce && s.opening.len() > 0; n++ {
		s.openNow(s.opening.pop())
	}
	f := &s.frame
	for s.messages.len() > 0 && len(f.Head) < messagesBytes {
		m := s.messages.pop()
		f.Head = appendMessage(f.Head, &m)
	}
	f.Type = frameToFollower
	return len(f.Head) > 0
}

// markFrame makes a frame of the marks that have moved, when the first of them has waited long enough.
func (s *Sender) markFrame() bool {
	if len(s.marks) == 0 || s.marksDue.After(s.now) {
		return false
	}
	f := &s.frame
	f.Type = frameToFollower
	n := 0
	for ; n < len(s.marks) && len(f.Head) < messagesBytes; n++ {
		o := s.marks[n]
		if o.home.Load() != s {
			continue
		}
		o.marked = false
		if o.state != flowing && o.state != draining {
			continue
		}
		hw, logStart := o.p.HighWatermark(), o.p.Log().LogStartOffset()
		if hw == o.sentHW && logStart == o.sentLogStart {
			continue // a run took them along
		}
		o.sentHW, o.sentLogStart = hw, logStart
		f.Head = appendMessage(f.Head, &message{kind: msgMark, stream: o.stream, hw: hw, logStart: logStart})
	}
	left := copy(s.marks, s.marks[n:])
	clear(s.marks[left:])
	s.marks = s.marks[:left]
	return len(f.Head) > 0
}

// runsFrame makes a frame of batches, a run of each stream in turn.
func (s *Sender) runsFrame() bool {
	f := &s.frame
	if cap(f.copied) == 0 && s.ready.len() > 0 {
		f.copied = make([]byte, 0, frameBytes)
	}
	s.runs, s.underCRC = s.runs[:0], s.underCRC[:0]
	s.budget.refill(s.n.o.CatchUpBytesPerSecond, s.kind == KindCatchUp, s.now)
	bytes := 0
	for turns := s.ready.len(); turns > 0 && s.ready.len() > 0; turns-- {
		if bytes >= frameBytes || len(s.runs) >= maxRuns || s.inflight >= windowBytes || s.budget.empty() {
			break
		}
		o := s.ready.pop()
		if o.home.Load() != s {
			continue
		}
		o.queued = false
		if o.state != flowing {
			continue
		}
		bytes += s.addRun(o, min(s.runBytes(), frameBytes-bytes))
	}
	if len(s.runs) == 0 {
		return false
	}
	f.Type, f.Bulk = frameRuns, true
	f.Head = binary.AppendUvarint(f.Head, uint64(len(s.runs)))
	for i := range s.runs {
		f.Head = appendRunHeader(f.Head, &s.runs[i])
	}
	f.Head = append(f.Head, s.underCRC...)
	if cap(s.underCRC) > 2*frameBytes {
		s.underCRC = nil
	}
	return true
}

func (s *Sender) runBytes() int {
	if s.kind == KindCatchUp {
		return catchUpRunBytes
	}
	return runBytes
}

// addRun reads a run of a stream into the frame and returns its bytes.
func (s *Sender) addRun(o *outflow, most int) int {
	stream, start := o.stream, o.next
	r := s.request(o, most)
	blocking := s.kind == KindCatchUp
	s.mu.Unlock() // acknowledgements are taken while this reads
	end := o.p.Log().AppendedEnd()
	spans, info, inMemory, err := readLog(o.p.Log(), r, blocking, s.spans[:0])
	if err == nil && len(spans) == 0 && r.UpTo < end {
		r.UpTo = math.MaxInt64 // the epoch ends in a hole
		spans, info, inMemory, err = readLog(o.p.Log(), r, blocking, spans)
	}
	hw, logStart := o.p.HighWatermark(), o.p.Log().LogStartOffset()
	// Looked at after the read: what was read while this broker led in the stint's epoch is of this epoch's log. Later the
	// log may be cut, and filled by another leader.
	epoch, leading := o.p.LeaderEpoch()
	s.mu.Lock()
	s.spans = spans[:0]
	defer clear(spans)
	if o.home.Load() != s || o.stream != stream || o.state != flowing {
		release(spans)
		return 0
	}
	switch {
	case !leading || epoch != o.stint.LeaderEpoch:
		release(spans)
		s.close(o)
		s.rest(o, parked) // Lead or Resign follows
		return 0
	case errors.Is(err, engine.ErrWouldBlock):
		s.drain(o)
		return 0
	case err != nil:
		release(spans)
		s.readFailed(o, err)
		return 0
	case len(spans) == 0:
		if s.kind == KindCatchUp {
			s.drain(o) // it has met the end
		}
		return 0
	}
	h := runHeader{stream: stream, start: start, end: info.NextOffset, logStart: logStart, hw: hw, epoch: o.epoch, length: info.Bytes}
	if o.checked || r.UpTo == math.MaxInt64 {
		h.epoch = epochChecked
	}
	if h.epoch == epochChecked {
		before := len(s.underCRC)
		if s.underCRC, err = take(s.underCRC, spans); err != nil {
			s.underCRC = s.underCRC[:before]
			s.readFailed(o, err)
			return 0
		}
	} else {
		s.frame.add(spans)
	}
	s.runs = append(s.runs, h)
	o.next, o.sentHW, o.sentLogStart = h.end, hw, logStart
	o.sent.push(h.end, h.length)
	s.inflight += h.length
	s.budget.spend(h.length)
	s.goOn(o, &h, end, inMemory)
	return h.length
}

// goOn says what comes after a run; end is where the log ended before it was read.
func (s *Sender) goOn(o *outflow, h *runHeader, end int64, inMemory bool) {
	if s.kind == KindTail {
		if h.end < end {
			s.makeReady(o)
		}
		return
	}
	if o.fromMemory += h.length; !inMemory {
		o.fromMemory = 0
	}
	// It has met the tail: at its end, or so far in it that the ring will not overtake it at once.
	if inMemory && h.end >= end || o.fromMemory >= windowBytes/2 {
		s.drain(o)
		return
	}
	s.makeReady(o)
}

// request says what a stream's next run may be.
func (s *Sender) request(o *outflow, most int) engine.ReadRequest {
	r := engine.ReadRequest{Offset: o.next, UpTo: math.MaxInt64, MaxBytes: most, MinOne: true}
	if o.checked {
		return r
	}
	if o.next >= o.epochEnd {
		s.findEpoch(o)
	}
	if o.epoch != epochChecked {
		r.UpTo = o.epochEnd
	}
	return r
}

// findEpoch finds the epoch of the batches from o.next on, and where it ends.
func (s *Sender) findEpoch(o *outflow) {
	l := o.p.Log()
	o.epoch = l.EpochAt(o.next)
	switch {
	case o.epoch < 0:
		o.epoch, o.epochEnd = epochChecked, o.next+1 // not known: one run, then again
	case o.epoch >= o.stint.LeaderEpoch:
		// It has no end while the stint counts: addRun looks whether it does after each read. Not MaxInt64, which is no limit.
		o.epoch, o.epochEnd = o.stint.LeaderEpoch, math.MaxInt64-1
	default:
		_, o.epochEnd = l.EndOffsetForEpoch(o.epoch)
	}
}

// readLog reads from memory, and from files if it may. inMemory tells that no file was needed.
func readLog(l *engine.Log, r engine.ReadRequest, blocking bool, dst []engine.Span) (spans []engine.Span, info engine.ReadInfo, inMemory bool, err error) {
	r.MayBlock = false
	spans, info, err = l.Read(r, dst)
	if !blocking || !errors.Is(err, engine.ErrWouldBlock) {
		return spans, info, true, err
	}
	r.MayBlock = true
	spans, info, err = l.Read(r, dst)
	return spans, info, false, err
}

func release(spans []engine.Span) {
	for i := range spans {
		spans[i].Owner.Release()
	}
}

// readFailed deals with a log that cannot be read.
func (s *Sender) readFailed(o *outflow, err error) {
	var damage *engine.CorruptionError
	if errors.As(err, &damage) {
		s.close(o)
		s.rest(o, parked) // Resign follows
		o.p.Damaged(err)
		return
	}
	if errors.Is(err, engine.ErrOffsetOutOfRange) {
		err = fmt.Errorf("the log does not begin at %d any more: %w", o.next, err) // the next handshake finds out
	}
	s.backOff(o, err)
}
