package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"millrace/tools/millrace/bench"
)

// progressEvery is how often a load says that it is in its window.
const progressEvery = 200 * time.Millisecond

// settle is left out at both ends of a window when counters are read.
const settle = 200 * time.Millisecond

// countMin is the shortest slice that system calls are counted in.
const countMin = 600 * time.Millisecond

// observed is what the counters say about the middle of a load's window.
type observed struct {
	start, from, to sample // start: before the load
	counted         counted
	void            []string // what makes the run worth nothing, whatever the load generator says
}

// benchRun runs the load generator, and reads the counters while its window is open. On a cluster the topic is made
// before, and its replicas are watched and compared.
func (s *suite) benchRun(ctx context.Context, srv *server, w *workload, verify bool, profile string, args ...string) (*bench.Report, *observed, error) {
	topic, err := topicOf(args)
	if err != nil {
		return nil, nil, err
	}
	args = append([]string{"bench", "-b", srv.addr, "--warmup", seconds(s.opts.warmup), "-d", seconds(s.opts.duration)}, args...)
	if verify && srv.system != sysNull && srv.system != sysNullFlush {
		args = append(args, "--verify")
	}
	args = append(args, "-s", strconv.Itoa(w.size))
	return srv.replicated(ctx, topic, verify, func() (*bench.Report, *observed, error) {
		return s.observe(ctx, srv, s.bin("millrace"), profile, args...)
	})
}

// topicOf is the topic that a load writes to.
func topicOf(args []string) (t topicShape, err error) {
	t = topicShape{name: "bench", partitions: 1}
	for i := 0; i+1 < len(args); i++ {
		switch args[i] {
		case "-t":
			t.name = args[i+1]
		case "-p":
			t.partitions, err = strconv.Atoi(args[i+1])
		}
	}
	return t, err
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }

// running is a load under way.
type running struct {
	proc   *process
	opened chan struct{} // closed when its window opens
	file   string        // its report
}

// launchLoad starts a load that prints progress lines as `millrace bench` does and leaves its report in a file.
func launchLoad(ctx context.Context, srv *server, program string, args ...string) (*running, error) {
	l := &running{opened: make(chan struct{}), file: filepath.Join(srv.dir, "report-"+strconv.FormatInt(time.Now().UnixNano(), 36)+".json")}
	args = append(args, "--progress", progressEvery.String(), "--broker-pid", strconv.Itoa(srv.leader().proc.pid()), "--json", l.file)
	var once sync.Once
	watch := func(line string) {
		if strings.Contains(line, "records/s") && !strings.Contains(line, "warm-up") {
			once.Do(func() { close(l.opened) })
		}
	}
	var err error
	l.proc, err = launchWatched(ctx, "load", watch, program, args...)
	return l, err
}

// report waits for the end of the load. With an error there may be a report as well.
func (l *running) report(ctx context.Context) (*bench.Report, error) {
	err := l.proc.wait(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	report, readErr := readReport(l.file)
	if readErr != nil {
		return nil, errors.Join(err, readErr)
	}
	return report, err
}

// observe runs a load and reads the counters in the middle of its window.
func (s *suite) observe(ctx context.Context, srv *server, program, profile string, args ...string) (*bench.Report, *observed, error) {
	o := &observed{start: srv.sample()}
	load, err := launchLoad(ctx, srv, program, args...)
	if err != nil {
		return nil, nil, err
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		select {
		case <-load.opened:
		case <-load.proc.done:
			return
		case <-ctx.Done():
			return
		}
		s.watch(ctx, srv, o, profile)
	})
	report, err := load.report(ctx)
	reading.Wait()
	if report == nil {
		return nil, nil, err
	}
	return report, o, err
}

