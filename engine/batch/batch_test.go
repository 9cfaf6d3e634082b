package batch

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var codecs = []Codec{None, Gzip, Snappy, LZ4, Zstd}

// limit is the uncompressed size that tests allow.
const limit = 8 << 20

// someBatch is a valid batch of n records with every kind of field in it.
func someBatch(tb testing.TB, codec Codec, n int) []byte {
	tb.Helper()
	b := NewBuilder(1000, 7)
	b.SetCodec(codec)
	b.SetProducer(42, 3, 17)
	for i := range n {
		var key, value []byte
		if i%3 != 0 {
			key = fmt.Appendf(nil, "key-%d", i)
		}
		if i%4 != 3 {
			value = bytes.Repeat([]byte{byte(i)}, i%50)
		}
		var headers []RecordHeader
		if i%5 == 0 {
			headers = []RecordHeader{{"trace", []byte("abc")}, {"", nil}, {"empty", []byte{}}}
		}
		b.Append(1_700_000_000_000+int64(i*i)-10, key, value, headers)
	}
	return b.Build()
}

// reseal makes length and CRC of a changed batch right again.
func reseal(b []byte) []byte {
	binary.BigEndian.PutUint32(b[posLength:], uint32(len(b)-lengthEnd))
	setCRC(b)
	return b
}

// The bytes of the format never change: this batch must decode for ever.
func TestBatchBytesAreKafkas(t *testing.T) {
	b := NewBuilder(5, 2)
	b.SetProducer(9, 1, 4)
	b.Append(1000, []byte("k"), []byte("vw"), []RecordHeader{{"h", []byte("x")}})
	b.Append(1003, nil, nil, nil)
	want := strings.Join([]string{
		"0000000000000005", // base offset
		"00000046",         // length
		"00000002",         // leader epoch
		"02",               // magic
		"07134fce",         // CRC
		"0000",             // attributes
		"00000001",         // last offset delta
		"00000000000003e8", // base timestamp
		"00000000000003eb", // max timestamp
		"0000000000000009", // producer id
		"0001",             // producer epoch
		"00000004",         // base sequence
		"00000002",         // records
		"1a" + "00" + "00" + "00" + "026b" + "047677" + "02" + "0268" + "0278",
		"0c" + "00" + "06" + "02" + "01" + "01" + "00",
	}, "")
	got := b.Build()
	sum := crc32.Checksum(got[21:], crc32.MakeTable(crc32.Castagnoli)) // the standard library's
	if hex.EncodeToString(got) != want {
		t.Fatalf("got  %x\nwant %s", got, want)
	}
	h, err := Validate(got)
	if err != nil {
		t.Fatal(err)
	}
	wantHeader := Header{BaseOffset: 5, Length: 70, LeaderEpoch: 2, Magic: 2, CRC: sum, LastOffsetDelta: 1, BaseTimestamp: 1000, MaxTimestamp: 1003, ProducerID: 9, ProducerEpoch: 1, BaseSequence: 4, NumRecords: 2}
	if h != wantHeader {
		t.Fatalf("got %+v\nwant %+v", h, wantHeader)
	}
	if h.LastOffset() != 6 || h.NextOffset() != 7 || h.LastSequence() != 5 || h.Size() != len(got) {
		t.Fatalf("last offset %d, next %d, last sequence %d, size %d", h.LastOffset(), h.NextOffset(), h.LastSequence(), h.Size())
	}
}

