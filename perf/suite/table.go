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
	cluster          bool // shown only if a row is of a cluster
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
	{name: "rate", head: "msg/s", help: "records acknowledged (or read) a second", show: grouped},
	{name: "mb", head: "MB/s", help: "of keys and values, 1e6 bytes", show: fixed(1)},
	{name: "p50", head: "p50", help: "of the acknowledgement; open loop: from the moment it was due", show: millis},
	{name: "p99", head: "p99", show: millis},
	{name: "p999", head: "p99.9", show: millis},
	{name: "max", head: "max", show: millis},
	{name: "e2e_p99", head: "e2e p99", help: "until a reader has it", show: millis},
	{name: "cpu_per_gb", head: "CPU s/GB", help: "processor time of the broker, of a cluster of all brokers", show: fixed(2)},
	{name: "us_per_msg", head: "us/msg", help: "likewise, a record", show: fixed(2)},
	{name: "leader_us", head: "leader us", help: "processor time of the leader, a record; nothing where all brokers lead", show: fixed(2), cluster: true},
	{name: "follower_us", head: "follower", help: "of one follower, a record", show: fixed(2), cluster: true},
	{name: "client_us", head: "client us", help: "of the client, a record", show: fixed(2), cluster: true},
	{name: "leader_per_gb", head: "leader s/GB", help: "as above, a GB", show: fixed(2), cluster: true},
	{name: "follower_per_gb", head: "follower s/GB", show: fixed(2), cluster: true},
	{name: "client_per_gb", head: "client s/GB", show: fixed(2), cluster: true},
	{name: "broker_cores", head: "broker", help: "cores", show: fixed(2)},
	{name: "client_cores", head: "client", help: "cores", show: fixed(2)},
	{name: "sys_per_req", head: "sys/req", help: "system calls a produce request, with the probes on", show: fixed(2)},
	{name: "flush_rate", head: "fl/s", help: "flushes a second of all brokers", show: fixed(0), cluster: true},
	{name: "flush_per_req", head: "fl/req", help: "flushes (of one broker) a produce request", show: fixed(3)},
	{name: "rec_per_flush", head: "rec/fl", help: "records a flush", show: fixed(1)},
	{name: "punts", head: "punts/s", help: "WAL writes handed to kernel workers", show: fixed(1)},
	{name: "own_bytes", head: "wr/acc", help: "bytes that the broker (all brokers) wrote for each that was taken", show: fixed(2)},
	{name: "dev_bytes", head: "dev/acc", help: "bytes that the whole device wrote, others' included", show: fixed(2)},
	{name: "rss", head: "RSS MiB", help: "of the broker that has most", show: mebi},
	{name: "allocs", head: "all/req", help: "heap allocations of the broker a produce request", show: fixed(3)},
	{name: "gc_share", head: "GC %", help: "share of the processor time", show: percent},
	{name: "wraps", head: "WAL x", help: "times that the write-ahead log was gone through", show: fixed(1)},
	{name: "of_null", head: "/null", help: "rate against the null broker's", show: fixed(2)},
	{name: "of_one", head: "/one", help: "rate against the same load on one broker (D2)", show: fixed(2), cluster: true},
	{name: "ratio", head: "ratio", help: "rate (or cost) against the limit that is named", show: fixed(2)},
}

// shown are the columns for some rows.
func shown(all []*result) []column {
	if slices.ContainsFunc(all, func(r *result) bool { return r.Brokers > 0 }) {
		return columns
	}
	return slices.DeleteFunc(slices.Clone(columns), func(c column) bool { return c.cluster })
}

// writeTable prints the rows for people.
func writeTable(out io.Writer, all []*result) {
	all = slices.DeleteFunc(slices.Clone(all), isOperation)
	columns := shown(all)
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
		if r.Rounds < 2 || isOperation(r) {
			continue
		}
		rate, p99 := r.Ranges["rate"], r.Ranges["p99"]
		fmt.Fprintf(out, "  %-13s %-11s %d rounds: msg/s %s to %s, p99 %s to %s\n", r.Row, r.System, r.Rounds, grouped(rate[0]), grouped(rate[1]), millis(p99[0]), millis(p99[1]))
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
			fmt.Fprintf(out, "  %-13s %-11s system calls a request: %s\n", r.Row, r.System, strings.Join(calls, ", "))
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
