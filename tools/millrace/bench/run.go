package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"
)

// ErrVerify says that records which were acknowledged are missing, changed or there twice. The report that
// comes with it holds the details.
var ErrVerify = errors.New("verification failed")

// ErrNothing says that not one record got through.
var ErrNothing = errors.New("no record got through")

// Run loads the broker as the options say and reports what was measured. With an error there may be a report
// as well: it then shows how far the run came.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	t, err := prepareTopic(ctx, &o, o.Mode != Consume)
	if err != nil {
		return nil, err
	}
	r := &Report{
		Mode: o.Mode, Topic: o.Topic, Durability: t.durability, Machine: thisMachine(), Started: time.Now(),
		Settings: Settings{
			MessageSize: o.MessageSize, Keys: o.Keys, Partitions: len(t.partitions), Acks: acksName(o.Acks),
			LingerMS: float64(o.Linger.Microseconds()) / 1e3, BatchBytes: o.BatchBytes, Inflight: o.Inflight, Idempotent: o.Idempotent,
			Compression: o.Compression, Raw: o.Raw, Topics: o.Topics, WarmupSec: o.Warmup.Seconds(),
		},
	}
	switch {
	case o.Mode == Consume:
		r.Loop, r.Settings.Consumers = "read", o.Consumers
		return r, consume(ctx, &o, t, r)
	case o.Rate > 0:
		r.Loop, r.Settings.Rate = "open", o.Rate
	default:
		r.Loop, r.Settings.Concurrency = "closed", o.Concurrency
	}
	return r, produce(ctx, &o, t, r)
}

func acksName(acks int) string {
	if acks == -1 {
		return "all"
	}
	return strconv.Itoa(acks)
}

// produce runs the producing modes.
func produce(ctx context.Context, o *Options, t target, r *Report) error {
	var ends map[int32]int64
	if o.Mode == EndToEnd {
		var err error
		if _, ends, err = listOffsets(ctx, o); err != nil {
			return err
		}
	}
	w := newWindow(time.Now(), o.Warmup, o.Duration)
	l := newLoad(o, w, newPayload(rand.Uint64(), w.began, o.MessageSize, o.Keys))
	if o.Raw {
		var err error
		if l.places, err = places(ctx, o, t); err != nil {
			return err
		}
		// Preparing takes its time where topics are many; the window is to start with the load.
		w = newWindow(time.Now(), o.Warmup, o.Duration)
		l.w, l.payload.began = w, w.began
	}

	var readers *reading
	if o.Mode == EndToEnd {
		readers = &reading{o: o, w: w, payload: l.payload, latency: newRecorder()}
		reading, stop := context.WithCancel(context.WithoutCancel(ctx))
		var wait func()
		var err error
		if o.Raw {
			wait, err = readers.startRaw(reading, t, ends, nil)
		} else {
			wait, err = readers.start(reading, ends, nil)
		}
		if err != nil {
			stop()
			return err
		}
		defer func() { stop(); wait() }()
		r.Settings.Consumers = o.Consumers
	}

	show := startProgress(o, w, l.acks, func() (int64, int64) { return l.acked.Load(), l.failures.total() })
	before, after := measureUsage(ctx, o, w)
	err := l.run(ctx)
	show.stop()
	if err != nil {
		return err
	}
	r.Seconds = min(time.Since(w.opens), o.Duration).Seconds()
	if ctx.Err() != nil && r.Seconds <= 0 {
		return ctx.Err()
	}
	latency, _ := l.acks.measured()
	r.Latency = latencyOf(latency)
	r.Records = l.counted.Load()
	r.throughput(r.Records, float64(l.payload.size)+l.payload.keyMean())
	r.Sent, r.Acked, r.Failed, r.Failures = l.sent.Load(), l.acked.Load(), l.failures.total(), l.failures.byReason()
	if o.Rate > 0 {
		r.Unsent = max(0, l.planned()-r.Sent)
		r.Generator = latencyOf(l.lag)
	}
	r.cost(before(), after())
	if readers != nil {
		awaitReaders(ctx, readers, r.Acked*int64(o.Consumers), o.Drain)
		e2e, _ := readers.latency.measured()
		r.EndToEnd, r.Read = latencyOf(e2e), readers.records.Load()
	}
	if r.Acked == 0 && o.Acks != 0 {
		return fmt.Errorf("%w: %v", ErrNothing, r.Failures)
	}
	if o.Verify {
		reading := context.WithoutCancel(ctx)
		if o.Raw {
			r.Verify, err = l.verifyRaw(reading)
		} else {
			r.Verify, err = verify(reading, o, l.payload, l.ledger, l.numbers.Load())
		}
		if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		if !r.Verify.OK {
			return ErrVerify
		}
	}
	return nil
}

