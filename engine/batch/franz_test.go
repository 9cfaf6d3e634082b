package batch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// kmsg's record batch is the second opinion on every header field.
func TestHeaderAgreesWithKmsg(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		last := rapid.Int32Range(0, 1<<30).Draw(t, "last offset delta")
		k := kmsg.RecordBatch{
			FirstOffset:          rapid.Int64().Draw(t, "base offset"),
			PartitionLeaderEpoch: rapid.Int32().Draw(t, "leader epoch"),
			Magic:                2,
			Attributes:           rapid.Int16().Draw(t, "attributes")&^attrCodecMask | int16(rapid.SampledFrom(codecs).Draw(t, "codec")),
			LastOffsetDelta:      last,
			FirstTimestamp:       rapid.Int64().Draw(t, "base timestamp"),
			MaxTimestamp:         rapid.Int64().Draw(t, "max timestamp"),
			ProducerID:           rapid.Int64().Draw(t, "producer id"),
			ProducerEpoch:        rapid.Int16().Draw(t, "producer epoch"),
			FirstSequence:        rapid.Int32().Draw(t, "base sequence"),
			NumRecords:           rapid.Int32Range(0, last+1).Draw(t, "records"),
			Records:              rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "record bytes"),
		}
		k.Length = int32(minLength + len(k.Records))
		raw := k.AppendTo(nil)
		k.CRC = int32(crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
		raw = k.AppendTo(nil)
		h, err := Validate(raw)
		if err != nil {
			t.Fatal(err)
		}
		want := Header{
			BaseOffset: k.FirstOffset, Length: k.Length, LeaderEpoch: k.PartitionLeaderEpoch, Magic: k.Magic, CRC: uint32(k.CRC),
			Attributes: k.Attributes, LastOffsetDelta: k.LastOffsetDelta, BaseTimestamp: k.FirstTimestamp, MaxTimestamp: k.MaxTimestamp,
			ProducerID: k.ProducerID, ProducerEpoch: k.ProducerEpoch, BaseSequence: k.FirstSequence, NumRecords: k.NumRecords,
		}
		if h != want {
			t.Fatalf("got %+v\nwant %+v", h, want)
		}
	})
}

// Batches made by the client itself, with every codec, are caught at a fake broker's door.
func TestClientBatchesAreRead(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Skip("no listener for the fake broker: ", err)
	}
	defer cluster.Close()
	var caught [][]byte
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		for _, topic := range req.(*kmsg.ProduceRequest).Topics {
			for _, p := range topic.Partitions {
				caught = append(caught, bytes.Clone(p.Records))
			}
		}
		return nil, nil, false
	})
	for codec, option := range map[Codec]kgo.CompressionCodec{
		None: kgo.NoCompression(), Gzip: kgo.GzipCompression(), Snappy: kgo.SnappyCompression(), LZ4: kgo.Lz4Compression(), Zstd: kgo.ZstdCompression(),
	} {
		caught = nil
		client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ProducerBatchCompression(option), kgo.DefaultProduceTopic("t"), kgo.ProducerLinger(20*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		var sent []*kgo.Record
		for i := range 500 {
			r := &kgo.Record{Key: fmt.Appendf(nil, "key %d", i), Value: bytes.Repeat([]byte("value "), i), Timestamp: time.UnixMilli(1_700_000_000_000 + int64(i%7))}
			switch i % 4 {
			case 1:
				r.Key = nil
			case 2:
				r.Value = nil
			case 3:
				r.Headers = []kgo.RecordHeader{{Key: "h", Value: []byte("v")}, {Key: "null"}}
			}
			sent = append(sent, r)
		}
		err = client.ProduceSync(context.Background(), sent...).FirstErr()
		client.Close()
		if err != nil {
			t.Fatal(err)
		}
		next := 0
		for _, raw := range caught {
			h, err := Validate(raw)
			if err != nil {
				t.Fatalf("%s: %v", codec, err)
			}
			if err := h.CheckProduced(); err != nil || !h.HasProducer() {
				t.Fatalf("%s: %+v: %v", codec, h, err)
			}
			if h.Codec() != codec {
				t.Fatalf("sent as %s, want %s", h.Codec(), codec)
			}
			if int(h.BaseSequence) != next {
				t.Fatalf("%s: sequence %d, want %d", codec, h.BaseSequence, next)
			}
			var r Reader
			if err := r.Reset(raw, limit); err != nil {
				t.Fatalf("%s: %v", codec, err)
			}
			for {
				rec, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				want := sent[next]
				if !same(rec.Key, want.Key) || !same(rec.Value, want.Value) || r.Timestamp(&rec) != want.Timestamp.UnixMilli() || rec.Headers.Count != len(want.Headers) {
					t.Fatalf("%s: record %d: got %+v", codec, next, rec)
				}
				next++
			}
		}
		if next != len(sent) {
			t.Fatalf("%s: read %d of %d records", codec, next, len(sent))
		}
	}
}

