package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tools/millrace/bench"
)

// processSeconds is the processor time of a process.
func processSeconds(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const utime, stime, hertz = 11, 12, 100 // fields 14 and 15 of proc_pid_stat(5); the unit is fixed
	if len(fields) <= stime {
		return 0, errors.New("/proc/pid/stat is short")
	}
	user, _ := strconv.ParseFloat(fields[utime], 64)
	system, _ := strconv.ParseFloat(fields[stime], 64)
	return (user + system) / hertz, nil
}

// rate is the rate that a row runs at if it is given one: a share of what another row has reached in this run.
func (s *suite) rate(w *workload, system string) []string {
	if w.share == 0 {
		return nil
	}
	key := w.of + " " + system
	if s.reached[key] == 0 {
		s.reached[key] = defaultRate(w)
		s.note("%s: %s on %s has not run before, so its rate is taken to be %.0f a second", w.id, w.of, system, s.reached[key])
	}
	return []string{"--rate", strconv.FormatFloat(s.reached[key]*w.share, 'f', 0, 64)}
}

// defaultRate stands in for a row that was not asked for.
func defaultRate(w *workload) float64 {
	if w.large {
		return 200_000
	}
	return 40_000
}

// profileName is where the profiles of a row go; empty if this round takes none.
func (s *suite) profileName(w *workload, system string) string {
	if !s.probing {
		return ""
	}
	return w.id + "-" + strings.ReplaceAll(system, "+", "-")
}

// runProduce is a load of one process: produce, or produce and read.
func runProduce(ctx context.Context, s *suite, srv *server, w *workload, r *result) error {
	args := append(append([]string{}, w.args...), s.rate(w, srv.system)...)
	rep, o, err := s.benchRun(ctx, srv, w, true, s.profileName(w, srv.system), args...)
	if rep == nil {
		return err
	}
	if rep.Records == 0 {
		return fmt.Errorf("no record got through: %v", rep.Failures)
	}
	r.book(w, srv, rep, o)
	if err != nil && rep.Failed == 0 && (rep.Verify == nil || rep.Verify.OK) {
		return err
	}
	return nil
}

// backlog fills a topic and then leaves the broker less memory than that.
func (s *suite) backlog(ctx context.Context, srv *server, w *workload) (bytes float64, limited bool, err error) {
	args := []string{"bench", "-b", srv.addr, "--warmup", "0", "-d", seconds(s.opts.fill), "--progress", "0", "-t", "backlog", "-s", strconv.Itoa(w.size), "--json", filepath.Join(srv.dir, "fill.json")}
	if out, err := output(ctx, s.bin("millrace"), append(args, w.args...)...); err != nil {
		return 0, false, fmt.Errorf("fill: %w: %s", err, out)
	}
	filled := directoryBytes(srv.dir)
	forget(srv.dir)
	limited = s.limitMemory(srv.leader().proc.pid(), max(int64(filled)/4, 192<<20))
	sleep(ctx, settle)
	return filled, limited, nil
}

// runCatchUp reads a backlog from its start.
func runCatchUp(ctx context.Context, s *suite, srv *server, w *workload, r *result) error {
	_, limited, err := s.backlog(ctx, srv, w)
	if err != nil {
		return err
	}
	if !limited {
		r.mark("memory not limited")
	}
	name := s.profileName(w, srv.system)
	var profiling sync.WaitGroup
	if name != "" {
		profiling.Go(func() { s.profile(ctx, srv, name, time.Second) })
	}
	before := srv.sample()
	file := filepath.Join(srv.dir, "read.json")
	_, err = output(ctx, s.bin("millrace"), "bench", "-b", srv.addr, "-m", "consume", "--raw", "-t", "backlog", "--consumers", strconv.Itoa(w.consumers),
		"-d", "60", "--progress", "0", "--broker-pid", strconv.Itoa(srv.leader().proc.pid()), "--json", file)
	profiling.Wait()
	if err != nil {
		return err
	}
	rep, err := readReport(file)
	if err != nil {
		return err
	}
	after := srv.sample()
	r.set("rate", rep.PerSecond)
	r.set("mb", rep.MBPerSec)
	r.set("client_cores", rep.CPU.ClientCores)
	r.set("broker_cores", rep.CPU.BrokerCores)
	r.set("cpu_per_gb", rep.CPU.BrokerPerGB)
	r.set("us_per_msg", rep.CPU.BrokerPerMillion)
	r.set("rss", after.rss())
	r.set("steal", stolen(before.cpu, after.cpu))
	return nil
}

