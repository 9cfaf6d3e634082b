package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/broker/replica"
	"millrace/broker/wire"
	"millrace/engine"
	"millrace/netpoll"
)

// Fetch, versions 4-18 (7: sessions, KIP-227; 12: last fetched epoch; 13: topic
// ids). Whole batches only; the first batch of an answer goes out even when it
// is larger than the limits (KIP-74). What lies in memory is answered on the
// loop; everything else is read by a worker first, which also makes the file
// ranges resident, so that sendfile never waits for the disk on the loop.

// fetchRequest is one Fetch request under way. It is pooled, with its parts and spans: a call of
// Progressed that comes too late wakes whoever has it then, once and for nothing.
type fetchRequest struct {
	b       *Broker
	s       *session
	conn    *netpoll.Conn
	slot    netpoll.Slot
	version int16
	corr    int32
	h       wire.FetchHeader
	session *fetchSession // nil: sessionless
	full    bool          // every partition is answered, not only what changed
	sid     int32
	named   wire.FetchPartition
	own     [fetchFreePartitions]sessionPart // of parts that belong to no session
	parts   []fetchPart
	spans   []engine.Span
	rack    string    // of the client (KIP-392)
	dead    time.Time // when max.wait ends

	state   atomic.Int32 // fetchIdle, fetchWaiting
	expired bool         // max.wait is over
	ready   bool         // a worker has read the answer
	charged bool         // its partitions are counted in b.fetchWaiting
	timer   netpoll.Timer
}

const (
	fetchIdle int32 = iota
	fetchWaiting
)

// fetchPartitionsMax bounds one request, fetchFreePartitions is what each may wait
// for without being counted.
const (
	fetchPartitionsMax  = 250_000
	fetchFreePartitions = 16
)

// fetchPart is one partition of a request and of its answer.
type fetchPart struct {
	*sessionPart
	part   *replica.Partition
	out    wire.FetchResult
	first  int // its spans are spans[first:last]
	last   int
	seenHW int64
	skip   bool // an incremental answer leaves it out: nothing changed
}

func (b *Broker) fetch(s *session, f netpoll.Frame, body []byte, version int16, corr int32) {
	b.requests[1].Add(1)
	defer f.Release()
	h, err := s.fetch.Reset(body, version)
	if err != nil {
		s.conn.Close(fmt.Errorf("request Fetch version %d: %w", version, err))
		return
	}
	r := fetchPool.Get().(*fetchRequest)
	r.b, r.s, r.conn, r.slot, r.version, r.corr, r.h = b, s, s.conn, s.conn.Begin(), version, corr, h
	code := b.sessions.open(r, &s.fetch)
	err = s.fetch.Err()
	if err == nil && len(r.parts) > fetchPartitionsMax {
		err = errTooManyPartitions
	}
	if err != nil {
		b.sessions.abandon(r)
		s.conn.Close(fmt.Errorf("request Fetch version %d: %w", version, err))
		return
	}
	s.enterSlow()
	s.fetches = append(s.fetches, r)
	if code != 0 {
		r.refuse(code)
		return
	}
	r.rack = ""
	if rack := s.fetch.Rack(); len(rack) > 0 && b.conf.RackAwareReads() {
		r.rack = string(rack)
	}
	r.h.MaxBytes = min(r.h.MaxBytes, b.fetchMaxBytes)
	r.dead = b.now().Add(time.Duration(max(h.MaxWaitMillis, 0)) * time.Millisecond)
	r.try()
}

// try reads what there is, on the loop, and answers or waits.
func (r *fetchRequest) try() {
	enough, cold := r.read(false)
	switch {
	case cold:
		r.release()
		r.b.workers.Go(func(context.Context) {
			r.readCold()
			r.conn.Loop().Post(r)
		})
	case enough:
		r.answer()
	default:
		r.release()
		r.wait()
	}
}

// read fills the answer. enough: the answer may go out now. cold: something
// could not be read without touching a file.
func (r *fetchRequest) read(mayBlock bool) (enough, cold bool) {
	r.spans = r.spans[:0]
	left, total := int(r.h.MaxBytes), 0
	failed := false
	for i := range r.parts {
		p := &r.parts[i]
		n, err := r.readPart(p, left, total == 0, mayBlock)
		if errors.Is(err, engine.ErrWouldBlock) {
			return false, true
		}
		if err != nil {
			p.out.ErrorCode = codeOf(err)
			failed = true
		}
		failed = failed || p.out.ErrorCode != 0 || p.out.PreferredReplica >= 0
		left -= n
		total += n
	}
	return failed || total >= int(r.h.MinBytes) || r.expired || r.h.MaxWaitMillis <= 0 || len(r.parts) == 0, false
}

