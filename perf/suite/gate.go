package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// gateFigures are the figures that do not depend on how fast the machine is, with how much of a change counts. They
// are counts and ratios within one run; time is none of them.
var gateFigures = []struct {
	name      string
	tolerance float64 // share of the old value
	slack     float64 // and so much in any case
	more      bool    // more is better
	quiet     bool    // means something only on a machine without other work
}{
	{"allocs", 0.25, 0.05, false, false},
	{"sys_per_req", 0.35, 0.10, false, false},
	{"flush_per_req", 0.35, 0.02, false, false},
	{"own_bytes", 0.25, 0.05, false, false},
	{"punts", 0.25, 2, false, false},
	{"cpu_of_null", 0.25, 0.10, false, true},
	{"of_null", 0.25, 0.03, true, true},
	{"of_null_flush", 0.25, 0.03, true, true},
}

// gateRecord is what is compared with: figures by row and system.
type gateRecord struct {
	Commit  string                        `json:"commit"`
	Machine string                        `json:"machine"`
	Noisy   bool                          `json:"noisy"` // others used the machine, too
	Rows    map[string]map[string]float64 `json:"rows"`
}

// runGate compares a run with the recorded one, or records it.
func runGate(args []string) error {
	fs := flag.NewFlagSet("suite gate", flag.ContinueOnError)
	result := fs.String("result", "", "result.json of a run")
	file := fs.String("record", "perf/gate.json", "the recorded figures")
	update := fs.Bool("update", false, "record this run instead of comparing with it")
	if err := fs.Parse(args); err != nil {
		return err
	}
	text, err := os.ReadFile(*result)
	if err != nil {
		return err
	}
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		return err
	}
	now := recordOf(&d)
	if *update {
		text, err := json.MarshalIndent(now, "", "  ")
		if err != nil {
			return err
		}
		fmt.Printf("recorded %d rows of %s\n", len(now.Rows), now.Commit)
		return os.WriteFile(*file, append(text, '\n'), 0o644)
	}
	old := gateRecord{}
	text, err = os.ReadFile(*file)
	if err != nil {
		return fmt.Errorf("nothing to compare with (make perf-gate UPDATE=1 records): %w", err)
	}
	if err := json.Unmarshal(text, &old); err != nil {
		return err
	}
	return compareGate(&old, now)
}

func recordOf(d *document) *gateRecord {
	g := &gateRecord{Commit: d.Commit, Noisy: len(d.Machine.Warnings) > 0, Rows: map[string]map[string]float64{}}
	for _, f := range d.Machine.Lines {
		if f.Name == "processor" || f.Name == "kernel" {
			g.Machine = strings.TrimPrefix(g.Machine+"; "+f.Value, "; ")
		}
	}
	for _, r := range d.Rows {
		if r.System != sysD1 && r.System != sysD2 {
			continue
		}
		figures := map[string]float64{}
		for _, f := range gateFigures {
			if v, ok := r.Figures[f.name]; ok {
				figures[f.name] = v
			}
		}
		g.Rows[r.key()] = figures
	}
	return g
}

// compareGate says what moved, and fails if something got worse.
func compareGate(old, now *gateRecord) error {
	fmt.Printf("gate: %s against %s\n", now.Commit, old.Commit)
	if old.Machine != now.Machine {
		fmt.Printf("  the record is of another machine (%s): counts hold, ratios may not\n", old.Machine)
	}
	noisy := old.Noisy || now.Noisy
	if noisy {
		fmt.Println("  others used the machine in one of the runs: what depends on time is shown and does not count")
	}
	var worse []string
	compared := 0
	for _, row := range slices.Sorted(maps.Keys(now.Rows)) {
		for _, f := range gateFigures {
			before, had := old.Rows[row][f.name]
			after, has := now.Rows[row][f.name]
			if !had || !has {
				continue
			}
			compared++
			change := after - before
			if max(change, -change) <= before*f.tolerance+f.slack {
				continue
			}
			verdict := "better"
			if (change > 0) != f.more {
				verdict = "WORSE"
				if f.quiet && noisy {
					verdict = "noise?"
				} else {
					worse = append(worse, row+" "+f.name)
				}
			}
			fmt.Printf("  %-6s  %-22s %-14s %10.3f -> %10.3f\n", verdict, row, f.name, before, after)
		}
	}
	fmt.Printf("  %d figures compared, %d worse\n", compared, len(worse))
	if compared == 0 {
		return errors.New("no row is in both runs")
	}
	if len(worse) > 0 {
		return fmt.Errorf("worse: %s (if it is meant: make perf-gate UPDATE=1)", strings.Join(worse, ", "))
	}
	return nil
}
