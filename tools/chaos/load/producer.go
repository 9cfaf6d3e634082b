package load

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tools/chaos/history"
	"millrace/tools/numbered"
)

// Producer writes bursts of numbered records.
type Producer struct {
	number  int
	acks    history.Acks
	rate    float64
	size    int
	target  *Target
	client  *kgo.Client
	random  *rand.Rand
	waiting atomic.Int64
}

// burstMax bounds the records of one burst, which go to one partition.
const burstMax = 20

// A producer is busy and idle in turn, by these factors: some faults show only in a log that nobody writes to, others only
// in one that is never complete.
var paces = [...]float64{0.1, 1, 1, 2, 4}

const (
	spellMin = time.Second
	spellMax = 5 * time.Second
)

// acksOf spreads the ways to acknowledge over producers: half of them idempotent, a quarter each of the others.
func acksOf(number int) history.Acks {
	switch {
	case number%2 == 0:
		return history.Idempotent
	case number%4 == 1:
		return history.All
	default:
		return history.One
	}
}

// NewProducer makes a producer of so many records a second with values of up to size bytes.
func NewProducer(t *Target, number int, rate float64, size int, seed uint64) (*Producer, error) {
	p := &Producer{number: number, acks: acksOf(number), rate: rate, size: size, target: t, random: rand.New(rand.NewPCG(seed, uint64(number)))}
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	opts := []kgo.Opt{
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(time.Duration(p.random.IntN(8)) * time.Millisecond), kgo.MaxBufferedRecords(1000),
		kgo.ProduceRequestTimeout(3 * time.Second), kgo.ProducerBatchCompression(codecs[number%len(codecs)]),
		kgo.RecordRetries(1 << 30), kgo.UnknownTopicRetries(-1),
	}
	switch p.acks {
	case history.Idempotent: // nothing of it may be unknown: it tries for as long as it takes
	case history.All:
		opts = append(opts, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(4), kgo.RecordDeliveryTimeout(10*time.Second))
	case history.One:
		opts = append(opts, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()), kgo.MaxProduceRequestsInflightPerBroker(4), kgo.RecordDeliveryTimeout(10*time.Second))
	}
	var err error
	p.client, err = t.client(opts...)
	return p, err
}

// Run produces until loading ends, then until everything that was sent is answered or draining ends.
func (p *Producer) Run(loading, draining context.Context) {
	defer p.client.Close()
	next, rate, spell := uint64(0), p.rate, time.Time{}
	for op := int64(1); loading.Err() == nil; op++ {
		if now := time.Now(); now.After(spell) {
			rate = p.rate * paces[p.random.IntN(len(paces))]
			spell = now.Add(spellMin + time.Duration(p.random.Int64N(int64(spellMax-spellMin))))
		}
		w := history.Where{Topic: p.target.Topics[p.random.IntN(len(p.target.Topics))], Partition: p.random.Int32N(p.target.Partitions)}
		n := 1 + p.random.IntN(burstMax)
		for range n {
			p.send(draining, w, numbered.New(p.number, next), op)
			next++
		}
		select {
		case <-loading.Done():
		case <-time.After(time.Duration(float64(n) / rate * float64(time.Second))):
		}
	}
	_ = p.client.Flush(draining) // Waiting tells what it has left
}

func (p *Producer) send(ctx context.Context, w history.Where, i numbered.ID, op int64) {
	value := make([]byte, numbered.Header+p.random.IntN(p.size))
	numbered.Put(value, i)
	e := history.Event{Kind: history.Send, Client: int32(p.number), Where: w, ID: i, Op: op, Acks: p.acks}
	p.waiting.Add(1)
	p.target.Recorder.Add(e)
	p.client.Produce(ctx, &kgo.Record{Topic: w.Topic, Partition: w.Partition, Key: []byte{byte(p.number), byte(i)}, Value: value}, func(r *kgo.Record, err error) {
		p.waiting.Add(-1)
		e.Kind, e.Offset = history.Ack, r.Offset
		if err != nil {
			e.Kind, e.Offset, e.Text = history.Fail, 0, err.Error()
		}
		p.target.Recorder.Add(e)
	})
}

// Waiting is how many records were sent and are not answered.
func (p *Producer) Waiting() int64 { return p.waiting.Load() }
