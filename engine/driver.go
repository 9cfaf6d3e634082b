package engine

import (
	"runtime"
	"time"
)

// Start runs what nobody else drives: a locked thread for every shard that was not
// attached, the segment writers, checkpoints, retention, compaction and the provision of WAL files.
func (e *Engine) Start() {
	if e.o.manual || e.started.Swap(true) {
		return
	}
	for _, s := range e.shards {
		if !s.attached {
			e.startDriver(s)
		}
		e.background(s.writer.run)
		e.background(s.writer.runRounds)
		e.background(s.warmSlabs)
	}
	e.background(e.runHousekeeping)
	e.background(e.runRetention)
	e.background(e.runCompaction)
	e.background(e.runStrays)
}

// background runs f until quit is closed.
func (e *Engine) background(f func(quit <-chan struct{})) {
	e.threads.Add(1)
	go func() {
		defer e.threads.Done()
		f(e.quit)
	}()
}

// startDriver gives the shard a thread of its own.
func (e *Engine) startDriver(s *Shard) {
	e.drivers.Add(1)
	go func() {
		defer e.drivers.Done()
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for !e.stopDrivers.Load() {
			s.Poll()
			s.wake.wait()
		}
	}()
}

// runHousekeeping looks after what has a deadline.
func (e *Engine) runHousekeeping(quit <-chan struct{}) {
	tick := time.NewTicker(housekeepingTick) //nolint:forbidigo // wakes a thread; what it does then has its time from Options.Now
	defer tick.Stop()
	var lastSpace time.Time
	for {
		select {
		case <-quit:
			return
		case <-tick.C:
		}
		now := e.now()
		for _, s := range e.shards {
			s.housekeep(now)
		}
		if now.Sub(lastSpace) >= time.Second || now.Before(lastSpace) {
			lastSpace = now
			e.checkSpace()
		}
	}
}
