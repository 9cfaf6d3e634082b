package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "suite:", err)
		}
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("run, compare or gate")
	}
	switch args[0] {
	case "run", "compare":
		return runProfile(ctx, args[0], args[1:])
	case "gate":
		return runGate(args[1:])
	}
	return fmt.Errorf("%q is not run, compare or gate", args[0])
}

func runProfile(ctx context.Context, what string, args []string) error {
	s := &suite{reached: map[string]float64{}}
	o := &s.opts
	var rows, systems string
	fs := flag.NewFlagSet("suite "+what, flag.ContinueOnError)
	fs.StringVar(&o.binDir, "bin", "bin", "directory of the programs")
	fs.StringVar(&o.out, "out", "", "directory for the results (default perf/out/<time>)")
	fs.StringVar(&o.dir, "dir", os.TempDir(), "directory on the disk to measure")
	fs.StringVar(&rows, "rows", "", "rows to run, separated by commas; W3* means all that begin so")
	fs.StringVar(&systems, "systems", "", "systems to run: "+strings.Join(systemOrder, ", "))
	fs.StringVar(&o.kafka, "kafka", "", "directory with Apache Kafka's jars in libs/")
	fs.BoolVar(&o.quick, "quick", false, "three minutes: fewer rows, one short round with the probes on")
	fs.BoolVar(&o.flames, "flames", true, "flame graphs, where perf is there")
	fs.BoolVar(&o.loop, "loop", true, "disk rows also on an ext4 with a journal in a file, where root may (not with --quick)")
	fs.IntVar(&o.rounds, "rounds", 0, "rounds of every row (default: 3 of the rows of --quick, 1 of the others; with --quick 1)")
	fs.DurationVar(&o.duration, "duration", 0, "window of one run (default 3s; with --quick 2.4s)")
	fs.DurationVar(&o.warmup, "warmup", 0, "load before that (default 1s; with --quick 800ms)")
	fs.DurationVar(&o.slice, "slice", 0, "length of one measurement of the limits (default 400ms; with --quick 150ms)")
	fs.DurationVar(&o.soak, "soak", 0, "window of W9, 30m for the soak of record (default: as the others)")
	fs.BoolVar(&o.cluster, "cluster", false, "the rows of a cluster of three brokers, W7, and those of one broker beside them")
	fs.Int64Var(&o.backlog, "backlog", 0, "bytes that a follower has to catch up in W7-catchup (default 1e9; with --quick 2e8)")
	fs.IntVar(&o.partitions, "partitions", 0, "partitions of W7-partitions (default 3000; with --quick 300)")
	fs.IntVar(&o.kills, "kills", 0, "faults of each kind in W7-kill and W7-failover (default 20; with --quick 2)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if what == "compare" && o.kafka == "" {
		return errors.New("compare needs --kafka DIR")
	}
	o.rows, o.systems = list(rows), list(systems)
	said := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { said[f.Name] = true })
	if o.quick { // what takes long only if it is asked for
		o.flames, o.loop = o.flames && said["flames"], o.loop && said["loop"]
	}
	o.defaults(said)
	o.clusterDefaults(said)
	began := time.Now()
	if o.out == "" {
		o.out = filepath.Join("perf", "out", began.Format("20060102-150405"))
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	s.begin(ctx)
	defer s.loop.close()
	if err := s.runLimits(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.note("limits: %v", err)
	}
	if len(s.tasks()) == 0 {
		return fmt.Errorf("no row is called %s", rows)
	}
	raw := s.measure(ctx)
	d, err := s.finish(began, raw)
	if o.kafka != "" {
		writeRatios(os.Stdout, d.Rows)
		writeOperationRatios(os.Stdout, d.Rows)
	}
	fmt.Printf("\n%.0f s; everything is in %s\n", d.Seconds, o.out)
	return errors.Join(err, ctx.Err(), void(d.Rows))
}

// void tells whether a row has lost records: then the run has failed, however fast it was.
func void(rows []*result) error {
	for _, r := range rows {
		for _, m := range r.Marks {
			if strings.HasPrefix(m, markVoid) {
				return fmt.Errorf("%s on %s: %s", r.Row, r.System, m)
			}
		}
	}
	return nil
}

func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// javaWarmup is what a fresh Java virtual machine needs to have compiled what is used most.
const javaWarmup = 4 * time.Second

// defaults fills in what the length of the run depends on.
func (o *options) defaults(said map[string]bool) {
	pick := func(d *time.Duration, full, quick time.Duration) {
		if *d == 0 && o.quick {
			*d = quick
		} else if *d == 0 {
			*d = full
		}
	}
	pick(&o.duration, 3*time.Second, 2400*time.Millisecond)
	pick(&o.warmup, time.Second, 800*time.Millisecond)
	pick(&o.fill, 8*time.Second, 3*time.Second)
	pick(&o.slice, 400*time.Millisecond, 150*time.Millisecond)
	if o.kafka != "" && !said["warmup"] {
		o.warmup = max(o.warmup, javaWarmup) // for all systems alike
	}
	o.roundsSaid = o.rounds > 0
	o.every = o.rounds > 0 || o.kafka != "" || len(o.rows) > 0
	switch {
	case o.rounds > 0 || o.quick:
	case o.cluster:
		o.rounds = 5
	default:
		o.rounds = 3
	}
	o.rounds = max(1, o.rounds)
}

// clusterDefaults are those of a cluster's rows, which reach less and so need longer.
func (o *options) clusterDefaults(said map[string]bool) {
	if !o.cluster {
		return
	}
	o.windows, o.every, o.loop = !o.quick && !said["duration"], true, false
	full := func(full, quick int64) int64 {
		if o.quick {
			return quick
		}
		return full
	}
	if !said["duration"] {
		o.duration = time.Duration(full(int64(10*time.Second), int64(4*time.Second)))
	}
	if !said["warmup"] && !o.quick {
		o.warmup = 5 * time.Second
		if o.kafka != "" { // three virtual machines compile at a time
			o.warmup = 10 * time.Second
		}
	}
	if o.backlog == 0 {
		o.backlog = full(1e9, 2e8)
	}
	if o.partitions == 0 {
		o.partitions = int(full(3000, 300))
	}
	if o.kills == 0 {
		o.kills = int(full(20, 2))
	}
}

// begin looks at the machine and prepares what the rows need.
func (s *suite) begin(ctx context.Context) {
	s.machine = lookAtMachine(s.opts.dir)
	fmt.Println("machine")
	for _, f := range s.machine.Lines {
		fmt.Printf("  %-12s %s\n", f.Name, f.Value)
	}
	s.probes = findProbes(ctx)
	for _, w := range s.machine.Warnings {
		fmt.Println("  WARNING:", w)
	}
	for _, m := range s.probes.missing {
		fmt.Println("  MISSING:", m)
	}
	if _, err := os.Stat(s.bin("rdkafka-bench")); err != nil {
		s.note("SKIPPED: S1, since the load generator over librdkafka could not be built (it needs a C compiler and the modules of tools/compat)")
	}
	if s.opts.loop {
		var err error
		if s.loop, err = mountLoop(ctx, s.opts.dir); err != nil {
			s.note("SKIPPED: rows on an ext4 with a journal: %v", err)
		}
	}
}
