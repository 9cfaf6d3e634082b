package load

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tools/chaos/history"
)

// lastStall is how long the last reader may get nothing before it gives up.
const lastStall = 20 * time.Second

// Ends asks for the newest offset of every partition.
func (t *Target) Ends(ctx context.Context) (map[history.Where]int64, error) {
	client, err := t.client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	listed, err := kadm.NewClient(client).ListEndOffsets(ctx, t.Topics...)
	if err != nil {
		return nil, err
	}
	ends := map[history.Where]int64{}
	t.Everywhere(func(w history.Where) {
		end, ok := listed.Lookup(w.Topic, w.Partition)
		switch {
		case !ok:
			err = fmt.Errorf("%v: no end offset", w)
		case end.Err != nil:
			err = fmt.Errorf("%v: end offset: %w", w, end.Err)
		}
		ends[w] = end.Offset
	})
	return ends, err
}

// Last reads everything from start to end with a client that knows nothing yet. Nobody may write meanwhile.
func Last(ctx context.Context, t *Target) (map[history.Where]int64, error) {
	ends, err := t.Ends(ctx)
	if err != nil {
		return nil, err
	}
	from, open := map[string]map[int32]kgo.Offset{}, map[history.Where]int64{}
	for w, end := range ends {
		t.Recorder.Add(history.Event{Kind: history.FinalEnd, Client: LastReader, Where: w, Offset: end})
		if end == 0 {
			continue
		}
		open[w] = end
		if from[w.Topic] == nil {
			from[w.Topic] = map[int32]kgo.Offset{}
		}
		from[w.Topic][w.Partition] = kgo.NewOffset().At(0)
	}
	if len(open) == 0 {
		return ends, nil
	}
	client, err := t.client(append(consuming(), kgo.ConsumePartitions(from))...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	heard := time.Now()
	for op := int64(1); len(open) > 0; op++ {
		polling, cancel := context.WithTimeout(ctx, time.Second)
		fetches := client.PollFetches(polling)
		cancel()
		events := shown(fetches, LastReader, op, history.Final)
		t.Recorder.Add(events...)
		for i := range events {
			if e := &events[i]; e.Kind == history.Final && e.Offset >= open[e.Where]-1 {
				delete(open, e.Where)
			}
		}
		switch {
		case len(events) > 0:
			heard = time.Now()
		case time.Since(heard) > lastStall:
			for w, end := range open {
				t.Recorder.Brokef("%v cannot be read to its end %d within %v", w, end, lastStall)
			}
			return ends, nil
		}
		if err := ctx.Err(); err != nil {
			return ends, err
		}
	}
	return ends, nil
}
