package bench

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kgo"
)

// load is the producing side of a run: what is sent, and what became of it.
type load struct {
	o       *Options
	w       window
	payload *payload
	acks    *recorder  // latency of acknowledgements
	ledger  *ledger    // nil unless the run is verified
	places  []place    // raw: what is written to
	heads   []*rawHead // raw: the requests' beginnings, by place

	rawLedger *rawLedger // raw: nil unless the run is verified

	numbers  atomic.Uint64 // next record number; numbers are dense from 0
	sent     atomic.Int64
	acked    atomic.Int64
	counted  atomic.Int64 // acknowledged inside the window
	failures failures

	lagMu sync.Mutex
	lag   *hdr.Histogram // open loop: how late the generator itself was; guarded by lagMu
}

func newLoad(o *Options, w window, p *payload) *load {
	l := &load{o: o, w: w, payload: p, acks: newRecorder(), lag: hdr.New(latencyMin, latencyMax, latencyDigits)}
	switch {
	case o.Verify && o.Raw:
		l.rawLedger = newRawLedger(max(1, o.Threads))
	case o.Verify:
		l.ledger = newLedger()
	}
	return l
}

// run sends until the window closes, then waits for what is under way, at most Drain long. On return every
// record that was sent has either been acknowledged, has failed, or is counted as lost by its client.
func (l *load) run(ctx context.Context) error {
	if l.o.Raw {
		return l.runRaw(ctx)
	}
	client, err := kgo.NewClient(l.o.produceOpts()...)
	if err != nil {
		return err
	}
	loading, cancel := l.w.loading(ctx)
	defer cancel()
	// Records outlive the loading, so they have a context of their own.
	draining, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		if l.o.Rate > 0 {
			l.openLoop(loading, draining, client)
		} else {
			l.closedLoop(loading, draining, client)
		}
		_ = client.Flush(draining) // only the context can end it early
	}()
	select {
	case <-drained:
	case <-afterDone(loading, l.o.Drain):
		// Closing the client fails what is left, and the promises count it.
		abandon()
		client.Close()
		<-drained
		return nil
	}
	client.Close()
	return nil
}

// afterDone fires d after ctx has ended.
func afterDone(ctx context.Context, d time.Duration) <-chan struct{} {
	fired := make(chan struct{})
	context.AfterFunc(ctx, func() { time.AfterFunc(d, func() { close(fired) }) })
	return fired
}

// failureBackoff keeps a closed loop from spinning when the broker refuses everything.
const failureBackoff = 10 * time.Millisecond

// closedLoop runs Concurrency tasks that each wait for their record before they send the next one.
func (l *load) closedLoop(loading, life context.Context, client *kgo.Client) {
	var tasks sync.WaitGroup
	for i := range l.o.Concurrency {
		tasks.Go(func() {
			buf, record := make([]byte, l.o.MessageSize), &kgo.Record{}
			done := make(chan error, 1)
			promise := func(_ *kgo.Record, err error) { done <- err }
			for loading.Err() == nil {
				number, sent := l.numbers.Add(1)-1, time.Now()
				l.payload.fill(record, buf, number, sent)
				l.sent.Add(1)
				client.Produce(life, record, promise)
				err := <-done
				l.finish(i, record, number, sent, err)
				if err != nil {
					select {
					case <-loading.Done():
					case <-time.After(failureBackoff):
					}
				}
			}
		})
	}
	tasks.Wait()
}

// openLoop sends each record when it is due, whatever became of the ones before.
func (l *load) openLoop(loading, life context.Context, client *kgo.Client) {
	type message struct {
		record kgo.Record
		buf    []byte
	}
	free := sync.Pool{New: func() any { return &message{buf: make([]byte, l.o.MessageSize)} }}
	for n := int64(0); ; n++ {
		due := l.w.began.Add(time.Duration(float64(n) * float64(time.Second) / l.o.Rate))
		if !due.Before(l.w.closes) {
			return
		}
		now := time.Now()
		for wait := due.Sub(now); wait > 0; wait = due.Sub(now) {
			time.Sleep(wait)
			now = time.Now()
		}
		if loading.Err() != nil {
			return // too far behind: the missing records show as unsent
		}
		l.lagMu.Lock()
		_ = l.lag.RecordValue(min(max(now.Sub(due).Microseconds(), latencyMin), latencyMax)) // clamped
		l.lagMu.Unlock()

		m, number := free.Get().(*message), l.numbers.Add(1)-1
		l.payload.fill(&m.record, m.buf, number, due)
		l.sent.Add(1)
		// It blocks when the client is full; what is due meanwhile is charged with the wait.
		client.Produce(life, &m.record, func(r *kgo.Record, err error) {
			l.finish(int(number), r, number, due, err)
			free.Put(m)
		})
	}
}

// finish books the outcome of one record that was due (open loop) or sent (closed loop) at start.
func (l *load) finish(shard int, r *kgo.Record, number uint64, start time.Time, err error) {
	now := time.Now()
	if err != nil {
		l.failures.add(err)
		return
	}
	l.acked.Add(1)
	if l.w.measures(now) {
		l.counted.Add(1)
	}
	measured := l.w.measures(now)
	if l.o.Rate > 0 {
		measured = l.w.measures(start) // a late answer belongs to the moment that caused it
	}
	l.acks.record(shard, now.Sub(start), len(r.Key)+len(r.Value), measured)
	if l.ledger != nil {
		l.ledger.acknowledge(r.Partition, r.Offset, number)
	}
}

// planned is how many records an open loop was to send.
func (l *load) planned() int64 {
	return int64(l.o.Rate * l.w.closes.Sub(l.w.began).Seconds())
}

// failureKindsMax bounds how many different reasons are kept.
const failureKindsMax = 16

// failures counts errors by their text. It is safe for concurrent use.
type failures struct {
	mu     sync.Mutex
	count  int64
	kinds  map[string]int64
	others int64
}

func (f *failures) add(err error) { f.addMany(err, 1) }

// addMany counts n failures with the same reason.
func (f *failures) addMany(err error, n int64) {
	reason := err
	for inner := errors.Unwrap(reason); inner != nil; inner = errors.Unwrap(reason) {
		reason = inner // the innermost is the one without addresses and numbers
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count += n
	if _, known := f.kinds[reason.Error()]; !known && len(f.kinds) >= failureKindsMax {
		f.others += n
		return
	}
	if f.kinds == nil {
		f.kinds = map[string]int64{}
	}
	f.kinds[reason.Error()] += n
}

func (f *failures) total() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

// byReason copies the counts.
func (f *failures) byReason() map[string]int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == 0 {
		return nil
	}
	reasons := map[string]int64{}
	for k, n := range f.kinds {
		reasons[k] = n
	}
	if f.others > 0 {
		reasons["others"] = f.others
	}
	return reasons
}
