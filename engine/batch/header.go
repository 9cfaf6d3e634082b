package batch

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/crc32"
)

// HeaderSize is the size of a batch without its records.
const HeaderSize = 61

// Where the fields are. These are part of the wire and disk format.
const (
	posBaseOffset      = 0
	posLength          = 8
	posLeaderEpoch     = 12
	posMagic           = 16
	posCRC             = 17
	posAttributes      = 21 // the CRC covers everything from here on
	posLastOffsetDelta = 23
	posBaseTimestamp   = 27
	posMaxTimestamp    = 35
	posProducerID      = 43
	posProducerEpoch   = 51
	posBaseSequence    = 53
	posNumRecords      = 57

	lengthEnd = 12              // the length field counts bytes after itself
	minLength = HeaderSize - 12 // of a batch with no records
)

// Attribute bits.
const (
	attrCodecMask     = 0x07
	attrLogAppendTime = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
	attrDeleteHorizon = 0x40
)

// NoProducerID, NoSequence and NoTimestamp mark absent fields.
const (
	NoProducerID = int64(-1)
	NoSequence   = int32(-1)
	NoTimestamp  = int64(-1)
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header is the decoded fixed part of a batch.
type Header struct {
	BaseOffset      int64
	Length          int32 // bytes after the length field
	LeaderEpoch     int32
	Magic           int8
	CRC             uint32
	Attributes      int16
	LastOffsetDelta int32
	BaseTimestamp   int64
	MaxTimestamp    int64
	ProducerID      int64
	ProducerEpoch   int16
	BaseSequence    int32
	NumRecords      int32
}

// Size is the length of the whole batch in bytes.
func (h *Header) Size() int { return lengthEnd + int(h.Length) }

// LastOffset is the offset of the last record, or of the last record that the
// batch once had: compaction keeps it.
func (h *Header) LastOffset() int64 { return h.BaseOffset + int64(h.LastOffsetDelta) }

// NextOffset is the first offset after the batch.
func (h *Header) NextOffset() int64 { return h.LastOffset() + 1 }

// LastSequence is the sequence number of the last record; sequences wrap from
// 2^31-1 to 0. Only meaningful if HasProducer.
func (h *Header) LastSequence() int32 {
	if h.BaseSequence == NoSequence {
		return NoSequence
	}
	return AddSequence(h.BaseSequence, h.LastOffsetDelta)
}

// AddSequence is sequence + delta on the circle 0 ... 2^31-1.
func AddSequence(sequence, delta int32) int32 {
	return int32((int64(sequence) + int64(delta)) & 0x7fffffff)
}

// IsControl tells whether the batch carries a transaction marker, which clients
// must not see as a record.
func (h *Header) IsControl() bool { return h.Attributes&attrControl != 0 }

// IsTransactional tells whether the batch belongs to a transaction.
func (h *Header) IsTransactional() bool { return h.Attributes&attrTransactional != 0 }

// LogAppendTime tells that MaxTimestamp was set by the broker and counts for
// every record of the batch.
func (h *Header) LogAppendTime() bool { return h.Attributes&attrLogAppendTime != 0 }

// Codec is the compression of the records.
func (h *Header) Codec() Codec { return Codec(h.Attributes & attrCodecMask) }

// HasProducer tells whether the batch has a producer id (idempotent producer or
// transaction).
func (h *Header) HasProducer() bool { return h.ProducerID != NoProducerID }

// DeleteHorizon is the time in milliseconds from which the tombstones (or the
// marker) of a compacted batch may go. It is written by the compaction that
// first meets them (KIP-534).
func (h *Header) DeleteHorizon() (millis int64, ok bool) {
	if h.Attributes&attrDeleteHorizon == 0 {
		return 0, false
	}
	return h.BaseTimestamp, true
}

// ParseHeader decodes the header of the batch at the start of b and checks what
// can be seen in it alone. b may hold less or more than the whole batch, but at
// least HeaderSize bytes.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, ErrShort
	}
	_ = b[HeaderSize-1]
	h := Header{
		BaseOffset:      int64(binary.BigEndian.Uint64(b[posBaseOffset:])),
		Length:          int32(binary.BigEndian.Uint32(b[posLength:])),
		LeaderEpoch:     int32(binary.BigEndian.Uint32(b[posLeaderEpoch:])),
		Magic:           int8(b[posMagic]),
		CRC:             binary.BigEndian.Uint32(b[posCRC:]),
		Attributes:      int16(binary.BigEndian.Uint16(b[posAttributes:])),
		LastOffsetDelta: int32(binary.BigEndian.Uint32(b[posLastOffsetDelta:])),
		BaseTimestamp:   int64(binary.BigEndian.Uint64(b[posBaseTimestamp:])),
		MaxTimestamp:    int64(binary.BigEndian.Uint64(b[posMaxTimestamp:])),
		ProducerID:      int64(binary.BigEndian.Uint64(b[posProducerID:])),
		ProducerEpoch:   int16(binary.BigEndian.Uint16(b[posProducerEpoch:])),
		BaseSequence:    int32(binary.BigEndian.Uint32(b[posBaseSequence:])),
		NumRecords:      int32(binary.BigEndian.Uint32(b[posNumRecords:])),
	}
	switch {
	case h.Magic != 2:
		return h, ErrMagic
	case h.Length < minLength:
		return h, ErrLength
	case h.Codec() >= codecCount:
		return h, ErrCodec
	case h.LastOffsetDelta < 0, h.NumRecords < 0, int64(h.NumRecords) > int64(h.LastOffsetDelta)+1:
		// Fewer records than offsets is right after compaction, more never is.
		return h, ErrCount
	}
	return h, nil
}

