package sim

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simSeed    = flag.Uint64("sim.seed", 0, "run only this seed of the cluster simulation, and print its events")
	simSeeds   = flag.Int("sim.seeds", 1200, "seeds of the cluster simulation")
	simFrom    = flag.Uint64("sim.from", 1, "the first of them")
	simWorkers = flag.Int("sim.workers", 2, "of them at a time")
)

// outcome is what came of one seed.
type outcome struct {
	fault  string
	effect uint64
	events int
	stats  stats
	trace  []string
	now    time.Duration
}

// simulate runs one seed. A panic of the code under test is a fault, too.
func simulate(seed uint64, verbose bool, shape ...func(*plan)) (o outcome) {
	w := newWorld(seed, verbose)
	for _, f := range shape {
		f(&w.plan)
	}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			o.fault = string(r)
		default:
			o.fault = fmt.Sprintf("at %v: panic: %v", w.now, r)
			if verbose {
				o.fault += "\n" + stack()
			}
		}
		for _, n := range w.nodes {
			if n.e != nil {
				n.disk.Kill()
				n.e.Abandon()
			}
		}
		o.effect, o.events, o.stats, o.trace, o.now = w.effect, w.events, w.stats, w.trace, w.now
	}()
	w.run()
	return o
}

// TestClusters runs seeds of everything at once.
func TestClusters(t *testing.T) {
	if *simSeed != 0 {
		o := simulate(*simSeed, true)
		fmt.Fprintln(os.Stderr, strings.Join(o.trace, "\n"))
		if o.fault != "" {
			t.Fatalf("seed %d: %s", *simSeed, o.fault)
		}
		return
	}
	n := *simSeeds
	if testing.Short() {
		n /= 10
	}
	var next, simulated atomic.Int64
	next.Store(int64(*simFrom))
	var mu sync.Mutex
	var all stats
	events := 0
	var wg sync.WaitGroup
	for range *simWorkers {
		wg.Go(func() {
			for !t.Failed() {
				seed := uint64(next.Add(1) - 1)
				if seed >= *simFrom+uint64(n) {
					return
				}
				o := simulate(seed, false)
				simulated.Add(int64(o.now))
				mu.Lock()
				all.add(o.stats)
				events += o.events
				mu.Unlock()
				if o.fault != "" {
					report(t, seed, o.fault)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d seeds, %d events in %v of simulated time: %+v", n, events, time.Duration(simulated.Load()).Round(time.Second), all)
}

// report runs a failed seed again to tell what happened.
func report(t *testing.T, seed uint64, fault string) {
	o := simulate(seed, true)
	if o.fault != fault && !strings.HasPrefix(o.fault, fault) {
		t.Errorf("seed %d is not repeatable: %s; and then: %s", seed, fault, o.fault)
	}
	o.trace = slices.DeleteFunc(o.trace, func(line string) bool { return strings.Contains(line, "takes batch") })
	t.Errorf("seed %d: %s\n(repeat: go test -ldflags=-checklinkname=0 ./broker/sim -run TestClusters -sim.seed=%d)\nthe last events:\n%s",
		seed, o.fault, seed, strings.Join(o.trace[max(0, len(o.trace)-40):], "\n"))
}

// TestClustersRepeatThemselves runs seeds twice: every effect must be the same.
func TestClustersRepeatThemselves(t *testing.T) {
	for seed := uint64(1); seed <= 8; seed++ {
		a, b := simulate(seed, false), simulate(seed, true)
		if a.effect != b.effect || a.events != b.events {
			t.Errorf("seed %d: %d events with hash %x, then %d with %x", seed, a.events, a.effect, b.events, b.effect)
		}
	}
}

func stack() string { return string(debug.Stack()) }
