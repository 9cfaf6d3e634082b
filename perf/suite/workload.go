package main

import (
	"context"
	"strconv"
	"time"
)

// workload is a row of the profile: what is done to a broker, whichever it is.
type workload struct {
	id, title  string
	args       []string // of `millrace bench`
	size       int      // bytes of a record's value
	perRequest int      // records a request; 0: the client decides
	systems    []string // in the order of a round
	quick      bool     // part of --quick
	large      bool     // batches of tens of kilobytes and more
	loop       bool     // also on the loop ext4
	compare    bool     // part of compare.sh
	ring       int64    // bytes of the tail ring; 0: as the broker sees fit
	consumers  int
	share      float64 // of the rate that the row `of` reached, for what runs at a given rate
	of         string
	run        runner

	// Of rows of a cluster.
	beside string        // the row of one broker that has the same load
	rounds int           // of the full run
	window time.Duration // likewise; 0: as all
	once   bool          // no load with a rate: it has no probes
	bare   bool          // no server is started for it
}

// runner does to a server what a row is about.
type runner func(ctx context.Context, s *suite, srv *server, w *workload, r *result) error

// walBytes is the budget of the write-ahead log, small enough to be gone through several times in a run.
func (w *workload) walBytes() int64 {
	if w.large {
		return 192 << 20
	}
	return 48 << 20
}

// The tail rings of rows with large batches and of the others. Rows run for seconds: a ring by the machine's memory
// would still take its first round, in which every page is new to the kernel, and that is not the steady state.
const (
	ringLarge = 128 << 20
	ringSmall = 32 << 20
)

var (
	all4    = []string{sysNull, sysD1, sysNullFlush, sysD2}
	bounds3 = []string{sysNull, sysD1, sysD2}
	bounds2 = []string{sysNull, sysD2}
)

// raw is the load generator without a client library.
func raw(connections, inflight int, more ...string) []string {
	return append([]string{"--raw", "-c", strconv.Itoa(connections), "--inflight", strconv.Itoa(inflight)}, more...)
}

const recordLarge, recordSmall = 1024, 256