// watch reads the counters at both ends of the window's middle, and probes in between.
func (s *suite) watch(ctx context.Context, srv *server, o *observed, profile string) {
	span := s.opts.duration - progressEvery - 2*settle
	sleep(ctx, settle)
	o.from = srv.sample()
	began := time.Now()
	if profile != "" {
		o.counted = s.probes.count(ctx, srv.leader().proc.pid(), min(max(span/3, countMin), span-progressEvery))
		if left := span - time.Since(began); left > time.Second {
			s.profile(ctx, srv, profile, left-100*time.Millisecond)
		}
	}
	sleep(ctx, span-time.Since(began))
	o.to = srv.sample()
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// book turns a load's report and the counters into figures. volume is the bytes a second that the costs are of, in
// MB/s.
func (r *result) book(w *workload, srv *server, rep *bench.Report, o *observed) {
	r.set("rate", rep.PerSecond)
	r.set("mb", rep.MBPerSec)
	r.latency("", rep.Latency)
	r.latency("e2e_", rep.EndToEnd)
	r.latency("lag_", rep.Generator)
	r.set("client_cores", rep.CPU.ClientCores)
	if unsustained(rep) {
		r.mark("not sustained")
	}
	if rep.Failed > 0 {
		r.mark(fmt.Sprintf("%d failed", rep.Failed))
	}
	switch v := rep.Verify; {
	case v == nil:
	case v.OK:
		r.set("verified", float64(v.Found))
	default:
		r.mark(markVoid + ": lost or wrong records")
	}
	for _, why := range o.void {
		r.mark(markVoid + ": " + why)
	}
	span := o.to.at.Sub(o.from.at).Seconds()
	if o.from.at.IsZero() || o.to.at.IsZero() || span <= 0 {
		r.mark("no counters")
		return
	}
	records := rep.PerSecond * span
	gb := rep.MBPerSec * span / 1e3
	r.processors(srv, rep, o, span, records, gb)
	if cpu := r.get("broker_cores") * span; w.consumers > 0 && rep.EndToEnd != nil {
		r.set("cpu_per_gb_out", cpu/(gb*float64(1+w.consumers)))
	}
	r.set("steal", stolen(o.from.cpu, o.to.cpu))
	r.set("workers", o.to.most(func(n nodeSample) float64 { return float64(n.workers) }))
	delta := func(name string) float64 { return o.to.metrics[name] - o.from.metrics[name] }
	requests := delta(`millrace_requests_total{api="Produce"}`)
	if requests == 0 && w.perRequest > 0 {
		requests = records / float64(w.perRequest)
	}
	if requests > 0 {
		r.set("records_per_request", records/requests)
		if o.counted.syscalls >= 0 && o.counted.seconds > 0 {
			r.set("sys_per_req", o.counted.syscalls/o.counted.seconds/(requests/span))
			for name, n := range o.counted.calls {
				r.set("sys_"+name, n/o.counted.seconds/(requests/span))
			}
		}
		r.set("turns_per_req", delta("millrace_loop_turns_total")/requests)
	}
	if o.counted.punts >= 0 && o.counted.seconds > 0 {
		r.set("punts", o.counted.punts/o.counted.seconds)
	}
	r.set("dev_bytes", (o.to.sectors-o.from.sectors)*512/(gb*1e9))
	flushes := delta("millrace_shard_flushes_total")
	if !srv.millrace() {
		flushes = o.to.flushes - o.from.flushes // everything on the device
	}
	if flushes > 0 {
		r.set("flush_rate", flushes/span)
		each := flushes / float64(len(srv.nodes)) // every record is flushed by every broker
		r.set("rec_per_flush", records/each)
		if requests > 0 {
			r.set("flush_per_req", each/requests)
		}
	}
	if srv.millrace() {
		r.engines(srv, o, requests, gb)
	}
}

// processors books who used how much of the machine.
func (r *result) processors(srv *server, rep *bench.Report, o *observed, span, records, gb float64) {
	total, leader := 0.0, 0.0
	for i := range srv.nodes {
		used := o.to.nodes[i].seconds - o.from.nodes[i].seconds
		total += used
		if i == srv.lead {
			leader = used
		}
	}
	r.set("broker_cores", total/span)
	r.set("cpu_per_gb", total/gb)
	r.set("us_per_msg", total/records*1e6)
	r.set("rss", o.to.rss())
	r.set("client_us", rep.CPU.ClientCores*span/records*1e6)
	r.set("client_per_gb", rep.CPU.ClientCores*span/gb)
	if !srv.cluster() {
		return
	}
	r.Brokers = len(srv.nodes)
	for i := range srv.nodes {
		r.set(fmt.Sprintf("rss_%d", srv.nodes[i].id), o.to.nodes[i].rss)
	}
	if rep.Settings.Partitions > 1 {
		return // every broker leads some
	}
	each := (total - leader) / float64(len(srv.nodes)-1)
	for _, f := range []struct {
		name string
		used float64
	}{{"leader", leader}, {"follower", each}} {
		r.set(f.name+"_us", f.used/records*1e6)
		r.set(f.name+"_per_gb", f.used/gb)
	}
}

// engines books what Millrace says of its storage and its heap. Of a cluster's brokers the slowest counts, and the one
// that went through its write-ahead log least.
func (r *result) engines(srv *server, o *observed, requests, gb float64) {
	delta := func(name string) float64 { return o.to.metrics[name] - o.from.metrics[name] }
	r.set("own_bytes", (delta("millrace_shard_wal_bytes_total")+delta("millrace_shard_segment_bytes_total")+delta("millrace_shard_checkpoint_bytes_total"))/(gb*1e9))
	if requests > 0 {
		r.set("allocs", delta("go_memstats_mallocs_total")/requests)
	}
	r.set("gc_share", o.to.most(func(n nodeSample) float64 { return n.metrics["go_memstats_gc_cpu_fraction"] }))
	if srv.flushing() {
		r.set("flush_us", o.to.most(func(n nodeSample) float64 {
			if n.metrics["millrace_shard_flush_uses_dsync"] > 0 {
				return n.metrics["millrace_shard_flush_dsync_median_nanoseconds"]
			}
			return n.metrics["millrace_shard_flush_fdatasync_median_nanoseconds"]
		})/1e3)
	}
	wraps := math.Inf(1)
	for i := range srv.nodes {
		written := o.to.nodes[i].metrics["millrace_shard_wal_bytes_total"] - o.start.nodes[i].metrics["millrace_shard_wal_bytes_total"]
		wraps = min(wraps, written/float64(srv.wal))
	}
	r.set("wraps", wraps)
	if srv.flushing() && wraps < wrapsWanted {
		r.mark(fmt.Sprintf("WAL only %.1fx", wraps))
	}
}

// unsentMax is the share of an open loop's records that may be under way at the end.
const unsentMax = 0.01

// unsustained tells whether an open loop was too much.
func unsustained(rep *bench.Report) bool {
	return float64(rep.Unsent) > unsentMax*float64(rep.Sent+rep.Unsent)
}

// wrapsWanted is how often a run has to go through its write-ahead log, so that its blocks are overwritten ones.
const wrapsWanted = 3

// lines calls f for every line that is written to it.
type lines struct {
	f    func(string)
	rest []byte
}

func (l *lines) Write(b []byte) (int, error) {
	l.rest = append(l.rest, b...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		l.f(string(l.rest[:i]))
		l.rest = append(l.rest[:0], l.rest[i+1:]...)
	}
}
