package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/klauspost/crc32"

	"millrace/engine/epoch"
	"millrace/engine/index"
	"millrace/engine/producer"
)

// The bytes of a checkpoint file: a head, then frames. A frame holds entries of some logs, and the
// newest entry of a log counts. FORMAT.md describes them.
const (
	checkpointMagic   = 0x31504b434c4c494d // "MILLCKP1"
	frameMagic        = 0x314d52464c4c494d // "MILLFRM1"
	checkpointVersion = 1
	checkpointHeadSz  = 64
	frameHeadSz       = 64
	frameBytesMax     = 256 << 20
	frameBytesTarget  = 4 << 20
)

// checkpointHead is the start of a checkpoint file.
type checkpointHead struct {
	features    uint64
	directoryID [16]byte
	shard       uint32
	number      uint64
}

func (h *checkpointHead) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, checkpointHeadSz)
	le.PutUint64(b[0:], checkpointMagic)
	le.PutUint32(b[12:], checkpointVersion)
	le.PutUint64(b[16:], h.features)
	copy(b[24:40], h.directoryID[:])
	le.PutUint32(b[40:], h.shard)
	le.PutUint64(b[48:], h.number)
	le.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	return b
}

func decodeCheckpointHead(b []byte) (checkpointHead, error) {
	le := binary.LittleEndian
	var h checkpointHead
	switch {
	case len(b) < checkpointHeadSz || le.Uint64(b) != checkpointMagic:
		return h, errors.New("not a checkpoint")
	case le.Uint32(b[8:]) != crc32.Checksum(b[12:checkpointHeadSz], castagnoli):
		return h, errors.New("head checksum mismatch")
	case le.Uint32(b[12:]) != checkpointVersion:
		return h, fmt.Errorf("version %d, this version knows %d", le.Uint32(b[12:]), checkpointVersion)
	}
	h.features = le.Uint64(b[16:])
	copy(h.directoryID[:], b[24:40])
	h.shard = le.Uint32(b[40:])
	h.number = le.Uint64(b[48:])
	if unknown := h.features &^ knownFeatures; unknown != 0 {
		return h, fmt.Errorf("unknown features %#x", unknown)
	}
	return h, nil
}

// frameHead precedes the entries of a frame.
type frameHead struct {
	seq        uint64 // within the file, from 1
	replayLSN  uint64 // every record below is covered by the entries up to here
	nextLogID  uint64 // highest log id ever given out
	lsnFloor   uint64 // no LSN up to this one may be given out again
	generation uint64 // no WAL generation up to this one either
	length     uint32
	count      uint32
}

// put writes the head; b holds head and payload.
func (h *frameHead) put(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], frameMagic)
	le.PutUint32(b[12:], checkpointVersion)
	le.PutUint64(b[16:], h.seq)
	le.PutUint64(b[24:], h.replayLSN)
	le.PutUint64(b[32:], h.nextLogID)
	le.PutUint64(b[40:], h.lsnFloor)
	le.PutUint64(b[48:], h.generation)
	le.PutUint32(b[56:], h.length)
	le.PutUint32(b[60:], h.count)
	le.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
}

// peekFrame reads a head without checking its sum. ok is false for what cannot be one.
func peekFrame(b []byte) (h frameHead, ok bool) {
	le := binary.LittleEndian
	if len(b) < frameHeadSz || le.Uint64(b) != frameMagic || le.Uint32(b[12:]) != checkpointVersion {
		return h, false
	}
	h.seq = le.Uint64(b[16:])
	h.replayLSN = le.Uint64(b[24:])
	h.nextLogID = le.Uint64(b[32:])
	h.lsnFloor = le.Uint64(b[40:])
	h.generation = le.Uint64(b[48:])
	h.length = le.Uint32(b[56:])
	h.count = le.Uint32(b[60:])
	return h, h.length <= frameBytesMax && uint64(h.count)*entryBytesMin <= uint64(h.length)
}

// checkFrame verifies head and payload.
func checkFrame(b []byte) bool {
	return binary.LittleEndian.Uint32(b[8:]) == crc32.Checksum(b[12:], castagnoli)
}

// entryBytesMin is a lower bound of an encoded entry with its length, so that a count cannot lie.
const entryBytesMin = 12

