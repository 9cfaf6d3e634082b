package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// reading is the consuming side of a run: Consumers readers, each of which reads the whole topic.
type reading struct {
	o       *Options
	w       window
	payload *payload  // nil: whose records they are does not matter
	latency *recorder // end-to-end; nil: not measured

	records atomic.Int64
	bytes   atomic.Int64
	counted atomic.Int64 // inside the window
	volume  atomic.Int64 // bytes inside the window
	reasons failures
	ended   atomic.Int64 // unix nanoseconds of the last record
}

// start opens the readers at the given offsets and returns when all of them have been set up; wait returns
// once every reader has seen ends (nil: never) or ctx is over.
func (r *reading) start(ctx context.Context, from map[int32]int64, ends map[int32]int64) (wait func(), err error) {
	var readers sync.WaitGroup
	for i := range r.o.Consumers {
		offsets, left := map[int32]kgo.Offset{}, map[int32]int64{}
		for p, at := range from {
			offsets[p] = kgo.NewOffset().At(at)
			if end, ok := ends[p]; ok && end > at {
				left[p] = end
			}
		}
		client, err := kgo.NewClient(append(r.o.seedOpts(),
			kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.o.Topic: offsets}),
			kgo.FetchMaxWait(500*time.Millisecond),
		)...)
		if err != nil {
			return nil, err
		}
		readers.Go(func() {
			defer client.Close()
			r.read(ctx, client, i, left, ends != nil)
		})
	}
	return readers.Wait, nil
}

func (r *reading) read(ctx context.Context, client *kgo.Client, shard int, left map[int32]int64, bounded bool) {
	for ctx.Err() == nil && (!bounded || len(left) > 0) {
		fetches := client.PollFetches(ctx)
		now := time.Now()
		if ctx.Err() == nil {
			fetches.EachError(func(_ string, _ int32, err error) { r.reasons.add(err) })
		}
		var records, bytes int64
		fetches.EachRecord(func(rec *kgo.Record) {
			records++
			bytes += int64(len(rec.Key) + len(rec.Value))
			if end, ok := left[rec.Partition]; ok && rec.Offset >= end-1 {
				delete(left, rec.Partition)
			}
			if r.latency == nil {
				return
			}
			if h, ours := r.payload.parse(rec.Value); ours {
				due := r.payload.began.Add(h.due)
				measured := r.w.measures(now)
				if r.o.Rate > 0 {
					measured = r.w.measures(due)
				}
				r.latency.record(shard, now.Sub(due), len(rec.Key)+len(rec.Value), measured)
			}
		})
		if records == 0 {
			continue
		}
		r.records.Add(records)
		r.bytes.Add(bytes)
		r.ended.Store(now.UnixNano())
		if r.w.measures(now) {
			r.counted.Add(records)
			r.volume.Add(bytes)
		}
	}
}
