package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Marker is the kind of a transaction's end, the type in a control record's key.
type Marker int16

// Kafka's control record types that end a transaction.
const (
	Abort  Marker = 0
	Commit Marker = 1
)

// String is "ABORT", "COMMIT" or the number.
func (m Marker) String() string {
	switch m {
	case Abort:
		return "ABORT"
	case Commit:
		return "COMMIT"
	default:
		return fmt.Sprintf("control type %d", int16(m))
	}
}

// BuildMarker returns the control batch that ends the transaction of a producer.
func BuildMarker(baseOffset int64, leaderEpoch int32, producerID int64, producerEpoch int16, timestampMillis int64, marker Marker, coordinatorEpoch int32) []byte {
	var key [4]byte // int16 version 0, int16 type
	binary.BigEndian.PutUint16(key[2:], uint16(marker))
	var value [6]byte // int16 version 0, int32 coordinator epoch
	binary.BigEndian.PutUint32(value[2:], uint32(coordinatorEpoch))

	b := NewBuilder(baseOffset, leaderEpoch)
	b.SetProducer(producerID, producerEpoch, NoSequence)
	b.header.Attributes |= attrTransactional | attrControl
	b.Append(timestampMillis, key[:], value[:], nil)
	return b.Build()
}

// ParseMarker reads the control record of a control batch. Types that do not end
// a transaction are returned as they are, with a coordinator epoch of -1.
func ParseMarker(b []byte) (marker Marker, coordinatorEpoch int32, err error) {
	r := getReader()
	defer putReader(r)
	if err := r.Reset(b, 4<<10); err != nil {
		return 0, 0, err
	}
	rec, err := r.Next()
	if errors.Is(err, io.EOF) {
		return 0, 0, fmt.Errorf("%w: empty control batch", ErrControl)
	}
	if err != nil {
		return 0, 0, err
	}
	return parseMarker(&rec)
}

func parseMarker(rec *Record) (Marker, int32, error) {
	// Later versions may append fields; they must not move these (KIP-98).
	if len(rec.Key) < 4 || int16(binary.BigEndian.Uint16(rec.Key)) < 0 {
		return 0, 0, fmt.Errorf("%w: key of %d bytes", ErrControl, len(rec.Key))
	}
	marker := Marker(binary.BigEndian.Uint16(rec.Key[2:]))
	if marker != Abort && marker != Commit {
		return marker, -1, nil
	}
	if len(rec.Value) < 6 || int16(binary.BigEndian.Uint16(rec.Value)) < 0 {
		return 0, 0, fmt.Errorf("%w: value of %d bytes", ErrControl, len(rec.Value))
	}
	return marker, int32(binary.BigEndian.Uint32(rec.Value[2:])), nil
}
