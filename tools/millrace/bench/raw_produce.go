package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// rawProduceVersion is a version that every broker since Kafka 2.4 and up to today understands.
const rawProduceVersion = 9

// rawResponseMax bounds an answer to a produce request of one partition.
const rawResponseMax = 64 << 10

// The parts of a record batch (version 2) that are patched in place.
const (
	batchCRCAt    = 17
	batchCRCFrom  = 21 // the checksum covers everything from here on
	batchOverhead = 12 // base offset and length, which the length does not count
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// rawRequest is one produce request, encoded once and patched for every send.
type rawRequest struct {
	frame       []byte // with its size prefix
	correlation []byte // 4 bytes inside frame
	batch       []byte // inside frame
	values      [][]byte
	responseAt  int // where the error code stands in the answer
}

// newRawRequest encodes a request with as many records as fit into the batch size.
func newRawRequest(o *Options, p *payload, partition int32) (*rawRequest, error) {
	records := 1
	if o.BatchBytes > 0 {
		records = max(1, o.BatchBytes/o.MessageSize)
	}
	now := time.Now()
	var body []byte
	value := make([]byte, o.MessageSize)
	for i := range records {
		p.put(value, 0, now)
		r := kmsg.Record{OffsetDelta: int32(i), Value: value}
		// The length is the size of what follows it; a length of 0 takes one byte itself.
		r.Length = int32(len(r.AppendTo(nil)) - 1)
		body = r.AppendTo(body)
	}
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(records - 1),
		FirstTimestamp: now.UnixMilli(), MaxTimestamp: now.UnixMilli(),
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(records), Records: body,
	}
	encoded := b.AppendTo(nil)
	binary.BigEndian.PutUint32(encoded[8:], uint32(len(encoded)-batchOverhead))
	binary.BigEndian.PutUint32(encoded[batchCRCAt:], crc32.Checksum(encoded[batchCRCFrom:], castagnoli))

	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = rawProduceVersion, int16(o.Acks), int32(o.Timeout.Milliseconds())
	topic := kmsg.NewProduceRequestTopic()
	topic.Topic = o.Topic
	part := kmsg.NewProduceRequestTopicPartition()
	part.Partition, part.Records = partition, encoded
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)

	clientID := "millrace-bench"
	formatter := kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID))
	q := &rawRequest{frame: formatter.AppendRequest(nil, req, 0)}
	q.correlation = q.frame[8:12]
	at := len(q.frame) - len(encoded) - 3 // three empty tag sections end the request
	q.batch = q.frame[at : at+len(encoded)]
	if string(q.batch) != string(encoded) {
		return nil, errors.New("BUG: the batch is not where the request should have it")
	}
	// Values are found from the batch's end: each record ends with its value and an empty header count.
	size := len(body) / records
	if len(body)%records != 0 { // offset deltas of different width
		size = 0
	}
	for end, i := len(q.batch), records-1; i >= 0; i-- {
		r := size
		if r == 0 {
			rec := kmsg.Record{OffsetDelta: int32(i), Value: value}
			rec.Length = int32(len(rec.AppendTo(nil)) - 1)
			r = len(rec.AppendTo(nil))
		}
		q.values = append(q.values, q.batch[end-1-o.MessageSize:end-1])
		end -= r
	}
	for i, j := 0, len(q.values)-1; i < j; i, j = i+1, j-1 {
		q.values[i], q.values[j] = q.values[j], q.values[i]
	}
	// Answer: correlation 4, tags 1, topic count 1, name, partition count 1, partition 4, then the error code.
	q.responseAt = 4 + 1 + 1 + uvarintSize(len(o.Topic)+1) + len(o.Topic) + 1 + 4
	return q, nil
}

func uvarintSize(n int) int { return len(binary.AppendUvarint(nil, uint64(n))) }

// stamp makes the request carry records of their own, numbered from first.
func (q *rawRequest) stamp(p *payload, first uint64, due time.Time) {
	for i, v := range q.values {
		p.put(v, first+uint64(i), due)
	}
	binary.BigEndian.PutUint32(q.batch[batchCRCAt:], crc32.Checksum(q.batch[batchCRCFrom:], castagnoli))
}

// outcome reads the answer's error code and base offset.
func (q *rawRequest) outcome(answer []byte) (base int64, err error) {
	if len(answer) < q.responseAt+10 {
		return 0, fmt.Errorf("an answer of %d bytes", len(answer))
	}
	if err := kerr.ErrorForCode(int16(binary.BigEndian.Uint16(answer[q.responseAt:]))); err != nil {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(answer[q.responseAt+2:])), nil
}

