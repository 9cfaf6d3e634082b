package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// keptBuffer is the largest uncompress buffer a Reader keeps between batches.
const keptBuffer = 1 << 20

// Record is one record of a batch. Its slices alias the batch or the buffer of
// the Reader.
type Record struct {
	OffsetDelta    int32
	TimestampDelta int64
	Key, Value     []byte // nil is Kafka's null; empty is empty
	Headers        RecordHeaders

	raw []byte // the record as it stands in the batch, its length field included
}

// IsTombstone tells whether the record deletes its key in a compacted topic.
func (r *Record) IsTombstone() bool { return r.Value == nil }

// RecordHeaders are the headers of a record, checked but not decoded.
type RecordHeaders struct {
	Count int
	raw   []byte
}

// RecordHeader is one decoded header. A nil Value is null.
type RecordHeader struct {
	Key   string
	Value []byte
}

// AppendTo decodes the headers behind dst.
func (h RecordHeaders) AppendTo(dst []RecordHeader) []RecordHeader {
	b := h.raw
	for range h.Count {
		var key, value []byte
		var ok bool
		if key, b, ok = cutBytes(b); !ok {
			panic("BUG: record headers changed after they were checked")
		}
		if value, b, ok = cutBytes(b); !ok {
			panic("BUG: record headers changed after they were checked")
		}
		dst = append(dst, RecordHeader{Key: string(key), Value: value})
	}
	return dst
}

// Reader walks the records of one batch after the other. The zero value is ready
// for Reset.
//
//	if err := r.Reset(b, limit); err != nil { ... }
//	for {
//		rec, err := r.Next()
//		if errors.Is(err, io.EOF) { break }
//		...
//	}
type Reader struct {
	header Header
	rest   []byte // records not yet read
	read   int32  // records already read
	last   int64  // offset delta of the last record read, -1 before the first
	err    error
	buf    []byte // uncompressed records, reused
}

// Reset makes r read the records of the whole batch b, and uncompresses them into
// at most maxUncompressed bytes. The CRC is not checked here.
func (r *Reader) Reset(b []byte, maxUncompressed int) error {
	if cap(r.buf) > keptBuffer {
		r.buf = nil
	}
	r.rest, r.read, r.last = nil, 0, -1
	r.header, r.err = ParseHeader(b)
	if r.err != nil {
		return r.err
	}
	if r.header.Size() != len(b) {
		r.err = ErrLength
		if r.header.Size() > len(b) {
			r.err = ErrShort
		}
		return r.err
	}
	r.rest = b[HeaderSize:]
	switch {
	case r.header.Codec() == None:
		return nil
	case r.header.NumRecords == 0 && len(r.rest) == 0:
		// Compaction leaves empty batches, and not all writers clear the codec.
		return nil
	}
	r.buf, r.err = decompress(r.buf, r.rest, r.header.Codec(), maxUncompressed)
	if r.err != nil {
		r.rest = nil
		return r.err
	}
	r.rest = r.buf
	return nil
}

// Header is the header of the batch given to Reset.
func (r *Reader) Header() *Header { return &r.header }

// UncompressedSize is the size of the records not yet read.
func (r *Reader) UncompressedSize() int { return len(r.rest) }

// Next returns the next record, io.EOF when all have been read and nothing is left
// over. Any error ends the walk and is returned from then on.
func (r *Reader) Next() (Record, error) {
	if r.err != nil {
		return Record{}, r.err
	}
	if r.read == r.header.NumRecords {
		r.err = io.EOF
		if len(r.rest) != 0 {
			r.err = fmt.Errorf("%w: %d", ErrTrailing, len(r.rest))
		}
		return Record{}, r.err
	}
	rec, n, what := parseRecord(r.rest)
	switch {
	case what != "":
	case int64(rec.OffsetDelta) <= r.last:
		what = "offset delta does not grow"
	case rec.OffsetDelta > r.header.LastOffsetDelta:
		what = "offset delta beyond the last of the batch"
	}
	if what != "" {
		r.err = fmt.Errorf("%w: record %d: %s", ErrRecord, r.read, what)
		return Record{}, r.err
	}
	r.rest = r.rest[n:]
	r.last = int64(rec.OffsetDelta)
	r.read++
	return rec, nil
}