// consume reads the topic from its start to the end that it had when the run began.
func consume(ctx context.Context, o *Options, t target, r *Report) error {
	starts, ends, err := listOffsets(ctx, o)
	if err != nil {
		return err
	}
	var total int64
	for p, end := range ends {
		total += end - starts[p]
	}
	if total == 0 {
		return fmt.Errorf("topic %s is empty: run 'millrace bench --mode produce --topic %s' first", o.Topic, o.Topic)
	}
	w := newWindow(time.Now(), 0, o.Duration)
	before := takeUsage(o.BrokerPID)
	reads := &reading{o: o, w: w}
	until, cancel := context.WithDeadline(ctx, w.closes)
	defer cancel()
	show := startProgress(o, w, nil, func() (int64, int64) { return reads.records.Load(), reads.reasons.total() })
	var wait func()
	if o.Raw {
		wait, err = reads.startRaw(until, t, starts, ends)
	} else {
		wait, err = reads.start(until, starts, ends)
	}
	if err == nil {
		wait()
	}
	show.stop()
	if err != nil {
		return err
	}
	ended := time.Now()
	if last := reads.ended.Load(); last != 0 {
		ended = time.Unix(0, last)
	}
	r.Seconds = max(ended.Sub(w.began).Seconds(), 1e-6)
	r.Records = reads.records.Load()
	if r.Records > 0 {
		r.throughput(r.Records, float64(reads.bytes.Load())/float64(r.Records))
	}
	r.Failed, r.Failures = reads.reasons.total(), reads.reasons.byReason()
	r.cost(before, takeUsage(o.BrokerPID))
	if r.Records == 0 {
		return fmt.Errorf("%w: %v", ErrNothing, r.Failures)
	}
	return nil
}

func (r *Report) throughput(records int64, meanSize float64) {
	r.PerSecond = float64(records) / r.Seconds
	r.MBPerSec = r.PerSecond * meanSize / 1e6
}

// keyMean is the mean size of the run's keys.
func (p *payload) keyMean() float64 {
	var sum int
	for _, k := range p.keys {
		sum += len(k)
	}
	if sum == 0 {
		return 0
	}
	return float64(sum) / float64(len(p.keys))
}

// measureUsage takes the CPU times when the window opens and when it closes. The returned functions may be
// called once the window is over.
func measureUsage(ctx context.Context, o *Options, w window) (before, after func() usage) {
	var mu sync.Mutex
	first := takeUsage(o.BrokerPID)
	last := usage{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(w.opens)):
			mu.Lock()
			first = takeUsage(o.BrokerPID)
			mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(time.Until(w.closes)):
			}
		}
		mu.Lock()
		last = takeUsage(o.BrokerPID)
		mu.Unlock()
	}()
	before = func() usage { <-done; mu.Lock(); defer mu.Unlock(); return first }
	after = func() usage { <-done; mu.Lock(); defer mu.Unlock(); return last }
	return before, after
}

// awaitReaders gives the readers the time to see everything that was acknowledged.
func awaitReaders(ctx context.Context, r *reading, want int64, atMost time.Duration) {
	deadline := time.Now().Add(atMost)
	for r.records.Load() < want && time.Now().Before(deadline) && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
}
