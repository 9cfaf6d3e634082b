package bench

import (
	"sync"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// The histogram's range: 1 us to 2 minutes with three digits. What is longer is recorded as 2 minutes.
const (
	latencyMin    = 1
	latencyMax    = 120_000_000
	latencyDigits = 3
)

// recorderShards spreads the tasks over histograms with a lock each: every sample is kept, none waits long.
const recorderShards = 16

// recorder collects latencies from many goroutines. Samples are microseconds.
type recorder struct {
	shards [recorderShards]struct {
		mu     sync.Mutex
		total  *hdr.Histogram // measured window
		recent *hdr.Histogram // since the last progress line
		bytes  int64          // in the measured window
		_      [32]byte       // keep neighbours' locks off this cache line
	}
}

func newRecorder() *recorder {
	r := &recorder{}
	for i := range r.shards {
		r.shards[i].total = hdr.New(latencyMin, latencyMax, latencyDigits)
		r.shards[i].recent = hdr.New(latencyMin, latencyMax, latencyDigits)
	}
	return r
}

// record keeps one sample; measured says whether it is inside the window.
func (r *recorder) record(shard int, d time.Duration, bytes int, measured bool) {
	micros := min(max(d.Microseconds(), latencyMin), latencyMax)
	s := &r.shards[shard%recorderShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.recent.RecordValue(micros) // in range, as clamped above
	if measured {
		_ = s.total.RecordValue(micros)
		s.bytes += int64(bytes)
	}
}

// takeRecent merges and clears what came since the last call.
func (r *recorder) takeRecent() *hdr.Histogram {
	all := hdr.New(latencyMin, latencyMax, latencyDigits)
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		all.Merge(s.recent)
		s.recent.Reset()
		s.mu.Unlock()
	}
	return all
}

// measured merges the samples and bytes of the window.
func (r *recorder) measured() (*hdr.Histogram, int64) {
	all, bytes := hdr.New(latencyMin, latencyMax, latencyDigits), int64(0)
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		all.Merge(s.total)
		bytes += s.bytes
		s.mu.Unlock()
	}
	return all, bytes
}

// Latency is a distribution in microseconds.
type Latency struct {
	Samples int64   `json:"samples"`
	Mean    float64 `json:"mean_us"`
	Min     int64   `json:"min_us"`
	P50     int64   `json:"p50_us"`
	P90     int64   `json:"p90_us"`
	P95     int64   `json:"p95_us"`
	P99     int64   `json:"p99_us"`
	P999    int64   `json:"p999_us"`
	P9999   int64   `json:"p9999_us"`
	Max     int64   `json:"max_us"`
}

func latencyOf(h *hdr.Histogram) *Latency {
	if h.TotalCount() == 0 {
		return nil
	}
	return &Latency{
		Samples: h.TotalCount(), Mean: h.Mean(), Min: h.Min(), P50: h.ValueAtQuantile(50), P90: h.ValueAtQuantile(90),
		P95: h.ValueAtQuantile(95), P99: h.ValueAtQuantile(99), P999: h.ValueAtQuantile(99.9), P9999: h.ValueAtQuantile(99.99), Max: h.Max(),
	}
}