// Close lets go of the batch. The Reader may be Reset again.
func (r *Reader) Close() {
	r.rest, r.err = nil, io.EOF
	if cap(r.buf) > keptBuffer {
		r.buf = nil
	}
}

// Index is the position of the record that Next returns next, or stopped at.
func (r *Reader) Index() int32 { return r.read }

// Offset is the offset of a record of the batch.
func (r *Reader) Offset(rec *Record) int64 { return r.header.BaseOffset + int64(rec.OffsetDelta) }

// Timestamp is the time of a record of the batch in milliseconds.
func (r *Reader) Timestamp(rec *Record) int64 {
	if r.header.LogAppendTime() {
		return r.header.MaxTimestamp
	}
	return r.header.BaseTimestamp + rec.TimestampDelta
}

// CheckRecords walks the whole records part of a batch: count, lengths, deltas,
// headers, nothing left over, and keys if they are required (compacted topics). On
// error badIndex is the record it is about, or -1 if it is about the batch.
func CheckRecords(b []byte, requireKey bool, maxUncompressed int) (badIndex int32, err error) {
	r := getReader()
	defer putReader(r)
	if err := r.Reset(b, maxUncompressed); err != nil {
		return -1, err
	}
	for {
		rec, err := r.Next()
		switch {
		case err == nil && requireKey && rec.Key == nil:
			return r.read - 1, ErrNoKey
		case err == nil:
		case errors.Is(err, io.EOF):
			return -1, nil
		case r.read == r.header.NumRecords:
			return -1, err // about what follows the last record
		default:
			return r.read, err
		}
	}
}

// parseRecord decodes the record at the start of b and returns its size. what
// says what is wrong with it, "" if nothing is: the text is only wrapped into an
// error by those who return it.
func parseRecord(b []byte) (rec Record, n int, what string) {
	length, n := varint32(b)
	if n <= 0 {
		return rec, 0, "length is no varint"
	}
	if length < 0 || int(length) > len(b)-n {
		return rec, 0, "length exceeds the batch"
	}
	end := n + int(length)
	rec.raw = b[:end]
	b = b[n:end]
	if len(b) == 0 {
		return rec, 0, "no attributes"
	}
	b = b[1:] // attributes: no bit of them has a meaning yet
	if rec.TimestampDelta, n = binary.Varint(b); n <= 0 {
		return rec, 0, "timestamp delta is no varlong"
	}
	b = b[n:]
	if rec.OffsetDelta, n = varint32(b); n <= 0 {
		return rec, 0, "offset delta is no varint"
	}
	b = b[n:]
	var ok bool
	if rec.Key, b, ok = cutBytes(b); !ok {
		return rec, 0, "key exceeds the record"
	}
	if rec.Value, b, ok = cutBytes(b); !ok {
		return rec, 0, "value exceeds the record"
	}
	count, n := varint32(b)
	if n <= 0 || count < 0 || int(count) > len(b)/2 {
		return rec, 0, "impossible number of headers"
	}
	b = b[n:]
	rec.Headers = RecordHeaders{Count: int(count), raw: b}
	for range count {
		var key []byte
		if key, b, ok = cutBytes(b); !ok || key == nil {
			return rec, 0, "header key exceeds the record or is null"
		}
		if _, b, ok = cutBytes(b); !ok {
			return rec, 0, "header value exceeds the record"
		}
	}
	if len(b) != 0 {
		return rec, 0, "bytes left over in the record"
	}
	return rec, end, ""
}

// cutBytes takes a varint length and that many bytes off b; a negative length is
// null.
func cutBytes(b []byte) (value, rest []byte, ok bool) {
	length, n := varint32(b)
	if n <= 0 || int(length) > len(b)-n {
		return nil, nil, false
	}
	b = b[n:]
	if length < 0 {
		return nil, b, length == -1
	}
	return b[:length:length], b[length:], true
}

// varint32 decodes a zigzag varint of at most 5 bytes; n <= 0 if there is none.
func varint32(b []byte) (v int32, n int) {
	if len(b) > 0 && b[0] < 0x80 { // most lengths and deltas are one byte
		return int32(b[0]>>1) ^ -int32(b[0]&1), 1
	}
	u, n := binary.Uvarint(b)
	if n > 5 || u > math.MaxUint32 {
		return 0, -n
	}
	return int32(uint32(u)>>1) ^ -int32(u&1), n
}
