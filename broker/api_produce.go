package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"millrace/broker/replica"
	"millrace/broker/wire"
	"millrace/engine"
	"millrace/engine/batch"
	"millrace/netpoll"

	"github.com/klauspost/crc32"
)

// Produce, versions 3-13 (13: topic ids instead of names). Records are walked
// in the frame, checked once, copied once by the engine, and never decoded
// unless the topic's settings ask for it. acks=1 is answered when the batch is on this
// broker's device, acks=all when the partition's high watermark has passed it; acks=0 gets
// no answer, and an error closes the connection, as in Kafka.

// produceRequest is one Produce request under way. It is pooled; while it is
// parked for want of room it keeps its frame and its connection is paused.
type produceRequest struct {
	b       *Broker
	s       *session
	conn    *netpoll.Conn
	slot    netpoll.Slot
	version int16
	corr    int32
	acks    int16
	wait    replica.Acks
	frame   netpoll.Frame
	refuse  int16 // every partition gets this error; 0: none

	topics  []produceTopic
	mu      sync.Mutex // guards results: an error may be entered by a shard's thread
	results []wire.ProduceResult
	part    wire.ProducePartition
	again   bool // part was read but could not be appended yet
	parked  bool
	failed  bool // some partition failed
	broken  bool // the request ends in the middle: it gets no answer
	// pending counts the partitions that wait for their acknowledgement, and
	// one for the walk itself. Who brings it to zero finishes the request.
	pending atomic.Int32
	remote  atomic.Bool // some acknowledgement may arrive on another thread
}

type produceTopic struct {
	name  string
	id    [16]byte
	first int // index of its first result
	parts *replica.Topic
}

var producePool = sync.Pool{New: func() any { return new(produceRequest) }}

// produce starts a Produce request on the connection's loop.
func (b *Broker) produce(s *session, f netpoll.Frame, body []byte, version int16, corr int32) {
	b.requests[0].Add(1)
	h, err := s.produce.Reset(body, version)
	if err != nil {
		f.Release()
		s.conn.Close(fmt.Errorf("request Produce version %d: %w", version, err))
		return
	}
	p := producePool.Get().(*produceRequest)
	p.b, p.s, p.conn, p.slot = b, s, s.conn, s.conn.Begin()
	p.version, p.corr, p.acks, p.frame = version, corr, h.Acks, f
	p.topics, p.results = p.topics[:0], p.results[:0]
	p.again, p.parked, p.failed, p.broken, p.refuse = false, false, false, false, 0
	p.wait = replica.Acks{All: h.Acks == -1}
	if h.Acks == -1 && h.TimeoutMillis > 0 {
		p.wait.Deadline = b.now().UnixNano() + int64(h.TimeoutMillis)*int64(time.Millisecond)
	}
	p.pending.Store(1)
	switch {
	case h.Acks < -1 || h.Acks > 1:
		p.refuse = errInvalidRequiredAcks
	case h.TransactionalID != nil:
		p.refuse = errInvalidTxnState
	}
	p.walk()
}

// walk appends partition by partition. When the engine has no room it parks
// the request; room calls it again.
func (p *produceRequest) walk() {
	s := p.s
	for p.again || s.produce.Next(&p.part) {
		if !p.again {
			if len(p.results) == producePartitionsMax {
				p.giveUp(errTooManyPartitions)
				break
			}
			p.enter()
		}
		p.again = false
		if !p.appendPart() {
			p.again = true
			p.park()
			return
		}
	}
	if err := s.produce.Err(); err != nil {
		p.giveUp(err)
	}
	p.frame.Release()
	p.frame = netpoll.Frame{}
	if p.pending.Add(-1) == 0 {
		p.finish()
	}
}

// producePartitionsMax bounds what a request grows to here: a partition without
// records takes six bytes of it.
const producePartitionsMax = 100_000

var errTooManyPartitions = errors.New("more partitions than any client has")

// giveUp closes the connection in the middle of a request. What was appended
// before the damage stays: the client gets no answer and must assume nothing.
func (p *produceRequest) giveUp(err error) {
	p.conn.Close(fmt.Errorf("request Produce version %d: %w", p.version, err))
	p.broken = true
}

