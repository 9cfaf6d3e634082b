package controller

import (
	"encoding/binary"
	"errors"
	"math"
	"time"
)

// Heartbeat is what a broker says of itself to every voter.
type Heartbeat struct {
	BrokerID    int32
	BrokerEpoch int64
	// Index is the raft index of the broker's image: it is unfenced once that holds its own registration.
	Index uint64
	// Ready: it wants to be unfenced.
	Ready bool
	// Stopping: it wants to shut down in order.
	Stopping bool
	// Failed: its data directory cannot be written any more.
	Failed bool
	// FlushAge is how long its oldest unfinished flush has taken so far.
	FlushAge time.Duration
}

// Answer is what a voter says to a heartbeat.
type Answer struct {
	// Controller: the one that answers is the controller, has asked a quorum whether it still is, and knows the broker
	// under this epoch. Only such an answer extends a lease.
	Controller bool
	Epoch      uint64 // of the controller
	// Fenced and MayStop are the broker's state in the image.
	Fenced  bool
	MayStop bool
	// Stale: the broker registered again since, or never did.
	Stale bool
	Index uint64 // of the answering voter's image
}

const wireVersion = 1

// errWire is a heartbeat or answer that is none.
var errWire = errors.New("controller: malformed heartbeat")

func flags(bits ...bool) (b byte) {
	for i, set := range bits {
		if set {
			b |= 1 << i
		}
	}
	return b
}

// AppendTo writes the heartbeat.
func (h Heartbeat) AppendTo(b []byte) []byte {
	b = append(b, wireVersion, flags(h.Ready, h.Stopping, h.Failed))
	b = binary.AppendVarint(b, int64(h.BrokerID))
	b = binary.AppendVarint(b, h.BrokerEpoch)
	b = binary.AppendUvarint(b, h.Index)
	return binary.AppendUvarint(b, uint64(max(0, h.FlushAge.Milliseconds())))
}

// DecodeHeartbeat reads what AppendTo wrote.
func DecodeHeartbeat(b []byte) (h Heartbeat, err error) {
	if len(b) < 2 || b[0] != wireVersion || b[1] > 7 {
		return h, errWire
	}
	r := reader{b: b[2:]}
	id := r.int()
	h = Heartbeat{BrokerID: int32(id), BrokerEpoch: r.int(), Index: r.uint(), Ready: b[1]&1 != 0, Stopping: b[1]&2 != 0, Failed: b[1]&4 != 0}
	age := r.uint()
	h.FlushAge = time.Duration(age) * time.Millisecond
	if r.bad || len(r.b) != 0 || id < math.MinInt32 || id > math.MaxInt32 || age > uint64(math.MaxInt64/time.Millisecond) {
		return Heartbeat{}, errWire
	}
	return h, nil
}

// AppendTo writes the answer.
func (a Answer) AppendTo(b []byte) []byte {
	b = append(b, wireVersion, flags(a.Controller, a.Fenced, a.MayStop, a.Stale))
	b = binary.AppendUvarint(b, a.Epoch)
	return binary.AppendUvarint(b, a.Index)
}

// DecodeAnswer reads what AppendTo wrote.
func DecodeAnswer(b []byte) (a Answer, err error) {
	if len(b) < 2 || b[0] != wireVersion || b[1] > 15 {
		return a, errWire
	}
	r := reader{b: b[2:]}
	a = Answer{Controller: b[1]&1 != 0, Fenced: b[1]&2 != 0, MayStop: b[1]&4 != 0, Stale: b[1]&8 != 0, Epoch: r.uint(), Index: r.uint()}
	if r.bad || len(r.b) != 0 {
		return Answer{}, errWire
	}
	return a, nil
}

type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) int() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}
