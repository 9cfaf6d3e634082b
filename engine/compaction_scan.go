package engine

import (
	"errors"
	"fmt"
	"io"

	"millrace/engine/batch"
)

// errCompactionRead wraps read errors: they stop one log's compaction, not the directory.
var errCompactionRead = errors.New("engine: compaction cannot read")

const scanBytes = 1 << 20

// batchScanner walks the whole batches of a sealed segment and checks each one's CRC.
type batchScanner struct {
	file       string
	r          io.ReaderAt
	base, next int64 // offsets of the segment
	size       int64
	pos        int64 // of the batch that follows
	last       int64 // offset after the last batch
	buf        []byte
	at         int64 // position of buf[0]
}

// scanner starts anew with a segment and keeps the memory of the last one.
func (s *batchScanner) reset(file string, r io.ReaderAt, g *planSegment) {
	*s = batchScanner{file: file, r: r, base: g.base, next: g.next, size: g.size, last: g.base, buf: s.buf[:0]}
}

// scan returns the next batch, io.EOF at the end. The bytes are valid until the next call.
func (s *batchScanner) scan() ([]byte, batch.Header, error) {
	if s.pos == s.size {
		return nil, batch.Header{}, io.EOF
	}
	b, err := s.window(batch.HeaderSize)
	if err != nil {
		return nil, batch.Header{}, err
	}
	n, err := batch.PeekSize(b)
	if err != nil {
		return nil, batch.Header{}, s.damaged(err.Error())
	}
	if b, err = s.window(n); err != nil {
		return nil, batch.Header{}, err
	}
	h, err := batch.Validate(b)
	if err != nil {
		return nil, h, s.damaged(err.Error())
	}
	if h.BaseOffset < s.last || h.NextOffset() > s.next {
		return nil, h, s.damaged(fmt.Sprintf("offsets %d to %d do not follow %d or go beyond %d", h.BaseOffset, h.LastOffset(), s.last, s.next))
	}
	s.pos += int64(n)
	s.last = h.NextOffset()
	return b, h, nil
}

// window returns n bytes at pos.
func (s *batchScanner) window(n int) ([]byte, error) {
	if int64(n) > s.size-s.pos {
		return nil, s.damaged("a batch is cut off")
	}
	if s.pos < s.at || s.pos+int64(n) > s.at+int64(len(s.buf)) {
		want := int(min(max(int64(n), scanBytes), s.size-s.pos))
		if cap(s.buf) < want {
			s.buf = make([]byte, want)
		}
		s.buf = s.buf[:want]
		if err := readFull(s.r, s.buf, s.pos); err != nil {
			s.buf = s.buf[:0]
			return nil, fmt.Errorf("%w %s: %w", errCompactionRead, s.file, err)
		}
		s.at = s.pos
	}
	from := int(s.pos - s.at)
	return s.buf[from : from+n : from+n], nil
}

func (s *batchScanner) damaged(reason string) error {
	return &CorruptionError{File: s.file, Pos: s.pos, Reason: reason}
}