// enter makes room for the answer of the partition that was just read.
func (p *produceRequest) enter() {
	if p.part.FirstPart {
		t := produceTopic{id: p.part.TopicID, first: len(p.results)}
		if p.version >= 13 {
			t.parts = p.b.partitions.TopicByID(t.id)
		} else {
			t.parts = p.b.partitions.TopicByName(p.part.Topic)
		}
		if t.parts != nil {
			t.name = t.parts.Name
		} else {
			t.name = string(p.part.Topic)
		}
		p.topics = append(p.topics, t)
	}
	p.mu.Lock()
	p.results = append(p.results, wire.ProduceResult{
		Partition: p.part.Partition, BaseOffset: -1, LogAppendMillis: -1, LogStartOffset: -1, LeaderID: -1,
	})
	p.mu.Unlock()
}

// appendPart checks and appends one partition's batch; false means no room.
func (p *produceRequest) appendPart() bool {
	i := len(p.results) - 1
	r := &p.results[i]
	t := p.topics[len(p.topics)-1].parts
	if p.refuse != 0 {
		p.reject(r, p.refuse, "")
		return true
	}
	var part *replica.Partition
	if t != nil {
		part = t.Partition(r.Partition)
	}
	if part == nil {
		at := &p.topics[len(p.topics)-1]
		p.reject(r, p.b.absent(at.name, at.id, p.version >= 13, r.Partition), "")
		return true
	}
	if t.Internal {
		p.reject(r, errInvalidTopic, "the topic is internal: clients may not write to it")
		return true
	}
	b := p.part.Records
	h, code, msg := p.b.checkBatch(b, t.Settings(), r)
	if code != 0 {
		p.reject(r, code, msg)
		return true
	}
	var waiter replica.AckWaiter
	if p.acks != 0 {
		waiter = p
		p.pending.Add(1)
	}
	if part.Log().Shard().Driver() != any(p.conn.Loop()) {
		p.remote.Store(true)
	}
	res, acked, err := part.Append(engine.AppendRequest{
		Batch: b, Header: h, NoKick: part.Log().Shard().Driver() == any(p.conn.Loop()),
	}, p.wait, waiter, i)
	switch {
	case errors.Is(err, engine.ErrBusy):
		if waiter != nil {
			p.pending.Add(-1)
		}
		return false
	case err != nil:
		if waiter != nil {
			p.pending.Add(-1)
		}
		p.reject(r, codeOf(err), "")
		return true
	}
	r.BaseOffset, r.LogStartOffset = res.BaseOffset, res.LogStart
	if h.LogAppendTime() {
		r.LogAppendMillis = res.AppendTime // of a duplicate: when the original came
	}
	if acked && waiter != nil {
		p.pending.Add(-1)
	}
	return true
}

func (p *produceRequest) reject(r *wire.ProduceResult, code int16, msg string) {
	r.ErrorCode, r.ErrorMessage = code, msg
	p.failed = true
}

// checkBatch checks what a client sent for one partition, and stamps it when
// the topic keeps the broker's time. The order and the codes are Kafka's
// (LogValidator.java, UnifiedLog.analyzeAndValidateRecords).
func (b *Broker) checkBatch(raw []byte, t *replica.Settings, r *wire.ProduceResult) (h batch.Header, code int16, msg string) {
	if len(raw) == 0 {
		return h, errInvalidRecord, "the request has no records for this partition"
	}
	h, err := batch.ParseHeader(raw)
	switch {
	case errors.Is(err, batch.ErrMagic):
		return h, errInvalidRecord, "only record batches of magic 2 are accepted"
	case (errors.Is(err, batch.ErrCount) || errors.Is(err, batch.ErrCodec)) && intact(raw):
		// It came as it was sent: sending it again, as a client does after
		// CORRUPT_MESSAGE, would not help.
		return h, errInvalidRecord, err.Error()
	case err != nil:
		return h, errCorruptMessage, err.Error()
	case h.Size() < len(raw):
		return h, errInvalidRecord, "exactly one record batch per partition is accepted"
	case h.Size() > len(raw):
		return h, errCorruptMessage, "the record batch is longer than its partition's bytes"
	case h.Size() > t.MaxMessageBytes:
		return h, errMessageTooLarge, ""
	}
	if h, err = batch.Validate(raw); err != nil {
		return h, errCorruptMessage, err.Error()
	}
	if err := h.CheckProduced(); err != nil {
		return h, errInvalidRecord, err.Error()
	}
	if h.IsTransactional() {
		return h, errInvalidTxnState, "transactions are not supported yet"
	}
	if t.LogAppendTime {
		now := b.now().UnixMilli()
		batch.SetLogAppendTime(raw, now)
		h.MaxTimestamp = now
		if h, err = batch.ParseHeader(raw); err != nil {
			panic("BUG: stamping broke a batch: " + err.Error())
		}
	} else if now := b.now().UnixMilli(); h.MaxTimestamp > now && h.MaxTimestamp-now > t.TimestampAfterMaxMillis {
		return h, errInvalidTimestamp, fmt.Sprintf("timestamp %d is more than %d ms ahead of the broker's clock", h.MaxTimestamp, t.TimestampAfterMaxMillis)
	} else if h.BaseTimestamp < now && now-h.BaseTimestamp > t.TimestampBeforeMaxMillis {
		return h, errInvalidTimestamp, fmt.Sprintf("timestamp %d is more than %d ms behind the broker's clock", h.BaseTimestamp, t.TimestampBeforeMaxMillis)
	}
	// A compressed batch is opened only where the topic's settings need to see
	// its records; an uncompressed one costs nothing to walk.
	if h.Codec() == batch.None || t.RequireKeys {
		if bad, err := batch.CheckRecords(raw, t.RequireKeys, maxUncompressedBytes); err != nil {
			if bad >= 0 {
				r.RecordErrors = append(r.RecordErrors, wire.RecordError{Index: bad, Message: err.Error()})
			}
			return h, errInvalidRecord, err.Error()
		}
	}
	return h, 0, ""
}

