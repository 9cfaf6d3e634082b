package engine

// Simulation is what makes an engine a step machine without goroutines, for simulations of whole brokers: whoever opens
// it drives it, from one goroutine. Calls that block on the device drive it themselves until they are done.
type Simulation struct {
	Random     func([]byte) // fills with random bytes: ids and salts
	ChunkBytes int          // of one segment write; 0 is the real size
	// Stalled is called now and then while a blocking call makes no progress.
	Stalled func()
}

// OpenSimulated is Open of an engine that has no goroutines. Start does nothing.
func OpenSimulated(o Options, s Simulation) (*Engine, error) {
	o.manual, o.salt, o.chunkBytes, o.stalled, o.syncWorkers = true, s.Random, s.ChunkBytes, s.Stalled, 1
	return Open(o)
}

// Step does what the shards' drivers do: it takes completions, tells observers and submits. It reports whether there is
// more to come, now or when the device is done.
func (e *Engine) Step() (busy bool) {
	for _, s := range e.shards {
		s.Poll()
		s.mu.Lock()
		busy = busy || s.open != nil || len(s.closed) > 0 || s.inFlight > 0
		s.mu.Unlock()
	}
	return busy && e.failed.Load() == nil
}

// StepBackground does one step of each background thread: segments, checkpoints, WAL files.
func (e *Engine) StepBackground() {
	for _, s := range e.shards {
		s.writer.step()
		s.writer.stepRound()
	}
}

// StepClock does what has a deadline: flushes, Marks, and a look at the disk's room.
func (e *Engine) StepClock() {
	for _, s := range e.shards {
		s.housekeep(e.now())
	}
	e.checkSpace()
}

// Abandon frees what a simulated engine holds whose process has died.
func (e *Engine) Abandon() { e.release() }
