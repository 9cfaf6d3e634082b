package bench

import (
	"encoding/binary"
	"hash/crc32"
	"testing"
	"time"
)

// A stamped batch must have the checksum that its bytes have, or every broker would refuse it.
func TestStampedBatchHasTheChecksumOfItsBytes(t *testing.T) {
	for _, size := range []int{headerSize, 100, 1000} {
		for _, batch := range []int{0, 1000, 100_000} {
			o := &Options{MessageSize: size, BatchBytes: batch}
			p := newPayload(42, time.Now(), size, 0)
			b, err := newRawBatch(o, p)
			if err != nil {
				t.Fatal(err)
			}
			for number := range uint64(3) {
				b.stamp(p, number*1_000_003, time.Now())
				if got, want := binary.BigEndian.Uint32(b.data[batchCRCAt:]), crc32.Checksum(b.data[batchCRCFrom:], castagnoli); got != want {
					t.Fatalf("size %d, batch %d, number %d: checksum %08x, want %08x", size, batch, number, got, want)
				}
			}
		}
	}
}

func TestRawLoadsSeveralTopicsOverFewOrManyConnections(t *testing.T) {
	for _, shape := range []struct{ connections, inflight, threads, batch int }{{1, 64, 1, 0}, {5, 3, 2, 40_000}, {32, 1, 2, 0}} {
		o := options(broker(t))
		o.Raw, o.Topics, o.Concurrency, o.Inflight, o.Threads, o.BatchBytes = true, 3, shape.connections, shape.inflight, shape.threads, shape.batch
		r, err := Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if r.Acked == 0 || r.Failed != 0 || !r.Verify.OK || r.Verify.Found != r.Acked {
			t.Errorf("%+v: %d acknowledged, %d failed, verification %+v", shape, r.Acked, r.Failed, r.Verify)
		}
	}
}

func TestRawOpenLoopKeepsItsRateAndRawReadersSeeEverything(t *testing.T) {
	o := options(broker(t))
	o.Raw, o.Mode, o.Rate, o.Consumers, o.BatchBytes = true, EndToEnd, 4000, 2, 1000
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(4000 * 0.35); r.Sent+r.Unsent < want-10 || r.Sent+r.Unsent > want+10 {
		t.Errorf("%d sent and %d not, want %d together", r.Sent, r.Unsent, want)
	}
	if r.EndToEnd == nil || r.Read != 2*r.Acked || !r.Verify.OK || r.Generator == nil {
		t.Errorf("%d acknowledged, %d read, verification %+v", r.Acked, r.Read, r.Verify)
	}
}

func TestRawVerificationFindsWhatIsMissingAndWrong(t *testing.T) {
	c := broker(t)
	o := options(c)
	o.Raw, o.Partitions, o.BatchBytes, o.Concurrency = true, 1, 1000, 2
	tgt, err := prepareTopic(t.Context(), &o, true)
	if err != nil {
		t.Fatal(err)
	}
	w := newWindow(time.Now(), 0, 100*time.Millisecond)
	l := newLoad(&o, w, newPayload(9, w.began, o.MessageSize, 0))
	if l.places, err = places(t.Context(), &o, tgt); err != nil {
		t.Fatal(err)
	}
	if err := l.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	entries := l.rawLedger.of(0)
	if len(entries) < 3 {
		t.Fatalf("only %d batches", len(entries))
	}
	l.rawLedger.threads = []map[int][]entry{{0: entries}}
	entries[1].number++    // another one is there
	entries[2].offset += 5 // nothing begins there
	v, err := l.verifyRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v.Wrong != 10 || v.Missing != 10 || v.Found != v.Acknowledged-20 || v.OK {
		t.Errorf("%+v", v)
	}
}