// splitEntries cuts a frame's payload into entries.
func splitEntries(payload []byte, count uint32) ([][]byte, error) {
	list := make([][]byte, 0, count)
	for range count {
		if len(payload) < 4 {
			return nil, errors.New("entry beyond the frame")
		}
		n := binary.LittleEndian.Uint32(payload)
		if uint64(n) > uint64(len(payload)-4) || n < 8 {
			return nil, errors.New("entry length")
		}
		list = append(list, payload[4:4+n])
		payload = payload[4+n:]
	}
	if len(payload) != 0 {
		return nil, errors.New("bytes behind the last entry")
	}
	return list, nil
}

// logEntry is a log's stable state as a checkpoint keeps it.
type logEntry struct {
	logID      uint64
	topicID    TopicID
	partition  int32
	topic      string
	dropped    bool
	dropLSN    uint64 // of the Drop record
	quarantine string
	seq        uint64
	start, end int64
	hw         int64
	epoch      int32
	segments   []segmentEntry
	written    int64
	tail       []byte
	active     *segmentIndex // of the last segment, when it is not sealed
	indexed    int64
	producers  []byte // encoded; nil for none
	epochs     epoch.Cache
	aborted    index.Aborted
}

type segmentEntry struct {
	base, next       int64
	generation       uint64
	size             int64
	maxTime, maxBase int64
	created          int64
	sealed, hasFile  bool
}

const (
	entryDropped   = 1 << 0
	entryActive    = 1 << 1
	entryProducers = 1 << 2

	segmentSealed  = 1 << 0
	segmentHasFile = 1 << 1
)

func (e *logEntry) appendTo(b []byte) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, e.logID)
	var flags uint64
	if e.dropped {
		flags |= entryDropped
	}
	if e.active != nil {
		flags |= entryActive
	}
	if e.producers != nil {
		flags |= entryProducers
	}
	b = binary.AppendUvarint(b, flags)
	b = append(b, e.topicID[:]...)
	b = binary.AppendVarint(b, int64(e.partition))
	b = appendBytes(b, []byte(e.topic))
	b = binary.AppendUvarint(b, e.dropLSN)
	b = appendBytes(b, []byte(e.quarantine))
	b = binary.AppendUvarint(b, e.seq)
	b = binary.AppendVarint(b, e.start)
	b = binary.AppendVarint(b, e.end)
	b = binary.AppendVarint(b, e.hw)
	b = binary.AppendVarint(b, int64(e.epoch))
	b = binary.AppendUvarint(b, uint64(len(e.segments)))
	for i := range e.segments {
		g := &e.segments[i]
		var f uint64
		if g.sealed {
			f |= segmentSealed
		}
		if g.hasFile {
			f |= segmentHasFile
		}
		b = binary.AppendUvarint(b, f)
		for _, v := range []int64{g.base, g.next - g.base, g.size, g.maxTime, g.maxBase, g.created} {
			b = binary.AppendVarint(b, v)
		}
		b = binary.AppendUvarint(b, g.generation)
	}
	b = binary.AppendVarint(b, e.written)
	b = appendBytes(b, e.tail)
	if e.active != nil {
		b = binary.AppendVarint(b, e.indexed)
		b = appendBytes(b, e.active.offsets.AppendTo(nil))
		b = appendBytes(b, e.active.times.AppendTo(nil))
	}
	if e.producers != nil {
		b = appendBytes(b, e.producers)
	}
	b = appendBytes(b, e.epochs.AppendTo(nil))
	b = appendBytes(b, e.aborted.AppendTo(nil))
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

func appendBytes(b, p []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(p)))
	return append(b, p...)
}

// fields reads what appendTo wrote. The first problem sticks.
type fields struct {
	b   []byte
	err error
}

func (d *fields) fail(what string) {
	if d.err == nil {
		d.err = errors.New(what)
	}
	d.b = nil
}

func (d *fields) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("number cut off")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *fields) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("number cut off")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *fields) int32() int32 {
	v := d.varint()
	if v < math.MinInt32 || v > math.MaxInt32 {
		d.fail("number out of range")
	}
	return int32(v)
}

func (d *fields) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail("bytes cut off")
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