func TestValidateNamesWhatIsWrong(t *testing.T) {
	good := someBatch(t, None, 3)
	for _, tc := range []struct {
		name   string
		change func(b []byte) []byte
		want   error
	}{
		{"empty", func([]byte) []byte { return nil }, ErrShort},
		{"half a header", func(b []byte) []byte { return b[:60] }, ErrShort},
		{"one byte missing", func(b []byte) []byte { return b[:len(b)-1] }, ErrShort},
		{"one byte more", func(b []byte) []byte { return append(b, 0) }, ErrLength},
		{"negative length", func(b []byte) []byte { b[posLength] = 0xff; return b }, ErrLength},
		{"length below a header", func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[posLength:], minLength-1)
			return b
		}, ErrLength},
		{"old magic", func(b []byte) []byte { b[posMagic] = 1; return b }, ErrMagic},
		{"negative record count", func(b []byte) []byte { b[posNumRecords] = 0x80; return b }, ErrCount},
		{"more records than offsets", func(b []byte) []byte { b[posNumRecords+3] = 4; return b }, ErrCount},
		{"huge record count", func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[posNumRecords:], math.MaxInt32)
			return b
		}, ErrCount},
		{"negative last offset delta", func(b []byte) []byte { b[posLastOffsetDelta] = 0x80; return b }, ErrCount},
		{"codec 5", func(b []byte) []byte { b[posAttributes+1] = 5; return b }, ErrCodec},
		{"one bit of a record", func(b []byte) []byte { b[HeaderSize+4] ^= 1; return b }, ErrCRC},
		{"one bit of the CRC", func(b []byte) []byte { b[posCRC] ^= 1; return b }, ErrCRC},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Validate(tc.change(bytes.Clone(good))); !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
		})
	}
	if _, err := Validate(good); err != nil {
		t.Fatal(err)
	}
}

func TestSettersKeepTheBatchValid(t *testing.T) {
	b := someBatch(t, LZ4, 10)
	SetBaseOffset(b, 77)
	SetLeaderEpoch(b, 12)
	h, err := Validate(b)
	if err != nil {
		t.Fatalf("after setting fields outside the CRC: %v", err)
	}
	if h.BaseOffset != 77 || h.LeaderEpoch != 12 {
		t.Fatalf("got %+v", h)
	}
	base := h.BaseTimestamp
	SetLogAppendTime(b, 123456)
	h, err = Validate(b)
	if err != nil {
		t.Fatal(err)
	}
	if !h.LogAppendTime() || h.MaxTimestamp != 123456 || h.BaseTimestamp != base || h.Codec() != LZ4 {
		t.Fatalf("got %+v", h)
	}
	var r Reader
	if err := r.Reset(b, limit); err != nil {
		t.Fatal(err)
	}
	rec, err := r.Next()
	if err != nil || r.Timestamp(&rec) != 123456 {
		t.Fatalf("timestamp %d, err %v: all records have the append time", r.Timestamp(&rec), err)
	}
}

