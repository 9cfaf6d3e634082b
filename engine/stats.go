package engine

import (
	"sync/atomic"
	"time"

	"millrace/engine/disk"
)

// shardStats are a shard's counters.
type shardStats struct {
	commits, flushes, walBytes    atomic.Uint64
	segmentBytes, checkpointBytes atomic.Uint64
	recycled, evictions           atomic.Uint64
}

// ShardStats is a snapshot of a shard's counters, for metrics.
type ShardStats struct {
	Shard                                   int
	Backend                                 string
	Commits, Flushes                        uint64
	WALBytes, SegmentBytes, CheckpointBytes uint64
	WALFilesRecycled, SlabEvictions         uint64
	CheckpointRounds                        uint64
	WALFilesFree, WALFilesFull              int
	RingSlabs, RingSlabsFree                int
	// Medians in nanoseconds of small commits under load, and what is chosen.
	DsyncMedianNanos, FlushMedianNanos int64
	UsesDsync                          bool
	SyncSwitches                       uint64
	DurableLSN                         uint64
}

// Stats is a snapshot of the engine's counters.
type Stats struct {
	Logs     int
	DiskFull bool
	Failed   bool
	Shards   []ShardStats
}

// FlushAge is for how long the oldest write or flush of a WAL that has not completed has been under way; 0 when the
// devices have nothing to do. A device that hangs shows here before anything else notices.
func (e *Engine) FlushAge() time.Duration {
	now, oldest := int64(e.now().Sub(e.opened)), int64(0)
	for _, s := range e.shards {
		if since := s.oldest.Load(); since != 0 {
			oldest = max(oldest, now-since)
		}
	}
	return time.Duration(oldest)
}

// Stats returns the counters.
func (e *Engine) Stats() Stats {
	st := Stats{DiskFull: e.diskFull.Load(), Failed: e.failed.Load() != nil}
	e.mu.RLock()
	st.Logs = len(e.logs)
	e.mu.RUnlock()
	for _, s := range e.shards {
		x := ShardStats{
			Shard:            s.id,
			Commits:          s.stats.commits.Load(),
			Flushes:          s.stats.flushes.Load(),
			WALBytes:         s.stats.walBytes.Load(),
			SegmentBytes:     s.stats.segmentBytes.Load(),
			CheckpointBytes:  s.stats.checkpointBytes.Load(),
			WALFilesRecycled: s.stats.recycled.Load(),
			SlabEvictions:    s.stats.evictions.Load(),
			CheckpointRounds: s.writer.rounds.Load(),
			DsyncMedianNanos: s.tuner.median[0].Load(),
			FlushMedianNanos: s.tuner.median[1].Load(),
			UsesDsync:        !s.tuner.usesFlush.Load(),
			SyncSwitches:     s.tuner.switches.Load(),
			DurableLSN:       s.durableLSN.Load(),
		}
		if s.queue != nil {
			x.Backend = disk.BackendOf(s.queue)
		}
		s.mu.Lock()
		x.WALFilesFree, x.WALFilesFull = len(s.freeFiles), len(s.fullFiles)
		x.RingSlabs, x.RingSlabsFree = len(s.slabs), len(s.freeSlabs)
		s.mu.Unlock()
		st.Shards = append(st.Shards, x)
	}
	return st
}
