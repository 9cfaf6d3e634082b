package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

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

// batchHeaderSize is the fixed part of a record batch (version 2).
const batchHeaderSize = 61

// runRaw reads like start, but decodes no more than batch headers: a reader costs next to nothing beside the
// broker. bytes then counts whole batches.
func (r *reading) runRaw(ctx context.Context, t target, from, ends map[int32]int64) error {
	byLeader := map[int32][]int32{}
	for _, p := range t.partitions {
		if ends[p] > from[p] {
			byLeader[t.leaders[p].NodeID] = append(byLeader[t.leaders[p].NodeID], p)
		}
	}
	var readers sync.WaitGroup
	for range r.o.Consumers {
		for _, partitions := range byLeader {
			conn, err := dialLeader(ctx, t.leaders[partitions[0]])
			if err != nil {
				return err
			}
			reader := &rawReader{conn: conn, topic: r.o.Topic, at: map[int32]int64{}, ends: ends}
			for _, p := range partitions {
				reader.at[p] = from[p]
			}
			readers.Go(func() {
				defer conn.Close()
				if err := reader.run(ctx, r); err != nil && ctx.Err() == nil {
					r.reasons.add(err)
				}
			})
		}
	}
	readers.Wait()
	return nil
}

// rawReader is one connection that reads some partitions of one leader.
type rawReader struct {
	conn  net.Conn
	topic string
	at    map[int32]int64 // next offset of the partitions that are not at their end yet
	ends  map[int32]int64
}

func (r *rawReader) run(ctx context.Context, out *reading) error {
	stop := context.AfterFunc(ctx, func() { _ = r.conn.SetDeadline(time.Unix(1, 0)) }) // fails only on a closed connection
	defer stop()
	formatter := kmsg.NewRequestFormatter(kmsg.FormatterClientID("millrace-bench"))
	answers := bufio.NewReaderSize(r.conn, 64<<10)
	var frame, answer []byte
	for correlation := int32(0); len(r.at) > 0 && ctx.Err() == nil; correlation++ {
		frame = formatter.AppendRequest(frame[:0], r.request(), correlation)
		if _, err := r.conn.Write(frame); err != nil {
			return err
		}
		var err error
		if answer, err = readFrame(answers, answer, rawFetchAnswerMax); err != nil {
			return err
		}
		if len(answer) < 5 {
			return fmt.Errorf("an answer of %d bytes", len(answer))
		}
		resp := kmsg.NewPtrFetchResponse()
		resp.Version = rawFetchVersion
		if err := resp.ReadFrom(answer[5:]); err != nil { // after correlation and tags
			return err
		}
		records, bytes, err := r.take(resp)
		if err != nil {
			return err
		}
		now := time.Now()
		out.records.Add(records)
		out.bytes.Add(bytes)
		out.ended.Store(now.UnixNano())
		if out.w.measures(now) {
			out.counted.Add(records)
			out.volume.Add(bytes)
		}
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

// take walks the batches of an answer and moves the reader on.
func (r *rawReader) take(resp *kmsg.FetchResponse) (records, bytes int64, err error) {
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return 0, 0, err
	}
	for _, topic := range resp.Topics {
		for _, part := range topic.Partitions {
			if err := kerr.ErrorForCode(part.ErrorCode); err != nil {
				return records, bytes, fmt.Errorf("partition %d: %w", part.Partition, err)
			}
			for batch := part.RecordBatches; len(batch) >= batchHeaderSize; {
				size := int(binary.BigEndian.Uint32(batch[8:])) + batchOverhead
				if size > len(batch) {
					break // the cut end of an answer
				}
				if size < batchHeaderSize {
					return records, bytes, errors.New("a batch shorter than its header")
				}
				next := int64(binary.BigEndian.Uint64(batch)) + int64(binary.BigEndian.Uint32(batch[23:])) + 1
				if next > r.at[part.Partition] {
					r.at[part.Partition] = next
					records += int64(binary.BigEndian.Uint32(batch[57:]))
					bytes += int64(size)
				}
				batch = batch[size:]
			}
			if r.at[part.Partition] >= r.ends[part.Partition] {
				delete(r.at, part.Partition)
			}
		}
	}
	return records, bytes, nil
}
