package engine

import (
	"errors"
	"io/fs"
	"time"
)

// Compaction keeps the newest record of each key (cleanup.policy=compact), by Kafka's rules:
//
//	segments   | 0     clean     | 900  clean | 1500   dirty   | 2100  dirty  | 2700 active
//	             cleaned before ----------------^ dirty offset                ^ what may be cleaned ends here
//
//	1. the keys of the dirty part, each with its newest offset, go into a bounded map
//	2. all segments from the first one on are filtered by the map: a record goes when a newer
//	   one of its key is there, when it is a tombstone whose delete horizon has passed, when it has no
//	   key, or when its transaction was aborted
//	3. neighbours that have become small are joined; a segment that loses nothing is not touched
//
// Offsets never change: a batch keeps its base and last offset, and a segment's last batch and each
// producer's newest batch keep their header when they lose all records. A tombstone (and an
// empty transaction's marker) stays for delete.retention.ms after the first compaction that
// met it, which writes the delete horizon into its batch (KIP-534).
//
// Only sealed segments below the high watermark and the last stable offset are cleaned; one that has
// been active for segment.ms or max.compaction.lag.ms is sealed for that. What replaces them is a new file under a new generation: written, flushed, its
// folder flushed, then swapped into the stable state; the next checkpoint names it, and only
// then, and when the last reader is done, the old files go. A crash before that checkpoint leaves
// the old files in charge.
//
// A batch that cannot be decoded stays as it is; one whose CRC is wrong stops the
// compaction of its log.

// compactionTick is Kafka's log.cleaner.backoff.ms.
const compactionTick = 15 * time.Second

// compactionRetry is how long a log that could not be compacted is left alone.
const compactionRetry = 5 * time.Minute

// compactor cleans one log after the other. One goroutine.
type compactor struct {
	e       *Engine
	quit    <-chan struct{}
	keys    keyOffsets
	cleaned map[uint64]cleanPoint // by log id
	retryAt map[uint64]time.Time  // by log id
	pace    func(work time.Duration)
}

// cleanPoint says up to where a log has been cleaned. It holds as long as the segment that
// ended there is part of the log and has not been cut. It is not kept over a restart: the first
// compaction then takes everything for dirty, and rewrites only what loses records.
type cleanPoint struct {
	offset     int64
	generation uint64
}

var (
	errCompactionStopped  = errors.New("engine: compaction was stopped")
	errCompactionConflict = errors.New("engine: the log changed under compaction")
)

func newCompactor(e *Engine, quit <-chan struct{}) *compactor {
	return &compactor{
		e:       e,
		quit:    quit,
		keys:    keyOffsets{bytesMax: compactionMapBytes},
		cleaned: make(map[uint64]cleanPoint),
		retryAt: make(map[uint64]time.Time),
		pace:    func(time.Duration) {},
	}
}

// runCompaction cleans logs from time to time. It takes at most half of one thread.
func (e *Engine) runCompaction(quit <-chan struct{}) {
	c := newCompactor(e, quit)
	rest := time.NewTimer(0) //nolint:forbidigo // how long a thread rests, not what time it is
	defer rest.Stop()
	c.pace = func(work time.Duration) {
		rest.Reset(min(work, 100*time.Millisecond))
		select {
		case <-quit:
		case <-rest.C:
		}
	}
	tick := time.NewTicker(compactionTick) //nolint:forbidigo // wakes a thread; what it does then has its time from Options.Now
	defer tick.Stop()
	for {
		select {
		case <-quit:
			return
		case <-tick.C:
		}
		for c.step() {
			if c.stopped() {
				return
			}
		}
		c.forgetDropped()
		c.keys.free()
	}
}

// Compact cleans every log that is due now. It blocks. The background does the same; two at once do
// no harm.
func (e *Engine) Compact() {
	c := newCompactor(e, e.quit)
	for c.step() {
	}
}

func (c *compactor) stopped() bool {
	select {
	case <-c.quit:
		return true
	default:
		return c.e.failed.Load() != nil || c.e.closing.Load()
	}
}

// step cleans the log that needs it most. It reports false when none is due.
func (c *compactor) step() bool {
	if c.stopped() {
		return false
	}
	now := c.e.now()
	var worst *cleanJob
	for _, l := range c.e.Logs() {
		if !l.config().Compact || now.Before(c.retryAt[l.id]) {
			continue
		}
		if err := c.sealAged(l, now); err != nil {
			return false
		}
		j := c.prepare(l, now)
		if j != nil && j.plan.due && (worst == nil || j.plan.ratio() > worst.plan.ratio()) {
			worst = j
		}
	}
	if worst == nil {
		return false
	}
	c.clean(worst)
	return true
}

// sealAged ends an active segment that has waited long enough to be cleaned.
func (c *compactor) sealAged(l *Log, now time.Time) error {
	cfg := l.Config()
	cfg.RetentionMillis = -1
	if cfg.MaxCompactionLagMillis > 0 {
		cfg.SegmentMillis = min(cfg.SegmentMillis, cfg.MaxCompactionLagMillis)
	}
	return l.sealExpired(now.UnixMilli(), &cfg)
}

// clean runs a job and deals with its end.
func (c *compactor) clean(j *cleanJob) {
	l := j.l
	err := j.run()
	var damage *CorruptionError
	switch {
	case err == nil:
		delete(c.retryAt, l.id)
		return
	case errors.Is(err, errCompactionStopped):
	case errors.Is(err, errCompactionConflict), errors.Is(err, fs.ErrNotExist):
		// Truncated, dropped, or taken by retention. The next look sees what is there now.
		c.retryAt[l.id] = c.e.now().Add(compactionTick)
	case noSpace(err), errors.Is(err, errCompactionRoom):
		c.e.o.Warn("compaction of %s waits for disk space: %v", l, err)
		c.retryAt[l.id] = c.e.now().Add(compactionRetry)
	case errors.As(err, &damage):
		c.e.o.Warn("compaction of %s stopped at damage: %v", l, err)
		c.retryAt[l.id] = c.e.now().Add(compactionRetry)
	case errors.Is(err, errCompactionRead):
		c.e.o.Warn("compaction of %s: %v", l, err)
		c.retryAt[l.id] = c.e.now().Add(compactionRetry)
	default:
		// A failed write or flush of this directory.
		c.e.fail(err)
	}
}

// forgetDropped keeps the maps as small as the set of logs.
func (c *compactor) forgetDropped() {
	if len(c.cleaned)+len(c.retryAt) == 0 {
		return
	}
	live := make(map[uint64]bool)
	for _, l := range c.e.Logs() {
		live[l.id] = true
	}
	for id := range c.cleaned {
		if !live[id] {
			delete(c.cleaned, id)
		}
	}
	for id := range c.retryAt {
		if !live[id] {
			delete(c.retryAt, id)
		}
	}
}
