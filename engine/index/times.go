package index

import (
	"math"
	"slices"
	"sort"
)

// Times maps times to offsets of one segment. An entry says: every record with a
// later timestamp has a larger offset. The zero value is an empty index of a segment that
// starts at 0.
type Times struct {
	base    int64
	times   []int64  // strictly growing
	offsets []uint32 // relative to base, growing; as many as times. Two slices: 12 bytes an entry, not 16
}

// NewTimes returns the empty index of a segment whose first offset is base.
func NewTimes(base int64) Times { return Times{base: base} }

// Base is the first offset of the segment.
func (x *Times) Base() int64 { return x.base }

// Append adds an entry: maxTimestamp is the largest timestamp of the segment so
// far, and offset that of the batch which brought it. It reports false, and adds
// nothing, if the time is not later than the last entry's or the offset does not fit: most
// batches in a log whose clocks jump back bring no entry.
func (x *Times) Append(maxTimestamp, offset int64) bool {
	rel := offset - x.base
	if rel < 0 || rel > math.MaxUint32 {
		return false
	}
	if n := len(x.times); n > 0 && (maxTimestamp <= x.times[n-1] || uint32(rel) < x.offsets[n-1]) {
		return false
	}
	x.times = append(x.times, maxTimestamp)
	x.offsets = append(x.offsets, uint32(rel))
	return true
}

// Lookup returns the last entry whose time is at or before timestamp: the first record at or
// after timestamp has an offset at or above the entry's. Without such an entry it
// is the start of the segment.
func (x *Times) Lookup(timestamp int64) (entryTimestamp, offset int64) {
	n := sort.Search(len(x.times), func(i int) bool { return x.times[i] > timestamp })
	if n == 0 {
		return math.MinInt64, x.base
	}
	return x.times[n-1], x.base + int64(x.offsets[n-1])
}

// Last is the newest entry: the largest timestamp that the index knows of.
func (x *Times) Last() (timestamp, offset int64, ok bool) {
	n := len(x.times)
	if n == 0 {
		return 0, 0, false
	}
	return x.times[n-1], x.base + int64(x.offsets[n-1]), true
}

// TruncateTo removes the entries of offset end and above.
func (x *Times) TruncateTo(end int64) {
	n := sort.Search(len(x.offsets), func(i int) bool { return x.base+int64(x.offsets[i]) >= end })
	x.times, x.offsets = x.times[:n], x.offsets[:n]
}

// Thin drops every second entry and keeps the newest.
func (x *Times) Thin() {
	n := 0
	for i := (len(x.times) - 1) & 1; i < len(x.times); i += 2 {
		x.times[n], x.offsets[n] = x.times[i], x.offsets[i]
		n++
	}
	x.times, x.offsets = x.times[:n], x.offsets[:n]
	x.Trim()
}

// Trim gives back memory that a finished index no longer needs.
func (x *Times) Trim() {
	x.times = slices.Clip(slices.Clone(x.times))
	x.offsets = slices.Clip(slices.Clone(x.offsets))
}

// Clone returns an index of its own with the same entries.
func (x *Times) Clone() Times {
	return Times{base: x.base, times: slices.Clone(x.times), offsets: slices.Clone(x.offsets)}
}

// Len is the number of entries.
func (x *Times) Len() int { return len(x.times) }

// SizeBytes is the memory that the entries take.
func (x *Times) SizeBytes() int { return 8*cap(x.times) + 4*cap(x.offsets) }

// AppendTo encodes the index behind b.
func (x *Times) AppendTo(b []byte) []byte {
	b = appendSectionHead(b, sectionTimes, len(x.times))
	b = appendVarint(b, x.base)
	var lastTime int64
	var lastOffset uint32
	for i := range x.times {
		b = appendVarint(b, x.times[i]-lastTime) // may wrap; so does the decoder
		b = appendUvarint(b, uint64(x.offsets[i]-lastOffset))
		lastTime, lastOffset = x.times[i], x.offsets[i]
	}
	return b
}

// DecodeTimes decodes what AppendTo wrote, all of b.
func DecodeTimes(b []byte) (Times, error) {
	d := decoder{b: b}
	n := d.sectionHead(sectionTimes, 2)
	x := Times{base: d.varint()}
	if n > 0 && d.err == nil {
		x.times, x.offsets = make([]int64, n), make([]uint32, n)
	}
	var lastTime int64
	var offset uint64
	for i := range x.times {
		t := lastTime + d.varint()
		more := d.uvarint()
		offset += more
		switch {
		case more > math.MaxUint32 || offset > math.MaxUint32:
			d.fail("entry %d is out of range", i)
		case i > 0 && t <= lastTime:
			d.fail("entry %d does not grow", i)
		}
		if d.err != nil {
			break
		}
		x.times[i], x.offsets[i] = t, uint32(offset)
		lastTime = t
	}
	if err := d.end(); err != nil {
		return Times{}, err
	}
	return x, nil
}
