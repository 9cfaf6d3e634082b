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

// stormy is elections all the time over slow links: acknowledgements come when their sender follows somebody else, and their
// receiver leads again.
func stormy(p *plan) {
	p.faults, p.pause, p.troubles, p.lateImages = []int{15, 15, 15, 15, 21, 21, 11}, 150*ms, 120, 0
	for _, t := range p.topics {
		t.rf, t.minISR = min(3, p.nodes), 1
	}
}

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
		// shape makes the trouble that it takes more frequent: three other rules would have to fail beside the first.
		shape func(*plan)
	}{
		{"ack before follower flush", &broken.AckBeforeFlush, 472, nil},
		{"resume one's own epoch", &meta.ResumeOwnEpoch, 3, nil},
		{"acknowledgement without epoch or generation", &broken.AnyAcknowledgement, 64, stormy},
		{"truncation by high watermark", &broken.TruncateByHighWatermark, 406, nil},
		{"ISR joined too early", &broken.EarlyJoin, 19, nil},
		{"maximal ISR counted for min ISR", &broken.MaximalISRIsEnough, 380, nil},
		{"stale ELR elected", &meta.StaleELR, 5, nil},
		{"no controller epoch", &meta.NoControllerEpoch, 1, nil},
		{"no directory id", &meta.NoDirectoryID, 18, nil},
		{"D1 replica kept in ISR after a power cut", &meta.PowerLossForgiven, 18, nil},
		{"contiguity without end offset", &broken.NoContiguity, 1, nil},
		{"unclean election", &meta.UncleanElection, 5, nil},
		{"epoch check off", &broken.AnyEpoch, 262, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			*c.rule = true
			defer func() { *c.rule = false }()
			shape := c.shape
			if shape == nil {
				shape = func(*plan) {}
			}
			for n := range uint64(*controlSeeds) {
				seed := n
				if n == 0 {
					seed = c.seed
				}
				if o := simulate(seed, false, shape); isLoss(o.fault) {
					t.Logf("seed %d: %s", seed, firstLine(o.fault))
					return
				}
			}
			t.Fatal("nothing was noticed")
		})
	}
}

func firstLine(s string) string {
	first, _, _ := strings.Cut(s, "\n")
	return first
}
