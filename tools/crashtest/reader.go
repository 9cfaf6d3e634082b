package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tools/numbered"
)

// tail follows all partitions from the end and books what it is shown: what a consumer has seen may never
// change either.
func tail(ctx context.Context, seed string, l *ledger, topics []topic) error {
	var names []string
	for _, t := range topics {
		names = append(names, t.name)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(seed), kgo.DisableClientMetrics(), kgo.ConsumeTopics(names...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(250*time.Millisecond), kgo.MetadataMinAge(50*time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }))
	if err != nil {
		return err
	}
	defer client.Close()
	next := map[place]int64{}
	for ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			p := place{r.Topic, r.Partition}
			// The client goes back to the last offset that it consumed, never behind: a reset would show a lost tail.
			if want, ok := next[p]; ok && r.Offset != want {
				l.broke("%v: a tail reader at offset %d was sent to offset %d", p, want, r.Offset)
			}
			next[p] = r.Offset + 1
			i, err := numbered.Parse(r.Value)
			if err != nil {
				l.broke("%v offset %d, shown to a tail reader: %v", p, r.Offset, err)
				return
			}
			l.promise(p, r.Offset, i, shown)
		})
	}
	return nil
}

// auditStall is how long an audit may get nothing before it gives up.
const auditStall = 20 * time.Second

// audit reads every partition from the offset up to which it was verified to the end that the ledger knows,
// with a fresh client; whole reads from the start.
func audit(ctx context.Context, seed string, l *ledger, o options, whole bool) (records int64, err error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(seed), kgo.DisableClientMetrics())
	if err != nil {
		return 0, err
	}
	admin := kadm.NewClient(client)
	from, ends := map[string]map[int32]kgo.Offset{}, map[place]int64{}
	// What is known comes first: the producers go on while the broker is asked.
	known := map[place]int64{}
	for _, t := range o.topics {
		for i := range o.partitions {
			p := place{t.name, int32(i)}
			known[p] = l.end(p)
		}
	}
	for _, t := range o.topics {
		last, err := admin.ListEndOffsets(ctx, t.name)
		if err != nil {
			client.Close()
			return 0, err
		}
		from[t.name] = map[int32]kgo.Offset{}
		for i := range o.partitions {
			p := place{t.name, int32(i)}
			end, ok := last.Lookup(t.name, p.partition)
			if !ok || end.Err != nil {
				client.Close()
				return 0, fmt.Errorf("%v: end offset: %w", p, end.Err)
			}
			if end.Offset < known[p] {
				l.broke("%v ends at offset %d, but up to %d there were %s", p, end.Offset, known[p]-1, l.lost(p, end.Offset))
			}
			start := int64(0)
			l.mu.Lock()
			if !whole {
				start = l.page(p).verified
			}
			l.page(p).verified = min(end.Offset, known[p])
			l.mu.Unlock()
			if end.Offset > start {
				from[t.name][p.partition] = kgo.NewOffset().At(start)
				ends[p] = end.Offset
			}
		}
	}
	client.Close()
	if len(ends) == 0 {
		return 0, nil
	}
	reader, err := kgo.NewClient(kgo.SeedBrokers(seed), kgo.DisableClientMetrics(), kgo.ConsumePartitions(from))
	if err != nil {
		return 0, err
	}
	defer reader.Close()
	check := newAuditor(l)
	for p := range ends {
		check.next[p] = from[p.topic][p.partition].EpochOffset().Offset
	}
	for len(ends) > 0 {
		polling, cancel := context.WithTimeout(ctx, auditStall)
		fetches := reader.PollFetches(polling)
		cancel()
		if fetches.NumRecords() == 0 {
			for _, e := range fetches.Errors() {
				l.broke("audit of %s/%d: %v", e.Topic, e.Partition, e.Err)
			}
			for p, end := range ends {
				l.broke("%v: no record can be read from offset %d on, the end is %d", p, check.next[p], end)
			}
			return records, ctx.Err()
		}
		fetches.EachRecord(func(r *kgo.Record) {
			p := place{r.Topic, r.Partition}
			end, open := ends[p]
			if !open {
				return
			}
			check.record(p, r)
			records++
			if r.Offset >= end-1 {
				delete(ends, p)
				reader.PauseFetchPartitions(map[string][]int32{p.topic: {p.partition}})
			}
		})
	}
	return records, nil
}

// auditor compares what is read with the ledger and with what the producers promise among themselves.
type auditor struct {
	ledger *ledger
	next   map[place]int64          // the offset that has to come
	last   map[place]map[int]uint64 // idempotent producers: number of the last record of each
}

func newAuditor(l *ledger) *auditor {
	return &auditor{ledger: l, next: map[place]int64{}, last: map[place]map[int]uint64{}}
}

func (a *auditor) record(p place, r *kgo.Record) {
	if r.Offset != a.next[p] {
		a.ledger.broke("%v: offset %d came where %d was due", p, r.Offset, a.next[p])
	}
	a.next[p] = r.Offset + 1
	i, err := numbered.Parse(r.Value)
	if err != nil {
		a.ledger.broke("%v offset %d: %v", p, r.Offset, err)
		return
	}
	if must := a.ledger.must(p, r.Offset); must != 0 && must != i {
		a.ledger.broke("%v offset %d: %v was acknowledged or shown, %v is there", p, r.Offset, must, i)
	}
	if i.Producer()%2 != 0 {
		return
	}
	byProducer := a.last[p]
	if byProducer == nil {
		byProducer = map[int]uint64{}
		a.last[p] = byProducer
	}
	if last, ok := byProducer[i.Producer()]; ok && i.Number() <= last {
		a.ledger.broke("%v offset %d: %v of an idempotent producer comes after its record %d", p, r.Offset, i, last)
	}
	byProducer[i.Producer()] = i.Number()
}