func TestCheckProducedRefusesWhatOnlyBrokersWrite(t *testing.T) {
	ok := Header{NumRecords: 2, LastOffsetDelta: 1, ProducerID: NoProducerID, BaseSequence: NoSequence}
	if err := ok.CheckProduced(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Header){
		"no records":                     func(h *Header) { h.NumRecords = 0 },
		"offset gap":                     func(h *Header) { h.LastOffsetDelta = 2 },
		"control":                        func(h *Header) { h.Attributes |= attrControl },
		"producer without sequence":      func(h *Header) { h.ProducerID = 1 },
		"transactional without producer": func(h *Header) { h.Attributes |= attrTransactional },
	} {
		h := ok
		change(&h)
		if h.CheckProduced() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestRecordsComeBackAsBuilt(t *testing.T) {
	type built struct {
		timestamp  int64
		key, value []byte
		headers    []RecordHeader
	}
	bytesOrNil := rapid.OneOf(rapid.Just([]byte(nil)), rapid.SliceOfN(rapid.Byte(), 0, 200))
	rapid.Check(t, func(t *rapid.T) {
		codec := rapid.SampledFrom(codecs).Draw(t, "codec")
		b := NewBuilder(rapid.Int64Range(0, 1<<50).Draw(t, "base"), 1)
		b.SetCodec(codec)
		var want []built
		for range rapid.IntRange(1, 30).Draw(t, "count") {
			w := built{
				timestamp: rapid.Int64Range(-1, 1<<45).Draw(t, "timestamp"),
				key:       bytesOrNil.Draw(t, "key"),
				value:     bytesOrNil.Draw(t, "value"),
			}
			for range rapid.IntRange(0, 3).Draw(t, "headers") {
				w.headers = append(w.headers, RecordHeader{rapid.String().Draw(t, "header key"), bytesOrNil.Draw(t, "header value")})
			}
			b.Append(w.timestamp, w.key, w.value, w.headers)
			want = append(want, w)
		}
		raw := b.Build()
		h, err := Validate(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.CheckProduced(); err != nil {
			t.Fatal(err)
		}
		if i, err := CheckRecords(raw, false, limit); err != nil || i != -1 {
			t.Fatalf("record %d: %v", i, err)
		}
		var r Reader
		if err := r.Reset(raw, limit); err != nil {
			t.Fatal(err)
		}
		maxTimestamp := NoTimestamp
		for i, w := range want {
			rec, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			maxTimestamp = max(maxTimestamp, w.timestamp)
			if r.Offset(&rec) != h.BaseOffset+int64(i) || r.Timestamp(&rec) != w.timestamp || !same(rec.Key, w.key) || !same(rec.Value, w.value) {
				t.Fatalf("record %d: got %+v, want %+v", i, rec, w)
			}
			headers := rec.Headers.AppendTo(nil)
			if len(headers) != len(w.headers) {
				t.Fatalf("record %d: %d headers, want %d", i, len(headers), len(w.headers))
			}
			for j := range headers {
				if headers[j].Key != w.headers[j].Key || !same(headers[j].Value, w.headers[j].Value) {
					t.Fatalf("record %d header %d: got %q, want %q", i, j, headers[j], w.headers[j])
				}
			}
		}
		if _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Fatalf("after the last record: %v", err)
		}
		if h.MaxTimestamp != maxTimestamp {
			t.Fatalf("max timestamp %d, want %d", h.MaxTimestamp, maxTimestamp)
		}
	})
}

// same compares bytes and tells null from empty.
func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func TestCheckRecordsFindsTheBadRecord(t *testing.T) {
	record := func(delta int32, key []byte) []byte { return appendRecord(nil, 0, delta, key, nil, nil) }
	k := []byte("k")
	long := record(1, k)
	long[0] += 2 // one byte longer than it is
	headers := record(1, k)
	headers[len(headers)-1] = 2 // a header that is not there
	for _, tc := range []struct {
		name    string
		records [][]byte
		extra   []byte
		index   int32
		want    error
	}{
		{"all good", [][]byte{record(0, k), record(1, k), record(2, k)}, nil, -1, nil},
		{"no key", [][]byte{record(0, k), record(1, nil), record(2, k)}, nil, 1, ErrNoKey},
		{"same delta twice", [][]byte{record(0, k), record(0, k), record(2, k)}, nil, 1, ErrRecord},
		{"gap", [][]byte{record(0, k), record(1, k), record(3, k)}, nil, 2, ErrRecord},
		{"negative delta", [][]byte{record(-1, k), record(1, k), record(2, k)}, nil, 0, ErrRecord},
		{"length beyond the batch", [][]byte{record(0, k), record(1, k), {0xfe, 0xff, 0xff, 0xff, 0x0f}}, nil, 2, ErrRecord},
		{"length into the next", [][]byte{record(0, k), long, record(2, k)}, nil, 1, ErrRecord},
		{"headers missing", [][]byte{record(0, k), headers, record(2, k)}, nil, 1, ErrRecord},
		{"fewer than counted", [][]byte{record(0, k), record(1, k)}, nil, 2, ErrRecord},
		{"bytes behind", [][]byte{record(0, k), record(1, k), record(2, k)}, []byte{0}, -1, ErrTrailing},
	} {
		for _, codec := range codecs {
			b := NewBuilder(0, 0)
			b.SetCodec(codec)
			for _, r := range tc.records {
				b.records = append(b.records, r...)
			}
			b.records = append(b.records, tc.extra...)
			b.count, b.header.LastOffsetDelta = 3, 2
			raw := b.Build()
			if _, err := Validate(raw); err != nil {
				t.Fatal(err)
			}
			index, err := CheckRecords(raw, true, limit)
			if index != tc.index || !errors.Is(err, tc.want) {
				t.Errorf("%s, %s: got record %d, %v; want %d, %v", tc.name, codec, index, err, tc.index, tc.want)
			}
		}
	}
}

func TestMarkersComeBackAsBuilt(t *testing.T) {
	for _, m := range []Marker{Abort, Commit} {
		b := BuildMarker(90, 4, 11, 2, 5555, m, 13)
		h, err := Validate(b)
		if err != nil {
			t.Fatal(err)
		}
		if !h.IsControl() || !h.IsTransactional() || !h.HasProducer() || h.ProducerEpoch != 2 || h.NextOffset() != 91 || h.CheckProduced() == nil {
			t.Fatalf("%s: %+v", m, h)
		}
		got, epoch, err := ParseMarker(b)
		if err != nil || got != m || epoch != 13 {
			t.Fatalf("got %s, coordinator epoch %d, %v", got, epoch, err)
		}
	}
	bad := NewBuilder(0, 0)
	bad.Append(0, []byte{0, 0, 0}, nil, nil)
	if _, _, err := ParseMarker(bad.Build()); !errors.Is(err, ErrControl) {
		t.Fatalf("short key: %v", err)
	}
	empty := NewBuilder(0, 0)
	if _, _, err := ParseMarker(empty.Build()); !errors.Is(err, ErrControl) {
		t.Fatalf("no record: %v", err)
	}
}

func TestSequencesWrap(t *testing.T) {
	h := Header{BaseSequence: math.MaxInt32 - 1, LastOffsetDelta: 3}
	if got := h.LastSequence(); got != 1 {
		t.Fatalf("got %d, want 1", got)
	}
	if got := AddSequence(1, -3); got != math.MaxInt32-1 {
		t.Fatalf("got %d back", got)
	}
}

// What Filter leaves is compared with a batch whose records were chosen by hand.
func TestFilterKeepsEverythingButTheRecords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		codec := rapid.SampledFrom(codecs).Draw(t, "codec")
		n := rapid.IntRange(1, 40).Draw(t, "records")
		raw := someBatchOf(codec, n, rapid.Int64().Draw(t, "seed"))
		appendTime := rapid.Bool().Draw(t, "append time")
		if appendTime {
			SetLogAppendTime(raw, 1_800_000_000_000)
		}
		horizon := rapid.SampledFrom([]int64{0, 1_900_000_000_000}).Draw(t, "horizon")
		keep := rapid.SliceOfN(rapid.Bool(), n, n).Draw(t, "keep")
		retainEmpty := rapid.Bool().Draw(t, "retain empty")

		var before, after Reader
		check(t, before.Reset(raw, limit))
		var want []Record
		for i := 0; ; i++ {
			rec, err := before.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			check(t, err)
			if keep[i] {
				want = append(want, rec)
			}
		}
		prefix := []byte("before")
		out, res, err := Filter(prefix, raw, FilterOptions{
			Keep:                func(r *Record) bool { return keep[r.OffsetDelta] },
			RetainEmpty:         retainEmpty,
			DeleteHorizonMillis: horizon,
			MaxUncompressed:     limit,
		})
		check(t, err)
		if !bytes.HasPrefix(out, prefix) {
			t.Fatal("dst was not appended to")
		}
		out = out[len(prefix):]
		if res.Kept != len(want) || res.Removed != n-len(want) || res.Written != (len(out) > 0) {
			t.Fatalf("result %+v, want %d of %d", res, len(want), n)
		}
		if !res.Written {
			if len(want) > 0 || retainEmpty {
				t.Fatal("batch is gone")
			}
			return
		}
		horizon = withHorizon(horizon, want)
		if len(want) == n && horizon == 0 && !bytes.Equal(out, raw) {
			t.Fatal("a batch that loses nothing must stay as it is")
		}
		h, err := Validate(out)
		check(t, err)
		o := before.header
		if h.BaseOffset != o.BaseOffset || h.LastOffset() != o.LastOffset() || h.LeaderEpoch != o.LeaderEpoch ||
			h.ProducerID != o.ProducerID || h.ProducerEpoch != o.ProducerEpoch || h.BaseSequence != o.BaseSequence || h.LastSequence() != o.LastSequence() ||
			h.IsTransactional() != o.IsTransactional() || h.LogAppendTime() != o.LogAppendTime() {
			t.Fatalf("header %+v became %+v", o, h)
		}
		if got, ok := h.DeleteHorizon(); ok != (horizon > 0) || ok && got != horizon {
			t.Fatalf("delete horizon %d, %v", got, ok)
		}
		check(t, after.Reset(out, limit))
		maxTimestamp := NoTimestamp
		for _, w := range want {
			rec, err := after.Next()
			check(t, err)
			maxTimestamp = max(maxTimestamp, after.Timestamp(&rec))
			if after.Offset(&rec) != before.Offset(&w) || after.Timestamp(&rec) != before.Timestamp(&w) || !same(rec.Key, w.Key) || !same(rec.Value, w.Value) ||
				rec.Headers.Count != w.Headers.Count || !bytes.Equal(rec.Headers.raw, w.Headers.raw) {
				t.Fatalf("record %+v became %+v", w, rec)
			}
		}
		if _, err := after.Next(); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if len(want) > 0 && h.MaxTimestamp != maxTimestamp {
			t.Fatalf("max timestamp %d, want %d", h.MaxTimestamp, maxTimestamp)
		}
	})
}

