package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// rawFetchVersion is the last one with topic names, without which every broker would need its topic id.
const rawFetchVersion = 12

// The sizes of a raw reader's requests.
const (
	rawFetchBytes          = 32 << 20
	rawFetchPartitionBytes = 4 << 20
	rawFetchAnswerMax      = 256 << 20
)

// startRaw reads like start, but decodes no more than batch headers: a reader costs next to nothing beside the
// broker. bytes then counts whole batches.
func (r *reading) startRaw(ctx context.Context, t target, from, ends map[int32]int64) (wait func(), err error) {
	byLeader := map[int32][]int32{}
	for _, p := range t.partitions {
		if ends == nil || ends[p] > from[p] {
			byLeader[t.leaders[p].NodeID] = append(byLeader[t.leaders[p].NodeID], p)
		}
	}
	var readers sync.WaitGroup
	for shard := range r.o.Consumers {
		for _, partitions := range byLeader {
			conn, err := dialLeader(ctx, t.leaders[partitions[0]])
			if err != nil {
				return nil, err
			}
			reader := &rawReader{conn: conn, topic: r.o.Topic, at: map[int32]int64{}, ends: ends}
			for _, p := range partitions {
				reader.at[p] = from[p]
			}
			if r.payload != nil {
				reader.valueAt = rawValueAt(r.o)
			}
			readers.Go(func() {
				defer func() { _ = conn.Close() }()
				if err := reader.run(ctx, func(s *seen) { r.book(shard, s) }); err != nil && ctx.Err() == nil {
					r.reasons.add(err)
				}
			})
		}
	}
	return readers.Wait, nil
}

// book counts what one answer has brought.
func (r *reading) book(shard int, s *seen) {
	if s.records == 0 {
		return
	}
	r.records.Add(s.records)
	r.bytes.Add(s.bytes)
	r.ended.Store(s.now.UnixNano())
	if r.w.measures(s.now) {
		r.counted.Add(s.records)
		r.volume.Add(s.bytes)
	}
	if r.latency == nil {
		return
	}
	for i := range s.batches {
		h, ours := r.payload.parse(s.batches[i].value[:])
		if !ours {
			continue
		}
		due := r.payload.began.Add(h.due)
		measured := r.w.measures(s.now)
		if r.o.Rate > 0 {
			measured = r.w.measures(due)
		}
		r.latency.record(shard, s.now.Sub(due), s.batches[i].size, measured)
	}
}

// dialLeader opens a connection of the ordinary kind.
func dialLeader(ctx context.Context, leader kadm.BrokerDetail) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", net.JoinHostPort(leader.Host, strconv.Itoa(int(leader.Port))))
}

// rawReader is one connection that reads some partitions of one leader.
type rawReader struct {
	conn    net.Conn
	topic   string
	at      map[int32]int64 // next offset of the partitions that are not at their end yet
	ends    map[int32]int64 // nil: it never ends
	valueAt int             // > 0: the header of every batch's first value is read, too
	check   bool            // the checksums of all batches
	stream  *rawStream
	seen    seen
}

// seen is what one answer has brought.
type seen struct {
	now            time.Time
	records, bytes int64
	batches        []rawSeen // only if values or checksums are looked at
}

type rawSeen struct {
	partition int32
	offset    int64
	records   int32
	size      int
	value     [headerSize]byte
	intact    bool
}

// run reads until everything has been seen or ctx ends, and reports every answer.
func (r *rawReader) run(ctx context.Context, report func(*seen)) error {
	stop := context.AfterFunc(ctx, func() { _ = r.conn.SetDeadline(time.Unix(1, 0)) }) // fails only on a closed connection
	defer stop()
	formatter := kmsg.NewRequestFormatter(kmsg.FormatterClientID("millrace-bench"))
	r.stream = newRawStream(r.conn)
	var frame []byte
	for correlation := int32(0); len(r.at) > 0 && ctx.Err() == nil; correlation++ {
		frame = formatter.AppendRequest(frame[:0], r.request(), correlation)
		if _, err := r.conn.Write(frame); err != nil {
			return err
		}
		if err := r.answer(correlation); err != nil {
			return err
		}
		r.seen.now = time.Now()
		report(&r.seen)
	}
	return nil
}

