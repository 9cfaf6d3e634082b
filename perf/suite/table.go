package main

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// column is a figure of the table.
type column struct {
	name, head, help string
	show             func(v float64) string
}

func fixed(digits int) func(float64) string {
	return func(v float64) string { return strconv.FormatFloat(v, 'f', digits, 64) }
}

func grouped(v float64) string {
	s := strconv.FormatFloat(math.Round(v), 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func millis(us float64) string {
	switch {
	case us < 1000:
		return fmt.Sprintf("%.0fus", us)
	case us < 1e6:
		return fmt.Sprintf("%.2fms", us/1e3)
	default:
		return fmt.Sprintf("%.2fs", us/1e6)
	}
}

func percent(v float64) string { return strconv.FormatFloat(100*v, 'f', 1, 64) }
func mebi(v float64) string    { return strconv.FormatFloat(v/(1<<20), 'f', 0, 64) }

var columns = []column{
	{"rate", "msg/s", "records acknowledged (or read) a second", grouped},
	{"mb", "MB/s", "of keys and values, 1e6 bytes", fixed(1)},
	{"p50", "p50", "of the acknowledgement; open loop: from the moment it was due", millis},
	{"p99", "p99", "", millis},
	{"p999", "p99.9", "", millis},
	{"max", "max", "", millis},
	{"e2e_p99", "e2e p99", "until a reader has it", millis},
	{"cpu_per_gb", "CPU s/GB", "processor time of the broker", fixed(2)},
	{"us_per_msg", "us/msg", "likewise, a record", fixed(2)},
	{"broker_cores", "broker", "cores", fixed(2)},
	{"client_cores", "client", "cores", fixed(2)},
	{"sys_per_req", "sys/req", "system calls a produce request, with the probes on", fixed(2)},
	{"flush_per_req", "fl/req", "flushes a produce request", fixed(3)},
	{"rec_per_flush", "rec/fl", "records a flush", fixed(1)},
	{"punts", "punts/s", "WAL writes handed to kernel workers", fixed(1)},
	{"own_bytes", "wr/acc", "bytes that the broker wrote for each that it took", fixed(2)},
	{"dev_bytes", "dev/acc", "bytes that the whole device wrote, others' included", fixed(2)},
	{"rss", "RSS MiB", "", mebi},
	{"allocs", "all/req", "heap allocations of the broker a produce request", fixed(3)},
	{"gc_share", "GC %", "share of the processor time", percent},
	{"wraps", "WAL x", "times that the write-ahead log was gone through", fixed(1)},
	{"of_null", "/null", "rate against the null broker's", fixed(2)},
	{"ratio", "ratio", "rate (or cost) against the limit that is named", fixed(2)},
}

// writeTable prints the rows for people.
func writeTable(out io.Writer, all []*result) {
	head := []string{"row", "system"}
	for _, c := range columns {
		head = append(head, c.head)
	}
	head = append(head, "limit")
	lines := [][]string{head}
	for _, r := range all {
		system := r.System
		if r.Disk != diskOwn {
			system += " " + r.Disk
		}
		line := []string{r.Row, system}
		for _, c := range columns {
			text := ""
			if v, ok := r.Figures[c.name]; ok {
				text = c.show(v)
			}
			line = append(line, text)
		}
		lines = append(lines, append(line, r.Limit))
	}
	widths := make([]int, len(head))
	for _, l := range lines {
		for i, text := range l {
			widths[i] = max(widths[i], len(text))
		}
	}
	for n, l := range lines {
		var b strings.Builder
		for i, text := range l {
			if i < 2 || i == len(l)-1 {
				fmt.Fprintf(&b, "%-*s  ", widths[i], text)
			} else {
				fmt.Fprintf(&b, "%*s  ", widths[i], text)
			}
		}
		fmt.Fprintln(out, strings.TrimRight(b.String(), " "))
		if n == 0 {
			continue
		}
		r := all[n-1]
		for _, m := range r.Marks {
			fmt.Fprintf(out, "    ! %s\n", m)
		}
		for _, e := range r.Errors {
			fmt.Fprintf(out, "    ! %s\n", e)
		}
	}
	fmt.Fprintln(out)
	for _, c := range columns {
		if c.help != "" {
			fmt.Fprintf(out, "  %-9s %s\n", c.head, c.help)
		}
	}
}

// writeRanges prints least and most of the rounds.
func writeRanges(out io.Writer, all []*result) {
	for _, r := range all {
		if r.Rounds < 2 {
			continue
		}
		rate, p99 := r.Ranges["rate"], r.Ranges["p99"]
		fmt.Fprintf(out, "  %-10s %-11s %d rounds: msg/s %s to %s, p99 %s to %s\n", r.Row, r.System, r.Rounds, grouped(rate[0]), grouped(rate[1]), millis(p99[0]), millis(p99[1]))
	}
}

// writeCalls prints which system calls a produce request took.
func writeCalls(out io.Writer, all []*result) {
	for _, r := range all {
		var calls []string
		for _, name := range slices.SortedFunc(maps.Keys(r.Figures), func(a, b string) int { return cmp.Compare(r.Figures[b], r.Figures[a]) }) {
			if call, ok := strings.CutPrefix(name, "sys_"); ok && name != "sys_per_req" && r.Figures[name] >= 0.005 {
				calls = append(calls, fmt.Sprintf("%s %.2f", call, r.Figures[name]))
			}
		}
		if len(calls) > 0 {
			fmt.Fprintf(out, "  %-10s %-11s system calls a request: %s\n", r.Row, r.System, strings.Join(calls, ", "))
		}
	}
}

// writeCSV prints every figure, for programs.
func writeCSV(out io.Writer, all []*result) error {
	w := csv.NewWriter(out)
	_ = w.Write([]string{"row", "system", "disk", "figure", "median", "least", "most"}) // Flush tells
	for _, r := range all {
		for name, v := range r.Figures {
			text := func(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }
			_ = w.Write([]string{r.Row, r.System, r.Disk, name, text(v), text(r.Ranges[name][0]), text(r.Ranges[name][1])})
		}
	}
	w.Flush()
	return w.Error()
}
