package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A frame on the wire, little endian:
//
//	magic   u16  "MR"
//	type    u8   meaning is the stream's; 0xf0 and above are this package's
//	flags   u8   0, or flagBulk (bulk.go)
//	length  u32  of the payload
//	crc     u32  CRC-32C of the payload
//	head    u32  CRC-32C of the twelve bytes before it
//	payload
const (
	frameMagic  = 'M' | 'R'<<8
	frameHeader = 16

	// MaxFrameBytes bounds every frame: a Replicate message may hold 64 MiB of entries.
	MaxFrameBytes = 64<<20 + 1<<20
	// firstStep is what a reader allocates on the word of a length alone.
	firstStep = 64 << 10
)

// Types of frames that every stream has.
const (
	frameHello   = 0xf0
	frameWelcome = 0xf1
	frameProof   = 0xf2
	framePing    = 0xf3
	framePong    = 0xf4
	firstOwnType = 0xf0
)

// Errors of frames. All of them end the connection.
var (
	ErrFrameMagic    = errors.New("transport: not a frame")
	ErrFrameTooLarge = errors.New("transport: frame is too large")
	ErrFrameCRC      = errors.New("transport: frame's checksum is wrong")
	// ErrPeerSpeaksTLS and ErrPeerIsPlain tell the two ways of forgetting TLS on one side.
	ErrPeerSpeaksTLS = errors.New("transport: the peer speaks TLS, this cluster port does not (set the TLS options on both)")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// putHeader writes the header of a payload that is given in parts.
func putHeader(h *[frameHeader]byte, kind byte, parts ...[]byte) error {
	size, crc := 0, uint32(0)
	for _, p := range parts {
		size += len(p)
		crc = crc32.Update(crc, castagnoli, p)
	}
	if size > MaxFrameBytes {
		return fmt.Errorf("%w: %d bytes", ErrFrameTooLarge, size)
	}
	binary.LittleEndian.PutUint16(h[0:], frameMagic)
	h[2], h[3] = kind, 0
	binary.LittleEndian.PutUint32(h[4:], uint32(size))
	binary.LittleEndian.PutUint32(h[8:], crc)
	binary.LittleEndian.PutUint32(h[12:], crc32.Checksum(h[:12], castagnoli))
	return nil
}

// header is what the first bytes of a frame say.
type header struct {
	kind, flags byte
	size        int
	crc         uint32
}

// readHeader reads and checks the header of a frame of at most limit bytes.
func readHeader(r io.Reader, limit int) (header, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:1]); err != nil {
		return header{}, err
	}
	if h[0] == 0x16 || h[0] == 0x15 { // a TLS handshake or alert record; no frame begins so
		return header{}, ErrPeerSpeaksTLS
	}
	if _, err := io.ReadFull(r, h[1:]); err != nil {
		return header{}, noEOF(err)
	}
	switch {
	case binary.LittleEndian.Uint16(h[0:]) != frameMagic:
		return header{}, ErrFrameMagic
	case binary.LittleEndian.Uint32(h[12:]) != crc32.Checksum(h[:12], castagnoli):
		return header{}, fmt.Errorf("%w (header)", ErrFrameCRC)
	case h[3] > flagBulk, h[3] == flagBulk && h[2] >= firstOwnType:
		return header{}, fmt.Errorf("%w: flags %#x", ErrFrameMagic, h[3])
	}
	size := binary.LittleEndian.Uint32(h[4:])
	if int64(size) > int64(limit) {
		return header{}, fmt.Errorf("%w: %d bytes, allowed are %d", ErrFrameTooLarge, size, limit)
	}
	return header{kind: h[2], flags: h[3], size: int(size), crc: binary.LittleEndian.Uint32(h[8:])}, nil
}

// readFrame reads one frame of at most limit bytes. The payload is a new slice. A bulk frame, whose payload is not all
// checked, is refused: only readBulk's callers know what to do with it.
func readFrame(r io.Reader, limit int) (kind byte, payload []byte, err error) {
	h, err := readHeader(r, limit)
	if err != nil {
		return 0, nil, err
	}
	if h.flags != 0 {
		return 0, nil, fmt.Errorf("%w: flags %#x", ErrFrameMagic, h.flags)
	}
	payload, err = readBytes(r, h.size)
	if err != nil {
		return 0, nil, noEOF(err)
	}
	if crc32.Checksum(payload, castagnoli) != h.crc {
		return 0, nil, ErrFrameCRC
	}
	return h.kind, payload, nil
}

// readBytes reads n bytes into memory that at most doubles with what has arrived.
func readBytes(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, min(n, firstStep))
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	for len(b) < n {
		have := len(b)
		grown := make([]byte, min(n, 2*have))
		copy(grown, b)
		b = grown
		if _, err := io.ReadFull(r, b[have:]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// noEOF makes an end in the middle of a frame distinguishable from one between frames.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
