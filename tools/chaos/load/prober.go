package load

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tools/chaos/history"
	"millrace/tools/numbered"
)

// Prober writes one record to every partition. Each use is a producer of its own.
type Prober struct {
	Target *Target
	uses   int
}

// Probe returns the partitions that have not acknowledged a record in time.
func (p *Prober) Probe(ctx context.Context, timeout time.Duration) (stuck []string, err error) {
	number := ProberNumber + p.uses
	p.uses++
	client, err := p.Target.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableIdempotentWrite(), kgo.ProducerLinger(0),
		kgo.ProduceRequestTimeout(3*time.Second), kgo.UnknownTopicRetries(-1), kgo.RecordRetries(1<<30))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var mu sync.Mutex
	next := uint64(0)
	p.Target.Everywhere(func(w history.Where) {
		e := history.Event{Kind: history.Send, Client: int32(number), Where: w, ID: numbered.New(number, next), Acks: history.All}
		next++
		p.Target.Recorder.Add(e)
		value := make([]byte, numbered.Header)
		numbered.Put(value, e.ID)
		client.Produce(ctx, &kgo.Record{Topic: w.Topic, Partition: w.Partition, Value: value}, func(r *kgo.Record, err error) {
			e.Kind, e.Offset = history.Ack, r.Offset
			if err != nil {
				e.Kind, e.Offset, e.Text = history.Fail, 0, err.Error()
				mu.Lock()
				stuck = append(stuck, fmt.Sprintf("%v: %v", w, err))
				mu.Unlock()
			}
			p.Target.Recorder.Add(e)
		})
	})
	_ = client.Flush(context.WithoutCancel(ctx)) // every record ends with ctx
	mu.Lock()
	defer mu.Unlock()
	return stuck, nil
}
