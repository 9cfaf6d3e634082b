package main

import (
	"fmt"
	"io"
)

// writeRatios prints Millrace, flushing, against Kafka as it comes and Kafka that flushes; a cluster against a cluster.
func writeRatios(out io.Writer, rows []*result) {
	fmt.Fprintf(out, "\nMillrace (D2) against Kafka (K1: as it comes, it flushes nothing; K2: flushing; x3: three brokers, three replicas)\n")
	fmt.Fprintf(out, "  %-13s %-5s %10s %10s %10s %12s %10s\n", "row", "", "rate x", "p99 x", "p99.9 x", "CPU s/GB x", "RSS x")
	for _, r := range rows {
		if single(r.System) != sysKafka1 && single(r.System) != sysKafka2 {
			continue
		}
		ours := find(rows, r.Row, opponent(r.System))
		if ours == nil || r.get("rate") == 0 || isOperation(r) {
			continue
		}
		times := func(name string) string {
			a, b := ours.get(name), r.get(name)
			if a == 0 || b == 0 {
				return "-"
			}
			return fmt.Sprintf("%.2f", a/b)
		}
		fmt.Fprintf(out, "  %-13s %-5s %10s %10s %10s %12s %10s\n", r.Row, r.System, times("rate"), times("p99"), times("p999"), times("cpu_per_gb"), times("rss"))
	}
	fmt.Fprintln(out, "  rate: more is better; all others: less is better")
}

// opponent is the system of Millrace that a system of Kafka is compared with.
func opponent(system string) string {
	if single(system) != system {
		return sysD2x3
	}
	return sysD2
}