// readPart reads one partition into p.out and r.spans.
func (r *fetchRequest) readPart(p *fetchPart, left int, minOne, mayBlock bool) (int, error) {
	p.out = wire.FetchResult{Partition: p.partition, HighWatermark: -1, LastStableOffset: -1, LogStartOffset: -1, LeaderID: -1, PreferredReplica: -1}
	p.first, p.last = len(r.spans), len(r.spans)
	if p.part == nil {
		if code := p.resolve(r.b, r.version); code != 0 {
			p.out.ErrorCode = code
			return 0, nil
		}
	}
	part := p.part
	leads, err := part.CheckReader(p.leaderEpoch)
	if err == nil && !leads && r.version < 11 {
		err = replica.ErrNotLeader // KIP-392 began there
	}
	if err != nil {
		if errors.Is(err, replica.ErrNotLeader) && r.b.partitions.Get(part.Topic, part.Index) != part {
			p.part = nil // deleted, perhaps created again
		}
		return 0, err
	}
	log := part.Log()
	hw := part.HighWatermark()
	p.seenHW = hw
	p.out.HighWatermark, p.out.LogStartOffset = hw, log.LogStartOffset()
	p.out.LastStableOffset = log.LastStableOffset(hw)
	upTo := hw
	if r.h.Isolation == 1 {
		upTo = p.out.LastStableOffset
	}
	switch end := log.AppendedEnd(); {
	case p.offset > end && !leads:
		return 0, replica.ErrNotAvailable // the leader may have it
	case p.offset > end || p.offset < p.out.LogStartOffset:
		return 0, engine.ErrOffsetOutOfRange
	}
	if leads && r.rack != "" {
		if p.out.PreferredReplica = r.b.nearest(part, r.rack, p.offset); p.out.PreferredReplica >= 0 {
			return 0, nil
		}
	}
	if left <= 0 || p.offset >= upTo {
		// A new leader may not know yet how far the last one had come (KIP-207).
		return 0, nil
	}
	spans, info, err := log.Read(engine.ReadRequest{
		Offset: p.offset, UpTo: upTo, MaxBytes: min(left, int(p.maxBytes)), MinOne: minOne, MayBlock: mayBlock,
	}, r.spans)
	if err != nil {
		return 0, err
	}
	r.spans = spans
	p.last = len(spans)
	p.out.RecordBytes = info.Bytes
	if r.h.Isolation == 1 && info.Bytes > 0 {
		for _, a := range log.AbortedTxns(p.offset, info.NextOffset) {
			p.out.Aborted = append(p.out.Aborted, wire.AbortedTxn{ProducerID: a.ProducerID, FirstOffset: a.FirstOffset})
		}
	}
	return info.Bytes, nil
}

// readCold reads on a worker, where it may block.
func (r *fetchRequest) readCold() {
	r.read(true)
	r.ready = true // whatever was found goes out
}

// release gives back what was read but not sent.
func (r *fetchRequest) release() {
	for i := range r.spans {
		if o := r.spans[i].Owner; o != nil {
			o.Release()
		}
		r.spans[i] = engine.Span{}
	}
	r.spans = r.spans[:0]
}

// wait sleeps until a partition's high watermark moves or max.wait is over.
func (r *fetchRequest) wait() {
	left := r.dead.Sub(r.b.now())
	if left <= 0 || r.b.draining.Load() || !r.charge() {
		r.expired = true
		r.try()
		return
	}
	r.state.Store(fetchWaiting)
	for i := range r.parts {
		p := &r.parts[i]
		if p.part != nil && !p.part.Watch(r, p.seenHW) {
			r.Progressed()
			break
		}
	}
	if r.b.draining.Load() {
		r.Progressed() // drain may have looked before the request could be seen
	}
	r.timer = r.conn.Loop().After(left, fetchExpiry{r})
}

// charge counts the partitions of a request that waits. When there are too many of
// them it may not: it is answered with what there is, as if max.wait were over.
func (r *fetchRequest) charge() bool {
	n := int64(len(r.parts))
	if r.charged || n <= fetchFreePartitions {
		return true
	}
	if r.b.fetchWaiting.Add(n) > r.b.fetchWaitingMax {
		r.b.fetchWaiting.Add(-n)
		return false
	}
	r.charged = true
	return true
}

// end lets the connection and the session go on.
func (r *fetchRequest) end() {
	if r.charged {
		r.charged = false
		r.b.fetchWaiting.Add(-int64(len(r.parts)))
	}
	r.b.sessions.finish(r)
	if i := slices.Index(r.s.fetches, r); i >= 0 {
		r.s.fetches = slices.Delete(r.s.fetches, i, i+1)
	}
	r.s.leaveSlow()
	r.recycle()
}

// fetchPartsKept bounds the room that a pooled request keeps.
const fetchPartsKept = 4096

// recycle gives the request back; nobody waits for it or works on it.
func (r *fetchRequest) recycle() {
	parts, spans := r.parts, r.spans
	if cap(parts) > fetchPartsKept || cap(spans) > fetchPartsKept {
		parts, spans = nil, nil
	}
	clear(parts)
	clear(r.own[:min(len(parts), len(r.own))])
	r.b, r.s, r.conn, r.session, r.named = nil, nil, nil, nil, wire.FetchPartition{}
	r.full, r.sid, r.expired, r.ready, r.charged = false, 0, false, false, false
	r.parts, r.spans, r.timer = parts[:0], spans[:0], netpoll.Timer{}
	fetchPool.Put(r)
}

