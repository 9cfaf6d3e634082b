package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	cpu             float64 // seconds of the broker
}

// benchRun runs the load generator, and reads the counters while its window is open.
func (s *suite) benchRun(ctx context.Context, srv *server, w *workload, verify bool, profile string, args ...string) (*bench.Report, *observed, error) {
	args = append([]string{"bench", "-b", srv.addr, "--warmup", seconds(s.opts.warmup), "-d", seconds(s.opts.duration)}, args...)
	if verify && srv.system != sysNull && srv.system != sysNullFlush {
		args = append(args, "--verify")
	}
	return s.observe(ctx, srv, s.bin("millrace"), profile, append(args, "-s", strconv.Itoa(w.size))...)
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }

// observe runs a load that prints progress lines as `millrace bench` does and leaves its report in a file.
func (s *suite) observe(ctx context.Context, srv *server, program, profile string, args ...string) (*bench.Report, *observed, error) {
	file := filepath.Join(srv.dir, "report-"+strconv.FormatInt(time.Now().UnixNano(), 36)+".json")
	args = append(args, "--progress", progressEvery.String(), "--broker-pid", strconv.Itoa(srv.proc.pid()), "--json", file)
	o := &observed{start: srv.sample()}
	opened := make(chan struct{})
	var once sync.Once
	watch := func(line string) {
		if strings.Contains(line, "records/s") && !strings.Contains(line, "warm-up") {
			once.Do(func() { close(opened) })
		}
	}
	p, err := launchWatched(ctx, "load", watch, program, args...)
	if err != nil {
		return nil, nil, err
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		select {
		case <-opened:
		case <-p.done:
			return
		case <-ctx.Done():
			return
		}
		s.watch(ctx, srv, o, profile)
	})
	err = p.wait(ctx)
	reading.Wait()
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	report := new(bench.Report)
	text, readErr := readFile(file)
	if readErr != nil {
		return nil, nil, errors.Join(err, readErr)
	}
	if jsonErr := json.Unmarshal(text, report); jsonErr != nil {
		return nil, nil, errors.Join(err, jsonErr)
	}
	return report, o, err
}

// watch reads the counters at both ends of the window's middle, and probes in between.
func (s *suite) watch(ctx context.Context, srv *server, o *observed, profile string) {
	span := s.opts.duration - progressEvery - 2*settle
	sleep(ctx, settle)
	cpu, _ := processSeconds(srv.proc.pid())
	o.from = srv.sample()
	began := time.Now()
	if profile != "" {
		o.counted = s.probes.count(ctx, srv.proc.pid(), min(max(span/3, countMin), span-progressEvery))
		if left := span - time.Since(began); left > time.Second {
			s.profile(ctx, srv, profile, left-100*time.Millisecond)
		}
	}
	sleep(ctx, span-time.Since(began))
	o.to = srv.sample()
	end, _ := processSeconds(srv.proc.pid())
	o.cpu = end - cpu
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
	if float64(rep.Unsent) > unsentMax*float64(rep.Sent+rep.Unsent) {
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
	span := o.to.at.Sub(o.from.at).Seconds()
	if o.from.at.IsZero() || o.to.at.IsZero() || span <= 0 {
		r.mark("no counters")
		return
	}
	records := rep.PerSecond * span
	gb := rep.MBPerSec * span / 1e3
	r.set("broker_cores", o.cpu/span)
	r.set("cpu_per_gb", o.cpu/gb)
	r.set("us_per_msg", o.cpu/records*1e6)
	if w.consumers > 0 && rep.EndToEnd != nil {
		r.set("cpu_per_gb_out", o.cpu/(gb*float64(1+w.consumers)))
	}
	r.set("rss", o.to.rss)
	r.set("steal", stolen(o.from.cpu, o.to.cpu))
	r.set("workers", float64(o.to.workers))
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
	if srv.admin == "" {
		flushes = o.to.flushes - o.from.flushes // everything on the device
	}
	if flushes > 0 {
		r.set("flush_rate", flushes/span)
		r.set("rec_per_flush", records/flushes)
		if requests > 0 {
			r.set("flush_per_req", flushes/requests)
		}
	}
	if srv.admin == "" {
		return
	}
	r.set("own_bytes", (delta("millrace_shard_wal_bytes_total")+delta("millrace_shard_segment_bytes_total")+delta("millrace_shard_checkpoint_bytes_total"))/(gb*1e9))
	if requests > 0 {
		r.set("allocs", delta("go_memstats_mallocs_total")/requests)
	}
	r.set("gc_share", o.to.metrics["go_memstats_gc_cpu_fraction"])
	median := o.to.metrics["millrace_shard_flush_fdatasync_median_nanoseconds"]
	if o.to.metrics["millrace_shard_flush_uses_dsync"] > 0 {
		median = o.to.metrics["millrace_shard_flush_dsync_median_nanoseconds"]
	}
	if srv.system == sysD2 {
		r.set("flush_us", median/1e3)
	}
	wraps := (o.to.metrics["millrace_shard_wal_bytes_total"] - o.start.metrics["millrace_shard_wal_bytes_total"]) / float64(srv.wal)
	r.set("wraps", wraps)
	if srv.system == sysD2 && wraps < wrapsWanted {
		r.mark(fmt.Sprintf("WAL only %.1fx", wraps))
	}
}

// unsentMax is the share of an open loop's records that may be under way at the end.
const unsentMax = 0.01

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
