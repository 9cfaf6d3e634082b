package replication

import (
	"io"
	"syscall"

	"millrace/engine"
	"millrace/raft/transport"
)

// Frame is what a step machine wants sent: Head under the frame's checksum and, if Bulk is set, Pieces behind it. It is
// valid until Release, which its machine needs before its next step.
type Frame struct {
	Type   byte
	Head   []byte
	Bulk   bool
	Pieces []transport.Piece

	pins   []engine.Releaser // of slabs
	files  []engine.Releaser
	copied []byte // small spans, one after the other; Pieces point into it
	from   int    // where in copied the last piece begins; -1: that is not of copied
}

// Size is how many bytes it is, without the transport's header.
func (f *Frame) Size() int {
	n := len(f.Head)
	for i := range f.Pieces {
		n += f.Pieces[i].Len
	}
	return n
}

// Unpin gives slabs back: the memory of the pieces is not looked at any more. Files stay open.
func (f *Frame) Unpin() {
	for _, p := range f.pins {
		p.Release()
	}
	clear(f.pins)
	f.pins = f.pins[:0]
}

// Release ends the frame's life.
func (f *Frame) Release() {
	f.Unpin()
	for _, p := range f.files {
		p.Release()
	}
	clear(f.files)
	clear(f.Pieces)
	f.files, f.Pieces, f.Head, f.copied = f.files[:0], f.Pieces[:0], f.Head[:0], f.copied[:0]
	f.Bulk, f.from = false, -1
}

// BulkBytes appends the bulk to dst, for who has no socket to send it to.
func (f *Frame) BulkBytes(dst []byte) ([]byte, error) {
	for i := range f.Pieces {
		p := &f.Pieces[i]
		if p.Mem != nil {
			dst = append(dst, p.Mem...)
			continue
		}
		at := len(dst)
		dst = append(dst, make([]byte, p.Len)...)
		if err := preadFull(p.FD, dst[at:], p.Pos); err != nil {
			return dst[:at], err
		}
	}
	return dst, nil
}

// preadFull reads all of b or fails.
func preadFull(fd int, b []byte, pos int64) error {
	for len(b) > 0 {
		n, err := syscall.Pread(fd, b, pos)
		switch {
		case err == syscall.EINTR: //nolint:errorlint // an errno as the kernel returned it
			continue
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		b, pos = b[n:], pos+int64(n)
	}
	return nil
}

// copyBelow is the size under which spans are copied into the frame: a part of a writev, and a pinned slab, cost more.
const copyBelow = 8 << 10

// add takes the spans of one run into the bulk.
func (f *Frame) add(spans []engine.Span) {
	for i := range spans {
		s := &spans[i]
		switch n := len(s.Mem); {
		case s.Mem == nil:
			f.Pieces, f.from = append(f.Pieces, transport.Piece{FD: s.FD, Pos: s.Pos, Len: s.Len}), -1
			f.files = append(f.files, s.Owner)
		case n < copyBelow && n <= cap(f.copied)-len(f.copied):
			f.copy(s.Mem)
			s.Owner.Release()
		default:
			f.Pieces, f.from = append(f.Pieces, transport.Piece{Mem: s.Mem, Len: n}), -1
			f.pins = append(f.pins, s.Owner)
		}
	}
}

// copy adds b, which fits into copied's capacity: pieces point into it.
func (f *Frame) copy(b []byte) {
	if f.from < 0 {
		f.from = len(f.copied)
		f.Pieces = append(f.Pieces, transport.Piece{})
	}
	f.copied = append(f.copied, b...)
	mem := f.copied[f.from:]
	f.Pieces[len(f.Pieces)-1] = transport.Piece{Mem: mem, Len: len(mem)}
}

// take appends the bytes of spans to dst and gives the spans back.
func take(dst []byte, spans []engine.Span) ([]byte, error) {
	var failed error
	for i := range spans {
		s := &spans[i]
		switch {
		case failed != nil:
		case s.Mem != nil:
			dst = append(dst, s.Mem...)
		default:
			at := len(dst)
			dst = append(dst, make([]byte, s.Len)...)
			failed = preadFull(s.FD, dst[at:], s.Pos)
		}
		s.Owner.Release()
	}
	return dst, failed
}
