package bench

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Mode is what a run measures.
type Mode string

// The modes.
const (
	Produce  Mode = "produce"
	Consume  Mode = "consume"
	EndToEnd Mode = "end-to-end"
)

// Options describe one run.
type Options struct {
	BootstrapServers []string
	Mode             Mode
	Topic            string
	Partitions       int32 // of the topic when it has to be created; 0: 1
	Replicas         int16 // likewise; 0: the broker's default

	Warmup   time.Duration // load without measuring, before Duration
	Duration time.Duration // the measured window
	Drain    time.Duration // how long to wait afterwards for what is under way

	Concurrency int     // tasks of the closed loop
	Rate        float64 // records a second; > 0 is the open loop
	MessageSize int     // bytes of a record's value
	Keys        int     // distinct keys; 0: no key
	Consumers   int     // consume, end-to-end: readers, each of which reads everything

	Acks          int // 0, 1 or -1 (all)
	Linger        time.Duration
	BatchBytes    int // largest batch; 0: the client's default (raw: one record)
	Inflight      int // produce requests under way a connection
	Idempotent    bool
	Compression   string
	Timeout       time.Duration // of one record
	Raw           bool
	Threads       int // raw: epoll loops that share the connections; 0: 1
	Topics        int // raw: topics that are written to, the others named Topic-1 and so on; 0: 1
	Verify        bool
	BrokerPID     int       // process whose CPU time and memory are reported too; 0: none
	Progress      io.Writer // a line every ProgressEvery; nil: none
	ProgressEvery time.Duration
}

// Limits that keep a typing error from becoming an out-of-memory kill.
const (
	concurrencyMax = 100_000
	messageSizeMax = 64 << 20
	threadsMax     = 64
	bufferedMax    = 1_000_000 // records of an open loop that may wait in the client
)

// Validate reports the first thing that makes no sense.
func (o *Options) Validate() error {
	switch {
	case len(o.BootstrapServers) == 0:
		return errors.New("no bootstrap server")
	case o.Mode != Produce && o.Mode != Consume && o.Mode != EndToEnd:
		return fmt.Errorf("mode %q: use produce, consume or end-to-end", o.Mode)
	case o.Topic == "":
		return errors.New("no topic")
	case o.Duration <= 0:
		return errors.New("the duration must be above 0")
	case o.Concurrency < 1 || o.Concurrency > concurrencyMax:
		return fmt.Errorf("concurrency %d: use 1 to %d", o.Concurrency, concurrencyMax)
	case o.MessageSize < headerSize || o.MessageSize > messageSizeMax:
		return fmt.Errorf("message size %d: use %d to %d (a record carries its number and its time)", o.MessageSize, headerSize, messageSizeMax)
	case o.Rate < 0:
		return fmt.Errorf("rate %g is negative", o.Rate)
	case o.Acks < -1 || o.Acks > 1:
		return fmt.Errorf("acks %d: use 0, 1 or all", o.Acks)
	case o.Idempotent && o.Acks != -1:
		return errors.New("an idempotent producer needs acks all")
	case o.Verify && o.Acks == 0:
		return errors.New("with acks 0 nothing is acknowledged, so nothing can be verified")
	case o.Verify && o.Mode == Consume:
		return errors.New("verify needs a mode that produces")
	case o.Inflight < 1:
		return fmt.Errorf("in-flight requests %d: use 1 or more", o.Inflight)
	case o.Consumers < 1:
		return fmt.Errorf("consumers %d: use 1 or more", o.Consumers)
	case o.Raw && (o.Acks == 0 || o.Idempotent || o.Compression != "none" || o.Keys > 0):
		return errors.New("raw mode waits for acknowledgements, is not idempotent, not compressed and has no keys")
	case o.Topics > 1 && (!o.Raw || o.Mode != Produce):
		return errors.New("several topics need raw mode and produce")
	case o.Threads < 0 || o.Threads > threadsMax:
		return fmt.Errorf("threads %d: use 1 to %d", o.Threads, threadsMax)
	}
	_, err := o.codec()
	return err
}

func (o *Options) codec() (kgo.CompressionCodec, error) {
	switch o.Compression {
	case "none", "":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	}
	return kgo.NoCompression(), fmt.Errorf("compression %q: use none, gzip, snappy, lz4 or zstd", o.Compression)
}

// seedOpts are the client options that every client of a run has.
func (o *Options) seedOpts() []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(o.BootstrapServers...),
		kgo.ClientID("millrace-bench"),
		kgo.DisableClientMetrics(), // no side traffic
	}
}

// produceOpts say in full how records are sent: the library's own defaults (10 ms of linger, snappy,
// idempotent, one request under way) are another workload than the one that was asked for.
func (o *Options) produceOpts() []kgo.Opt {
	codec, _ := o.codec() // Validate has seen it
	acks := map[int]kgo.Acks{0: kgo.NoAck(), 1: kgo.LeaderAck(), -1: kgo.AllISRAcks()}[o.Acks]
	opts := append(o.seedOpts(),
		kgo.DefaultProduceTopic(o.Topic),
		kgo.RequiredAcks(acks),
		kgo.ProducerLinger(o.Linger),
		kgo.ProducerBatchCompression(codec),
		kgo.RecordDeliveryTimeout(o.Timeout),
		kgo.MaxBufferedRecords(max(bufferedMax, 2*o.Concurrency)),
	)
	if !o.Idempotent {
		opts = append(opts, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(o.Inflight))
	}
	if o.BatchBytes > 0 {
		opts = append(opts, kgo.ProducerBatchMaxBytes(int32(o.BatchBytes)), kgo.BrokerMaxWriteBytes(int32(max(100<<20, 2*o.BatchBytes))))
	}
	return opts
}