// PeekSize gives the size of the batch at the start of b from its length field;
// 12 bytes are enough. The result is at least HeaderSize.
func PeekSize(b []byte) (int, error) {
	if len(b) < lengthEnd {
		return 0, ErrShort
	}
	length := int32(binary.BigEndian.Uint32(b[posLength:]))
	if length < minLength {
		return 0, ErrLength
	}
	return lengthEnd + int(length), nil
}

// PeekLastOffsetDelta reads the field of a batch that was verified before.
func PeekLastOffsetDelta(b []byte) int32 {
	return int32(binary.BigEndian.Uint32(b[posLastOffsetDelta:]))
}

// Validate parses b as exactly one whole batch and checks its CRC. The records
// inside are not looked at: see CheckRecords.
func Validate(b []byte) (Header, error) {
	h, err := ParseHeader(b)
	if err != nil {
		return h, err
	}
	if h.Size() != len(b) {
		if h.Size() > len(b) {
			return h, ErrShort
		}
		return h, ErrLength
	}
	if crc32.Checksum(b[posAttributes:], castagnoli) != h.CRC {
		return h, ErrCRC
	}
	return h, nil
}

// CheckProduced holds a header to what a producer may send, beyond what every
// batch must be: no gaps, at least one record, no control batch, and a sequence
// if there is a producer id. (Kafka: LogValidator.validateBatch.)
func (h *Header) CheckProduced() error {
	switch {
	case h.NumRecords <= 0 || int64(h.NumRecords) != int64(h.LastOffsetDelta)+1:
		return fmt.Errorf("%w: %d records, last offset delta %d", ErrCount, h.NumRecords, h.LastOffsetDelta)
	case h.IsControl():
		return fmt.Errorf("%w: clients may not write control batches", ErrControl)
	case h.HasProducer() && h.BaseSequence < 0:
		return fmt.Errorf("%w: producer id %d with sequence %d", ErrRecord, h.ProducerID, h.BaseSequence)
	case h.IsTransactional() && !h.HasProducer():
		return fmt.Errorf("%w: transactional batch without a producer id", ErrRecord)
	}
	return nil
}

// SetBaseOffset writes the base offset. The CRC does not cover it.
func SetBaseOffset(b []byte, offset int64) {
	binary.BigEndian.PutUint64(b[posBaseOffset:], uint64(offset))
}

// SetLeaderEpoch stamps the leader epoch. The CRC does not cover it.
func SetLeaderEpoch(b []byte, epoch int32) {
	binary.BigEndian.PutUint32(b[posLeaderEpoch:], uint32(epoch))
}

// SetLogAppendTime makes millis the timestamp of every record of the whole batch
// b and computes the CRC anew. Base timestamp and deltas stay, as in Kafka.
func SetLogAppendTime(b []byte, millis int64) {
	b[posAttributes+1] |= attrLogAppendTime
	SetMaxTimestamp(b, millis)
}

// SetMaxTimestamp replaces the max timestamp of the whole batch b and computes
// the CRC anew.
func SetMaxTimestamp(b []byte, millis int64) {
	binary.BigEndian.PutUint64(b[posMaxTimestamp:], uint64(millis))
	setCRC(b)
}

func setCRC(b []byte) {
	binary.BigEndian.PutUint32(b[posCRC:], crc32.Checksum(b[posAttributes:], castagnoli))
}

// put writes all of h but the CRC, which needs the records.
func (h *Header) put(b []byte) {
	_ = b[HeaderSize-1]
	binary.BigEndian.PutUint64(b[posBaseOffset:], uint64(h.BaseOffset))
	binary.BigEndian.PutUint32(b[posLength:], uint32(h.Length))
	binary.BigEndian.PutUint32(b[posLeaderEpoch:], uint32(h.LeaderEpoch))
	b[posMagic] = byte(h.Magic)
	binary.BigEndian.PutUint16(b[posAttributes:], uint16(h.Attributes))
	binary.BigEndian.PutUint32(b[posLastOffsetDelta:], uint32(h.LastOffsetDelta))
	binary.BigEndian.PutUint64(b[posBaseTimestamp:], uint64(h.BaseTimestamp))
	binary.BigEndian.PutUint64(b[posMaxTimestamp:], uint64(h.MaxTimestamp))
	binary.BigEndian.PutUint64(b[posProducerID:], uint64(h.ProducerID))
	binary.BigEndian.PutUint16(b[posProducerEpoch:], uint16(h.ProducerEpoch))
	binary.BigEndian.PutUint32(b[posBaseSequence:], uint32(h.BaseSequence))
	binary.BigEndian.PutUint32(b[posNumRecords:], uint32(h.NumRecords))
}
