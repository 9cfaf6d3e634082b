package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"millrace/broker/replica"
)

// Types of frames. A frame of messages is a sequence of them; frameRuns is drawn in runs.go.
const (
	frameToFollower byte = 1 // open, verdict, mark, close
	frameToLeader   byte = 2 // offer, ack, fail, ready
	frameRuns       byte = 3
)

// messageKind is the first byte of a message. The numbers are on the wire.
type messageKind uint8

const (
	msgOpen    messageKind = 1 // stream, topic id, partition, epoch, generation, log start, hw, image index
	msgVerdict messageKind = 2 // stream, verdict kind, verdict epoch, offset
	msgMark    messageKind = 3 // stream, hw, log start
	msgClose   messageKind = 4 // stream
	msgOffer   messageKind = 5 // stream, broker epoch, last epoch, end, hw
	msgAck     messageKind = 6 // stream, epoch, generation, received, stored
	msgFail    messageKind = 7 // stream, code, text
	msgReady   messageKind = 8 // broker epoch
)

var fromLeader = [...]bool{msgOpen: true, msgVerdict: true, msgMark: true, msgClose: true, msgReady: false}

// failCode says why a follower does not go on with a stream.
type failCode uint8

const (
	failRefused  failCode = 1 // whatever the text says
	failStale    failCode = 2 // the leader epoch is older than what the follower knows
	failUnknown  failCode = 3 // the follower has no such replica
	failGap      failCode = 4 // a run did not begin where the one before it ended
	failCorrupt  failCode = 5 // a batch is not what its checksum says
	failUnproven failCode = 6 // the run has holes or several epochs: send it under the frame's checksum
	failCodes    failCode = 7
)

var failNames = [failCodes]string{"?", "refused", "stale epoch", "unknown partition", "gap", "corrupt", "unproven"}

func (c failCode) String() string { return failNames[c] }

const (
	maxMessagesBytes = 1 << 20   // of one frame of messages
	messagesBytes    = 128 << 10 // after which a frame takes no more
	maxTextBytes     = 512
)

// message is one of them; only the fields of its kind count.
type message struct {
	kind       messageKind
	stream     uint64
	key        Key
	epoch      int32 // leader epoch of open and ack
	generation uint64
	logStart   int64
	hw         int64
	index      uint64 // of the leader's image
	verdict    replica.Verdict
	offer      replica.Offer
	received   int64
	stored     int64
	code       failCode
	text       string
	broker     int64 // broker epoch of ready
}

// errMalformed ends a connection: the peer is not what it should be.
var errMalformed = errors.New("replication: malformed frame")

// appendMessage writes one message.
func appendMessage(b []byte, m *message) []byte {
	b = append(b, byte(m.kind))
	if m.kind == msgReady {
		return binary.AppendVarint(b, m.broker)
	}
	b = binary.AppendUvarint(b, m.stream)
	switch m.kind {
	case msgOpen:
		b = append(b, m.key.Topic[:]...)
		b = binary.AppendVarint(b, int64(m.key.Partition))
		b = binary.AppendVarint(b, int64(m.epoch))
		b = binary.AppendUvarint(b, m.generation)
		b = binary.AppendVarint(b, m.logStart)
		b = binary.AppendVarint(b, m.hw)
		b = binary.AppendUvarint(b, m.index)
	case msgVerdict:
		b = append(b, byte(m.verdict.Kind))
		b = binary.AppendVarint(b, int64(m.verdict.Epoch))
		b = binary.AppendVarint(b, m.verdict.Offset)
	case msgMark:
		b = binary.AppendVarint(b, m.hw)
		b = binary.AppendVarint(b, m.logStart)
	case msgOffer:
		b = binary.AppendVarint(b, m.offer.BrokerEpoch)
		b = binary.AppendVarint(b, int64(m.offer.LastEpoch))
		b = binary.AppendVarint(b, m.offer.End)
		b = binary.AppendVarint(b, m.offer.HighWatermark)
	case msgAck:
		b = binary.AppendVarint(b, int64(m.epoch))
		b = binary.AppendUvarint(b, m.generation)
		b = binary.AppendVarint(b, m.received)
		b = binary.AppendVarint(b, m.stored)
	case msgFail:
		b = append(b, byte(m.code))
		text := m.text[:min(len(m.text), maxTextBytes)]
		b = binary.AppendUvarint(b, uint64(len(text)))
		b = append(b, text...)
	default: // close has its stream alone
	}
	return b
}

// decoder reads fields off the front of b. After the first bad one everything is zero and bad is set.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() { d.b, d.bad = nil, true }

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int32() int32 {
	v := d.int()
	if v < math.MinInt32 || v > math.MaxInt32 {
		d.fail()
		return 0
	}
	return int32(v)
}

// offset is a number that is not negative.
func (d *decoder) offset() int64 {
	v := d.int()
	if v < 0 {
		d.fail()
		return 0
	}
	return v
}

// size is a count of bytes.
func (d *decoder) size(most int) int {
	v := d.uint()
	if v > uint64(most) {
		d.fail()
		return 0
	}
	return int(v)
}

// message reads one message into m.
func (d *decoder) message(m *message) {
	*m = message{kind: messageKind(d.byte())}
	if m.kind == msgReady {
		m.broker = d.int()
		return
	}
	m.stream = d.uint()
	switch m.kind {
	case msgOpen:
		if len(d.b) < len(m.key.Topic) {
			d.fail()
			return
		}
		d.b = d.b[copy(m.key.Topic[:], d.b):]
		m.key.Partition = d.int32()
		m.epoch = d.int32()
		m.generation = d.uint()
		m.logStart = d.offset()
		m.hw = d.int()
		m.index = d.uint()
	case msgVerdict:
		m.verdict.Kind = replica.VerdictKind(d.byte())
		m.verdict.Epoch = d.int32()
		m.verdict.Offset = d.offset()
		if m.verdict.Kind > replica.Restart {
			d.fail()
		}
	case msgMark:
		m.hw = d.int()
		m.logStart = d.offset()
	case msgClose:
	case msgOffer:
		m.offer.BrokerEpoch = d.int()
		m.offer.LastEpoch = d.int32()
		m.offer.End = d.offset()
		m.offer.HighWatermark = d.int()
	case msgAck:
		m.epoch = d.int32()
		m.generation = d.uint()
		m.received = d.offset()
		m.stored = d.offset()
		if m.stored > m.received {
			d.fail()
		}
	case msgFail:
		m.code = failCode(d.byte())
		n := d.size(maxTextBytes)
		if n > len(d.b) {
			d.fail()
			return
		}
		m.text = string(d.b[:n])
		d.b = d.b[n:]
		if m.code == 0 || m.code >= failCodes {
			d.fail()
		}
	default:
		d.fail()
	}
}

// decodeMessages calls f for each message of a frame from the leader, or to it. m is used again for the next one. f's
// error ends the walk and is returned.
func decodeMessages(b []byte, leader bool, m *message, f func(*message) error) error {
	if len(b) > maxMessagesBytes {
		return fmt.Errorf("%w: %d bytes of messages", errMalformed, len(b))
	}
	d := decoder{b: b}
	for len(d.b) > 0 {
		at := len(b) - len(d.b)
		d.message(m)
		if d.bad || (int(m.kind) < len(fromLeader) && fromLeader[m.kind]) != leader {
			return fmt.Errorf("%w: message of kind %d at byte %d of %d", errMalformed, m.kind, at, len(b))
		}
		if err := f(m); err != nil {
			return err
		}
	}
	return nil
}
