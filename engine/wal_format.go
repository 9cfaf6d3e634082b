package engine

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/crc32"

	"millrace/engine/disk"
)

// The bytes of the WAL. FORMAT.md describes them; all integers are little-endian.
// These constants are part of the format and must not be changed.
const (
	blockSize = disk.Alignment

	walFileMagic   = 0x314c41574c4c494d // "MILLWAL1"
	commitMagic    = 0x314d4f434c4c494d // "MILLCOM1"
	trailerMagic   = 0x314c52544c4c494d // "MILLTRL1"
	walVersion     = 1
	commitHeaderSz = 128
	commitRowSz    = 64
	trailerSz      = 64
	saltSz         = 16

	// Every feature bit that this version understands. A file with another one is
	// refused: its records could mean something else.
	knownFeatures = uint64(0)
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// recordType says what a row of a commit does to its log.
type recordType uint8

// The record types. An unknown one refuses to open.
const (
	recAppend      recordType = 1 // a batch; the row repeats what lies outside the batch's own CRC
	recCreate      recordType = 2 // binds a log id to topic id, topic and partition (payload)
	recTruncate    recordType = 3 // removes everything from base on
	recStartOffset recordType = 4 // log start moves up to base
	recReset       recordType = 5 // removes everything; log start and end become base
	recEpochStart  recordType = 6 // leader epoch begins at base
	recDrop        recordType = 7 // the log is deleted
	recMark        recordType = 8 // belongs to no log: only carries the commit's flushed LSN
)

func (t recordType) String() string {
	switch t {
	case recAppend:
		return "append"
	case recCreate:
		return "create"
	case recTruncate:
		return "truncate"
	case recStartOffset:
		return "start-offset"
	case recReset:
		return "reset"
	case recEpochStart:
		return "epoch-start"
	case recDrop:
		return "drop"
	case recMark:
		return "mark"
	}
	return fmt.Sprintf("record-type-%d", uint8(t))
}

func (t recordType) known() bool { return t >= recAppend && t <= recMark }

// walRow is one row of a commit's directory.
type walRow struct {
	logID       uint64
	base        int64  // base offset, or the offset that the record is about
	hw          int64  // high watermark hint; -1 unknown
	seq         uint64 // of this record within its log, from 1, without gaps
	length      uint32 // bytes of payload
	crc         uint32 // the batch's own CRC field, or CRC-32C of the payload
	leaderEpoch int32
	pos         uint32 // of the payload, from the start of the commit
	lastDelta   int32
	kind        recordType
	flags       uint8 // batch attributes that matter without the payload
	maxTime     int64
}

const (
	rowFlagTransactional = 1 << 0
	rowFlagControl       = 1 << 1
)

func (r *walRow) put(b []byte) {
	_ = b[commitRowSz-1]
	le := binary.LittleEndian
	le.PutUint64(b[0:], r.logID)
	le.PutUint64(b[8:], uint64(r.base))
	le.PutUint64(b[16:], uint64(r.hw))
	le.PutUint64(b[24:], r.seq)
	le.PutUint32(b[32:], r.length)
	le.PutUint32(b[36:], r.crc)
	le.PutUint32(b[40:], uint32(r.leaderEpoch))
	le.PutUint32(b[44:], r.pos)
	le.PutUint32(b[48:], uint32(r.lastDelta))
	b[52] = byte(r.kind)
	b[53] = r.flags
	b[54], b[55] = 0, 0
	le.PutUint64(b[56:], uint64(r.maxTime))
}

func (r *walRow) get(b []byte) {
	_ = b[commitRowSz-1]
	le := binary.LittleEndian
	r.logID = le.Uint64(b[0:])
	r.base = int64(le.Uint64(b[8:]))
	r.hw = int64(le.Uint64(b[16:]))
	r.seq = le.Uint64(b[24:])
	r.length = le.Uint32(b[32:])
	r.crc = le.Uint32(b[36:])
	r.leaderEpoch = int32(le.Uint32(b[40:]))
	r.pos = le.Uint32(b[44:])
	r.lastDelta = int32(le.Uint32(b[48:]))
	r.kind = recordType(b[52])
	r.flags = b[53]
	r.maxTime = int64(le.Uint64(b[56:]))
}

// commitHeader is the fixed part at the start of a commit. The trailer repeats it.
type commitHeader struct {
	features   uint64
	generation uint64 // of the WAL file
	lsn        uint64
	flushedLSN uint64 // every commit up to this one was on the device when this one was submitted
	filePos    int64  // where in the file it belongs: catches misdirected writes and ghosts
	size       uint32 // whole commit, a multiple of blockSize
	rows       uint32
	payloadPos uint32 // end of the room for rows
	trailerPos uint32 // rows repeated, from the start of the commit
}

// seal writes header, trailer and checksums of a commit whose rows and payload are
// in place. b is the whole commit.
func (h *commitHeader) seal(b []byte, salt *[saltSz]byte) {
	le := binary.LittleEndian
	rowsEnd := commitHeaderSz + int(h.rows)*commitRowSz
	clear(b[:commitHeaderSz])
	clear(b[rowsEnd:h.payloadPos])
	le.PutUint64(b[0:], commitMagic)
	le.PutUint32(b[12:], walVersion)
	h.put(b[16:])
	le.PutUint32(b[8:], saltedCRC(salt, b[12:rowsEnd]))

	trailerEnd := int(h.trailerPos) + int(h.rows)*commitRowSz
	copy(b[h.trailerPos:trailerEnd], b[commitHeaderSz:rowsEnd])
	foot := int(h.size) - trailerSz
	clear(b[trailerEnd:foot])
	t := b[foot:h.size]
	clear(t)
	le.PutUint64(t[0:], trailerMagic)
	h.putTrailer(t)
	crc := saltedCRC(salt, t[12:])
	le.PutUint32(t[8:], crc32.Update(crc, castagnoli, b[h.trailerPos:trailerEnd]))
}

func (h *commitHeader) put(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], h.features)
	le.PutUint64(b[8:], h.generation)
	le.PutUint64(b[16:], h.lsn)
	le.PutUint64(b[24:], h.flushedLSN)
	le.PutUint64(b[32:], uint64(h.filePos))
	le.PutUint32(b[40:], h.size)
	le.PutUint32(b[44:], h.rows)
	le.PutUint32(b[48:], h.payloadPos)
	le.PutUint32(b[52:], h.trailerPos)
}