// decodeLogEntry reads one entry (without its length).
func decodeLogEntry(b []byte) (*logEntry, error) {
	if len(b) < 8 {
		return nil, errors.New("entry too short")
	}
	e := &logEntry{logID: binary.LittleEndian.Uint64(b)}
	d := fields{b: b[8:]}
	flags := d.uvarint()
	if flags&^(entryDropped|entryActive|entryProducers) != 0 {
		d.fail("unknown flags")
	}
	e.dropped = flags&entryDropped != 0
	if len(d.b) < len(e.topicID) {
		d.fail("topic id cut off")
	} else {
		copy(e.topicID[:], d.b)
		d.b = d.b[len(e.topicID):]
	}
	e.partition = d.int32()
	e.topic = string(d.bytes())
	e.dropLSN = d.uvarint()
	e.quarantine = string(d.bytes())
	e.seq = d.uvarint()
	e.start = d.varint()
	e.end = d.varint()
	e.hw = d.varint()
	e.epoch = d.int32()
	n := d.uvarint()
	if n > uint64(len(d.b))/8 { // a segment takes at least 8 bytes
		d.fail("too many segments")
		n = 0
	}
	e.segments = make([]segmentEntry, n)
	for i := range e.segments {
		e.segments[i].decode(&d)
	}
	e.written = d.varint()
	e.tail = append([]byte(nil), d.bytes()...)
	if flags&entryActive != 0 {
		e.indexed = d.varint()
		e.active = new(segmentIndex)
		var err error
		if e.active.offsets, err = index.DecodeOffsets(d.bytes()); err != nil {
			d.fail(err.Error())
		}
		if e.active.times, err = index.DecodeTimes(d.bytes()); err != nil {
			d.fail(err.Error())
		}
	}
	if flags&entryProducers != 0 {
		e.producers = d.bytes()
	}
	var err error
	if e.epochs, err = epoch.Decode(d.bytes()); err != nil {
		d.fail(err.Error())
	}
	if e.aborted, err = index.DecodeAborted(d.bytes()); err != nil {
		d.fail(err.Error())
	}
	if len(d.b) != 0 {
		d.fail("bytes behind the entry")
	}
	if d.err == nil {
		d.err = e.check()
	}
	return e, d.err
}

func (g *segmentEntry) decode(d *fields) {
	f := d.uvarint()
	if f&^(segmentSealed|segmentHasFile) != 0 {
		d.fail("unknown segment flags")
	}
	g.sealed, g.hasFile = f&segmentSealed != 0, f&segmentHasFile != 0
	g.base = d.varint()
	g.next = g.base + d.varint()
	g.size = d.varint()
	g.maxTime = d.varint()
	g.maxBase = d.varint()
	g.created = d.varint()
	g.generation = d.uvarint()
}

// check verifies what must hold in every entry.
func (e *logEntry) check() error {
	if e.start < 0 || e.end < e.start || e.topic == "" || len(e.topic) > maxTopicBytes {
		return errors.New("impossible offsets or topic")
	}
	last := int64(-1)
	for i := range e.segments {
		g := &e.segments[i]
		switch {
		case g.base < last || g.base < 0 || g.next < g.base || g.size < 0:
			return fmt.Errorf("segment %d: impossible offsets or size", i)
		case !g.sealed && i != len(e.segments)-1:
			return fmt.Errorf("segment %d is active but not the last", i)
		case g.sealed && g.size > 0 && !g.hasFile:
			return fmt.Errorf("segment %d is sealed and has no file", i)
		}
		last = g.next
	}
	if last > e.end {
		return errors.New("segments reach beyond the end")
	}
	n := len(e.segments)
	switch hasActive := n > 0 && !e.segments[n-1].sealed; {
	case !hasActive && (e.written != 0 || len(e.tail) != 0 || e.active != nil):
		return errors.New("tail without an active segment")
	case hasActive && e.active == nil:
		return errors.New("active segment without an index")
	case hasActive && (e.written < 0 || e.written%blockSize != 0 || len(e.tail) >= blockSize || e.written+int64(len(e.tail)) != e.segments[n-1].size):
		return errors.New("active segment's lengths do not fit")
	case hasActive && e.written > 0 && !e.segments[n-1].hasFile:
		return errors.New("written blocks without a file")
	}
	if e.producers != nil {
		if _, err := producer.Decode(e.producers); err != nil {
			return err
		}
	}
	return nil
}