// runRaw is the closed loop with one connection a task.
func (l *load) runRaw(ctx context.Context) error {
	loading, cancel := l.w.loading(ctx)
	defer cancel()
	var tasks sync.WaitGroup
	for i := range l.o.Concurrency {
		partition := l.target.partitions[i%len(l.target.partitions)]
		task, err := l.dialRaw(ctx, partition)
		if err != nil {
			cancel()
			tasks.Wait()
			return err
		}
		task.shard = i
		tasks.Go(func() {
			defer task.conn.Close()
			if err := task.run(loading); err != nil {
				l.failures.add(err)
			}
		})
	}
	tasks.Wait()
	return nil
}

// rawTask is one connection with at most Inflight requests under way.
type rawTask struct {
	l         *load
	shard     int
	partition int32
	conn      net.Conn
	request   *rawRequest
	under     []rawSent // oldest first
}

type rawSent struct {
	at    time.Time
	first uint64
}

func (l *load) dialRaw(ctx context.Context, partition int32) (*rawTask, error) {
	conn, err := dialLeader(ctx, l.target.leaders[partition])
	if err != nil {
		return nil, err
	}
	request, err := newRawRequest(l.o, l.payload, partition)
	if err != nil {
		return nil, err
	}
	return &rawTask{l: l, partition: partition, conn: conn, request: request}, nil
}

func dialLeader(ctx context.Context, leader kadm.BrokerDetail) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", net.JoinHostPort(leader.Host, strconv.Itoa(int(leader.Port))))
}

func (t *rawTask) run(loading context.Context) error {
	// After the load, the answers under way may take as long as the drain.
	stop := context.AfterFunc(loading, func() {
		_ = t.conn.SetReadDeadline(time.Now().Add(t.l.o.Drain)) // fails only on a closed connection
	})
	defer stop()
	answers := bufio.NewReaderSize(t.conn, 16<<10)
	answer := make([]byte, 0, 512)
	for correlation := uint32(0); ; {
		for len(t.under) < t.l.o.Inflight && loading.Err() == nil {
			if err := t.send(correlation); err != nil {
				return err
			}
			correlation++
		}
		if len(t.under) == 0 {
			return nil
		}
		var err error
		if answer, err = readFrame(answers, answer, rawResponseMax); err != nil {
			return fmt.Errorf("%d request(s) without an answer: %w", len(t.under), err)
		}
		want := correlation - uint32(len(t.under))
		if got := binary.BigEndian.Uint32(answer); got != want {
			return fmt.Errorf("answer %d came where %d was due", got, want)
		}
		t.finish(answer)
	}
}

func (t *rawTask) send(correlation uint32) error {
	count := uint64(len(t.request.values))
	sent := rawSent{at: time.Now(), first: t.l.numbers.Add(count) - count}
	if t.l.o.Verify {
		t.request.stamp(t.l.payload, sent.first, sent.at)
	}
	binary.BigEndian.PutUint32(t.request.correlation, correlation)
	t.l.sent.Add(int64(count))
	t.under = append(t.under, sent)
	_, err := t.conn.Write(t.request.frame)
	return err
}

func (t *rawTask) finish(answer []byte) {
	now, sent, count := time.Now(), t.under[0], len(t.request.values)
	t.under = append(t.under[:0], t.under[1:]...)
	base, err := t.request.outcome(answer)
	if err != nil {
		t.l.failures.add(err)
		time.Sleep(failureBackoff)
		return
	}
	t.l.acked.Add(int64(count))
	measured := t.l.w.measures(now)
	if measured {
		t.l.counted.Add(int64(count))
	}
	t.l.acks.record(t.shard, now.Sub(sent.at), count*t.l.o.MessageSize, measured) // one sample a request
	if t.l.ledger != nil {
		for i := range count {
			t.l.ledger.acknowledge(t.partition, base+int64(i), sent.first+uint64(i))
		}
	}
}

// readFrame reads one size-prefixed answer into buf, which grows as needed up to limit.
func readFrame(r io.Reader, buf []byte, limit int) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return buf, err
	}
	n := int(binary.BigEndian.Uint32(size[:]))
	if n < 4 || n > limit {
		return buf, fmt.Errorf("an answer announces %d bytes", n)
	}
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err := io.ReadFull(r, buf)
	return buf, err
}