// putTrailer writes the footer's fields; t is the footer. It has no room for
// the features: a reader that got here knows them from the file header.
func (h *commitHeader) putTrailer(t []byte) {
	le := binary.LittleEndian
	le.PutUint32(t[12:], h.rows)
	le.PutUint64(t[16:], h.generation)
	le.PutUint64(t[24:], h.lsn)
	le.PutUint64(t[32:], h.flushedLSN)
	le.PutUint64(t[40:], uint64(h.filePos))
	le.PutUint32(t[48:], h.size)
	le.PutUint32(t[52:], h.trailerPos)
	le.PutUint32(t[56:], h.payloadPos)
}

// commitProblem says why bytes are not a commit.
type commitProblem string

const (
	commitOK       commitProblem = ""
	noMagic        commitProblem = "no commit here"
	badShape       commitProblem = "impossible lengths in the header"
	badChecksum    commitProblem = "header checksum mismatch"
	wrongPlace     commitProblem = "commit belongs elsewhere"
	unknownVersion commitProblem = "unknown version or feature"
)

// peekCommit reads the fixed part of the commit header at b (at least one block) without
// trusting it: only lengths are checked.
func peekCommit(b []byte) (commitHeader, commitProblem) {
	le := binary.LittleEndian
	var h commitHeader
	if len(b) < commitHeaderSz || le.Uint64(b) != commitMagic {
		return h, noMagic
	}
	h.features = le.Uint64(b[16:])
	h.generation = le.Uint64(b[24:])
	h.lsn = le.Uint64(b[32:])
	h.flushedLSN = le.Uint64(b[40:])
	h.filePos = int64(le.Uint64(b[48:]))
	h.size = le.Uint32(b[56:])
	h.rows = le.Uint32(b[60:])
	h.payloadPos = le.Uint32(b[64:])
	h.trailerPos = le.Uint32(b[68:])
	if p := h.shape(); p != commitOK {
		return h, p
	}
	return h, commitOK
}

func (h *commitHeader) shape() commitProblem {
	switch {
	case h.size == 0 || h.size%blockSize != 0 || h.size > maxCommitBytes,
		h.rows > maxCommitBytes/commitRowSz,
		h.payloadPos > h.size || h.trailerPos > h.size,
		commitHeaderSz+h.rows*commitRowSz > h.payloadPos,
		h.payloadPos > h.trailerPos,
		h.trailerPos+h.rows*commitRowSz+trailerSz > h.size:
		return badShape
	}
	return commitOK
}

// checkHeader verifies the first copy of the directory. b begins with the commit
// and holds at least header and rows.
func (h *commitHeader) checkHeader(b []byte, salt *[saltSz]byte, pos int64, generation uint64) commitProblem {
	rowsEnd := commitHeaderSz + int(h.rows)*commitRowSz
	if len(b) < rowsEnd {
		return badShape
	}
	le := binary.LittleEndian
	if le.Uint32(b[8:]) != saltedCRC(salt, b[12:rowsEnd]) {
		return badChecksum
	}
	if h.filePos != pos || h.generation != generation {
		return wrongPlace
	}
	if le.Uint32(b[12:]) != walVersion || h.features&^knownFeatures != 0 {
		return unknownVersion
	}
	return commitOK
}

