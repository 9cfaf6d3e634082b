package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// The Java client and kafka-python wrap snappy blocks into xerial's frames: this
// magic, two int32 version numbers, then blocks with an int32 size before each.
// Everybody else sends one raw block.
var xerialMagic = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const (
	xerialHeaderSize = 16

	// Snappy's densest element is a 3-byte copy of 64 bytes. A block that claims
	// much more than this per input byte lies, and is refused before a buffer is
	// made for it.
	snappyRatioMax = 32

	// The first output buffer for formats that do not say how much will come.
	// It grows with what really came, so that a claim alone costs nothing.
	firstOutput = 16 << 10
)

// gzipSource is a gzip reader with the reader that feeds it, pooled together.
type gzipSource struct {
	in bytes.Reader
	gz gzip.Reader
}

type lz4Source struct {
	in bytes.Reader
	lz *lz4.Reader
}

var (
	gzipReaders = sync.Pool{New: func() any { return new(gzipSource) }}
	lz4Readers  = sync.Pool{New: func() any { return &lz4Source{lz: lz4.NewReader(nil)} }}
	gzipWriters = sync.Pool{New: func() any { return gzip.NewWriter(io.Discard) }}
	lz4Writers  = sync.Pool{New: func() any { return lz4.NewWriter(io.Discard) }}

	// DecodeAll works inside the buffer it is given (a frame's window claim costs
	// no memory), and stops at its capacity.
	zstdReader = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
		if err != nil {
			panic("BUG: zstd decoder options: " + err.Error())
		}
		return d
	})
	zstdWriter = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic("BUG: zstd encoder options: " + err.Error())
		}
		return e
	})
)

// decompress returns the uncompressed form of src, in buf if it has the room. It
// never makes more than sizeMax bytes, and never a buffer that is out of
// proportion to what src really holds.
func decompress(buf, src []byte, codec Codec, sizeMax int) ([]byte, error) {
	switch codec {
	case Gzip:
		s := gzipReaders.Get().(*gzipSource)
		s.in.Reset(src)
		out := buf[:0]
		err := s.gz.Reset(&s.in)
		if err == nil {
			out, err = readBounded(buf, &s.gz, sizeMax)
		}
		s.in.Reset(nil)
		gzipReaders.Put(s)
		if err != nil {
			return out[:0], damaged(Gzip, err)
		}
		return out, nil
	case Snappy:
		return unsnappy(buf, src, sizeMax)
	case LZ4:
		s := lz4Readers.Get().(*lz4Source)
		s.in.Reset(src)
		s.lz.Reset(&s.in)
		out, err := readBounded(buf, s.lz, sizeMax)
		s.in.Reset(nil)
		if err != nil {
			// The reader keeps state of a failure that Reset does not always clear: it
			// does not go back.
			return out[:0], damaged(LZ4, err)
		}
		lz4Readers.Put(s)
		return out, nil
	case Zstd:
		return unzstd(buf, src, sizeMax)
	default:
		return buf[:0], fmt.Errorf("%w: %d", ErrCodec, codec)
	}
}

func damaged(codec Codec, err error) error {
	if errors.Is(err, ErrTooLarge) {
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrCompress, codec, err)
}

func readBounded(buf []byte, r io.Reader, sizeMax int) ([]byte, error) {
	out := buf[:0]
	for {
		if len(out) == cap(out) {
			if len(out) > sizeMax {
				return out, ErrTooLarge
			}
			out = grow(out, min(max(2*cap(out), firstOutput), sizeMax+1))
		}
		n, err := r.Read(out[len(out):cap(out)])
		out = out[:len(out)+n]
		switch {
		case len(out) > sizeMax:
			return out, ErrTooLarge
		case err == io.EOF:
			return out, nil
		case err != nil:
			return out, err
		}
	}
}

// grow returns b with capacity size, at least.
func grow(b []byte, size int) []byte {
	if cap(b) >= size {
		return b
	}
	bigger := make([]byte, len(b), size)
	copy(bigger, b)
	return bigger
}