// workloads are the rows of record, in the order in which they are printed. W1 to W9 are named as in README.md.
func workloads() []*workload {
	kib := func(n int) []string {
		return []string{"--batch", strconv.Itoa(n << 10), "-s", strconv.Itoa(recordLarge)}
	}
	batched := func(id string, n, producers, partitions int, systems []string, quick bool) *workload {
		return &workload{
			id: id, title: strconv.Itoa(producers) + " producers, 5 in flight, batches of " + strconv.Itoa(n) + " KiB, " + strconv.Itoa(partitions) + " partitions",
			args: append(raw(producers, 5, "-p", strconv.Itoa(partitions)), kib(n)...), size: recordLarge, perRequest: n,
			systems: systems, quick: quick, large: true, run: runProduce,
		}
	}
	rows := []*workload{
		{id: "W1", title: "one client (franz-go), 128 tasks, 256 B, no linger", args: []string{"-c", "128"}, size: recordSmall, systems: all4, quick: true, compare: true, loop: true, run: runProduce},
		{id: "W1-raw", title: "one connection, 128 requests of one record in flight", args: raw(1, 128), size: recordSmall, perRequest: 1, systems: all4, quick: true, run: runProduce},
		{id: "W1-16p", title: "as W1, 16 partitions", args: []string{"-c", "128", "-p", "16"}, size: recordSmall, systems: bounds2, compare: true, run: runProduce},
		{id: "W1-acks1", title: "as W1, acks=1", args: []string{"-c", "128", "--acks", "1"}, size: recordSmall, systems: bounds2, run: runProduce},
		{id: "W2", title: "128 connections, one record a request, one in flight", args: raw(128, 1), size: recordSmall, perRequest: 1, systems: all4, quick: true, compare: true, loop: true, run: runProduce},
		{id: "W2-acks1", title: "as W2, acks=1", args: raw(128, 1, "--acks", "1"), size: recordSmall, perRequest: 1, systems: bounds2, run: runProduce},
		{id: "W2-1", title: "as W2, one connection", args: raw(1, 1), size: recordSmall, perRequest: 1, systems: bounds2, run: runProduce},
		{id: "W2-1024", title: "as W2, 1024 connections", args: raw(1024, 1), size: recordSmall, perRequest: 1, systems: bounds2, run: runProduce},
		batched("W3-16K", 16, 4, 4, bounds3, true),
		batched("W3-64K", 64, 4, 4, all4, true),
		batched("W3-1M", 1000, 4, 4, bounds3, true), // the largest round number below max.message.bytes
		batched("W3-64K-1", 64, 1, 1, bounds2, false),
		batched("W3-64K-16", 64, 16, 16, bounds2, false),
		batched("W4-1", 16, 4, 1, bounds2, true),
		batched("W4-16", 16, 4, 16, bounds2, false),
		batched("W4-1000", 16, 4, 1000, bounds2, true),
		{id: "W4-keyed", title: "1000 partitions, requests of one record over 16 connections, 8 in flight", args: raw(16, 8, "-p", "1000"), size: recordSmall, perRequest: 1, systems: bounds3, quick: true, compare: true, run: runProduce},
	}
	for _, r := range rows {
		r.compare = r.compare || r.id == "W3-64K" || r.id == "W3-1M" || r.id == "W3-16K"
		r.loop = r.loop || r.id == "W3-64K" || r.id == "W3-1M"
	}
	defer func() {
		for _, r := range rows {
			switch {
			case r.ring > 0:
			case r.large:
				r.ring = ringLarge
			default:
				r.ring = ringSmall
			}
		}
	}()
	for _, n := range []int{1, 4, 16} {
		rows = append(rows, &workload{
			id: "W5-" + strconv.Itoa(n), title: "tail: a producer at half of W3-64K's rate, " + strconv.Itoa(n) + " readers of everything",
			args: append(raw(4, 5, "-p", "4", "-m", "end-to-end", "--consumers", strconv.Itoa(n)), kib(64)...), size: recordLarge, perRequest: 64, consumers: n,
			share: 0.5 / float64(max(1, n/4)), of: "W3-64K", systems: []string{sysD1, sysD2}, quick: n < 16, large: true, compare: n == 4, run: runProduce,
		})
	}
	for _, n := range []int{1, 4} {
		rows = append(rows, &workload{
			id: "W6-" + strconv.Itoa(n), title: "catch-up of a backlog larger than memory, " + strconv.Itoa(n) + " readers", consumers: n, size: recordLarge,
			args: append(raw(4, 5, "-p", "4"), kib(64)...), systems: []string{sysD2}, quick: n == 1, large: true, ring: 32 << 20, compare: n == 1, run: runCatchUp,
		})
	}
	rows = append(rows,
		&workload{
			id: "W6-live", title: "produce at a quarter of W3-64K's rate, while one reader catches up", consumers: 1, size: recordLarge, perRequest: 64,
			args: append(raw(4, 5, "-p", "4"), kib(64)...), share: 0.25, of: "W3-64K", systems: []string{sysD2}, large: true, ring: 32 << 20, run: runCatchUpLive,
		},
		&workload{
			id: "W9", title: "mixed: W3 at 0.3, a tail reader, a reader that catches up, metadata and offset commits", consumers: 1, size: recordLarge, perRequest: 64,
			args:  append(raw(4, 5, "-p", "4", "-m", "end-to-end"), kib(64)...),
			share: 0.3, of: "W3-64K", systems: []string{sysD2}, quick: true, large: true, run: runMixed,
		},
		&workload{id: "S1", title: "one librdkafka producer, 128 tasks, 256 B, linger 0", size: recordSmall, systems: all4, quick: true, compare: true, run: runRdkafka},
	)
	for _, percent := range []int{50, 70, 90} {
		rows = append(rows, &workload{
			id: "OL-" + strconv.Itoa(percent), title: "open loop at " + strconv.Itoa(percent) + " % of W2's rate",
			args: raw(128, 5), size: recordSmall, perRequest: 1, share: float64(percent) / 100, of: "W2", systems: []string{sysD1, sysD2}, quick: percent == 70, run: runProduce,
		})
	}
	return rows
}
