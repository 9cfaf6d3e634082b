package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// runFailover has the chaos tool measure how long acknowledgements pause, on a cluster that it makes itself.
func runFailover(ctx context.Context, s *suite, _ *server, _ *workload, r *result) error {
	program := s.bin("chaos")
	if _, err := os.Stat(program); err != nil {
		return errors.New("SKIPPED: tools/chaos was not built")
	}
	dir, err := scratch(s.opts.dir)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is a temporary directory
	out, err := output(ctx, program, "-failover", "-rounds", strconv.Itoa(s.opts.kills), "-bin", s.bin("millrace"), "-dir", dir)
	if err != nil {
		return err
	}
	return r.bookOutages([]byte(out))
}

// bookOutages takes the figures of `chaos -failover`.
func (r *result) bookOutages(text []byte) error {
	var measured struct {
		Outages []struct {
			Name     string    `json:"name"`
			Median   float64   `json:"median_ms"`
			Worst    float64   `json:"worst_ms"`
			Gaps     []float64 `json:"gaps_ms"`
			Failures int       `json:"failures"`
		} `json:"outages"`
	}
	if err := json.Unmarshal(text, &measured); err != nil {
		return fmt.Errorf("chaos: %w", err)
	}
	if len(measured.Outages) == 0 {
		return errors.New("chaos: no outages in its output")
	}
	for _, o := range measured.Outages {
		if len(o.Gaps) > 0 {
			r.outside(o.Name, "ms median", o.Median)
			r.outside(o.Name, "ms worst", o.Worst)
			r.outside(o.Name, "times", float64(len(o.Gaps)))
		}
		if o.Failures > 0 {
			r.mark(fmt.Sprintf("%s: %d of %d times no acknowledgement came again", o.Name, o.Failures, o.Failures+len(o.Gaps)))
		}
	}
	return nil
}

// metadataBenchmarks are those of package raft that are printed.
const metadataBenchmarks = "^Benchmark(AlterPartition|Commit|Snapshot|RegisterBroker)$"

// runMetadata runs the benchmarks of the replicated metadata.
func runMetadata(ctx context.Context, s *suite, _ *server, _ *workload, r *result) error {
	program := s.bin("raft.test")
	if _, err := os.Stat(program); err != nil {
		return errors.New("SKIPPED: the benchmarks of package raft were not built")
	}
	length := "1s"
	if s.opts.quick {
		length = "200ms"
	}
	out, err := output(ctx, program, "-test.run", "^$", "-test.bench", metadataBenchmarks, "-test.benchtime", length, "-test.benchmem")
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	parseBenchmarks([]byte(out), r.outside)
	if len(r.Figures) == 0 {
		return errors.New("no benchmark ran")
	}
	return nil
}

// parseBenchmarks takes what Go's benchmarks print and calls book for every unit of each. Times are in microseconds.
func parseBenchmarks(text []byte, book func(name, unit string, v float64)) {
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(fields[0], "Benchmark")
		if at := strings.LastIndexByte(name, '-'); at > 0 { // the number of processors
			if _, err := strconv.Atoi(name[at+1:]); err == nil {
				name = name[:at]
			}
		}
		for i := 2; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				break
			}
			unit := fields[i+1]
			if unit == "ns/op" {
				v, unit = v/1e3, "us"
			}
			book(name, strings.TrimSuffix(unit, "/op"), v)
		}
	}
}
