package batch

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func addSeeds(f *testing.F) {
	for _, c := range codecs {
		f.Add(someBatch(f, c, 5))
	}
	f.Add(BuildMarker(1, 2, 3, 4, 5, Commit, 6))
	f.Add(NewBuilder(0, 0).Build())
	f.Add([]byte{})
}

// FuzzHeader: whatever the bytes are, a header that is accepted is one that other code can
// compute with, and writes back as it was.
func FuzzHeader(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			return
		}
		size, err := PeekSize(b)
		if err != nil || size != h.Size() || size < HeaderSize {
			t.Fatalf("size %d and %d, %v", size, h.Size(), err)
		}
		if h.NumRecords < 0 || h.LastOffsetDelta < 0 || int64(h.NumRecords) > int64(h.LastOffsetDelta)+1 {
			t.Fatalf("accepted %+v", h)
		}
		again := bytes.Clone(b[:HeaderSize])
		h.put(again)
		if !bytes.Equal(again, b[:HeaderSize]) {
			t.Fatalf("%x became %x", b[:HeaderSize], again)
		}
		if _, err := Validate(b); err == nil && size != len(b) {
			t.Fatal("validated a batch of another length")
		}
	})
}

// FuzzRecords: the walk ends, stays in bounds and counts right.
func FuzzRecords(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderSize {
			return
		}
		b = reseal(bytes.Clone(b)) // the interesting part lies behind length and CRC
		const limit = 1 << 20
		var r Reader
		if r.Reset(b, limit) != nil {
			return
		}
		if r.UncompressedSize() > max(limit, len(b)) {
			t.Fatalf("%d bytes uncompressed", r.UncompressedSize())
		}
		n, last := int32(0), int32(-1)
		for {
			rec, err := r.Next()
			if errors.Is(err, io.EOF) {
				if n != r.Header().NumRecords {
					t.Fatalf("%d records, header says %d", n, r.Header().NumRecords)
				}
				break
			}
			if err != nil {
				break
			}
			if rec.OffsetDelta <= last || rec.OffsetDelta > r.Header().LastOffsetDelta {
				t.Fatalf("offset delta %d after %d", rec.OffsetDelta, last)
			}
			if len(rec.Headers.AppendTo(nil)) != rec.Headers.Count {
				t.Fatal("headers lost")
			}
			n, last = n+1, rec.OffsetDelta
		}
		bad, err := CheckRecords(b, false, limit)
		if (err == nil) != (n == r.Header().NumRecords && errors.Is(r.err, io.EOF)) || bad >= r.Header().NumRecords {
			t.Fatalf("check says record %d, %v; the walk ended after %d with %v", bad, err, n, r.err)
		}
	})
}

// FuzzFilter: what is left is valid, and filtering it again changes nothing.
func FuzzFilter(f *testing.F) {
	for _, c := range codecs {
		f.Add(someBatch(f, c, 5), uint64(0b10110), int64(0))
		f.Add(someBatch(f, c, 5), uint64(0), int64(99))
	}
	f.Fuzz(func(t *testing.T, b []byte, keep uint64, horizon int64) {
		if len(b) < HeaderSize {
			return
		}
		b = reseal(bytes.Clone(b))
		o := FilterOptions{
			Keep:                func(r *Record) bool { return keep>>(uint(r.OffsetDelta)%64)&1 != 0 },
			RetainEmpty:         true,
			DeleteHorizonMillis: horizon,
			MaxUncompressed:     1 << 20,
		}
		once, res, err := Filter(nil, b, o)
		if err != nil {
			return
		}
		h, err := Validate(once)
		if err != nil || int(h.NumRecords) != res.Kept {
			t.Fatalf("%v, %d records, %+v", err, h.NumRecords, res)
		}
		o.MaxUncompressed = 2 << 20 // a moved base timestamp can make records longer
		twice, res, err := Filter(nil, once, o)
		if err != nil || res.Changed || !bytes.Equal(once, twice) {
			t.Fatalf("second time: %v, %+v", err, res)
		}
	})
}

// FuzzDecompress: no codec makes more than it may, and none panics.
func FuzzDecompress(f *testing.F) {
	src := bytes.Repeat([]byte("seed "), 100)
	for _, c := range codecs[1:] {
		f.Add(int8(c), compress(nil, src, c))
	}
	f.Add(int8(Snappy), xerial(src, 64))
	f.Fuzz(func(t *testing.T, codec int8, data []byte) {
		const limit = 64 << 10
		out, err := decompress(nil, data, Codec(codec), limit)
		if err == nil && len(out) > limit {
			t.Fatalf("%d bytes", len(out))
		}
	})
}

// FuzzMarker: garbage in control batches is an error, never a panic.
func FuzzMarker(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(_ *testing.T, b []byte) {
		if len(b) >= HeaderSize {
			_, _, _ = ParseMarker(reseal(bytes.Clone(b)))
		}
	})
}
