package bench

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// rawStreamBuf is small enough to stay in the cache: what is read is thrown away.
const rawStreamBuf = 128 << 10

// rawStream reads an answer piece by piece, so that it is never in memory as a whole. The first error sticks.
type rawStream struct {
	from io.Reader
	buf  []byte
	r, w int
	left int // of the answer
	err  error
}

func newRawStream(from io.Reader) *rawStream {
	return &rawStream{from: from, buf: make([]byte, rawStreamBuf)}
}

// begin waits for the next answer.
func (s *rawStream) begin(max int) error {
	s.left = 4
	n := int(int32(s.uint32()))
	if s.err == nil && (n < 4 || n > max) {
		s.err = fmt.Errorf("an answer announces %d bytes", n)
	}
	s.left = n
	return s.err
}

// peek is the next n bytes, at most the buffer's size, without taking them; nil after an error.
func (s *rawStream) peek(n int) []byte {
	if s.err == nil && n > s.left {
		s.err = io.ErrUnexpectedEOF
	}
	for s.err == nil && s.w-s.r < n {
		if s.r+n > len(s.buf) {
			s.w, s.r = copy(s.buf, s.buf[s.r:s.w]), 0
		}
		var got int
		got, s.err = s.from.Read(s.buf[s.w:])
		s.w += got
		if s.w-s.r >= n {
			s.err = nil
		}
	}
	if s.err != nil {
		return nil
	}
	return s.buf[s.r : s.r+n]
}

func (s *rawStream) take(n int) []byte {
	b := s.peek(n)
	if b != nil {
		s.r += n
		s.left -= n
		if s.r == s.w {
			s.r, s.w = 0, 0
		}
	}
	return b
}

// skip throws n bytes away, and returns their checksum continued from crc if they are to be checked.
func (s *rawStream) skip(n int, check bool, crc uint32) uint32 {
	for n > 0 && s.err == nil {
		have := min(n, max(1, s.w-s.r))
		b := s.take(have)
		if check {
			crc = crc32.Update(crc, castagnoli, b)
		}
		n -= have
	}
	return crc
}

func (s *rawStream) uint16() uint16 {
	if b := s.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (s *rawStream) uint32() uint32 {
	if b := s.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (s *rawStream) uvarint() (v int) {
	for shift := 0; shift < 35; shift += 7 {
		b := s.take(1)
		if b == nil {
			return 0
		}
		v |= int(b[0]&0x7f) << shift
		if b[0] < 0x80 {
			return v
		}
	}
	s.err = fmt.Errorf("a number of more than five bytes")
	return 0
}

// count is a compact length; null and empty are both 0.
func (s *rawStream) count() int { return max(0, s.uvarint()-1) }

func (s *rawStream) tags() {
	for range s.uvarint() {
		s.uvarint()
		s.skip(s.uvarint(), false, 0)
	}
}