// runCatchUpLive measures a producer alone and beside a reader that catches up; the row is the second one.
func runCatchUpLive(ctx context.Context, s *suite, srv *server, w *workload, r *result) error {
	_, limited, err := s.backlog(ctx, srv, w)
	if err != nil {
		return err
	}
	if !limited {
		r.mark("memory not limited")
	}
	args := append(append([]string{"-t", "live"}, w.args...), s.rate(w, srv.system)...)
	alone, _, err := s.benchRun(ctx, srv, w, false, "", args...)
	if err != nil {
		return err
	}
	reading, stop := context.WithCancel(ctx)
	var readers sync.WaitGroup
	readers.Go(func() { s.keepReading(reading, srv, "backlog") })
	rep, o, err := s.benchRun(ctx, srv, w, true, s.profileName(w, srv.system), args...)
	stop()
	readers.Wait()
	if rep == nil {
		return err
	}
	r.book(w, srv, rep, o)
	if alone.Latency != nil && rep.Latency != nil {
		r.set("p99_alone", float64(alone.Latency.P99))
		r.set("p99_times", float64(rep.Latency.P99)/float64(alone.Latency.P99))
	}
	return nil
}

// keepReading reads a topic from its start to its end, over and over.
func (s *suite) keepReading(ctx context.Context, srv *server, topic string) {
	for ctx.Err() == nil {
		_, err := output(ctx, s.bin("millrace"), "bench", "-b", srv.addr, "-m", "consume", "--raw", "-t", topic, "-d", "60", "--progress", "0")
		if err != nil {
			sleep(ctx, settle) // nothing there yet
		}
	}
}

// runMixed is everything at once.
func runMixed(ctx context.Context, s *suite, srv *server, w *workload, r *result) error {
	beside, stop := context.WithCancel(ctx)
	var others sync.WaitGroup
	others.Go(func() { s.keepReading(beside, srv, "mixed") })
	var commits atomic.Int64
	var commitErr error
	others.Go(func() { commitErr = commitOffsets(beside, srv.addr, &commits) })
	began := time.Now()
	args := append(append([]string{"-t", "mixed"}, w.args...), s.rate(w, srv.system)...)
	rep, o, err := s.benchRun(ctx, srv, w, true, s.profileName(w, srv.system), args...)
	took := time.Since(began)
	stop()
	others.Wait()
	if rep == nil {
		return err
	}
	r.book(w, srv, rep, o)
	r.set("commits_per_s", float64(commits.Load())/took.Seconds())
	if minutes := o.to.at.Sub(o.from.at).Minutes(); minutes > 0 {
		r.set("rss_mb_per_min", (o.to.rss()-o.from.rss())/1e6/minutes)
	}
	if commitErr != nil && beside.Err() == nil {
		return commitErr
	}
	return nil
}

// commitPause makes commits and metadata about a twentieth of the requests of the mixed load.
const commitPause = 5 * time.Millisecond

func commitOffsets(ctx context.Context, addr string, done *atomic.Int64) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(addr, ",")...), kgo.DisableClientMetrics())
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	for ctx.Err() == nil {
		offsets := kadm.Offsets{}
		offsets.AddOffset("mixed", 0, done.Load(), -1)
		if _, err := admin.CommitOffsets(ctx, "perf", offsets); err != nil && ctx.Err() == nil {
			return fmt.Errorf("commit: %w", err)
		}
		if _, err := admin.Metadata(ctx, "mixed"); err != nil && ctx.Err() == nil {
			return fmt.Errorf("metadata: %w", err)
		}
		done.Add(2)
		sleep(ctx, commitPause)
	}
	return nil
}

// runRdkafka is the load of the C library, by a program of its own.
func runRdkafka(ctx context.Context, s *suite, srv *server, w *workload, r *result) error {
	program := s.bin("rdkafka-bench")
	if _, err := os.Stat(program); err != nil {
		return errors.New("SKIPPED: the librdkafka load generator was not built (see the start of the output)")
	}
	rep, o, err := srv.replicated(ctx, topicShape{name: "bench", partitions: 1}, true, func() (*bench.Report, *observed, error) {
		return s.observe(ctx, srv, program, s.profileName(w, srv.system), "-b", srv.addr, "-s", strconv.Itoa(w.size), "-w", s.opts.warmup.String(), "-d", s.opts.duration.String())
	})
	if rep == nil {
		return err
	}
	r.book(w, srv, rep, o)
	if err != nil || srv.system == sysNull || srv.system == sysNullFlush {
		return err
	}
	stored, err := storedRecords(ctx, srv.addr, "bench")
	if err != nil {
		return err
	}
	if stored != rep.Acked {
		r.mark(fmt.Sprintf(markVoid+": %d acknowledged, %d stored", rep.Acked, stored))
	}
	r.set("verified", float64(stored))
	return nil
}

func storedRecords(ctx context.Context, addr, topic string) (n int64, err error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(addr, ",")...), kgo.DisableClientMetrics())
	if err != nil {
		return 0, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	ends.Each(func(e kadm.ListedOffset) {
		start, _ := starts.Lookup(topic, e.Partition)
		n += e.Offset - start.Offset
	})
	return n, errors.Join(starts.Error(), ends.Error())
}
