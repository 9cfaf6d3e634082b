package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"
)

// figure is one measured limit.
type figure struct {
	Key   string  `json:"key"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Note  string  `json:"note,omitempty"`
}

// run collects the figures.
type run struct {
	slice   time.Duration // of one measurement
	dir     string
	figures []figure
}

func (r *run) add(key string, value float64, unit, note string) {
	r.figures = append(r.figures, figure{key, value, unit, note})
	fmt.Fprintf(os.Stderr, "  %-34s %12.4g %-8s %s\n", key, value, unit, note)
}

func main() {
	r := &run{}
	flag.DurationVar(&r.slice, "slice", 400*time.Millisecond, "length of one measurement")
	flag.StringVar(&r.dir, "dir", os.TempDir(), "directory on the disk to measure; its files are removed")
	only := flag.String("only", "", "memory, kernel, network or disk (default: all)")
	flag.Parse()
	for _, part := range []struct {
		name string
		f    func() error
	}{{"memory", r.memory}, {"kernel", r.kernel}, {"network", r.network}, {"disk", r.disk}} {
		if *only != "" && *only != part.name {
			continue
		}
		if err := part.f(); err != nil {
			fmt.Fprintf(os.Stderr, "  %s: SKIPPED: %v\n", part.name, err)
			r.figures = append(r.figures, figure{Key: part.name + "_skipped", Note: err.Error()})
		}
	}
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r.figures); err != nil {
		fmt.Fprintln(os.Stderr, "limits:", err)
		os.Exit(1)
	}
}

// repeat calls f for about d and returns how often it did, and how long that took.
func repeat(d time.Duration, f func()) (n int, took time.Duration) {
	began := time.Now()
	for step := 1; took < d; step = min(step*2, 4096) {
		for range step {
			f()
		}
		n += step
		took = time.Since(began)
	}
	return n, took
}
