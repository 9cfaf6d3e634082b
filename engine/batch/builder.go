package batch

import (
	"encoding/binary"
	"math"
)

// Builder makes batches: for the broker's own topics (offsets, markers), for
// compaction and for tests. A Builder can be used again after Reset.
type Builder struct {
	header  Header
	records []byte // encoded, uncompressed
	count   int32
	lastSet bool // the last offset delta was given, not counted
}

// NewBuilder returns a builder of one batch that starts at baseOffset.
func NewBuilder(baseOffset int64, leaderEpoch int32) *Builder {
	b := new(Builder)
	b.Reset(baseOffset, leaderEpoch)
	return b
}

// Reset starts the next batch and keeps the memory of the last one.
func (b *Builder) Reset(baseOffset int64, leaderEpoch int32) {
	b.header = Header{
		BaseOffset:      baseOffset,
		LeaderEpoch:     leaderEpoch,
		Magic:           2,
		LastOffsetDelta: -1,
		BaseTimestamp:   NoTimestamp,
		MaxTimestamp:    NoTimestamp,
		ProducerID:      NoProducerID,
		ProducerEpoch:   -1,
		BaseSequence:    NoSequence,
	}
	b.records, b.count, b.lastSet = b.records[:0], 0, false
}

// SetCodec makes the records of the batch compressed.
func (b *Builder) SetCodec(c Codec) {
	b.header.Attributes = b.header.Attributes&^attrCodecMask | int16(c)
}

// SetProducer makes the batch one of an idempotent producer.
func (b *Builder) SetProducer(id int64, epoch int16, baseSequence int32) {
	b.header.ProducerID, b.header.ProducerEpoch, b.header.BaseSequence = id, epoch, baseSequence
}

// SetTransactional marks the batch as part of a transaction.
func (b *Builder) SetTransactional() { b.header.Attributes |= attrTransactional }

// SetLastOffsetDelta makes the batch span more offsets than it has records, as
// compacted ones do.
func (b *Builder) SetLastOffsetDelta(delta int32) {
	b.header.LastOffsetDelta, b.lastSet = delta, true
}

// Append adds a record at the next offset. A nil key or value is null.
func (b *Builder) Append(timestampMillis int64, key, value []byte, headers []RecordHeader) {
	delta := int32(0)
	if b.count > 0 {
		delta = b.header.LastOffsetDelta + 1
	}
	b.AppendAt(delta, timestampMillis, key, value, headers)
}

// AppendAt adds a record at baseOffset + delta; deltas must grow.
func (b *Builder) AppendAt(delta int32, timestampMillis int64, key, value []byte, headers []RecordHeader) {
	if b.count == 0 && b.header.BaseTimestamp == NoTimestamp {
		b.header.BaseTimestamp = timestampMillis
	}
	b.records = appendRecord(b.records, timestampMillis-b.header.BaseTimestamp, delta, key, value, headers)
	b.added(delta, timestampMillis)
}

func (b *Builder) added(delta int32, timestampMillis int64) {
	b.header.MaxTimestamp = max(b.header.MaxTimestamp, timestampMillis)
	b.count++
	if !b.lastSet {
		b.header.LastOffsetDelta = delta
	}
}

// Len is the number of records so far.
func (b *Builder) Len() int { return int(b.count) }

// Size is the size the batch would have uncompressed.
func (b *Builder) Size() int { return HeaderSize + len(b.records) }

// Build returns the finished batch in memory of its own.
func (b *Builder) Build() []byte {
	return b.AppendTo(make([]byte, 0, HeaderSize+len(b.records)))
}

// AppendTo appends the finished batch to dst.
func (b *Builder) AppendTo(dst []byte) []byte {
	h := b.header
	h.NumRecords = b.count
	h.LastOffsetDelta = max(h.LastOffsetDelta, 0)
	if b.count == 0 {
		h.Attributes &^= attrCodecMask // there is nothing to compress
	}
	start := len(dst)
	dst = append(dst, make([]byte, HeaderSize)...)
	dst = compress(dst, b.records, h.Codec())
	size := len(dst) - start - lengthEnd
	if size > math.MaxInt32 {
		panic("BUG: batch larger than 2 GiB")
	}
	h.Length = int32(size)
	h.put(dst[start:])
	setCRC(dst[start:])
	return dst
}

func appendRecord(dst []byte, timestampDelta int64, offsetDelta int32, key, value []byte, headers []RecordHeader) []byte {
	size := 1 + varintSize(timestampDelta) + varintSize(int64(offsetDelta)) +
		bytesSize(key) + bytesSize(value) + varintSize(int64(len(headers)))
	for i := range headers {
		size += varintSize(int64(len(headers[i].Key))) + len(headers[i].Key) + bytesSize(headers[i].Value)
	}
	dst = binary.AppendVarint(dst, int64(size))
	dst = append(dst, 0) // attributes
	dst = binary.AppendVarint(dst, timestampDelta)
	dst = binary.AppendVarint(dst, int64(offsetDelta))
	dst = appendBytes(dst, key)
	dst = appendBytes(dst, value)
	dst = binary.AppendVarint(dst, int64(len(headers)))
	for i := range headers {
		dst = binary.AppendVarint(dst, int64(len(headers[i].Key)))
		dst = append(dst, headers[i].Key...)
		dst = appendBytes(dst, headers[i].Value)
	}
	return dst
}

func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(dst, -1)
	}
	dst = binary.AppendVarint(dst, int64(len(b)))
	return append(dst, b...)
}

func bytesSize(b []byte) int {
	if b == nil {
		return 1
	}
	return varintSize(int64(len(b))) + len(b)
}

func varintSize(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)
	n := 1
	for ; u >= 0x80; u >>= 7 {
		n++
	}
	return n
}
