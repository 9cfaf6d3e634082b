package bench

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// ledger keeps what was acknowledged: 16 bytes a record. It is safe for concurrent use.
type ledger struct {
	mu         sync.Mutex
	partitions map[int32][]entry
}

// entry says that the record of this number was acknowledged at this offset.
type entry struct {
	offset int64
	number uint64
}

func newLedger() *ledger { return &ledger{partitions: map[int32][]entry{}} }

func (l *ledger) acknowledge(partition int32, offset int64, number uint64) {
	l.mu.Lock()
	l.partitions[partition] = append(l.partitions[partition], entry{offset, number})
	l.mu.Unlock()
}

// verifyStall is how long a reader may get nothing before what is left counts as missing.
const verifyStall = 15 * time.Second

// findingsMax bounds how many damages are described; all are counted.
const findingsMax = 20

// Verification is the outcome of reading back.
type Verification struct {
	Acknowledged int64    `json:"acknowledged"`
	Found        int64    `json:"found"`
	Missing      int64    `json:"missing"`    // nothing at the acknowledged offset
	Wrong        int64    `json:"wrong"`      // another record, or a changed one
	Duplicates   int64    `json:"duplicates"` // an acknowledged record that is there twice
	Unaccounted  int64    `json:"unacknowledged_but_stored"`
	Findings     []string `json:"findings,omitempty"`
	OK           bool     `json:"ok"`
}

func (v *Verification) find(counter *int64, format string, args ...any) {
	*counter++
	if len(v.Findings) < findingsMax {
		v.Findings = append(v.Findings, fmt.Sprintf(format, args...))
	}
}

// verify reads the topic back and compares it with the ledger. A record that was retried without idempotence
// may be stored twice; that fails the run only if an idempotent producer wrote it.
func verify(ctx context.Context, o *Options, p *payload, l *ledger, numbers uint64) (*Verification, error) {
	v := &Verification{}
	from := map[int32]kgo.Offset{}
	for partition, entries := range l.partitions {
		slices.SortFunc(entries, func(a, b entry) int {
			return cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(a.number, b.number))
		})
		from[partition] = kgo.NewOffset().At(entries[0].offset)
		v.Acknowledged += int64(len(entries))
	}
	if len(from) == 0 {
		v.OK = true
		return v, nil
	}
	client, err := kgo.NewClient(append(o.seedOpts(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{o.Topic: from}))...)
	if err != nil {
		return nil, err
	}
	defer client.Close()

	seen := make([]uint64, numbers/64+1) // one bit a number
	left := make(map[int32][]entry, len(l.partitions))
	for partition, entries := range l.partitions {
		left[partition] = entries
	}
	for len(left) > 0 {
		polling, cancel := context.WithTimeout(ctx, verifyStall)
		fetches := client.PollFetches(polling)
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if fetches.NumRecords() == 0 {
			for _, e := range fetches.Errors() {
				v.Findings = append(v.Findings, fmt.Sprintf("partition %d: %v", e.Partition, e.Err))
			}
			break // what is left is missing
		}
		fetches.EachRecord(func(r *kgo.Record) {
			entries, ok := left[r.Partition]
			if !ok {
				return // everything of this partition has been compared
			}
			for len(entries) > 0 && entries[0].offset < r.Offset {
				v.find(&v.Missing, "partition %d offset %d: record %d was acknowledged and is not there", r.Partition, entries[0].offset, entries[0].number)
				entries = entries[1:]
			}
			h, ours := p.parse(r.Value)
			again := false
			if ours && h.number < numbers {
				word, bit := &seen[h.number/64], uint64(1)<<(h.number%64)
				again = *word&bit != 0
				*word |= bit
			}
			switch {
			case len(entries) > 0 && entries[0].offset == r.Offset:
				e := entries[0]
				switch {
				case !ours || h.number != e.number:
					v.find(&v.Wrong, "partition %d offset %d: record %d was acknowledged, another one is there", r.Partition, r.Offset, e.number)
				case !p.intact(r.Value):
					v.find(&v.Wrong, "partition %d offset %d: record %d has changed", r.Partition, r.Offset, e.number)
				default:
					v.Found++
				}
				for entries = entries[1:]; len(entries) > 0 && entries[0].offset == r.Offset; entries = entries[1:] {
					v.find(&v.Wrong, "partition %d offset %d: acknowledged twice, for records %d and %d", r.Partition, r.Offset, e.number, entries[0].number)
				}
			case ours && !again:
				v.Unaccounted++ // sent, stored, but its answer did not arrive
			}
			if again {
				v.find(&v.Duplicates, "partition %d offset %d: record %d is there a second time", r.Partition, r.Offset, h.number)
			}
			left[r.Partition] = entries
			if len(entries) == 0 {
				delete(left, r.Partition)
				client.PauseFetchPartitions(map[string][]int32{o.Topic: {r.Partition}})
			}
		})
	}
	for partition, entries := range left {
		for _, e := range entries {
			v.find(&v.Missing, "partition %d offset %d: record %d was acknowledged and cannot be read", partition, e.offset, e.number)
		}
	}
	v.OK = v.Missing == 0 && v.Wrong == 0 && (v.Duplicates == 0 || !o.Idempotent)
	return v, nil
}
