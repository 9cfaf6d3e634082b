package index

import (
	"math"
	"slices"
	"sort"
)

// Offsets maps offsets of one segment to positions in its file. The zero value
// is an empty index of a segment that starts at 0; see NewOffsets.
type Offsets struct {
	base    int64
	entries []offsetEntry // both fields grow strictly
}

type offsetEntry struct {
	offset   uint32 // relative to base
	position uint32
}

// NewOffsets returns the empty index of a segment whose first offset is base.
func NewOffsets(base int64) Offsets { return Offsets{base: base} }

// Base is the first offset of the segment.
func (x *Offsets) Base() int64 { return x.base }

// Append adds an entry: the batch whose base offset is offset starts at position. It reports
// false, and adds nothing, for an entry that does not lie behind the last one or is more than 2^32
// offsets or bytes from the start: a segment is rolled before that.
func (x *Offsets) Append(offset, position int64) bool {
	rel := offset - x.base
	if rel < 0 || rel > math.MaxUint32 || position < 0 || position > math.MaxUint32 {
		return false
	}
	e := offsetEntry{uint32(rel), uint32(position)}
	if n := len(x.entries); n > 0 && (e.offset <= x.entries[n-1].offset || e.position <= x.entries[n-1].position) {
		return false
	}
	x.entries = append(x.entries, e)
	return true
}

// Lookup returns the last entry at or below offset, or the start of the segment.
func (x *Offsets) Lookup(offset int64) (entryOffset, position int64) {
	n := sort.Search(len(x.entries), func(i int) bool { return x.base+int64(x.entries[i].offset) > offset })
	if n == 0 {
		return x.base, 0
	}
	e := x.entries[n-1]
	return x.base + int64(e.offset), int64(e.position)
}

// LookupPosition returns the last entry at or below a position in the file, or
// the start of the segment.
func (x *Offsets) LookupPosition(position int64) (entryOffset, entryPosition int64) {
	n := sort.Search(len(x.entries), func(i int) bool { return int64(x.entries[i].position) > position })
	if n == 0 {
		return x.base, 0
	}
	e := x.entries[n-1]
	return x.base + int64(e.offset), int64(e.position)
}

// Last is the newest entry.
func (x *Offsets) Last() (offset, position int64, ok bool) {
	if len(x.entries) == 0 {
		return 0, 0, false
	}
	e := x.entries[len(x.entries)-1]
	return x.base + int64(e.offset), int64(e.position), true
}

// TruncateTo removes the entries of offset end and above.
func (x *Offsets) TruncateTo(end int64) {
	n := sort.Search(len(x.entries), func(i int) bool { return x.base+int64(x.entries[i].offset) >= end })
	x.entries = x.entries[:n]
}

// Thin drops every second entry and keeps the newest.
func (x *Offsets) Thin() {
	n := 0
	for i := (len(x.entries) - 1) & 1; i < len(x.entries); i += 2 {
		x.entries[n] = x.entries[i]
		n++
	}
	x.entries = slices.Clip(slices.Clone(x.entries[:n]))
}

// Trim gives back memory that a finished index no longer needs.
func (x *Offsets) Trim() { x.entries = slices.Clip(slices.Clone(x.entries)) }

// Clone returns an index of its own with the same entries.
func (x *Offsets) Clone() Offsets { return Offsets{base: x.base, entries: slices.Clone(x.entries)} }

// Len is the number of entries.
func (x *Offsets) Len() int { return len(x.entries) }

// SizeBytes is the memory that the entries take.
func (x *Offsets) SizeBytes() int { return 8 * cap(x.entries) }

// AppendTo encodes the index behind b.
func (x *Offsets) AppendTo(b []byte) []byte {
	b = appendSectionHead(b, sectionOffsets, len(x.entries))
	b = appendVarint(b, x.base)
	var last offsetEntry
	for _, e := range x.entries {
		b = appendUvarint(b, uint64(e.offset-last.offset))
		b = appendUvarint(b, uint64(e.position-last.position))
		last = e
	}
	return b
}

// DecodeOffsets decodes what AppendTo wrote, all of b.
func DecodeOffsets(b []byte) (Offsets, error) {
	d := decoder{b: b}
	n := d.sectionHead(sectionOffsets, 2)
	x := Offsets{base: d.varint()}
	if n > 0 && d.err == nil {
		x.entries = make([]offsetEntry, n)
	}
	var offset, position uint64
	for i := range x.entries {
		moreOffset, morePosition := d.uvarint(), d.uvarint()
		offset, position = offset+moreOffset, position+morePosition
		switch {
		case moreOffset > math.MaxUint32 || morePosition > math.MaxUint32 || offset > math.MaxUint32 || position > math.MaxUint32:
			d.fail("entry %d is out of range", i)
		case i > 0 && (moreOffset == 0 || morePosition == 0):
			d.fail("entry %d does not grow", i)
		}
		if d.err != nil {
			break
		}
		x.entries[i] = offsetEntry{uint32(offset), uint32(position)}
	}
	if err := d.end(); err != nil {
		return Offsets{}, err
	}
	return x, nil
}