// intact tells whether the CRC of a batch whose header makes no sense is right.
func intact(raw []byte) bool {
	const crc, covered = 17, 21
	return len(raw) >= batch.HeaderSize && crc32.Checksum(raw[covered:], castagnoli) == binary.BigEndian.Uint32(raw[crc:])
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maxUncompressedBytes bounds what one batch may unfold to when it must be
// looked into.
const maxUncompressedBytes = 256 << 20

// Acked implements replica.AckWaiter.
func (p *produceRequest) Acked(i int, err error, driver bool) {
	if err != nil {
		p.mu.Lock()
		r := &p.results[i]
		r.ErrorCode, r.BaseOffset = codeOf(err), -1
		p.mu.Unlock()
	}
	if p.pending.Add(-1) != 0 {
		return
	}
	if !driver || p.remote.Load() {
		p.conn.Loop().Post(p)
		return
	}
	p.finish()
}

// Run implements netpoll.Task: on the connection's loop, to go on after being
// parked, or to answer.
func (p *produceRequest) Run() {
	if !p.parked {
		p.finish()
		return
	}
	// walk may finish and give p back, or park it again.
	s := p.s
	p.parked, s.parked = false, nil
	p.walk()
	s.letGo()
}

// park waits for room in the engine: the connection delivers nothing more.
func (p *produceRequest) park() {
	p.parked = true
	p.s.parked = p
	p.s.hold()
	t := p.topics[len(p.topics)-1].parts
	p.b.waitForRoom(t.Partition(p.part.Partition).Log().Shard(), p)
}

// finish answers, on the connection's loop, and gives the request back.
func (p *produceRequest) finish() {
	switch {
	case p.broken:
		p.conn.Skip(p.slot)
	case p.acks == 0:
		p.conn.Skip(p.slot)
		if p.failed {
			// The only way to tell a producer that waits for nothing.
			p.conn.Close(errAcksZero)
		}
	default:
		resp := p.conn.Loop().NewResponse()
		resp.Commit(p.encode(resp.Buffer()))
		p.conn.Reply(p.slot, resp)
	}
	p.b, p.s, p.conn = nil, nil, nil
	for i := range p.topics {
		p.topics[i] = produceTopic{}
	}
	p.part = wire.ProducePartition{}
	p.remote.Store(false)
	if cap(p.results) <= 4096 { // a rare giant is not kept
		producePool.Put(p)
	}
}

var errAcksZero = errors.New("a batch sent with acks=0 could not be appended")

func (p *produceRequest) encode(b []byte) []byte {
	flexible := wire.ProduceFlexible(p.version)
	b = wire.AppendResponseHeader(b, p.corr, flexible)
	b = wire.AppendCount(b, flexible, len(p.topics))
	var hints leaderHints
	for i := range p.topics {
		t := &p.topics[i]
		end := len(p.results)
		if i+1 < len(p.topics) {
			end = p.topics[i+1].first
		}
		b = wire.AppendProduceTopic(b, p.version, t.name, t.id, end-t.first)
		for j := t.first; j < end; j++ {
			if r := &p.results[j]; r.ErrorCode == errNotLeaderOrFollower {
				r.LeaderID, r.LeaderEpoch = hints.of(p.b, t.name, t.id, r.Partition)
			}
			b = wire.AppendProduceResult(b, p.version, &p.results[j])
		}
		b = wire.AppendNoTags(b, flexible)
	}
	return wire.AppendProduceEnd(b, p.version, 0, hints.nodes)
}
