package engine

import "time"

const retentionTick = 30 * time.Second

// runRetention applies retention from time to time.
func (e *Engine) runRetention(quit <-chan struct{}) {
	tick := time.NewTicker(retentionTick) //nolint:forbidigo // wakes a thread; what it does then has its time from Options.Now
	defer tick.Stop()
	for {
		select {
		case <-quit:
			return
		case <-tick.C:
		}
		e.ApplyRetention()
	}
}

// ApplyRetention deletes what retention.bytes and retention.ms no longer keep, and forgets
// producers that have been silent for too long. It blocks.
func (e *Engine) ApplyRetention() {
	now := e.now().UnixMilli()
	for _, l := range e.Logs() {
		if e.refusal() != nil {
			return
		}
		if err := l.applyRetention(now); err != nil && e.refusal() == nil {
			e.o.Warn("retention of %s: %v", l, err)
		}
	}
}

func (l *Log) applyRetention(now int64) error {
	cfg := l.config()
	l.expireProducers(now, cfg.ProducerExpirationMillis)
	if !cfg.Delete || l.Quarantined() != "" {
		return nil
	}
	if err := l.sealExpired(now, cfg); err != nil {
		return err
	}
	start := l.retainedFrom(now, cfg)
	if start <= l.logStart.Load() {
		return nil
	}
	return l.SetLogStart(start)
}

func (l *Log) expireProducers(now, expiration int64) {
	l.mu.Lock()
	if l.producers != nil {
		l.producers.Expire(now, expiration)
	}
	l.mu.Unlock()
	l.stable.writeMu.Lock()
	if l.stable.producers != nil {
		l.stable.producers.Expire(now, expiration)
	}
	l.stable.writeMu.Unlock()
}

// expired reports that every record of the segment is older than retention.ms.
func (g *segment) expired(now int64, cfg *LogConfig) bool {
	if cfg.RetentionMillis < 0 {
		return false
	}
	newest := g.maxTime
	if newest < 0 {
		newest = g.created // batches without timestamps
	}
	return now-newest > cfg.RetentionMillis
}

// retainedFrom is the log start that retention asks for: only whole sealed segments go,
// only from the front, and only what is flushed here and acknowledged on all in-sync replicas.
func (l *Log) retainedFrom(now int64, cfg *LogConfig) int64 {
	l.mu.Lock()
	total := l.unmoved
	l.mu.Unlock()
	st := &l.stable
	st.mu.Lock()
	defer st.mu.Unlock()
	total += st.size
	start := st.start
	settled := min(l.durableEnd.Load(), l.highWater.Load())
	for _, g := range st.segments {
		tooMuch := cfg.RetentionBytes >= 0 && total-g.size >= cfg.RetentionBytes
		if !g.sealed || g.next > settled || !tooMuch && !g.expired(now, cfg) {
			break
		}
		total -= g.size
		start = g.next
	}
	return start
}

// sealExpired ends an active segment that has outlived retention.ms, or segment.ms, so
// that it can be deleted or compacted without waiting for the next append.
func (l *Log) sealExpired(now int64, cfg *LogConfig) error {
	st := &l.stable
	st.mu.Lock()
	g := st.active()
	due := g != nil && g.size > 0 && (g.expired(now, cfg) || now-g.created >= cfg.SegmentMillis)
	st.mu.Unlock()
	if !due {
		return nil
	}
	st.writeMu.Lock()
	defer st.writeMu.Unlock()
	if st.dropped || st.active() != g {
		return nil
	}
	err := newMover(l.s).sealActive(l)
	l.checkpointDue.Store(true)
	if err != nil && !noSpace(err) {
		l.e.fail(err)
	}
	return err
}