func unsnappy(buf, src []byte, sizeMax int) ([]byte, error) {
	if !bytes.HasPrefix(src, xerialMagic) {
		return unsnappyBlock(buf[:0], src, sizeMax)
	}
	if len(src) < xerialHeaderSize {
		return buf[:0], fmt.Errorf("%w: snappy: xerial header cut short", ErrCompress)
	}
	out := buf[:0]
	for src = src[xerialHeaderSize:]; len(src) > 0; {
		if len(src) < 4 {
			return out, fmt.Errorf("%w: snappy: xerial block size cut short", ErrCompress)
		}
		size := int64(binary.BigEndian.Uint32(src))
		if size > int64(len(src)-4) {
			return out, fmt.Errorf("%w: snappy: xerial block of %d bytes, %d left", ErrCompress, size, len(src)-4)
		}
		var err error
		if out, err = unsnappyBlock(out, src[4:4+size], sizeMax); err != nil {
			return out, err
		}
		src = src[4+size:]
	}
	return out, nil
}

// unsnappyBlock appends one uncompressed block to out.
func unsnappyBlock(out, block []byte, sizeMax int) ([]byte, error) {
	size, err := s2.DecodedLen(block)
	switch {
	case err != nil:
		return out, fmt.Errorf("%w: snappy: %w", ErrCompress, err)
	case size > snappyRatioMax*len(block):
		return out, fmt.Errorf("%w: snappy: %d bytes claim to hold %d", ErrCompress, len(block), size)
	case size > sizeMax-len(out):
		return out, ErrTooLarge
	}
	if cap(out)-len(out) < size {
		out = grow(out, min(max(2*cap(out), len(out)+size), max(sizeMax, len(out)+size)))
	}
	end := len(out) + size
	if _, err = s2.Decode(out[len(out):end:end], block); err != nil {
		return out, fmt.Errorf("%w: snappy: %w", ErrCompress, err)
	}
	return out[:end], nil
}

func unzstd(buf, src []byte, sizeMax int) ([]byte, error) {
	size := max(4*len(src), firstOutput)
	var frame zstd.Header
	if frame.Decode(src) == nil && frame.HasFCS {
		if frame.FrameContentSize > uint64(sizeMax) {
			return buf[:0], ErrTooLarge
		}
		if frame.FrameContentSize <= 64*uint64(len(src)) {
			size = max(size, int(frame.FrameContentSize))
		}
	}
	// Frames need not say their size, and may lie: try a buffer in proportion to
	// the input, and a larger one only when real output has filled it.
	for {
		size = min(size, sizeMax)
		out := grow(buf[:0], size)
		out = out[:0:min(cap(out), max(sizeMax, 0))]
		room := cap(out)
		out, err := zstdReader().DecodeAll(src, out)
		switch {
		case err == nil && len(out) > sizeMax:
			return buf[:0], ErrTooLarge
		case err == nil:
			return out, nil
		case !errors.Is(err, zstd.ErrDecoderSizeExceeded):
			return buf[:0], fmt.Errorf("%w: zstd: %w", ErrCompress, err)
		case room >= sizeMax:
			return buf[:0], ErrTooLarge
		}
		size = 4 * max(room, size)
	}
}

// compress appends the compressed form of src to dst.
func compress(dst, src []byte, codec Codec) []byte {
	switch codec {
	case None:
		return append(dst, src...)
	case Gzip:
		w := gzipWriters.Get().(*gzip.Writer)
		out := appendWriter{dst}
		w.Reset(&out)
		mustWrite(w, src)
		w.Reset(io.Discard)
		gzipWriters.Put(w)
		return out.b
	case Snappy:
		return append(dst, s2.EncodeSnappy(nil, src)...)
	case LZ4:
		w := lz4Writers.Get().(*lz4.Writer)
		out := appendWriter{dst}
		w.Reset(&out)
		// Kafka's own writer uses 64 KiB blocks; every client's reader knows them.
		if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false)); err != nil {
			panic("BUG: lz4 writer options: " + err.Error())
		}
		mustWrite(w, src)
		w.Reset(io.Discard)
		lz4Writers.Put(w)
		return out.b
	case Zstd:
		return zstdWriter().EncodeAll(src, dst)
	default:
		panic("BUG: compress with unknown " + codec.String())
	}
}

type appendWriter struct{ b []byte }

func (w *appendWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// mustWrite writes and closes; writers into memory do not fail.
func mustWrite(w io.WriteCloser, p []byte) {
	if _, err := w.Write(p); err != nil {
		panic("BUG: compressing into memory failed: " + err.Error())
	}
	if err := w.Close(); err != nil {
		panic("BUG: compressing into memory failed: " + err.Error())
	}
}
