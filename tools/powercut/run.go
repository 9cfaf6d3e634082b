package powercut

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Workload is what lives on the disk. Both functions are called again and again on
// the same filesystem: Run, cut, Check, Run, cut, Check, ...
type Workload struct {
	// Run works in dir until ctx ends, which is a little after the cut, or until the
	// errors that the cut brings stop it. When it returns, nothing may use dir any
	// more: processes are dead, files closed. An error fails the round; what
	// the cut causes is not one. What was acknowledged when it returns must be found by Check.
	Run func(ctx context.Context, dir string, round int) error
	// Check recovers what is in dir and compares it with the ledger. It stops using
	// dir before it returns.
	Check func(dir string, round int) error
}

// Plan says how often and when the power is cut.
type Plan struct {
	Seed           uint64
	Rounds         int
	RunMin, RunMax time.Duration                          // the cut comes at random between them
	AfterCut       time.Duration                          // how long the workload is left with a dead disk
	Faults         func(rng *rand.Rand, round int) Faults // for the time before the cut; may be nil
	Logf           func(format string, args ...any)       // one line a round; may be nil
}

// Run lets w live on d through the plan's power cuts. d is stopped before and after.
func Run(ctx context.Context, d *Disk, plan Plan, w Workload) error {
	rng := rand.New(rand.NewPCG(plan.Seed, 0x706f776572637574))
	for round := range plan.Rounds {
		if err := runRound(ctx, d, &plan, w, rng, round); err != nil {
			return fmt.Errorf("powercut: seed %d, round %d: %w", plan.Seed, round, errors.Join(err, d.Stop()))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

func runRound(ctx context.Context, d *Disk, plan *Plan, w Workload, rng *rand.Rand, round int) error {
	if err := d.Start(); err != nil {
		return err
	}
	if plan.Faults != nil {
		d.SetFaults(plan.Faults(rng, round))
	}
	before := d.Stats()
	wait := plan.RunMin
	if plan.RunMax > plan.RunMin {
		wait += time.Duration(rng.Int64N(int64(plan.RunMax - plan.RunMin)))
	}
	if err := runAndCut(ctx, d, plan, w, rng, round, wait); err != nil {
		return err
	}
	if err := d.Stop(); err != nil {
		return err
	}
	after := d.Stats()
	if plan.Logf != nil {
		plan.Logf("round %d: cut after %v: %d writes, %d flushes, unflushed blocks %d kept, %d torn, %d lost", round, wait,
			after.Writes-before.Writes, after.Fsyncs-before.Fsyncs, after.Kept-before.Kept, after.Torn-before.Torn, after.Lost-before.Lost)
	}
	if err := d.Start(); err != nil {
		return fmt.Errorf("after the cut: %w", err)
	}
	if err := w.Check(d.Path(), round); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return d.Stop()
}

// runAndCut runs the workload and pulls the plug while it works.
func runAndCut(ctx context.Context, d *Disk, plan *Plan, w Workload, rng *rand.Rand, round int, wait time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, d.Path(), round) }()
	select {
	case err := <-ended:
		// It ended before the cut: fine if it says so, for a plan with faults.
		return errors.Join(err, d.Cut(rng))
	case <-time.After(wait):
	}
	if err := d.Cut(rng); err != nil {
		cancel()
		return errors.Join(err, <-ended)
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(plan.AfterCut):
	}
	cancel()
	return <-ended
}
