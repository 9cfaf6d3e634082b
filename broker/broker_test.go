package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"millrace/broker/config"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// startBroker runs a broker on dir and a free port until the test ends, or
// until stop is called.
func startBroker(t testing.TB, dir string, mod ...func(*Options)) (b *Broker, stop func()) {
	t.Helper()
	o := Options{DataDir: dir, ListenAddrs: []string{"127.0.0.1:0"}, Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	for _, m := range mod {
		m(&o)
	}
	if o.Config == nil {
		var err error
		if o.Config, err = config.New(map[string]string{"group.initial.rebalance.delay.ms": "0", "millrace.wal.bytes": "268435456", "millrace.tail.ring.bytes": "33554432"}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	b, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	stop = func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	}
	t.Cleanup(stop)
	return b, stop
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

func client(t testing.TB, b *Broker, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(b.Addr().String()), kgo.AllowAutoTopicCreation()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// produceN produces n numbered records one after another in groups and returns
// their offsets.
func produceN(t testing.TB, c *kgo.Client, topic string, from, n int) {
	t.Helper()
	var records []*kgo.Record
	for i := range n {
		records = append(records, &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "k%d", from+i), Value: fmt.Appendf(nil, "value %d", from+i)})
	}
	if err := c.ProduceSync(testContext(t), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// consumeN reads n records from the beginning and checks that partition 0 is
// dense and in order.
func consumeN(t testing.TB, c *kgo.Client, n int) []*kgo.Record {
	t.Helper()
	ctx := testContext(t)
	var got []*kgo.Record
	for len(got) < n {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatalf("after %d of %d records: %v", len(got), n, err)
		}
		got = append(got, f.Records()...)
	}
	return got
}

func TestProducedRecordsAreConsumed(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	const n = 1000
	for _, tc := range []struct {
		name string
		opts []kgo.Opt
	}{
		{"defaults", nil},
		{"acks-1", []kgo.Opt{kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck())}},
		{"gzip", []kgo.Opt{kgo.ProducerBatchCompression(kgo.GzipCompression())}},
		{"lz4", []kgo.Opt{kgo.ProducerBatchCompression(kgo.Lz4Compression())}},
		{"zstd", []kgo.Opt{kgo.ProducerBatchCompression(kgo.ZstdCompression())}},
		{"none", []kgo.Opt{kgo.ProducerBatchCompression(kgo.NoCompression())}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			topic := "t-" + tc.name
			produceN(t, client(t, b, append(tc.opts, kgo.DefaultProduceTopic(topic))...), topic, 0, n)
			got := consumeN(t, client(t, b, kgo.ConsumeTopics(topic)), n)
			for i, r := range got {
				if r.Offset != int64(i) || string(r.Value) != fmt.Sprintf("value %d", i) || string(r.Key) != fmt.Sprintf("k%d", i) {
					t.Fatalf("record %d: offset %d, key %q, value %q", i, r.Offset, r.Key, r.Value)
				}
			}
		})
	}
}

func TestAcksZeroRecordsArriveWithoutAnswers(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	c := client(t, b, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	produceN(t, c, "zero", 0, 100)
	consumeN(t, client(t, b, kgo.ConsumeTopics("zero")), 100)
}

func TestRestartKeepsRecordsTopicsAndGroups(t *testing.T) {
	dir := t.TempDir()
	b, stop := startBroker(t, dir)
	produceN(t, client(t, b), "kept", 0, 500)
	g := client(t, b, kgo.ConsumeTopics("kept"), kgo.ConsumerGroup("g"), kgo.DisableAutoCommit())
	consumeN(t, g, 500)
	if err := g.CommitUncommittedOffsets(testContext(t)); err != nil {
		t.Fatal(err)
	}
	g.Close()
	stop()

	b, _ = startBroker(t, dir)
	produceN(t, client(t, b), "kept", 500, 500)
	got := consumeN(t, client(t, b, kgo.ConsumeTopics("kept")), 1000)
	for i, r := range got {
		if r.Offset != int64(i) || string(r.Value) != fmt.Sprintf("value %d", i) {
			t.Fatalf("record %d: offset %d, value %q", i, r.Offset, r.Value)
		}
	}
	offsets, err := kadm.NewClient(client(t, b)).FetchOffsets(testContext(t), "g")
	if err != nil {
		t.Fatal(err)
	}
	if o, ok := offsets.Lookup("kept", 0); !ok || o.At != 500 {
		t.Fatalf("committed offset after the restart: %+v", offsets)
	}
}

func TestGroupMembersShareAndHandOver(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	adm := kadm.NewClient(client(t, b))
	if _, err := adm.CreateTopic(testContext(t), 4, 1, nil, "shared"); err != nil {
		t.Fatal(err)
	}
	seen := make(chan *kgo.Record, 4096)
	ctx := testContext(t)
	member := func() *kgo.Client {
		c := client(t, b, kgo.ConsumeTopics("shared"), kgo.ConsumerGroup("team"))
		go func() {
			for {
				f := c.PollFetches(ctx)
				if f.IsClientClosed() || ctx.Err() != nil {
					return
				}
				f.EachRecord(func(r *kgo.Record) { seen <- r })
			}
		}()
		return c
	}
	one, two := member(), member()
	produceN(t, client(t, b, kgo.RecordPartitioner(kgo.RoundRobinPartitioner())), "shared", 0, 400)
	await := func(n int) {
		t.Helper()
		for range n {
			select {
			case <-seen:
			case <-ctx.Done():
				t.Fatal("records are missing")
			}
		}
	}
	await(400)
	one.Close() // leaves the group: the other takes over
	produceN(t, client(t, b, kgo.RecordPartitioner(kgo.RoundRobinPartitioner())), "shared", 400, 400)
	await(400)
	two.Close()
}

func TestUnknownApiVersionsVersionIsAnsweredInVersionZero(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	conn, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	// key 18, version 99, correlation id 7, no client id
	if _, err := conn.Write([]byte{0, 0, 0, 10, 0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1024)
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if n < 8 || buf[7] != 7 {
		t.Fatalf("answer %x", buf[:n])
	}
	resp := kmsg.NewPtrApiVersionsResponse()
	if err := resp.ReadFrom(buf[8:n]); err != nil {
		t.Fatal(err)
	}
	if resp.ErrorCode != 35 || len(resp.ApiKeys) != 1 || resp.ApiKeys[0].ApiKey != 18 {
		t.Fatalf("answer %+v", resp)
	}
}

func TestTransactionsAreRefusedHonestly(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	c := client(t, b)
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID = kmsg.StringPtr("tx")
	resp, err := req.RequestWith(testContext(t), c)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err == nil {
		t.Fatal("a transactional producer was accepted")
	}
}

func TestEveryAdvertisedVersionIsDecodable(t *testing.T) {
	for _, a := range apis {
		req := kmsg.RequestForKey(a.key)
		if req == nil {
			t.Fatalf("api key %d is unknown to kmsg", a.key)
		}
		if a.max > req.MaxVersion() {
			t.Errorf("%s: version %d is advertised, kmsg knows %d", kmsg.NameForKey(a.key), a.max, req.MaxVersion())
		}
		set := 0
		for _, on := range []bool{a.raw != nil, a.inline != nil, a.blocking != nil} {
			if on {
				set++
			}
		}
		if set != 1 {
			t.Errorf("%s has %d handlers", kmsg.NameForKey(a.key), set)
		}
	}
}

func TestBadBatchesAreRefusedWithKafkasCodes(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	c := client(t, b)
	produceN(t, c, "strict", 0, 1)
	good := captureBatch(t, b, "strict")
	for name, tc := range map[string]struct {
		change func([]byte) []byte
		code   int16
	}{
		"empty":       {func([]byte) []byte { return nil }, errInvalidRecord},
		"flipped bit": {func(r []byte) []byte { r[len(r)-1] ^= 1; return r }, errCorruptMessage},
		"magic 1":     {func(r []byte) []byte { r[16] = 1; return r }, errInvalidRecord},
		"truncated":   {func(r []byte) []byte { return r[:len(r)-3] }, errCorruptMessage},
		"two batches": {func(r []byte) []byte { return append(r, r...) }, errInvalidRecord},
	} {
		t.Run(name, func(t *testing.T) {
			req := kmsg.NewPtrProduceRequest()
			req.Acks, req.TimeoutMillis = -1, 1000
			rt := kmsg.NewProduceRequestTopic()
			rt.Topic, rt.TopicID = "strict", b.meta.Image().Topic("strict").ID
			rp := kmsg.NewProduceRequestTopicPartition()
			rp.Records = tc.change(append([]byte(nil), good...))
			rt.Partitions = append(rt.Partitions, rp)
			req.Topics = append(req.Topics, rt)
			resp, err := c.Broker(int(b.nodeID)).Request(testContext(t), req)
			if err != nil {
				t.Fatal(err)
			}
			if got := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode; got != tc.code {
				t.Errorf("error code %d, want %d", got, tc.code)
			}
		})
	}
}

// captureBatch fetches the raw bytes of a topic's first batch.
func captureBatch(t *testing.T, b *Broker, topic string) []byte {
	t.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 1000, 1, 1<<20, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = topic, b.meta.Image().Topic(topic).ID
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.PartitionMaxBytes = 1 << 20
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := client(t, b).Broker(int(b.nodeID)).Request(testContext(t), req)
	if err != nil {
		t.Fatal(err)
	}
	raw := resp.(*kmsg.FetchResponse).Topics[0].Partitions[0].RecordBatches
	if len(raw) == 0 {
		t.Fatal("nothing was fetched")
	}
	return raw
}

func TestSecondProcessIsKeptOut(t *testing.T) {
	dir := t.TempDir()
	startBroker(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	b, err := Start(ctx, Options{DataDir: dir, ListenAddrs: []string{"127.0.0.1:0"}})
	if err == nil {
		err = errors.Join(errors.New("a second broker opened the data directory"), b.Shutdown(ctx))
		t.Fatal(err)
	}
}
