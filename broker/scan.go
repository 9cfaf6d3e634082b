package broker

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"millrace/engine"
	"millrace/engine/batch"
)

// scanReadBytes is how much of a log is looked at in one step of a scan.
const scanReadBytes = 1 << 20

// scanLog hands every record in [from, to) to visit, in order. It blocks on the
// disk. The record's slices are valid during the call only.
func scanLog(l *engine.Log, from, to int64, visit func(r batch.Record, offset int64) error) error {
	var (
		spans []engine.Span
		buf   []byte
		rd    batch.Reader
	)
	for from < to {
		var info engine.ReadInfo
		var err error
		spans, info, err = l.Read(engine.ReadRequest{Offset: from, UpTo: to, MaxBytes: scanReadBytes, MinOne: true, MayBlock: true}, spans[:0])
		if errors.Is(err, engine.ErrOffsetOutOfRange) && from < l.LogStartOffset() {
			from = l.LogStartOffset()
			continue
		}
		if err != nil {
			return err
		}
		if info.Bytes == 0 {
			return nil
		}
		buf, err = gather(buf[:0], spans)
		if err != nil {
			return err
		}
		for b := buf; len(b) > 0; {
			h, err := batch.ParseHeader(b)
			if err != nil || h.Size() > len(b) {
				return fmt.Errorf("offset %d: a torn batch was read", from)
			}
			if !h.IsControl() {
				if err := scanBatch(&rd, b[:h.Size()], from, visit); err != nil {
					return err
				}
			}
			b = b[h.Size():]
		}
		from = info.NextOffset
	}
	return nil
}

func scanBatch(rd *batch.Reader, raw []byte, from int64, visit func(batch.Record, int64) error) error {
	if err := rd.Reset(raw, maxUncompressedBytes); err != nil {
		return err
	}
	for {
		r, err := rd.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if off := rd.Offset(&r); off >= from {
			if err := visit(r, off); err != nil {
				return fmt.Errorf("offset %d: %w", off, err)
			}
		}
	}
}

// gather copies spans into one slice and releases them.
func gather(buf []byte, spans []engine.Span) ([]byte, error) {
	var first error
	for i := range spans {
		s := &spans[i]
		if s.Mem != nil {
			buf = append(buf, s.Mem...)
		} else if first == nil {
			at := len(buf)
			buf = append(buf, make([]byte, s.Len)...)
			first = preadFull(s.FD, buf[at:], s.Pos)
		}
		if s.Owner != nil {
			s.Owner.Release()
		}
	}
	return buf, first
}

func preadFull(fd int, b []byte, pos int64) error {
	for len(b) > 0 {
		n, err := syscall.Pread(fd, b, pos)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		b, pos = b[n:], pos+int64(n)
	}
	return nil
}
