package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"github.com/klauspost/compress/s2"
)

// xerial frames src as the Java client does, in blocks of blockSize.
func xerial(src []byte, blockSize int) []byte {
	out := append([]byte(nil), xerialMagic...)
	out = binary.BigEndian.AppendUint32(out, 1)
	out = binary.BigEndian.AppendUint32(out, 1)
	for len(src) > 0 {
		n := min(blockSize, len(src))
		block := s2.EncodeSnappy(nil, src[:n])
		out = binary.BigEndian.AppendUint32(out, uint32(len(block)))
		out = append(out, block...)
		src = src[n:]
	}
	return out
}

func TestSnappyIsReadRawAndInXerialFrames(t *testing.T) {
	src := bytes.Repeat([]byte("some bytes that repeat "), 5000)
	for _, blockSize := range []int{1000, 32 << 10, 1 << 20} {
		got, err := decompress(nil, xerial(src, blockSize), Snappy, limit)
		if err != nil || !bytes.Equal(got, src) {
			t.Fatalf("blocks of %d: %d bytes, %v", blockSize, len(got), err)
		}
	}
	got, err := decompress(nil, s2.EncodeSnappy(nil, src), Snappy, limit)
	if err != nil || !bytes.Equal(got, src) {
		t.Fatalf("raw: %d bytes, %v", len(got), err)
	}
}

func TestDecompressStopsExactlyAtTheLimit(t *testing.T) {
	src := bytes.Repeat([]byte("0123456789"), 10_000)
	packed := map[string][]byte{"xerial": xerial(src, 1<<10)}
	for _, c := range codecs[1:] {
		packed[c.String()] = compress(nil, src, c)
	}
	for name, p := range packed {
		codec := Snappy
		for _, c := range codecs {
			if c.String() == name {
				codec = c
			}
		}
		for _, buf := range [][]byte{nil, make([]byte, 10), make([]byte, 0, 1<<20)} {
			if got, err := decompress(buf, p, codec, len(src)); err != nil || !bytes.Equal(got, src) {
				t.Errorf("%s, just enough: %d bytes, %v", name, len(got), err)
			}
			if _, err := decompress(buf, p, codec, len(src)-1); !errors.Is(err, ErrTooLarge) {
				t.Errorf("%s, one byte too few: %v", name, err)
			}
			if _, err := decompress(buf, p, codec, 0); !errors.Is(err, ErrTooLarge) {
				t.Errorf("%s, nothing allowed: %v", name, err)
			}
		}
	}
}

// A small input must not cost more memory than was allowed, whatever it unpacks to or claims.
func TestBombsCostNoMoreThanTheLimit(t *testing.T) {
	const allowed = 1 << 20
	zeros := make([]byte, 64<<20)
	bombs := map[string]struct {
		codec Codec
		data  []byte
	}{
		"gzip":   {Gzip, compress(nil, zeros, Gzip)},
		"lz4":    {LZ4, compress(nil, zeros, LZ4)},
		"zstd":   {Zstd, compress(nil, zeros, Zstd)},
		"xerial": {Snappy, xerial(zeros[:16<<20], 32<<10)},
		// Nine bytes that claim 4 GiB.
		"snappy claim": {Snappy, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0, 'x', 'y', 'z'}},
		// A frame that claims 2 GiB of content and has none.
		"zstd claim": {Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x80, 1, 0, 0}},
		// One that claims just what is allowed.
		"zstd small claim": {Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0x10, 0, 1, 0, 0}},
		// A window of 128 MiB, and of 3.75 TiB.
		"zstd window":      {Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x88, 1, 0, 0}},
		"zstd huge window": {Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 1, 0, 0}},
	}
	for name, b := range bombs {
		t.Run(name, func(t *testing.T) {
			_, _ = decompress(nil, b.data, b.codec, allowed) // the codec's own tables are made once
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			out, err := decompress(nil, b.data, b.codec, allowed)
			runtime.ReadMemStats(&after)
			if len(out) > allowed {
				t.Fatalf("%d bytes came out", len(out))
			}
			if err == nil && len(out) > 0 {
				t.Fatalf("accepted with %d bytes", len(out))
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 12<<20 {
				t.Fatalf("%d bytes were allocated for %d bytes of input", used, len(b.data))
			}
		})
	}
}

func TestDamagedCompressionIsAnError(t *testing.T) {
	src := bytes.Repeat([]byte("damage "), 3000)
	for _, c := range codecs[1:] {
		packed := compress(nil, src, c)
		if _, err := decompress(nil, packed[:len(packed)/2], c, limit); err == nil {
			t.Errorf("%s: half of it was accepted", c)
		}
		if _, err := decompress(nil, []byte("no such format, really"), c, limit); !errors.Is(err, ErrCompress) {
			t.Errorf("%s: text was taken for it: %v", c, err)
		}
		// The decoder that has just failed must not spoil the next one.
		if got, err := decompress(nil, packed, c, limit); err != nil || !bytes.Equal(got, src) {
			t.Errorf("%s: after a failure: %v", c, err)
		}
	}
	for name, data := range map[string][]byte{
		"header only cut": xerialMagic,
		"block size cut":  append(xerial(nil, 1), 0, 0),
		"block cut":       append(xerial(nil, 1), 0, 0, 1, 0, 5),
		"negative block":  append(xerial(nil, 1), 0xff, 0xff, 0xff, 0xff, 5),
	} {
		if _, err := decompress(nil, data, Snappy, limit); !errors.Is(err, ErrCompress) {
			t.Errorf("xerial, %s: %v", name, err)
		}
	}
}
