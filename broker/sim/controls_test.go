//go:build broken

package sim

import (
	"flag"
	"strings"
	"testing"

	meta "millrace/raft/broken"

	"millrace/broker/replica/broken"
)

var controlSeeds = flag.Int("sim.controls", 3000, "seeds in which a missing rule must be noticed")

// isLoss reports whether a fault is about records. A cluster that stands still or a process that ends proves less.
func isLoss(fault string) bool {
	for _, other := range []string{"panic", "no progress", "does not recover", "does not come to rest", "do not come up"} {
		if strings.Contains(fault, other) {
			return false
		}
	}
	return fault != ""
}

// TestSimulationNoticesEveryMissingRule leaves out one rule at a time. Each must be noticed: the seed that did it when it
// was written is tried first (../replica/RULES.md), then others.
func TestSimulationNoticesEveryMissingRule(t *testing.T) {
	for _, c := range []struct {
		name string
		rule *bool
		seed uint64
	}{
		{"ack before follower flush", &broken.AckBeforeFlush, 472},
		{"resume one's own epoch", &meta.ResumeOwnEpoch, 3},
		{"acknowledgement without epoch or generation", &broken.AnyAcknowledgement, 1},
		{"truncation by high watermark", &broken.TruncateByHighWatermark, 406},
		{"ISR joined too early", &broken.EarlyJoin, 19},
		{"maximal ISR counted for min ISR", &broken.MaximalISRIsEnough, 380},
		{"stale ELR elected", &meta.StaleELR, 5},
		{"no controller epoch", &meta.NoControllerEpoch, 1},
		{"no directory id", &meta.NoDirectoryID, 18},
		{"D1 replica kept in ISR after a power cut", &meta.PowerLossForgiven, 18},
		{"contiguity without end offset", &broken.NoContiguity, 1},
		{"unclean election", &meta.UncleanElection, 5},
		{"epoch check off", &broken.AnyEpoch, 262},
	} {
		t.Run(c.name, func(t *testing.T) {
			*c.rule = true
			defer func() { *c.rule = false }()
			for n := range uint64(*controlSeeds) {
				seed := n
				if n == 0 {
					seed = c.seed
				}
				if o := simulate(seed, false); isLoss(o.fault) {
					t.Logf("seed %d: %s", seed, firstLine(o.fault))
					return
				}
			}
			t.Fatal("nothing was noticed")
		})
	}
}
