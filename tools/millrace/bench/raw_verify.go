package bench

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// rawLedger keeps what was acknowledged: an entry for every batch. Each thread writes to its own part.
type rawLedger struct {
	threads []map[int][]entry // by place
}

func newRawLedger(threads int) *rawLedger {
	l := &rawLedger{}
	for range threads {
		l.threads = append(l.threads, map[int][]entry{})
	}
	return l
}

func (l *rawLedger) acknowledge(thread, place int, offset int64, number uint64) {
	l.threads[thread][place] = append(l.threads[thread][place], entry{offset, number})
}

// of is what was acknowledged in a place, by offset.
func (l *rawLedger) of(place int) []entry {
	var all []entry
	for _, t := range l.threads {
		all = append(all, t[place]...)
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(a.number, b.number)) })
	return all
}

// rawValueAt is where the batches of a run have their first value.
func rawValueAt(o *Options) int {
	b, err := newRawBatch(o, newPayload(0, time.Now(), o.MessageSize, 0))
	if err != nil {
		return 0
	}
	return b.valueAt
}

// verifyRaw reads everything that was acknowledged, at its offset, with its checksum and its number.
func (l *load) verifyRaw(ctx context.Context) (*Verification, error) {
	v := &Verification{}
	var list []int
	for i := range l.places {
		list = append(list, i)
	}
	// Places of one topic and one leader share a connection.
	for len(list) > 0 {
		first := l.places[list[0]]
		var these, others []int
		for _, i := range list {
			if p := l.places[i]; p.topic == first.topic && p.leader.NodeID == first.leader.NodeID {
				these = append(these, i)
			} else {
				others = append(others, i)
			}
		}
		if err := l.verifyPlaces(ctx, these, v); err != nil {
			return nil, err
		}
		list = others
	}
	v.OK = v.Missing == 0 && v.Wrong == 0
	return v, nil
}

func (l *load) verifyPlaces(ctx context.Context, these []int, v *Verification) error {
	count := int64(rawRecords(l.o))
	conn, err := dialLeader(ctx, l.places[these[0]].leader)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	r := &rawReader{conn: conn, topic: l.places[these[0]].topic, at: map[int32]int64{}, ends: map[int32]int64{}, valueAt: rawValueAt(l.o), check: true}
	left := map[int32][]entry{}
	for _, i := range these {
		entries := l.rawLedger.of(i)
		if len(entries) == 0 {
			continue
		}
		p := l.places[i].partition
		left[p], r.at[p], r.ends[p] = entries, entries[0].offset, entries[len(entries)-1].offset+count
		v.Acknowledged += count * int64(len(entries))
	}
	// A reader that gets nothing for too long has seen everything that can be read.
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	stalled := time.AfterFunc(verifyStall, cancel)
	defer stalled.Stop()
	err = r.run(reading, func(s *seen) {
		if s.records > 0 {
			stalled.Reset(verifyStall)
		}
		for i := range s.batches {
			l.compare(&s.batches[i], left, count, v)
		}
	})
	if err != nil && reading.Err() == nil {
		v.Findings = append(v.Findings, err.Error())
	}
	for p, entries := range left {
		for _, e := range entries {
			v.find(&v.Missing, "partition %d offset %d: batch %d was acknowledged and cannot be read", p, e.offset, e.number)
			v.Missing += count - 1
		}
	}
	return ctx.Err()
}

// compare holds one stored batch against what was acknowledged.
func (l *load) compare(b *rawSeen, left map[int32][]entry, count int64, v *Verification) {
	entries := left[b.partition]
	for len(entries) > 0 && entries[0].offset < b.offset {
		v.find(&v.Missing, "partition %d offset %d: batch %d was acknowledged and is not there", b.partition, entries[0].offset, entries[0].number)
		v.Missing += count - 1
		entries = entries[1:]
	}
	h, ours := l.payload.parse(b.value[:])
	if len(entries) > 0 && entries[0].offset == b.offset {
		e := entries[0]
		entries = entries[1:]
		what := ""
		switch {
		case !ours || h.number != e.number:
			what = "another one is there"
		case !b.intact || int64(b.records) != count:
			what = "it has changed"
		}
		if what == "" {
			v.Found += count
		} else {
			v.find(&v.Wrong, "partition %d offset %d: batch %d was acknowledged, %s", b.partition, b.offset, e.number, what)
			v.Wrong += count - 1
		}
		for len(entries) > 0 && entries[0].offset == b.offset {
			v.find(&v.Wrong, "partition %d offset %d: acknowledged twice, for %d and %d", b.partition, b.offset, e.number, entries[0].number)
			v.Wrong += count - 1
			entries = entries[1:]
		}
	} else if ours {
		v.Unaccounted += int64(b.records)
	}
	left[b.partition] = entries
}