// parseTrailer verifies the second copy of the directory; b is everything from
// somewhere at or before the commit's start up to its end, and endPos the file position
// of that end. On success the rows are b[rowsAt:].
func parseTrailer(b []byte, salt *[saltSz]byte, endPos int64, generation uint64) (h commitHeader, rowsAt int, p commitProblem) {
	le := binary.LittleEndian
	if len(b) < trailerSz {
		return h, 0, noMagic
	}
	t := b[len(b)-trailerSz:]
	if le.Uint64(t) != trailerMagic {
		return h, 0, noMagic
	}
	h.rows = le.Uint32(t[12:])
	h.generation = le.Uint64(t[16:])
	h.lsn = le.Uint64(t[24:])
	h.flushedLSN = le.Uint64(t[32:])
	h.filePos = int64(le.Uint64(t[40:]))
	h.size = le.Uint32(t[48:])
	h.trailerPos = le.Uint32(t[52:])
	h.payloadPos = le.Uint32(t[56:])
	if p := h.shape(); p != commitOK {
		return h, 0, p
	}
	fromEnd := int(h.size) - int(h.trailerPos)
	if fromEnd > len(b) {
		return h, 0, badShape
	}
	rowsAt = len(b) - fromEnd
	crc := saltedCRC(salt, t[12:])
	crc = crc32.Update(crc, castagnoli, b[rowsAt:rowsAt+int(h.rows)*commitRowSz])
	if le.Uint32(t[8:]) != crc {
		return h, 0, badChecksum
	}
	if h.filePos+int64(h.size) != endPos || h.generation != generation {
		return h, 0, wrongPlace
	}
	return h, rowsAt, commitOK
}

func saltedCRC(salt *[saltSz]byte, b []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, salt[:]), castagnoli, b)
}

// walFileHeader fills the first block of a WAL file, and again its last.
type walFileHeader struct {
	features    uint64
	directoryID [16]byte
	shard       uint32
	generation  uint64 // grows with each use of any file of the shard
	firstLSN    uint64 // of the first commit in this generation
	salt        [saltSz]byte
}

const walFileHeaderSz = 96

func (h *walFileHeader) put(b []byte) {
	le := binary.LittleEndian
	clear(b[:blockSize])
	le.PutUint64(b[0:], walFileMagic)
	le.PutUint32(b[12:], walVersion)
	le.PutUint64(b[16:], h.features)
	copy(b[24:40], h.directoryID[:])
	le.PutUint32(b[40:], h.shard)
	le.PutUint64(b[48:], h.generation)
	le.PutUint64(b[56:], h.firstLSN)
	copy(b[64:80], h.salt[:])
	le.PutUint32(b[8:], crc32.Checksum(b[12:walFileHeaderSz], castagnoli))
}

// parseWALFileHeader reads a header block. ok is false when there is none (a file
// that was never used, or a torn first commit). An unknown version is an error.
func parseWALFileHeader(b []byte) (h walFileHeader, ok bool, err error) {
	le := binary.LittleEndian
	if len(b) < walFileHeaderSz || le.Uint64(b) != walFileMagic {
		return h, false, nil
	}
	if le.Uint32(b[8:]) != crc32.Checksum(b[12:walFileHeaderSz], castagnoli) {
		return h, false, nil
	}
	if v := le.Uint32(b[12:]); v != walVersion {
		return h, false, fmt.Errorf("engine: WAL file of version %d, this is version %d", v, walVersion)
	}
	h.features = le.Uint64(b[16:])
	copy(h.directoryID[:], b[24:40])
	h.shard = le.Uint32(b[40:])
	h.generation = le.Uint64(b[48:])
	h.firstLSN = le.Uint64(b[56:])
	copy(h.salt[:], b[64:80])
	if unknown := h.features &^ knownFeatures; unknown != 0 {
		return h, false, fmt.Errorf("engine: WAL file needs features %#x that this version does not have", unknown)
	}
	return h, true, nil
}

// createPayload is the payload of a Create record.
type createPayload struct {
	topicID   TopicID
	partition int32
	topic     string
}

func (c *createPayload) appendTo(b []byte) []byte {
	b = append(b, c.topicID[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(c.partition))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(c.topic)))
	return append(b, c.topic...)
}

func parseCreatePayload(b []byte) (createPayload, bool) {
	var c createPayload
	if len(b) < 22 {
		return c, false
	}
	copy(c.topicID[:], b)
	c.partition = int32(binary.LittleEndian.Uint32(b[16:]))
	n := int(binary.LittleEndian.Uint16(b[20:]))
	if len(b) != 22+n {
		return c, false
	}
	c.topic = string(b[22:])
	return c, true
}
