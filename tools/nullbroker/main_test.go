package main

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

func startBroker(t *testing.T, o options) *broker {
	t.Helper()
	o.addr, o.partitions = "127.0.0.1:0", 3
	o.dir, o.fileBytes = t.TempDir(), 2<<20
	b, err := start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		b.stop(ctx)
	})
	return b
}

// TestFranzProducesDenseOffsets runs a real client against every way of answering.
func TestFranzProducesDenseOffsets(t *testing.T) {
	for _, o := range []options{
		{loops: 1}, {loops: 2}, {loops: 1, flush: true, io: "auto"}, {loops: 2, flush: true, io: "pwrite"},
	} {
		for name, more := range map[string][]kgo.Opt{
			"defaults": nil,
			"acks=1":   {kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck())},
			"acks=0":   {kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.NoAck())},
			"old":      {kgo.MaxVersions(kversion.V2_3_0()), kgo.ProducerBatchCompression(kgo.NoCompression())},
		} {
			t.Run(fmt.Sprintf("loops=%d,flush=%t,%s", o.loops, o.flush, name), func(t *testing.T) {
				b := startBroker(t, o)
				cl, err := kgo.NewClient(append(more, kgo.SeedBrokers(b.addr.String()), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("t"))...)
				if err != nil {
					t.Fatal(err)
				}
				defer cl.Close()
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				const n = 5000
				var mu sync.Mutex
				seen := map[[2]int64]bool{}
				var failed error
				for i := range n {
					cl.Produce(ctx, &kgo.Record{Value: fmt.Appendf(nil, "record %d", i)}, func(r *kgo.Record, err error) {
						mu.Lock()
						defer mu.Unlock()
						if err != nil {
							failed = err
						}
						seen[[2]int64{int64(r.Partition), r.Offset}] = true
					})
				}
				if err := cl.Flush(ctx); err != nil || failed != nil {
					t.Fatal(err, failed)
				}
				for end := time.Now().Add(5 * time.Second); b.records.Load() < n && time.Now().Before(end); {
					time.Sleep(time.Millisecond) // acks=0
				}
				if got := b.records.Load(); got != n {
					t.Fatalf("%d records arrived", got)
				}
				if name == "acks=0" {
					return
				}
				next := b.topic([]byte("t")).next
				total := 0
				for p := range next {
					for off := range next[p].Load() {
						total++
						if !seen[[2]int64{int64(p), off}] {
							t.Fatalf("nobody got offset %d of partition %d", off, p)
						}
					}
				}
				if total != n || len(seen) != n {
					t.Errorf("%d offsets given, %d seen", total, len(seen))
				}
			})
		}
	}
}

func TestUnknownTopicsAndPartitionsAreRefused(t *testing.T) {
	b := startBroker(t, options{loops: 1})
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addr.String()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req := kmsg.NewPtrProduceRequest()
	req.Acks = 1
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = "x", [16]byte{1}
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition = 99
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := cl.Broker(1).Request(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if code := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode; code != errUnknownTopicID && code != errUnknownTopicOrPartition {
		t.Errorf("code %d", code)
	}
	md, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, cl)
	if err != nil || len(md.Brokers) != 1 {
		t.Errorf("metadata: %v", err)
	}
}