// withHorizon is the delete horizon that a batch with these records gets.
func withHorizon(horizon int64, kept []Record) int64 {
	for i := range kept {
		if kept[i].IsTombstone() {
			return horizon
		}
	}
	return 0
}

func check(t *rapid.T, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

func someBatchOf(codec Codec, n int, seed int64) []byte {
	rng := rand.New(rand.NewPCG(uint64(seed), 1))
	b := NewBuilder(rng.Int64N(1<<40), 3)
	b.SetCodec(codec)
	b.SetProducer(rng.Int64N(100), 1, rng.Int32())
	if rng.IntN(2) == 0 {
		b.SetTransactional()
	}
	for range n {
		var headers []RecordHeader
		if rng.IntN(3) == 0 {
			headers = []RecordHeader{{"h", make([]byte, rng.IntN(100))}}
		}
		value := make([]byte, rng.IntN(300))
		if rng.IntN(8) == 0 {
			value = nil
		}
		b.Append(1_700_000_000_000+rng.Int64N(1<<34)-1<<33, fmt.Appendf(nil, "k%d", rng.IntN(9)), value, headers)
	}
	return b.Build()
}

func TestFilterLeavesAFirstDeleteHorizonAlone(t *testing.T) {
	raw := someBatch(t, None, 4)
	all := func(*Record) bool { return true }
	once, _, err := Filter(nil, raw, FilterOptions{Keep: all, DeleteHorizonMillis: 1000, MaxUncompressed: limit})
	if err != nil {
		t.Fatal(err)
	}
	twice, res, err := Filter(nil, once, FilterOptions{Keep: all, DeleteHorizonMillis: 2000, MaxUncompressed: limit})
	if err != nil || res.Changed || !bytes.Equal(once, twice) {
		t.Fatalf("changed %v, %v", res.Changed, err)
	}
}
