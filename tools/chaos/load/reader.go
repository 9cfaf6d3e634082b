package load

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tools/chaos/history"
	"millrace/tools/numbered"
)

// Reader follows all partitions from the start, and asks for newest offsets in between.
type Reader struct {
	number int32
	target *Target
	client *kgo.Client
	list   *lister
	random *rand.Rand

	positions
}

// positions is where a consumer is, for whoever waits for it.
type positions struct {
	mu   sync.Mutex
	next map[history.Where]int64
}

// Position is the offset behind the last record that was shown.
func (p *positions) Position(w history.Where) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next[w]
}

func (p *positions) passed(w history.Where, offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == nil {
		p.next = map[history.Where]int64{}
	}
	p.next[w] = max(p.next[w], offset+1)
}

// listEvery says how often a poll is followed by a question for a newest offset.
const listEvery = 4

// NewReader makes a reader. Every other one reads committed records only.
func NewReader(t *Target, n int, seed uint64) (*Reader, error) {
	from := map[string]map[int32]kgo.Offset{}
	t.Everywhere(func(w history.Where) {
		if from[w.Topic] == nil {
			from[w.Topic] = map[int32]kgo.Offset{}
		}
		from[w.Topic][w.Partition] = kgo.NewOffset().At(0)
	})
	opts := append(consuming(), kgo.ConsumePartitions(from))
	if n%2 == 1 {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	client, err := t.client(opts...)
	if err != nil {
		return nil, err
	}
	r := &Reader{number: int32(FirstReader + n), target: t, client: client, random: rand.New(rand.NewPCG(seed, uint64(FirstReader+n)))}
	r.list = &lister{client: client, epochs: map[history.Where]int32{}}
	return r, nil
}

// consuming are the options of all consumers. A lost position would be sought at the start, and seen.
func consuming() []kgo.Opt {
	return []kgo.Opt{kgo.FetchMaxWait(300 * time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
}

// Run reads until ctx ends.
func (r *Reader) Run(ctx context.Context) {
	defer r.client.Close()
	for op := int64(1); ctx.Err() == nil; op++ {
		polling, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		fetches := r.client.PollFetches(polling)
		cancel()
		events := shown(fetches, r.number, op, history.Poll)
		r.target.Recorder.Add(events...)
		for i := range events {
			if events[i].Kind == history.Poll {
				r.passed(events[i].Where, events[i].Offset)
			}
		}
		r.hear(fetches)
		if r.random.IntN(listEvery) == 0 {
			r.listOne(ctx)
		}
	}
}

// hear lets the lister know of the epochs that the fetches were made in, as one client would: the batches themselves
// may be older, and an old leader that has not heard yet would believe in a question of its own epoch.
func (r *Reader) hear(fetches kgo.Fetches) {
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if _, epoch, err := r.client.PartitionLeader(p.Topic, p.Partition); err == nil {
			r.list.heard(history.Where{Topic: p.Topic, Partition: p.Partition}, epoch)
		}
	})
}

func (r *Reader) listOne(ctx context.Context) {
	w := history.Where{Topic: r.target.Topics[r.random.IntN(len(r.target.Topics))], Partition: r.random.Int32N(r.target.Partitions)}
	if offset, err := r.list.newest(ctx, w); err == nil {
		r.target.Recorder.Add(history.Event{Kind: history.List, Client: r.number, Where: w, Offset: offset, Epoch: r.list.epochs[w]})
	}
}

// shown is what a poll says, in events of one kind. Errors that another try may mend are not among them.
func shown(fetches kgo.Fetches, client int32, op int64, kind history.Kind) []history.Event {
	var events []history.Event
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		w := history.Where{Topic: p.Topic, Partition: p.Partition}
		for _, r := range p.Records {
			e := history.Event{Kind: kind, Client: client, Where: w, Offset: r.Offset, Epoch: r.LeaderEpoch, Op: op}
			var err error
			if e.ID, err = numbered.Parse(r.Value); err != nil {
				e.Kind, e.Text = history.Corrupt, err.Error()
			}
			events = append(events, e)
		}
		var lost *kgo.ErrDataLoss
		switch {
		case p.Err == nil || errors.Is(p.Err, context.DeadlineExceeded) || errors.Is(p.Err, context.Canceled) || kgo.IsRetryableBrokerErr(p.Err):
		case errors.As(p.Err, &lost):
			events = append(events, history.Event{Kind: history.Lost, Client: client, Where: w, Offset: lost.ResetTo, Text: p.Err.Error()})
		default:
			events = append(events, history.Event{Kind: history.Note, Client: client, Where: w, Text: "fetch: " + p.Err.Error()})
		}
	})
	return events
}
