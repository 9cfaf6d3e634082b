package engine

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"millrace/engine/disk/simdisk"
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

// workedSim is a simulation that has worked, crashed, and is down.
func workedSim(t *testing.T, seed uint64) *sim {
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
	s.o.onWindow = func(window) {}
	return s
}

// settledSim is a workedSim in which everything that can be read is durable.
func settledSim(t *testing.T, seed uint64) *sim {
	s := workedSim(t, seed)
	e, err := Open(s.o)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	e.release()
	s.disk.Kill()
	return s
}

// batchesOf reads what the logs hold, by log id.
func (s *sim) batchesOf(e *Engine) map[uint64][]byte {
	m := make(map[uint64][]byte)
	s.e = e
	for _, l := range e.Logs() {
		if len(l.Segments()) > 0 || l.tail.len() > 0 {
			m[l.ID()] = s.content(l)
		}
	}
	e.release()
	s.disk.Kill()
	s.e = nil
	return m
}

// TestRepairEndsEveryDamage: whatever bits rot in whatever files, repair ends with a directory that opens and passes
// the check. As long as the WAL is whole, each log holds what it
// would hold without the damage, up to where it was cut.
func TestRepairEndsEveryDamage(t *testing.T) {
	repaired, lost, started := 0, 0, 0
	eachCheckSeed(t, func(t *testing.T, seed uint64) {
		s := workedSim(t, seed)
		wholeWAL := seed%2 == 0
		rotted := s.rot(rand.New(rand.NewPCG(seed, 77)), wholeWAL)
		for range seed / 2 % 3 {
			if s.startDamaged() {
				started++
			}
		}
		rep, err := Repair(context.Background(), s.o, true)
		if err != nil {
			t.Fatalf("seed %d: %v\nrot: %v\nreport: %+v", seed, err, rotted, rep)
		}
		if rep.After != nil {
			repaired++
		}
		lost += len(rep.Lost)
		s.log("rot: %v; before: %v; done: %v; lost %v", rotted, rep.Before.Problems, rep.Actions, rep.Lost)
		e, err := Open(s.o)
		if err != nil {
			t.Fatalf("seed %d: %v\nrot: %v", seed, err, rotted)
		}
		if r := e.Recovery(); len(r.Damage) > 0 || len(r.Quarantined) > 0 {
			t.Fatalf("seed %d: still damaged: %+v\nrot: %v\ndone: %v", seed, r, rotted, rep.Actions)
		}
		cut := make(map[uint64]bool)
		for _, l := range rep.Lost {
			cut[l.LogID] = true
			for _, now := range e.Logs() {
				if now.ID() == l.LogID && now.AppendedEnd() != l.From {
					t.Errorf("seed %d: %v, but it ends at %d", seed, l, now.AppendedEnd())
				}
			}
		}
		got := s.batchesOf(e)
		if !wholeWAL {
			return
		}
		whole := workedSim(t, seed)
		if e, err = Open(whole.o); err != nil {
			t.Fatal(err)
		}
		for id, want := range whole.batchesOf(e) {
			now, there := got[id]
			switch {
			case !there && len(rep.Before.Problems) > 0: // its checkpoint entry, or all of it
			case cut[id] && strings.Contains(rep.Before.Problems[0].File, checkpointPrefix):
				// The newest state that can be proved may be one that a later truncation took back.
			case !bytes.HasPrefix(want, now):
				t.Errorf("seed %d: log %d holds something else than before the damage\nrot: %v\nproblems: %v\ndone: %v", seed, id, rotted, rep.Before.Problems, rep.Actions)
			case len(now) < len(want) && !cut[id]:
				t.Errorf("seed %d: log %d has lost %d of %d bytes, and nobody has said so\nrot: %v\nproblems: %v\ndone: %v", seed, id, len(want)-len(now), len(want), rotted, rep.Before.Problems, rep.Actions)
			}
		}
	})
	t.Logf("%d directories repaired, %d logs cut; %d starts before", repaired, lost, started)
	if *checkSeed == 0 && (repaired == 0 || lost == 0) {
		t.Error("nothing was damaged")
	}
}

// startDamaged lets the engine run for a round on what may be damaged, as an operator does who has not looked at the reports. It reports whether
// it opened.
func (s *sim) startDamaged() bool {
	e, err := Open(s.o)
	if err != nil {
		s.disk.Kill()
		return false
	}
	before := len(e.Recovery().Damage) + len(e.Recovery().Quarantined)
	if _, err := e.shards[0].writer.round(^uint64(0)); err != nil {
		s.log("round: %v", err)
	}
	e.release()
	s.disk.Kill()
	if e, err = Open(s.o); err != nil {
		s.fatal("opened once, and not again: %v", err)
	}
	if after := len(e.Recovery().Damage) + len(e.Recovery().Quarantined); before > 0 && after == 0 {
		s.fatal("nobody speaks of the damage at the second start")
	}
	e.release()
	s.disk.Kill()
	return true
}

// TestRepairCanBeInterrupted: a power cut in the middle of a repair leaves a directory that another run repairs, and
// costs no record.
func TestRepairCanBeInterrupted(t *testing.T) {
	interrupted := 0
	eachCheckSeed(t, func(t *testing.T, seed uint64) {
		calm := settledSim(t, seed)
		rotted := calm.rot(rand.New(rand.NewPCG(seed, 78)), true)
		rep, err := Repair(context.Background(), calm.o, true)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if rep.After == nil {
			return
		}
		s := settledSim(t, seed)
		s.rot(rand.New(rand.NewPCG(seed, 78)), true)
		rng := rand.New(rand.NewPCG(seed, 79))
		for range 4 {
			s.disk.CutAfter(uint64(1+rng.IntN(40)), func(simdisk.Op) {})
			_, err := Repair(context.Background(), s.o, true)
			if !s.disk.PowerIsOut() {
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				break
			}
			interrupted++
			s.disk.Crash(s.disk.RandomPolicy())
		}
		s.disk.CutAfter(0, nil)
		again, err := Repair(context.Background(), s.o, true)
		if err != nil {
			t.Fatalf("seed %d: %v\nrot: %v\nbefore: %v\ndone: %v", seed, err, rotted, again.Before.Problems, again.Actions)
		}
		contents := func(s *sim) map[uint64][]byte {
			e, err := Open(s.o)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			return s.batchesOf(e)
		}
		got := contents(s)
		for id, want := range contents(calm) {
			if !bytes.Equal(got[id], want) {
				t.Errorf("seed %d: log %d has %d bytes, %d when nobody interrupts\nrot: %v\nproblems: %v\ndone: %v", seed, id, len(got[id]), len(want), rotted, rep.Before.Problems, rep.Actions)
			}
		}
	})
	t.Logf("interrupted %d times", interrupted)
	if *checkSeed == 0 && interrupted == 0 {
		t.Error("never interrupted")
	}
}

// rot flips some bits of some files, not in the WAL if that is to stay whole, and never in the meta file: without it nobody knows whose
// directory it is.
func (s *sim) rot(rng *rand.Rand, wholeWAL bool) (where []string) {
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
			} else if err == nil && info.Size > 0 && name != metaName && !(wholeWAL && strings.HasPrefix(name, "wal-")) {
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
