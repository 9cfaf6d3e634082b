package logdb

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// The journal's layout. Everything starts at a multiple of sectorSize, so that a write that tears
// between two sectors never takes a byte of what was durable before with it.
const (
	sectorSize   = 512
	headerOffset = 0
	markOffset   = sectorSize // two slots, one sector each
	frameOffset  = 4096

	fileMagic   = "MRRAFTJ1"
	fileVersion = 1
	frameMagic  = 0x4d52464a // "MRFJ"
	markMagic   = 0x4d524d4b // "MRMK"

	frameHeaderSize = 32
	// maxFramePayload admits one update of dragonboat: at most 64 MiB of entries plus their envelopes.
	maxFramePayload = 80 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// fileHeader opens a journal file. Each file has its own random salt, which every checksum in it
// covers: neither a former file's block nor a payload made by a client can pass for a frame.
type fileHeader struct {
	generation uint64 // counts rewrites
	firstSeq   uint64 // sequence of the first frame
	salt       [16]byte
}

func (h fileHeader) append(b []byte) []byte {
	at := len(b)
	b = append(b, fileMagic...)
	b = binary.LittleEndian.AppendUint32(b, fileVersion)
	b = binary.LittleEndian.AppendUint64(b, h.generation)
	b = binary.LittleEndian.AppendUint64(b, h.firstSeq)
	b = append(b, h.salt[:]...)
	b = append(b, make([]byte, at+sectorSize-4-len(b))...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

func parseFileHeader(b []byte) (h fileHeader, err error) {
	if len(b) < sectorSize {
		return h, fmt.Errorf("file header is cut at byte %d", len(b))
	}
	if crc32.Checksum(b[:sectorSize-4], castagnoli) != binary.LittleEndian.Uint32(b[sectorSize-4:]) {
		return h, fmt.Errorf("file header checksum")
	}
	if string(b[:8]) != fileMagic {
		return h, fmt.Errorf("file magic %q", b[:8])
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != fileVersion {
		return h, fmt.Errorf("file version %d, this version reads %d", v, fileVersion)
	}
	h.generation = binary.LittleEndian.Uint64(b[12:])
	h.firstSeq = binary.LittleEndian.Uint64(b[20:])
	copy(h.salt[:], b[28:])
	return h, nil
}

// seed is the state of the checksum after the salt.
func (h fileHeader) seed() uint32 { return crc32.Checksum(h.salt[:], castagnoli) }

// mark says up to which frame the journal was flushed. It is written after the flush and becomes
// durable with the next one, in the slot that the mark before it did not use.
type mark struct {
	syncedSeq uint64
	end       uint64 // offset behind that frame
}

func (m mark) slotOffset() int64 { return markOffset + int64(m.syncedSeq%2)*sectorSize }

func (m mark) sector(seed uint32) []byte {
	b := make([]byte, 0, sectorSize)
	b = binary.LittleEndian.AppendUint32(b, markMagic)
	b = binary.LittleEndian.AppendUint64(b, m.syncedSeq)
	b = binary.LittleEndian.AppendUint64(b, m.end)
	b = binary.LittleEndian.AppendUint32(b, crc32.Update(seed, castagnoli, b))
	return append(b, make([]byte, sectorSize-len(b))...)
}

func parseMark(b []byte, seed uint32) (m mark, ok bool) {
	if len(b) < 24 || binary.LittleEndian.Uint32(b) != markMagic {
		return m, false
	}
	if crc32.Update(seed, castagnoli, b[:20]) != binary.LittleEndian.Uint32(b[20:]) {
		return m, false
	}
	return mark{syncedSeq: binary.LittleEndian.Uint64(b[4:]), end: binary.LittleEndian.Uint64(b[12:])}, true
}

// frame is one atomic write: all of its records count, or none.
//
//	0  magic       4
//	4  length      4   of the payload
//	8  sequence    8   one more than the frame before
//	16 synced      8   sequence of the last frame known to be durable when this one was written
//	24 reserved    4   zero
//	28 crc         4   CRC-32C over salt, bytes 0-28 and payload
//	32 payload
//	   zeros to the next multiple of 512
type frame struct {
	seq     uint64
	synced  uint64
	payload []byte
}

// append writes the frame, padded.
func (f frame) append(b []byte, seed uint32) []byte {
	at := len(b)
	b = binary.LittleEndian.AppendUint32(b, frameMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.payload)))
	b = binary.LittleEndian.AppendUint64(b, f.seq)
	b = binary.LittleEndian.AppendUint64(b, f.synced)
	b = binary.LittleEndian.AppendUint32(b, 0)
	crc := crc32.Update(crc32.Update(seed, castagnoli, b[at:]), castagnoli, f.payload)
	b = binary.LittleEndian.AppendUint32(b, crc)
	b = append(b, f.payload...)
	return append(b, make([]byte, f.size()-(len(b)-at))...)
}

// size is the length on disk.
func (f frame) size() int { return frameSize(len(f.payload)) }

func frameSize(payload int) int {
	return (frameHeaderSize + payload + sectorSize - 1) / sectorSize * sectorSize
}

// parseFrame reads the frame that begins b. The payload is a part of b.
func parseFrame(b []byte, seed uint32) (f frame, ok bool) {
	if len(b) < frameHeaderSize || binary.LittleEndian.Uint32(b) != frameMagic {
		return f, false
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if n > maxFramePayload || frameSize(int(n)) > len(b) {
		return f, false
	}
	payload := b[frameHeaderSize : frameHeaderSize+int(n)]
	crc := crc32.Update(crc32.Update(seed, castagnoli, b[:28]), castagnoli, payload)
	if crc != binary.LittleEndian.Uint32(b[28:]) {
		return f, false
	}
	return frame{
		seq: binary.LittleEndian.Uint64(b[8:]), synced: binary.LittleEndian.Uint64(b[16:]), payload: payload,
	}, true
}
