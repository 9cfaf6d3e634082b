package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// options are what the command line says.
type options struct {
	binDir  string
	out     string
	dir     string
	rows    []string
	systems []string
	kafka   string
	quick   bool
	flames  bool
	loop    bool
	rounds  int
	every   bool // all rows run in all rounds

	roundsSaid bool // the command line says how many rounds there are
	warmup     time.Duration
	duration   time.Duration
	fill       time.Duration
	slice      time.Duration // of a measurement of the limits
	soak       time.Duration // of W9; 0: as the others

	cluster    bool  // the rows of a cluster instead
	windows    bool  // rows have windows of their own
	backlog    int64 // bytes that a follower has to catch up
	partitions int   // of the row of many partitions
	kills      int   // of each kind
}

// figure is one limit of the machine, as perf/limits prints it.
type figure struct {
	Key   string  `json:"key"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Note  string  `json:"note,omitempty"`
}

// suite is one run of the profile.
type suite struct {
	opts    options
	machine *machineFacts
	bounds  []figure
	probes  *probes
	loop    *loopDisk
	reached map[string]float64 // rates by row and system, for the rows that run at a share of them
	probing bool               // this round takes profiles and counts
	disk    string             // of the row under way
	notes   []string
}

func (s *suite) bin(name string) string { return filepath.Join(s.opts.binDir, name) }

// note says something that has to stand beside the figures.
func (s *suite) note(format string, args ...any) {
	n := fmt.Sprintf(format, args...)
	if !slices.Contains(s.notes, n) {
		s.notes = append(s.notes, n)
		fmt.Println("  note:", n)
	}
}

// dataBase is where a row's server has its directory.
func (s *suite) dataBase(*workload) string {
	if s.disk == diskLoop {
		return s.loop.mount
	}
	return s.opts.dir
}

// task is one row on one system and one disk.
type task struct {
	w      *workload
	system string
	disk   string
	window time.Duration
	rounds int // 0: as all
}

func (s *suite) tasks() (all []task) {
	if s.opts.cluster {
		return s.clusterTasks()
	}
	for _, w := range workloads() {
		if !s.wanted(w) {
			continue
		}
		systems := w.systems
		if s.opts.kafka != "" {
			systems = []string{sysD2, sysKafka1, sysKafka2}
		}
		window := s.opts.duration
		if w.id == "W9" && s.opts.soak > 0 {
			window = s.opts.soak
		}
		for _, system := range systems {
			if s.asked(system) {
				all = append(all, task{w: w, system: system, disk: diskOwn, window: window})
			}
		}
		if w.loop && s.loop != nil {
			all = append(all, task{w: w, system: sysD2, disk: diskLoop, window: window})
		}
	}
	return all
}

// clusterTasks are the rows of a cluster, each with the rows of one broker that stand beside it.
func (s *suite) clusterTasks() (all []task) {
	single := map[string]*workload{}
	for _, w := range workloads() {
		single[w.id] = w
	}
	for _, w := range clusterWorkloads() {
		if !s.wanted(w) {
			continue
		}
		t := task{w: w, disk: diskOwn, window: s.opts.duration, rounds: w.rounds}
		if s.opts.windows && w.window > 0 {
			t.window = w.window
		}
		if s.opts.roundsSaid && !w.once {
			t.rounds = 0
		}
		systems := w.systems
		if s.opts.kafka != "" {
			systems = []string{sysD2x3, sysKafka1x3}
			if slices.Contains(s.opts.systems, sysKafka2x3) {
				systems = append(systems, sysKafka2x3)
			}
		} else if w.beside != "" {
			for _, system := range []string{sysNull, sysD2} {
				one := t
				one.w, one.system = single[w.beside], system
				if s.asked(system) {
					all = append(all, one)
				}
			}
		}
		for _, t.system = range systems {
			if s.asked(t.system) {
				all = append(all, t)
			}
		}
	}
	return all
}

// asked tells whether the command line lets a system run.
func (s *suite) asked(system string) bool {
	return len(s.opts.systems) == 0 || slices.Contains(s.opts.systems, system)
}

func (s *suite) wanted(w *workload) bool {
	if len(s.opts.rows) > 0 {
		return slices.ContainsFunc(s.opts.rows, func(r string) bool {
			prefix, star := strings.CutSuffix(r, "*")
			return r == w.id || star && strings.HasPrefix(w.id, prefix)
		})
	}
	if s.opts.kafka != "" {
		return w.compare
	}
	return w.quick || !s.opts.quick
}

// probeWindow is long enough for a profile and counts one after the other.
const probeWindow = 4 * time.Second

// markVoid begins the mark of a run that has lost records.
const markVoid = "VOID"

// measure runs all tasks, there and back in turn, and then once more with the probes on.
func (s *suite) measure(ctx context.Context) []*result {
	var all []*result
	tasks, duration := s.tasks(), s.opts.duration
	for round := range s.opts.rounds {
		s.probing = s.opts.quick
		order := slices.Clone(tasks)
		if round > 0 && !s.opts.every {
			order = slices.DeleteFunc(order, func(t task) bool { return !t.w.quick || t.disk != diskOwn })
		}
		order = slices.DeleteFunc(order, func(t task) bool { return t.rounds > 0 && round >= t.rounds })
		if round%2 == 1 {
			slices.Reverse(order)
		}
		fmt.Printf("\nround %d of %d: %d runs\n", round+1, s.opts.rounds, len(order))
		for _, t := range order {
			if ctx.Err() != nil {
				return all
			}
			all = append(all, s.one(ctx, t))
		}
	}
	if s.opts.quick || ctx.Err() != nil {
		return all
	}
	s.opts.duration = duration
	// Profiles and counts cost time of the broker, so that they have a round of their own, whose rates do not count.
	s.probing = true
	tasks = slices.DeleteFunc(tasks, func(t task) bool {
		return t.disk != diskOwn || !s.opts.every && !t.w.quick || t.system == sysNull || t.system == sysNullFlush ||
			s.opts.cluster && (t.w.once || t.w.beside == "")
	})
	fmt.Printf("\nprobes: %d runs\n", len(tasks))
	for _, t := range tasks {
		t.window = max(s.opts.duration, probeWindow)
		if ctx.Err() != nil {
			break
		}
		r := s.one(ctx, t)
		only := map[string]float64{}
		for name, v := range r.Figures {
			if name == "punts" || strings.HasPrefix(name, "sys_") {
				only[name] = v
			}
		}
		r.Figures, r.Rounds = only, 0
		r.Marks = slices.DeleteFunc(r.Marks, func(m string) bool { return !strings.HasPrefix(m, markVoid) })
		all = append(all, r)
	}
	return all
}

// one runs a task once.
func (s *suite) one(ctx context.Context, t task) *result {
	r := &result{Row: t.w.id, Title: t.w.title, System: t.system, Disk: t.disk, Rounds: 1, Figures: map[string]float64{}}
	s.disk = t.disk
	s.opts.duration = t.window
	err := s.attempt(ctx, t, r)
	if r.void() {
		r.Rounds = 0 // what it measured stays in the rounds' own list
	}
	if err != nil {
		r.Errors = append(r.Errors, strings.ReplaceAll(err.Error(), "\n", " "))
		r.Rounds = 0
	} else if s.reached[t.w.id+" "+t.system] == 0 && t.disk == diskOwn {
		s.reached[t.w.id+" "+t.system] = r.get("rate")
	}
	line := fmt.Sprintf("  %-13s %-11s", t.w.id, t.system)
	if t.disk != diskOwn {
		line += " " + t.disk
	}
	switch {
	case err != nil:
		line += " " + r.Errors[0]
	case t.w.once:
		line += operationLine(r)
	default:
		line += fmt.Sprintf(" %11s msg/s %8.1f MB/s", grouped(r.get("rate")), r.get("mb"))
		if r.get("p50") > 0 {
			line += fmt.Sprintf("  p50 %8s  p99 %8s", millis(r.get("p50")), millis(r.get("p99")))
		}
		line += fmt.Sprintf("  broker %.2f cores", r.get("broker_cores"))
	}
	for _, m := range r.Marks {
		line += "  ! " + m
	}
	fmt.Println(line)
	return r
}

func (s *suite) attempt(ctx context.Context, t task, r *result) error {
	if t.w.bare {
		return t.w.run(ctx, s, nil, t.w, r)
	}
	srv, err := s.serve(ctx, t.system, t.w)
	if err != nil {
		return err
	}
	defer dropGroup()
	defer srv.close()
	if err := t.w.run(ctx, s, srv, t.w, r); err != nil {
		return err
	}
	return srv.alive()
}

// runLimits measures what the machine can do.
func (s *suite) runLimits(ctx context.Context) error {
	fmt.Println("\nlimits of this machine")
	var out bytes.Buffer
	p := func(line string) { fmt.Println(line) }
	proc, err := launchLimits(ctx, &out, p, s.bin("limits"), "-dir", s.opts.dir, "-slice", s.opts.slice.String())
	if err == nil {
		err = proc.wait(ctx)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(out.Bytes(), &s.bounds)
}

// document is what is left as JSON.
type document struct {
	Commit  string        `json:"commit"`
	Started time.Time     `json:"started"`
	Seconds float64       `json:"seconds"`
	Quick   bool          `json:"quick"`
	Machine *machineFacts `json:"machine"`
	Limits  []figure      `json:"limits"`
	Notes   []string      `json:"notes"`
	Missing []string      `json:"missing_probes"`
	Rows    []*result     `json:"rows"`
	Raw     []*result     `json:"rounds"`
}

// finish writes everything that the run leaves.
func (s *suite) finish(began time.Time, raw []*result) (*document, error) {
	rows := joined(raw)
	s.limits(rows)
	s.clusterLimits(rows)
	d := &document{
		Commit: commit(), Started: began, Seconds: time.Since(began).Seconds(), Quick: s.opts.quick, Machine: s.machine, Limits: s.bounds,
		Notes: s.notes, Missing: s.probes.missing, Rows: rows, Raw: raw,
	}
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return d, err
	}
	var table, figures bytes.Buffer
	writeTable(&table, rows)
	writeRanges(&table, rows)
	writeCalls(&table, rows)
	writeOperations(&table, rows)
	fmt.Printf("\n%s", table.String())
	err = writeCSV(&figures, rows)
	for name, data := range map[string][]byte{"result.json": text, "table.txt": table.Bytes(), "result.csv": figures.Bytes()} {
		err = errors.Join(err, os.WriteFile(filepath.Join(s.opts.out, name), data, 0o644))
	}
	return d, errors.Join(err, s.plots(rows))
}

func commit() string {
	out, err := output(context.Background(), "git", "describe", "--always", "--dirty", "--tags")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(out)
}
