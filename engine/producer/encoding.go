package producer

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"millrace/engine/batch"
)

// ErrCorrupt is wrapped by every error of Decode.
var ErrCorrupt = errors.New("producer: damaged section")

// The encoding, part of the checkpoint format. Fixed fields, big endian:
//
//	int8 version = 1, int32 number of entries, then for each, by producer id:
//	int64 producer id, int64 last timestamp, int64 seen millis, int64 txn first offset,
//	int32 coordinator epoch, int16 epoch, int8 number of batches, then for each, oldest first:
//	int64 last offset, int64 timestamp, int32 last sequence, int32 offset delta
const (
	version      = 1
	headSize     = 5
	entrySize    = 39
	sentSize     = 24
	offsetAbsent = int64(-1)
)

// AppendTo encodes the state behind b.
func (s *State) AppendTo(b []byte) []byte {
	b = append(b, version)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.entries)))
	sorted := make([]*entry, 0, len(s.entries))
	for _, e := range s.entries {
		sorted = append(sorted, e)
	}
	slices.SortFunc(sorted, func(a, b *entry) int { return cmp.Compare(a.producerID, b.producerID) })
	for _, e := range sorted {
		b = binary.BigEndian.AppendUint64(b, uint64(e.producerID))
		b = binary.BigEndian.AppendUint64(b, uint64(e.lastTimestamp))
		b = binary.BigEndian.AppendUint64(b, uint64(e.seenMillis))
		b = binary.BigEndian.AppendUint64(b, uint64(e.txnFirstOffset))
		b = binary.BigEndian.AppendUint32(b, uint32(e.coordinatorEpoch))
		b = binary.BigEndian.AppendUint16(b, uint16(e.epoch))
		b = append(b, e.count)
		for i := range e.batches[:e.count] {
			t := &e.batches[i]
			b = binary.BigEndian.AppendUint64(b, uint64(t.lastOffset))
			b = binary.BigEndian.AppendUint64(b, uint64(t.timestamp))
			b = binary.BigEndian.AppendUint32(b, uint32(t.lastSeq))
			b = binary.BigEndian.AppendUint32(b, uint32(t.offsetDelta))
		}
	}
	return b
}

// Decode decodes what AppendTo wrote, all of b.
func Decode(b []byte) (*State, error) {
	if len(b) < headSize || b[0] != version {
		return nil, fmt.Errorf("%w: not version %d", ErrCorrupt, version)
	}
	count := int64(binary.BigEndian.Uint32(b[1:]))
	b = b[headSize:]
	if count > int64(len(b)/entrySize) {
		return nil, fmt.Errorf("%w: %d entries in %d bytes", ErrCorrupt, count, len(b))
	}
	s := &State{entries: make(map[int64]*entry, count)}
	last := batch.NoProducerID
	for range count {
		e, rest, err := decodeEntry(b)
		if err != nil {
			return nil, err
		}
		if e.producerID <= last {
			return nil, fmt.Errorf("%w: producer %d after %d", ErrCorrupt, e.producerID, last)
		}
		b, last = rest, e.producerID
		s.entries[e.producerID] = e
		if e.txnFirstOffset >= 0 {
			s.open = append(s.open, openTxn{e.txnFirstOffset, e.producerID})
		}
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes left over", ErrCorrupt, len(b))
	}
	slices.SortFunc(s.open, func(a, b openTxn) int {
		return cmp.Or(cmp.Compare(a.firstOffset, b.firstOffset), cmp.Compare(a.producerID, b.producerID))
	})
	return s, nil
}

func decodeEntry(b []byte) (*entry, []byte, error) {
	if len(b) < entrySize {
		return nil, nil, fmt.Errorf("%w: cut short", ErrCorrupt)
	}
	e := &entry{
		producerID:       int64(binary.BigEndian.Uint64(b)),
		lastTimestamp:    int64(binary.BigEndian.Uint64(b[8:])),
		seenMillis:       int64(binary.BigEndian.Uint64(b[16:])),
		txnFirstOffset:   int64(binary.BigEndian.Uint64(b[24:])),
		coordinatorEpoch: int32(binary.BigEndian.Uint32(b[32:])),
		epoch:            int16(binary.BigEndian.Uint16(b[36:])),
		count:            b[38],
	}
	b = b[entrySize:]
	if e.count > batchesKept || len(b) < int(e.count)*sentSize || e.txnFirstOffset < offsetAbsent {
		return nil, nil, fmt.Errorf("%w: producer %d", ErrCorrupt, e.producerID)
	}
	for i := range e.batches[:e.count] {
		t := sentBatch{
			lastOffset:  int64(binary.BigEndian.Uint64(b)),
			timestamp:   int64(binary.BigEndian.Uint64(b[8:])),
			lastSeq:     int32(binary.BigEndian.Uint32(b[16:])),
			offsetDelta: int32(binary.BigEndian.Uint32(b[20:])),
		}
		if t.offsetDelta < 0 || t.firstOffset() < 0 || t.lastSeq < batch.NoSequence || i > 0 && t.firstOffset() <= e.batches[i-1].lastOffset {
			return nil, nil, fmt.Errorf("%w: producer %d, batch %d", ErrCorrupt, e.producerID, i)
		}
		e.batches[i] = t
		b = b[sentSize:]
	}
	return e, b, nil
}