func (r *rawReader) request() *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = rawFetchVersion, 500, 1, rawFetchBytes
	req.ReplicaID, req.SessionID, req.SessionEpoch = -1, 0, -1
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic = r.topic
	for p, at := range r.at {
		part := kmsg.NewFetchRequestTopicPartition()
		part.Partition, part.FetchOffset, part.PartitionMaxBytes, part.CurrentLeaderEpoch = p, at, rawFetchPartitionBytes, -1
		topic.Partitions = append(topic.Partitions, part)
	}
	req.Topics = append(req.Topics, topic)
	return req
}

// answer reads one Fetch response.
func (r *rawReader) answer(correlation int32) error {
	s := r.stream
	if err := s.begin(rawFetchAnswerMax); err != nil {
		return err
	}
	r.seen.records, r.seen.bytes, r.seen.batches = 0, 0, r.seen.batches[:0]
	if got := int32(s.uint32()); s.err == nil && got != correlation {
		return fmt.Errorf("answer %d came where %d was due", got, correlation)
	}
	s.tags()
	s.skip(4, false, 0) // throttle time
	if err := kerr.ErrorForCode(int16(s.uint16())); err != nil {
		return err
	}
	s.skip(4, false, 0) // session
	for range s.count() {
		s.skip(s.count(), false, 0) // there is one topic
		for range s.count() {
			if err := r.partition(); err != nil {
				return err
			}
		}
		s.tags()
	}
	s.tags()
	s.skip(s.left, false, 0)
	return s.err
}

func (r *rawReader) partition() error {
	s := r.stream
	partition, code := int32(s.uint32()), int16(s.uint16())
	if err := kerr.ErrorForCode(code); err != nil {
		return fmt.Errorf("partition %d: %w", partition, err)
	}
	s.skip(8+8+8, false, 0)             // high watermark, last stable offset, log start
	s.skip(s.count()*(8+8+1), false, 0) // aborted transactions, whose tags are empty
	s.skip(4, false, 0)                 // preferred replica
	for left := s.count(); left > 0 && s.err == nil; {
		left -= r.batch(partition, left)
	}
	s.tags()
	if r.ends != nil && r.at[partition] >= r.ends[partition] {
		delete(r.at, partition)
	}
	return s.err
}

// batch reads one batch of what is left of a partition's records and returns its size.
func (r *rawReader) batch(partition int32, left int) int {
	s := r.stream
	if left < batchHeaderSize {
		s.skip(left, false, 0)
		return left
	}
	h := s.peek(batchHeaderSize)
	if h == nil {
		return left
	}
	size := int(binary.BigEndian.Uint32(h[batchLengthAt:])) + batchOverhead
	if size > left { // the cut end of an answer
		s.skip(left, false, 0)
		return left
	}
	if size < batchHeaderSize {
		s.err = fmt.Errorf("partition %d: a batch shorter than its header", partition)
		return left
	}
	base := int64(binary.BigEndian.Uint64(h))
	b := rawSeen{partition: partition, offset: base, size: size, records: int32(binary.BigEndian.Uint32(h[batchCountAt:]))}
	next := base + int64(binary.BigEndian.Uint32(h[batchLastDeltaAt:])) + 1
	switch at, wanted := r.at[partition]; {
	case !wanted || next <= at:
		s.skip(size, false, 0) // before the offset that was asked for, or behind the end
		return size
	case base > at && r.check:
		// A hole: the verification sees what is missing.
	case base > at:
		s.err = fmt.Errorf("partition %d: offset %d came where %d was due", partition, base, at)
		return left
	}
	r.at[partition] = next
	r.seen.records += int64(b.records)
	r.seen.bytes += int64(size)
	want := binary.BigEndian.Uint32(h[batchCRCAt:])
	if end := r.valueAt + headerSize; r.valueAt > 0 && size >= end {
		copy(b.value[:], s.peek(end)[r.valueAt:])
	}
	if r.check {
		s.skip(batchCRCFrom, false, 0)
		b.intact = s.skip(size-batchCRCFrom, true, 0) == want
	} else {
		s.skip(size, false, 0)
	}
	if r.valueAt > 0 || r.check {
		r.seen.batches = append(r.seen.batches, b)
	}
	return size
}
