package index

import (
	"cmp"
	"slices"
	"sort"
)

// AbortedTxn is an aborted transaction in one log.
type AbortedTxn struct {
	ProducerID  int64
	FirstOffset int64 // of the transaction's first batch
	LastOffset  int64 // of the abort marker
	// LastStableOffset of the log right after the marker: a fetch up to there or less does not need later entries.
	LastStableOffset int64
}

// Aborted are the aborted transactions of one log, in the order of their markers. The
// zero value is empty.
type Aborted struct {
	txns []AbortedTxn // LastOffset and LastStableOffset grow
}

// Append adds the transaction that was aborted last.
func (x *Aborted) Append(t AbortedTxn) {
	if n := len(x.txns); n > 0 && t.LastOffset <= x.txns[n-1].LastOffset {
		panic("BUG: aborted transactions out of order")
	}
	x.txns = append(x.txns, t)
}

// Overlapping returns the aborted transactions with records in [from, to), sorted
// by first offset, nil if there are none. A read_committed consumer needs them to leave out
// aborted records.
func (x *Aborted) Overlapping(from, to int64) []AbortedTxn {
	var found []AbortedTxn
	first := sort.Search(len(x.txns), func(i int) bool { return x.txns[i].LastOffset >= from })
	for _, t := range x.txns[first:] {
		if t.FirstOffset < to {
			found = append(found, t)
		}
		if t.LastStableOffset >= to {
			break // later ones began at or after that offset
		}
	}
	slices.SortFunc(found, func(a, b AbortedTxn) int { return cmp.Compare(a.FirstOffset, b.FirstOffset) })
	return found
}

// TruncateTo removes the transactions whose marker is at offset end or above.
func (x *Aborted) TruncateTo(end int64) {
	n := sort.Search(len(x.txns), func(i int) bool { return x.txns[i].LastOffset >= end })
	x.txns = x.txns[:n]
}

// DropBefore removes the transactions that ended below start, the log's first offset.
func (x *Aborted) DropBefore(start int64) {
	n := sort.Search(len(x.txns), func(i int) bool { return x.txns[i].LastOffset >= start })
	switch {
	case n == len(x.txns):
		x.txns = nil
	case n > 0:
		x.txns = slices.Clone(x.txns[n:])
	}
}

// Remove removes the transactions for which gone is true: compaction has removed their
// markers, and a consumer that hears of one would wait for the marker.
func (x *Aborted) Remove(gone func(AbortedTxn) bool) {
	x.txns = slices.DeleteFunc(x.txns, gone)
}

// Clone returns an index of its own with the same entries.
func (x *Aborted) Clone() Aborted { return Aborted{txns: slices.Clone(x.txns)} }

// Len is the number of transactions.
func (x *Aborted) Len() int { return len(x.txns) }

// AppendTo encodes the index behind b.
func (x *Aborted) AppendTo(b []byte) []byte {
	b = appendSectionHead(b, sectionAborted, len(x.txns))
	var last int64
	for _, t := range x.txns {
		b = appendVarint(b, t.ProducerID)
		b = appendVarint(b, t.LastOffset-last)
		b = appendVarint(b, t.LastOffset-t.FirstOffset)
		b = appendVarint(b, t.LastStableOffset-t.LastOffset)
		last = t.LastOffset
	}
	return b
}

// DecodeAborted decodes what AppendTo wrote, all of b.
func DecodeAborted(b []byte) (Aborted, error) {
	d := decoder{b: b}
	n := d.sectionHead(sectionAborted, 4)
	var x Aborted
	if n > 0 && d.err == nil {
		x.txns = make([]AbortedTxn, n)
	}
	var last AbortedTxn
	for i := range x.txns {
		var t AbortedTxn
		t.ProducerID = d.varint()
		t.LastOffset = last.LastOffset + d.varint()
		t.FirstOffset = t.LastOffset - d.varint()
		t.LastStableOffset = t.LastOffset + d.varint()
		switch {
		case t.FirstOffset < 0 || t.FirstOffset > t.LastOffset || t.LastStableOffset < 0:
			d.fail("transaction %d is out of range", i)
		case i > 0 && (t.LastOffset <= last.LastOffset || t.LastStableOffset < last.LastStableOffset):
			d.fail("transaction %d does not grow", i)
		}
		if d.err != nil {
			break
		}
		x.txns[i] = t
		last = t
	}
	if err := d.end(); err != nil {
		return Aborted{}, err
	}
	return x, nil
}
