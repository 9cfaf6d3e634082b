package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tools/numbered"
	"millrace/tools/process"
)

// producer writes numbered records to random partitions until its context ends, through all deaths of the
// broker. Odd ones are not idempotent: a record of theirs may stand twice, but an acknowledged one is there.
type producer struct {
	number     int
	idempotent bool
	client     *kgo.Client
	ledger     *ledger
	o          options
	random     *rand.Rand
	failed     atomic.Int64
	lastError  atomic.Pointer[error]
}

func newProducer(o options, seed string, number int, l *ledger) (*producer, error) {
	p := &producer{number: number, idempotent: number%2 == 0, ledger: l, o: o, random: rand.New(rand.NewPCG(o.seed, uint64(number)))}
	opts := []kgo.Opt{
		kgo.SeedBrokers(seed), kgo.DisableClientMetrics(), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MaxBufferedRecords(o.buffered), kgo.ProducerLinger(0),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }),
		kgo.ProduceRequestTimeout(5 * time.Second),
		kgo.MetadataMinAge(50 * time.Millisecond),
		// A record that fails is counted, never silently tried again under another number.
		kgo.RecordDeliveryTimeout(2 * process.ReadyTimeout), kgo.RecordRetries(1 << 30), kgo.UnknownTopicRetries(-1),
	}
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(), kgo.GzipCompression()}
	opts = append(opts, kgo.ProducerBatchCompression(codecs[number%len(codecs)]))
	if !p.idempotent {
		opts = append(opts, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(4))
		if number%4 == 1 {
			opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()))
		}
	}
	var err error
	p.client, err = kgo.NewClient(opts...)
	return p, err
}

// run produces until loading ends, then waits for what is under way.
func (p *producer) run(loading, draining context.Context) {
	defer p.client.Close()
	var pause <-chan time.Time
	if p.o.rate > 0 {
		tick := time.NewTicker(time.Duration(float64(time.Second) / p.o.rate))
		defer tick.Stop()
		pause = tick.C
	}
	for number := uint64(0); loading.Err() == nil; number++ {
		i := numbered.New(p.number, number)
		v := make([]byte, numbered.Header+p.random.IntN(p.o.messageSize))
		numbered.Put(v, i)
		r := &kgo.Record{Topic: p.o.topics[p.random.IntN(len(p.o.topics))].name, Partition: p.random.Int32N(int32(p.o.partitions)), Value: v}
		p.client.Produce(draining, r, func(r *kgo.Record, err error) {
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					p.failed.Add(1)
					p.lastError.Store(&err)
				}
				return
			}
			p.ledger.promise(place{r.Topic, r.Partition}, r.Offset, i, acknowledged)
		})
		if pause != nil {
			select {
			case <-pause:
			case <-loading.Done():
			}
		}
	}
	_ = p.client.Flush(draining) // ends early only with draining, which the caller checks
}
