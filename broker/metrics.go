package broker

import (
	"fmt"
	"io"
	"runtime"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// WriteMetrics writes the broker's figures in Prometheus' text form. Their
// number does not grow with topics, partitions or clients.
func (b *Broker) WriteMetrics(w io.Writer) {
	for i := range apis {
		key := apis[i].key
		fmt.Fprintf(w, "millrace_requests_total{api=%q} %d\n", kmsg.NameForKey(key), b.requests[key].Load())
	}
	fmt.Fprintf(w, "millrace_fetch_sessions %d\n", b.sessions.count())
	topics, parts := 0, 0
	for _, t := range b.partitions.Topics() {
		topics++
		parts += len(t.Partitions())
	}
	fmt.Fprintf(w, "millrace_topics %d\nmillrace_partitions %d\nmillrace_stray_logs %d\n", topics, parts, len(b.partitions.Stray()))
	b.engine.WriteMetrics(w)
	b.writeNetMetrics(w)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Fprintf(w, "millrace_go_heap_bytes %d\nmillrace_go_gc_cycles_total %d\nmillrace_go_goroutines %d\n", m.HeapAlloc, m.NumGC, runtime.NumGoroutine())
}

func (b *Broker) writeNetMetrics(w io.Writer) {
	n := b.net.Stats()
	fmt.Fprintf(w, "millrace_connections %d\nmillrace_network_memory_bytes %d\n", n.Conns, n.MemoryUsed)
	for _, c := range []struct {
		name string
		n    uint64
	}{
		{"connections_accepted_total", n.Accepted},
		{"connections_closed_total", n.Closed},
		{"connections_closed_idle_total", n.ClosedIdle},
		{"connections_closed_half_frame_total", n.ClosedFrame},
		{"connections_shed_total", n.ClosedShed},
		{"connections_closed_slow_total", n.ClosedSlow},
		{"connections_closed_bad_frame_total", n.ClosedBroken},
		{"connections_refused_total", n.RefusedTotal},
		{"connections_refused_per_ip_total", n.RefusedPerIP},
		{"connections_refused_no_file_total", n.RefusedNoFile},
		{"frames_total", n.Frames},
		{"bytes_in_total", n.BytesIn},
		{"bytes_out_total", n.BytesOut},
		{"bytes_copied_for_slow_readers_total", n.Copied},
		{"loop_turns_total", n.Turns},
	} {
		fmt.Fprintf(w, "millrace_%s %d\n", c.name, c.n)
	}
}
