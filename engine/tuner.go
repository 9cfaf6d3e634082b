package engine

import (
	"slices"
	"sync/atomic"
)

// syncTuner chooses between a write that is durable at completion (RWF_DSYNC)
// and a write followed by a flush, for commits of one write. Which one is faster
// depends on the device and on the load, so both are measured under load.
// Driver only; the medians are read by Stats.
type syncTuner struct {
	useFlush  bool        // current choice
	usesFlush atomic.Bool // the same, for Stats
	runs      int         // single-write groups since the choice was looked at
	window    [2][tunerSamples]int64
	count     [2]int
	median    [2]atomic.Int64 // nanoseconds; [0] dsync, [1] write and flush
	switches  atomic.Uint64
}

const (
	tunerSamples = 16
	tunerPeriod  = 512 // groups between two looks
	tunerTrial   = tunerSamples
	// Larger groups are dominated by the transfer and say nothing about the flush.
	tunerBytesMax = 64 << 10
)

// wantsDsync decides for the next group of one write.
func (t *syncTuner) wantsDsync(bytes int) bool {
	if bytes > tunerBytesMax {
		return !t.useFlush
	}
	t.runs++
	trial := t.runs > tunerPeriod
	return t.useFlush == trial
}

// observe takes the latency of a finished group.
func (t *syncTuner) observe(g *group, now int64) {
	if !g.flush || len(g.commits) == 0 || g.bytes > tunerBytesMax {
		return
	}
	kind := 1
	if g.dsync {
		kind = 0
	}
	t.window[kind][t.count[kind]%tunerSamples] = now - g.began
	t.count[kind]++
	if n := t.count[kind]; n >= tunerSamples && n%4 == 0 {
		w := t.window[kind]
		slices.Sort(w[:])
		t.median[kind].Store(w[tunerSamples/2])
	}
	if t.runs < tunerPeriod+tunerTrial {
		return
	}
	t.runs = 0
	now0, other := t.median[0].Load(), t.median[1].Load()
	if t.useFlush {
		now0, other = other, now0
	}
	// A switch must pay: 15% at least.
	if now0 > 0 && other > 0 && other < now0*85/100 {
		t.useFlush = !t.useFlush
		t.usesFlush.Store(t.useFlush)
		t.switches.Add(1)
	}
}