// fetched lets the client decode raw as it would a fetch response.
func fetched(tb testing.TB, raw []byte, keepControl bool) []*kgo.Record {
	tb.Helper()
	rp := kmsg.NewFetchResponseTopicPartition()
	rp.RecordBatches = raw
	rp.HighWatermark, rp.LastStableOffset = 1<<60, 1<<60
	p, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Topic: "t", KeepControlRecords: keepControl}, &rp, kgo.DefaultDecompressor(), nil)
	if p.Err != nil {
		tb.Fatal(p.Err)
	}
	return p.Records
}

func TestClientReadsWhatWeBuildAndFilter(t *testing.T) {
	for _, codec := range codecs {
		raw := someBatch(t, codec, 30)
		checkFetched(t, raw, fetched(t, raw, false))
		for _, horizon := range []int64{0, 1_800_000_000_000} {
			out, res, err := Filter(nil, raw, FilterOptions{Keep: func(r *Record) bool { return r.OffsetDelta%3 == 1 }, DeleteHorizonMillis: horizon, MaxUncompressed: limit})
			if err != nil || res.Kept != 10 {
				t.Fatalf("%+v, %v", res, err)
			}
			got := fetched(t, out, false)
			if len(got) != 10 {
				t.Fatalf("%s: the client sees %d records", codec, len(got))
			}
			checkFetched(t, out, got)
		}
		// An empty batch in the middle is stepped over.
		empty, _, err := Filter(nil, raw, FilterOptions{Keep: func(*Record) bool { return false }, RetainEmpty: true, MaxUncompressed: limit})
		if err != nil {
			t.Fatal(err)
		}
		b := NewBuilder(5000, 7)
		b.Append(1, []byte("after"), nil, nil)
		if got := fetched(t, append(empty, b.Build()...), false); len(got) != 1 || got[0].Offset != 5000 {
			t.Fatalf("%s: behind an empty batch the client sees %d records", codec, len(got))
		}
	}
	marker := BuildMarker(7, 1, 2, 3, 4, Abort, 5)
	if got := fetched(t, marker, true); len(got) != 1 || !got[0].Attrs.IsControl() || got[0].ProducerID != 2 {
		t.Fatalf("marker: %+v", got)
	}
}

func checkFetched(t *testing.T, raw []byte, got []*kgo.Record) {
	t.Helper()
	var r Reader
	if err := r.Reset(raw, limit); err != nil {
		t.Fatal(err)
	}
	for i, g := range got {
		rec, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if g.Offset != r.Offset(&rec) || g.Timestamp.UnixMilli() != r.Timestamp(&rec) || !same(g.Key, rec.Key) || !same(g.Value, rec.Value) || len(g.Headers) != rec.Headers.Count ||
			g.LeaderEpoch != r.Header().LeaderEpoch || g.ProducerID != r.Header().ProducerID {
			t.Fatalf("record %d: the client sees %+v, we %+v", i, g, rec)
		}
	}
}
