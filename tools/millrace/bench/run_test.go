package bench

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// broker starts a fake broker. It keeps everything in memory, so runs against it are short.
func broker(t *testing.T) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func options(c *kfake.Cluster) Options {
	return Options{
		BootstrapServers: c.ListenAddrs(), Mode: Produce, Topic: "bench", Partitions: 3, Replicas: 1,
		Warmup: 50 * time.Millisecond, Duration: 300 * time.Millisecond, Drain: 5 * time.Second, Concurrency: 16, MessageSize: 100,
		Consumers: 1, Acks: -1, Inflight: 5, Compression: "none", Timeout: 5 * time.Second, Verify: true,
	}
}

func TestClosedLoopCountsAndVerifiesEveryAcknowledgedRecord(t *testing.T) {
	for _, raw := range []bool{false, true} {
		o := options(broker(t))
		o.Raw = raw
		r, err := Run(t.Context(), o)
		if err != nil {
			t.Fatalf("raw %t: %v", raw, err)
		}
		if r.Records == 0 || r.Records > r.Acked || r.Failed != 0 || r.Latency == nil || r.Latency.Samples != r.Records {
			t.Errorf("raw %t: %d records in the window, %d acknowledged, %d failed, latency %+v", raw, r.Records, r.Acked, r.Failed, r.Latency)
		}
		if !r.Verify.OK || r.Verify.Found != r.Acked {
			t.Errorf("raw %t: %d acknowledged, verification %+v", raw, r.Acked, r.Verify)
		}
	}
}

func TestRawBatchesCarryManyNumberedRecords(t *testing.T) {
	o := options(broker(t))
	o.Raw, o.BatchBytes, o.Inflight = true, 20_000, 3 // 200 records: offset deltas of one and of two bytes
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Acked%200 != 0 || r.Verify.Found != r.Acked {
		t.Errorf("%d acknowledged, verification %+v", r.Acked, r.Verify)
	}
}

func TestOpenLoopSendsAtItsRateAndEndToEndSeesEveryRecord(t *testing.T) {
	o := options(broker(t))
	o.Mode, o.Rate, o.Idempotent = EndToEnd, 2000, true
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(2000 * 0.35); r.Sent+r.Unsent != want {
		t.Errorf("%d sent and %d not, want %d together", r.Sent, r.Unsent, want)
	}
	if r.EndToEnd == nil || r.Read < r.Acked || !r.Verify.OK {
		t.Errorf("%d acknowledged, %d read, verification %+v", r.Acked, r.Read, r.Verify)
	}
}

// A broker that stops answering for a while must show in the open loop's latency as long as the stall, for
// the records that became due during it, too.
func TestOpenLoopChargesAStallToTheRecordsItDelayed(t *testing.T) {
	const stall = 300 * time.Millisecond
	c := broker(t)
	o := options(c)
	o.Rate, o.Verify, o.Partitions, o.Duration = 1000, false, 1, 600*time.Millisecond
	begin := time.Now().Add(200 * time.Millisecond)
	c.Control(kfakeDelay(c, begin, stall))
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	// About 300 of 600 records were due during the stall and waited up to 300 ms: without coordinated omission the
	// 75th percentile is near half the stall.
	if r.Latency.P90 < (stall / 4).Microseconds() {
		t.Errorf("p90 is %d us although a third of the run stood still for %v", r.Latency.P90, stall)
	}
}

func TestConsumeReadsToTheEndThatWasThereAtTheStart(t *testing.T) {
	for _, raw := range []bool{false, true} {
		c := broker(t)
		o := options(c)
		in, err := Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		o.Mode, o.Verify, o.Raw, o.Consumers, o.Duration = Consume, false, raw, 2, 20*time.Second
		out, err := Run(t.Context(), o)
		if err != nil {
			t.Fatalf("raw %t: %v", raw, err)
		}
		if out.Records != 2*in.Acked || out.Failed != 0 {
			t.Errorf("raw %t: two readers saw %d records of %d, failures %v", raw, out.Records, in.Acked, out.Failures)
		}
	}
}

func TestVerifyFindsWhatIsMissingWrongAndTwice(t *testing.T) {
	c := broker(t)
	o := options(c)
	o.Partitions, o.Idempotent = 1, true
	if _, err := prepareTopic(t.Context(), &o, true); err != nil {
		t.Fatal(err)
	}
	p := newPayload(7, time.Now(), o.MessageSize, 0)
	client, err := kgo.NewClient(o.produceOpts()...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	l := newLedger()
	for i, number := range []uint64{0, 1, 1, 3, 4} {
		r, buf := &kgo.Record{}, make([]byte, o.MessageSize)
		p.fill(r, buf, number, time.Now())
		if i == 4 {
			buf[o.MessageSize-1] ^= 1
		}
		if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	// Stored: 0 1 1 3 4(changed). Acknowledged: 0 at 0, 1 at 1, 2 at 3, 4 at 4, 5 at 5.
	for _, e := range []entry{{0, 0}, {1, 1}, {3, 2}, {4, 4}, {5, 5}} {
		l.acknowledge(0, e.offset, e.number)
	}
	// One record behind the end, so that the reader does not wait for it in vain.
	r, buf := &kgo.Record{}, make([]byte, o.MessageSize)
	p.fill(r, buf, 9, time.Now())
	if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
	v, err := verify(t.Context(), &o, p, l, 10)
	if err != nil {
		t.Fatal(err)
	}
	if v.Found != 2 || v.Wrong != 3 || v.Duplicates != 1 || v.OK {
		t.Errorf("%+v", v)
	}
}

func TestRunReportsFailuresInsteadOfHidingThem(t *testing.T) {
	c := broker(t)
	o := options(c)
	if _, err := prepareTopic(t.Context(), &o, true); err != nil {
		t.Fatal(err)
	}
	o.MessageSize, o.BatchBytes, o.Verify = 3000, 1000, false // larger than a batch may be
	r, err := Run(t.Context(), o)
	if !errors.Is(err, ErrNothing) {
		t.Errorf("error %v, want %v", err, ErrNothing)
	}
	if r == nil || r.Failed == 0 || len(r.Failures) == 0 {
		t.Errorf("report %+v", r)
	}
}

func TestInterruptedRunReportsWhatItHas(t *testing.T) {
	o := options(broker(t))
	o.Duration = time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	r, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Records == 0 || r.Seconds > 5 || time.Since(began) > 20*time.Second {
		t.Errorf("%d records in %.1f s", r.Records, r.Seconds)
	}
}
