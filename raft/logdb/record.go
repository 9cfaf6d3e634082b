package logdb

import (
	"encoding/binary"
	"errors"
	"fmt"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// A frame's payload is a list of records: type, shard id, replica id, length of the body, body.
type recordType byte

const (
	recordBootstrap recordType = 1 // pb.Bootstrap
	recordState     recordType = 2 // pb.State
	recordEntry     recordType = 3 // pb.Entry; replaces those at and above its index
	recordSnapshot  recordType = 4 // checksum of the file, pb.Snapshot: taken here, the log goes on
	recordInstalled recordType = 5 // the same, received from a leader: the log before it is void
	recordRemovedTo recordType = 6 // uvarint: entries up to it are gone
	recordRemoved   recordType = 7 // empty: forget the replica
)

var errRecord = errors.New("malformed record")

// message is what dragonboat's generated types can do.
type message interface {
	Size() int
	MarshalTo([]byte) (int, error)
}

func appendRecord(b []byte, t recordType, id nodeID, body []byte) []byte {
	b = append(b, byte(t))
	b = binary.AppendUvarint(b, id.shard)
	b = binary.AppendUvarint(b, id.replica)
	b = binary.AppendUvarint(b, uint64(len(body)))
	return append(b, body...)
}

// appendMessage is appendRecord of a marshalled message behind an optional prefix.
func appendMessage(b []byte, t recordType, id nodeID, prefix []byte, m message) []byte {
	n := m.Size()
	b = append(b, byte(t))
	b = binary.AppendUvarint(b, id.shard)
	b = binary.AppendUvarint(b, id.replica)
	b = binary.AppendUvarint(b, uint64(len(prefix)+n))
	b = append(b, prefix...)
	at := len(b)
	b = append(b, make([]byte, n)...)
	written, err := m.MarshalTo(b[at:])
	if err != nil {
		panic(fmt.Sprintf("BUG: marshal %T: %v", m, err))
	}
	return b[:at+written]
}

func appendSnapshot(b []byte, t recordType, id nodeID, s savedSnapshot) []byte {
	prefix := binary.LittleEndian.AppendUint64(nil, s.sum.Size)
	prefix = binary.LittleEndian.AppendUint32(prefix, s.sum.CRC)
	return appendMessage(b, t, id, prefix, &s.meta)
}

// record is one decoded record; body is a part of the payload.
type record struct {
	typ  recordType
	id   nodeID
	body []byte
}

// nextRecord cuts the first record off a payload.
func nextRecord(b []byte) (r record, rest []byte, err error) {
	if len(b) == 0 {
		return r, nil, errRecord
	}
	r.typ = recordType(b[0])
	b = b[1:]
	var n uint64
	for _, v := range []*uint64{&r.id.shard, &r.id.replica, &n} {
		x, k := binary.Uvarint(b)
		if k <= 0 {
			return r, nil, errRecord
		}
		*v, b = x, b[k:]
	}
	if n > uint64(len(b)) {
		return r, nil, errRecord
	}
	r.body = b[:n]
	return r, b[n:], nil
}

// replay applies a frame's records to the state.
func (s *state) replay(payload []byte) error {
	for len(payload) > 0 {
		r, rest, err := nextRecord(payload)
		if err != nil {
			return err
		}
		if err := s.apply(r); err != nil {
			return fmt.Errorf("record type %d: %w", r.typ, err)
		}
		payload = rest
	}
	return nil
}

func (s *state) apply(r record) error {
	n := s.node(r.id)
	switch r.typ {
	case recordBootstrap:
		var m pb.Bootstrap
		if err := m.Unmarshal(r.body); err != nil {
			return err
		}
		n.bootstrap = &m
	case recordState:
		var m pb.State
		if err := m.Unmarshal(r.body); err != nil {
			return err
		}
		n.state = m
	case recordEntry:
		var m pb.Entry
		if err := m.Unmarshal(r.body); err != nil {
			return err
		}
		return n.appendEntry(m)
	case recordSnapshot, recordInstalled:
		var saved savedSnapshot
		if len(r.body) < 12 {
			return errRecord
		}
		saved.sum = FileSum{Size: binary.LittleEndian.Uint64(r.body), CRC: binary.LittleEndian.Uint32(r.body[8:])}
		if err := saved.meta.Unmarshal(r.body[12:]); err != nil {
			return err
		}
		n.snapshot = saved
		if r.typ == recordInstalled {
			n.entries = nil
		}
	case recordRemovedTo:
		index, k := binary.Uvarint(r.body)
		if k != len(r.body) || k <= 0 {
			return errRecord
		}
		n.removeTo(index)
	case recordRemoved:
		delete(s.nodes, r.id)
	default:
		return errors.New("unknown type: written by a newer version")
	}
	return nil
}
