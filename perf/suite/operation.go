package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// operation is a figure of a row that is no load: what was done, how long it took.
type operation struct {
	name, help string
	show       func(v float64) string
	less       bool // less is better; false: more is
	given      bool // nothing that one could be better at
}

func inSeconds(v float64) string { return fmt.Sprintf("%.2f s", v) }
func inMillis(v float64) string  { return fmt.Sprintf("%.0f ms", v) }
func megabytes(v float64) string { return fmt.Sprintf("%.1f MB/s", v) }

// operations are the figures that are printed of such rows, in this order.
var operations = []operation{
	{"filled_mb", "MB that the follower missed", fixed(0), false, true},
	{"sync_s", "from the start of its process until all replicas were in sync", inSeconds, true, false},
	{"ready_s", "of that, until it answered", inSeconds, true, false},
	{"catchup_mb", "missed bytes over the time from its answering until in sync", megabytes, false, false},
	{"p99_alone", "of an open loop, before", millis, true, false},
	{"p99", "likewise, while it caught up", millis, true, false},
	{"p99_times", "the one by the other", fixed(2), true, false},

	{"partitions", "partitions", fixed(0), false, true},
	{"create_s", "until all of them had leaders that answer and three replicas in sync", inSeconds, true, false},
	{"first_s", "until a record was acknowledged on each", inSeconds, true, false},
	{"rss_most", "MiB of the broker that has most", mebi, true, false},
	{"led", "of them led by the node that was killed", fixed(0), false, true},
	{"failover_half_s", "until half of those had taken a record", inSeconds, true, false},
	{"failover_s", "until all had", inSeconds, true, false},
	{"rejoin_s", "until the node, started again, was in sync everywhere", inSeconds, true, false},

	{"kills", "kills of each kind", fixed(0), false, true},
	{"leader_gap", "pause of acknowledgements when the leader is killed, median", inMillis, true, false},
	{"leader_gap_worst", "worst", inMillis, true, false},
	{"follower_gap", "when a follower is killed, median", inMillis, true, false},
	{"follower_gap_worst", "worst", inMillis, true, false},
}

// isOperation tells rows that are no load.
func isOperation(r *result) bool {
	return slices.ContainsFunc(clusterWorkloads(), func(w *workload) bool { return w.once && w.id == r.Row })
}

// operationLine is a row's figures in one line.
func operationLine(r *result) string {
	var parts []string
	for _, o := range operations {
		if v, ok := r.Figures[o.name]; ok {
			parts = append(parts, o.name+" "+o.show(v))
		}
	}
	return " " + strings.Join(append(parts, named(r)...), "; ")
}

// outsidePrefix begins the names of figures that another program has named: after it stand what was measured and, behind
// outsideUnit, of which unit it is.
const (
	outsidePrefix = "of "
	outsideUnit   = "\t"
)

// outside books such a figure.
func (r *result) outside(name, unit string, v float64) { r.set(outsidePrefix+name+outsideUnit+unit, v) }

// named are those figures, a line for each thing that was measured.
func named(r *result) (lines []string) {
	last := ""
	for _, key := range slices.Sorted(maps.Keys(r.Figures)) {
		text, ok := strings.CutPrefix(key, outsidePrefix)
		if !ok {
			continue
		}
		name, unit, _ := strings.Cut(text, outsideUnit)
		figure := strconv.FormatFloat(rounded(r.Figures[key]), 'f', -1, 64) + " " + unit
		if name == last {
			lines[len(lines)-1] += ", " + figure
		} else {
			lines = append(lines, name+": "+figure)
		}
		last = name
	}
	return lines
}

// rounded keeps three digits, or all before the point.
func rounded(v float64) float64 {
	step := 1.0
	for a := math.Abs(v); a > 0 && a*step < 100; {
		step *= 10
	}
	return math.Round(v*step) / step
}

// writeOperations prints those rows, a figure a line.
func writeOperations(out io.Writer, all []*result) {
	for _, r := range all {
		if !isOperation(r) {
			continue
		}
		fmt.Fprintf(out, "\n  %s %s: %s\n", r.Row, r.System, r.Title)
		for _, o := range operations {
			if v, ok := r.Figures[o.name]; ok {
				fmt.Fprintf(out, "    %12s  %s\n", o.show(v), o.help)
			}
		}
		for _, text := range named(r) {
			fmt.Fprintf(out, "    %s\n", text)
		}
		for _, m := range append(slices.Clone(r.Marks), r.Errors...) {
			fmt.Fprintf(out, "    ! %s\n", m)
		}
	}
}

// writeOperationRatios prints those rows of Millrace against Kafka's.
func writeOperationRatios(out io.Writer, all []*result) {
	for _, r := range all {
		if !isOperation(r) || r.System == sysD2x3 {
			continue
		}
		ours := findOperation(all, r.Row, sysD2x3)
		if ours == nil {
			continue
		}
		fmt.Fprintf(out, "\n  %s: D2x3 against %s\n", r.Row, r.System)
		for _, o := range operations {
			a, b := ours.get(o.name), r.get(o.name)
			if a == 0 || b == 0 || o.given {
				continue
			}
			better := "more is better"
			if o.less {
				better = "less is better"
			}
			fmt.Fprintf(out, "    %12s %12s  x %.2f  %s (%s)\n", o.show(a), o.show(b), a/b, o.help, better)
		}
	}
}

func findOperation(all []*result, row, system string) *result {
	for _, r := range all {
		if r.Row == row && r.System == system && len(r.Figures) > 0 {
			return r
		}
	}
	return nil
}