var fetchPool = sync.Pool{New: func() any { return new(fetchRequest) }}

// giveUp ends a request whose client is gone; it may have asked to wait for weeks.
func (r *fetchRequest) giveUp() {
	if r.state.CompareAndSwap(fetchWaiting, fetchIdle) {
		r.Run()
	}
}

// Progressed implements replica.ProgressWaiter: on any thread, any number of
// times; the first one wakes the request.
func (r *fetchRequest) Progressed() {
	if r.state.CompareAndSwap(fetchWaiting, fetchIdle) {
		r.conn.Loop().Post(r)
	}
}

// fetchExpiry is the end of max.wait.
type fetchExpiry struct{ r *fetchRequest }

// Run implements netpoll.Task.
func (e fetchExpiry) Run() {
	if e.r.state.CompareAndSwap(fetchWaiting, fetchIdle) {
		e.r.expired = true
		e.r.Run()
	}
}

// Run implements netpoll.Task: on the loop, after progress, expiry or a cold
// read.
func (r *fetchRequest) Run() {
	r.timer.Stop()
	for i := range r.parts {
		if p := r.parts[i].part; p != nil {
			p.Unwatch(r)
		}
	}
	if r.ready {
		r.answer()
		return
	}
	if r.conn.Closed() {
		r.end()
		return
	}
	r.try()
}

// refuse answers with an error for the whole request.
func (r *fetchRequest) refuse(code int16) {
	resp := r.conn.Loop().NewResponse()
	b := wire.AppendResponseHeader(nil, r.corr, wire.FetchFlexible(r.version))
	b = wire.AppendFetchStart(b, r.version, code, 0, 0)
	resp.Append(wire.AppendNoTags(b, wire.FetchFlexible(r.version)))
	r.conn.Reply(r.slot, resp)
	r.end()
}

// answer writes the response: per partition a header, its spans, a tail.
func (r *fetchRequest) answer() {
	resp := r.conn.Loop().NewResponse()
	incremental := r.session != nil && !r.full
	topics := 0
	var last *sessionPart
	for i := range r.parts {
		p := &r.parts[i]
		if p.skip = incremental && !p.changed(); p.skip {
			continue
		}
		if last == nil || !last.sameTopic(p.sessionPart) {
			topics++
		}
		last = p.sessionPart
	}
	flexible := wire.FetchFlexible(r.version)
	b := wire.AppendResponseHeader(resp.Buffer(), r.corr, flexible)
	b = wire.AppendFetchStart(b, r.version, 0, r.sid, topics)
	last = nil
	var hints leaderHints
	for i := range r.parts {
		p := &r.parts[i]
		if p.skip {
			continue
		}
		if p.out.ErrorCode == errNotLeaderOrFollower || p.out.ErrorCode == errFencedLeaderEpoch {
			p.out.LeaderID, p.out.LeaderEpoch = hints.of(r.b, p.topic, p.topicID, p.partition)
		}
		if last == nil || !last.sameTopic(p.sessionPart) {
			if last != nil {
				b = wire.AppendNoTags(b, flexible)
			}
			b = wire.AppendFetchTopic(b, r.version, p.topic, p.topicID, r.groupSize(i))
		}
		last = p.sessionPart
		p.sent()
		b = wire.AppendFetchResult(b, r.version, r.h.Isolation, &p.out)
		if p.last > p.first {
			resp.Commit(b)
			r.sendSpans(resp, r.spans[p.first:p.last])
			b = resp.Buffer()
		}
		b = wire.AppendFetchResultEnd(b, r.version, &p.out)
	}
	if last != nil {
		b = wire.AppendNoTags(b, flexible)
	}
	resp.Commit(wire.AppendFetchEnd(b, r.version, hints.nodes))
	clear(r.spans) // their owners are the response's now
	r.spans = r.spans[:0]
	r.conn.Reply(r.slot, resp)
	r.end()
}

// groupSize counts the partitions to be sent that follow r.parts[i] in the
// same topic, itself included.
func (r *fetchRequest) groupSize(i int) int {
	n := 0
	for j := i; j < len(r.parts); j++ {
		q := &r.parts[j]
		if q.skip {
			continue
		}
		if !r.parts[i].sameTopic(q.sessionPart) {
			break
		}
		n++
	}
	return n
}

// sendSpans hands the spans and their owners to the response.
func (r *fetchRequest) sendSpans(resp *netpoll.Response, spans []engine.Span) {
	for i := range spans {
		s := &spans[i]
		if s.Mem != nil {
			resp.AppendMem(s.Mem, s.Owner)
		} else {
			resp.AppendFile(s.FD, s.Pos, s.Len, s.Owner)
		}
	}
}
