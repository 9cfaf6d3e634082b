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
	b.writeClusterMetrics(w)
	b.writeEngineMetrics(w)
	b.writeNetMetrics(w)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Fprintf(w, "millrace_go_heap_bytes %d\nmillrace_go_gc_cycles_total %d\nmillrace_go_goroutines %d\n", m.HeapAlloc, m.NumGC, runtime.NumGoroutine())
}

// writeClusterMetrics writes what this broker knows of the cluster, and what it replicates itself.
func (b *Broker) writeClusterMetrics(w io.Writer) {
	img := b.meta.Image()
	flag := map[bool]int{true: 1}
	live, fenced := 0, 0
	for _, n := range img.Brokers {
		if n.Fenced {
			fenced++
		} else {
			live++
		}
	}
	fmt.Fprintf(w, "millrace_brokers_live %d\nmillrace_brokers_fenced %d\nmillrace_is_controller %d\n", live, fenced, flag[b.meta.IsController()])
	fmt.Fprintf(w, "millrace_lease_valid %d\n", flag[b.leaseValid()])
	st := b.meta.Stats()
	fmt.Fprintf(w, "millrace_metadata_index %d\nmillrace_metadata_log_bytes %d\n", st.Index, st.LogBytes)
	p := countPartitions(img, nil)
	fmt.Fprintf(w, "millrace_cluster_partitions %d\nmillrace_cluster_partitions_offline %d\nmillrace_cluster_partitions_under_replicated %d\n", p.Total, p.Offline, p.UnderReplicated)
	fmt.Fprintf(w, "millrace_cluster_partitions_under_min_isr %d\nmillrace_cluster_partitions_moving %d\n", p.UnderMinISR, p.Moving)
	r := b.partitions.Stats()
	fmt.Fprintf(w, "millrace_replicas %d\nmillrace_leaders %d\nmillrace_replicas_stopped %d\n", r.Replicas, r.Leaders, r.Stopped)
	fmt.Fprintf(w, "millrace_isr_shrinks_total %d\nmillrace_isr_expands_total %d\n", r.ISRShrinks, r.ISRExpands)
	fmt.Fprintf(w, "millrace_follower_lag_records_max %d\nmillrace_uncommitted_records_max %d\n", r.FollowerLagMax, r.HWDistance)
}

func (b *Broker) writeEngineMetrics(w io.Writer) {
	st := b.engine.Stats()
	flag := map[bool]int{true: 1}
	fmt.Fprintf(w, "millrace_logs %d\nmillrace_disk_full %d\nmillrace_disk_failed %d\n", st.Logs, flag[st.DiskFull], flag[st.Failed])
	for _, s := range st.Shards {
		for _, c := range []struct {
			name string
			n    uint64
		}{
			{"commits_total", s.Commits},
			{"flushes_total", s.Flushes},
			{"wal_bytes_total", s.WALBytes},
			{"segment_bytes_total", s.SegmentBytes},
			{"checkpoint_bytes_total", s.CheckpointBytes},
			{"checkpoint_rounds_total", s.CheckpointRounds},
			{"wal_files_recycled_total", s.WALFilesRecycled},
			{"ring_evictions_total", s.SlabEvictions},
			{"wal_files_free", uint64(s.WALFilesFree)},
			{"wal_files_full", uint64(s.WALFilesFull)},
			{"ring_slabs", uint64(s.RingSlabs)},
			{"ring_slabs_free", uint64(s.RingSlabsFree)},
			{"flush_dsync_median_nanoseconds", uint64(max(s.DsyncMedianNanos, 0))},
			{"flush_fdatasync_median_nanoseconds", uint64(max(s.FlushMedianNanos, 0))},
			{"flush_uses_dsync", uint64(flag[s.UsesDsync])},
			{"flush_switches_total", s.SyncSwitches},
		} {
			fmt.Fprintf(w, "millrace_shard_%s{shard=\"%d\",io=%q} %d\n", c.name, s.Shard, s.Backend, c.n)
		}
	}
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
