package engine

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
)

var (
	checkSeed  = flag.Uint64("check.seed", 0, "run only this seed of the checks of simulated directories")
	checkSeeds = flag.Int("check.seeds", 60, "seeds of the checks of simulated directories")
)

// eachCheckSeed runs f for some seeds, each on a simulation that has worked and crashed a few times.
func eachCheckSeed(t *testing.T, f func(t *testing.T, seed uint64)) {
	first, last := uint64(1), uint64(*checkSeeds)
	if *checkSeed != 0 {
		first, last = *checkSeed, *checkSeed
	}
	for seed := first; seed <= last && !t.Failed(); seed++ {
		f(t, seed)
	}
	if t.Failed() {
		t.Logf("repeat with -run %s -check.seed", t.Name())
	}
}

// TestCheckAcceptsWhatCrashesLeave: no crash leaves anything that check takes for damage, and check foresees where each log
// will end.
func TestCheckAcceptsWhatCrashesLeave(t *testing.T) {
	eachCheckSeed(t, func(t *testing.T, seed uint64) {
		s := newSim(t, seed)
		s.open()
		for cycle := range 6 {
			if s.rng.IntN(2) == 0 {
				s.armCut(300)
			}
			for range 60 {
				if s.step(); s.disk.PowerIsOut() || s.e.Failed() != nil {
					break
				}
				s.observe()
			}
			if s.rng.IntN(4) == 0 && !s.disk.PowerIsOut() {
				s.close()
			}
			if s.e != nil {
				s.crash()
			}
			s.disarm()
			before := s.disk.EffectHash()
			r, err := Check(s.o.FS, s.o.Dir)
			if err != nil {
				t.Fatalf("seed %d, cycle %d: %v", seed, cycle, err)
			}
			for _, p := range r.Problems {
				t.Errorf("seed %d, cycle %d: %v", seed, cycle, p)
			}
			if s.disk.EffectHash() != before {
				t.Errorf("seed %d, cycle %d: check has written", seed, cycle)
			}
			s.open()
			s.disarm()
			found := 0
			for _, l := range r.Logs {
				if e := s.e.Log(l.TopicID, l.Partition); e == nil {
					t.Errorf("seed %d, cycle %d: %s is there and did not come back", seed, cycle, l.Name())
				} else if found++; e.ID() != l.LogID || e.AppendedEnd() != l.End || e.LogStartOffset() != l.Start {
					t.Errorf("seed %d, cycle %d: %s came back with [%d, %d), check said [%d, %d)", seed, cycle, l.Name(), e.LogStartOffset(), e.AppendedEnd(), l.Start, l.End)
				}
			}
			if n := len(s.e.Logs()); n != found {
				t.Errorf("seed %d, cycle %d: %d logs came back, check said %d", seed, cycle, n, found)
			}
			s.verify()
			if t.Failed() {
				break
			}
		}
		s.e.release()
		s.disk.Kill()
	})
}

// TestRepairEndsEveryDamage: whatever bits rot in whatever files, repair ends with a directory that opens and passes
// the check.
func TestRepairEndsEveryDamage(t *testing.T) {
	repaired, lost := 0, 0
	eachCheckSeed(t, func(t *testing.T, seed uint64) {
		s := newSim(t, seed)
		s.open()
		for range 3 {
			for range 100 {
				s.step()
				s.observe()
			}
			s.crash()
			s.disarm()
			s.open()
			s.verify()
		}
		for range 60 {
			s.step()
			s.observe()
		}
		s.crash()
		s.disk.SetCapacity(1 << 40)
		rng := rand.New(rand.NewPCG(seed, 77))
		rotted := s.rot(rng)
		o := s.o
		o.onWindow = func(window) {}
		rep, err := Repair(context.Background(), o, true)
		switch {
		case err != nil:
			t.Fatalf("seed %d: %v\nrot: %v\nbefore: %v\ndone: %v", seed, err, rotted, rep.Before.Problems, rep.Actions)
		case rep.After != nil:
			repaired++
		}
		lost += len(rep.Lost)
		e, err := Open(o)
		if err != nil {
			t.Fatalf("seed %d: %v\nrot: %v", seed, err, rotted)
		}
		if r := e.Recovery(); len(r.Damage) > 0 || len(r.Quarantined) > 0 {
			t.Fatalf("seed %d: still damaged: %+v\nrot: %v\ndone: %v", seed, r, rotted, rep.Actions)
		}
		for _, l := range rep.Lost {
			for _, now := range e.Logs() {
				if now.ID() == l.LogID && now.AppendedEnd() != l.From {
					t.Errorf("seed %d: %v, but it ends at %d", seed, l, now.AppendedEnd())
				}
			}
		}
		for _, l := range e.Logs() {
			readAll(t, l, l.LogStartOffset())
		}
		e.release()
		s.disk.Kill()
	})
	t.Logf("%d directories repaired, %d logs cut", repaired, lost)
	if *checkSeed == 0 && (repaired == 0 || lost == 0) {
		t.Error("nothing was damaged")
	}
}

// rot flips some bits of some files.
func (s *sim) rot(rng *rand.Rand) (where []string) {
	var files []string
	var walk func(dir string)
	walk = func(dir string) {
		names, err := s.disk.ReadDir(dir)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, name := range names {
			path := dir + "/" + name
			if info, err := s.disk.Stat(path); err == nil && info.IsDir {
				walk(path)
			} else if err == nil && info.Size > 0 && name != metaName {
				files = append(files, path)
			}
		}
	}
	walk(s.o.Dir)
	for range 1 + rng.IntN(4) {
		path := files[rng.IntN(len(files))]
		info, err := s.disk.Stat(path)
		if err != nil {
			s.t.Fatal(err)
		}
		at := rng.Int64N(info.Size)
		if rng.IntN(2) == 0 {
			at = rng.Int64N(min(info.Size, 16<<10)) // where more is used
		}
		if err := s.disk.Rot(path, at, rng.IntN(8)); err != nil {
			s.t.Fatal(err)
		}
		where = append(where, fmt.Sprintf("%s:%d", path, at))
	}
	return where
}
