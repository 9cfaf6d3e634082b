package bench

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The parts of a record batch (version 2) that raw mode reads or patches in place.
const (
	batchLengthAt    = 8
	batchCRCAt       = 17
	batchCRCFrom     = 21 // the checksum covers everything from here on
	batchLastDeltaAt = 23
	batchCountAt     = 57
	batchHeaderSize  = 61
	batchOverhead    = 12 // base offset and length, which the length does not count
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// rawBatch is a record batch that is encoded once and made another one for every send: its first record carries
// the number of the batch and the time at which it was due, and the checksum follows. The work of that does not
// grow with the batch, since the checksum of what stays the same is combined with that of what changes.
type rawBatch struct {
	data    []byte // the batch
	records int
	valueAt int // first value in data, which begins with the header that is stamped
	rest    uint32
	shift   *crcShift
}

// rawRecords is how many records of the run's size go into a batch.
func rawRecords(o *Options) int {
	if o.BatchBytes > 0 {
		return max(1, o.BatchBytes/o.MessageSize)
	}
	return 1
}

func newRawBatch(o *Options, p *payload) (*rawBatch, error) {
	b := &rawBatch{records: rawRecords(o)}
	now := time.Now()
	var body []byte
	value := make([]byte, o.MessageSize)
	for i := range b.records {
		p.put(value, uint64(i), now)
		r := kmsg.Record{OffsetDelta: int32(i), Value: value}
		// The length is the size of what follows it; a length of 0 takes one byte itself.
		r.Length = int32(len(r.AppendTo(nil)) - 1)
		body = r.AppendTo(body)
		if i == 0 {
			b.valueAt = batchHeaderSize + len(body) - 1 - o.MessageSize // an empty header count ends the record
		}
	}
	encoded := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(b.records - 1),
		FirstTimestamp: now.UnixMilli(), MaxTimestamp: now.UnixMilli(),
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(b.records), Records: body,
	}
	b.data = encoded.AppendTo(nil)
	binary.BigEndian.PutUint32(b.data[batchLengthAt:], uint32(len(b.data)-batchOverhead))
	if binary.BigEndian.Uint64(b.data[b.valueAt:]) != p.run {
		return nil, errors.New("BUG: the first value is not where the batch should have it")
	}
	tail := b.data[b.valueAt+headerSize:]
	b.rest, b.shift = crc32.Checksum(tail, castagnoli), newCRCShift(len(tail))
	return b, nil
}

// clone is a batch of its own with the same contents.
func (b *rawBatch) clone() *rawBatch {
	c := *b
	c.data = append([]byte(nil), b.data...)
	return &c
}

// stamp makes it the batch of that number.
func (b *rawBatch) stamp(p *payload, number uint64, due time.Time) {
	p.putHeader(b.data[b.valueAt:], number, due)
	first := crc32.Checksum(b.data[batchCRCFrom:b.valueAt+headerSize], castagnoli)
	binary.BigEndian.PutUint32(b.data[batchCRCAt:], b.shift.combine(first, b.rest))
}

// crcShift tells what becomes of a checksum when a fixed number of bytes follows. A checksum is linear, so this is a
// 32x32 matrix over one bit, kept as a table for each byte of the checksum.
type crcShift [4][256]uint32

func newCRCShift(size int) *crcShift {
	// One zero byte is the matrix of one step; n bytes are its n-th power, by squaring.
	var step, power [32]uint32
	for i := range 32 {
		crc := uint32(1) << i
		for range 8 {
			crc = crc>>1 ^ crc32.Castagnoli&-(crc&1)
		}
		step[i], power[i] = crc, uint32(1)<<i
	}
	for n := size; n > 0; n >>= 1 {
		if n&1 != 0 {
			power = multiply(&step, &power)
		}
		step = multiply(&step, &step)
	}
	t := new(crcShift)
	for i := range t {
		for v := range 256 {
			t[i][v] = apply(&power, uint32(v)<<(8*i))
		}
	}
	return t
}

func apply(m *[32]uint32, v uint32) (out uint32) {
	for i := 0; v != 0; i, v = i+1, v>>1 {
		if v&1 != 0 {
			out ^= m[i]
		}
	}
	return out
}

func multiply(a, b *[32]uint32) (out [32]uint32) {
	for i := range b {
		out[i] = apply(a, b[i])
	}
	return out
}

// combine is the checksum of two pieces of which the second one has the size that t was made for.
func (t *crcShift) combine(first, second uint32) uint32 {
	return t[0][first&0xff] ^ t[1][first>>8&0xff] ^ t[2][first>>16&0xff] ^ t[3][first>>24] ^ second
}
