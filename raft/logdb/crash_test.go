package logdb

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"

	"millrace/engine/disk/simdisk"
)

// ledger is what the store has acknowledged, kept beside it.
type ledger struct {
	term      uint64
	entries   map[uint64]pb.Entry // acknowledged
	last      uint64              // acknowledged
	snapshot  uint64              // acknowledged
	maySnap   uint64              // begun
	removed   uint64              // asked for
	attempted []pb.Entry          // of the save that was cut short
	bootstrap bool
}

// step does one random thing to the store and notes it when it was acknowledged. cut reports whether
// the power has gone: then the store's success means nothing, as Abort promises.
func (l *ledger) step(db *DB, rng *rand.Rand, cut func() bool) error {
	switch k := rng.IntN(20); {
	case !l.bootstrap:
		if err := db.SaveBootstrapInfo(testShard, testReplica, pb.Bootstrap{}); err != nil || cut() {
			return err
		}
		l.bootstrap = true
	case k < 12:
		from := l.last + 1
		if k == 0 && l.last > l.snapshot+1 {
			from = l.last // a new leader overrules the last one
			l.term++
		}
		var ents []pb.Entry
		for i := range rng.IntN(4) + 1 {
			ents = append(ents, testEntry(from+uint64(i), l.term, rng.IntN(1500)))
		}
		l.attempted = ents
		if err := save(db, l.term, l.last, ents...); err != nil || cut() {
			return err
		}
		l.attempted = nil
		for _, e := range ents {
			l.entries[e.Index] = e
			l.last = e.Index
		}
	case k < 14:
		return commitOnly(db, l.term, l.last)
	case k < 17 && l.last > l.snapshot:
		l.maySnap = l.last
		if err := takeSnapshot(db, l.last, l.term); err != nil || cut() {
			return err
		}
		l.snapshot = l.last
	case k == 17 && l.snapshot > 0:
		l.removed = max(l.removed, l.snapshot-min(l.snapshot, 3))
		return db.RemoveEntriesTo(testShard, testReplica, l.removed)
	case k == 18:
		_, err := db.CompactEntriesTo(testShard, testReplica, l.removed)
		return err
	case k == 19:
		db.flushMark()
	}
	return nil
}

// check compares a freshly opened store with the ledger: everything acknowledged, in order, and at
// most the interrupted save on top, whole or not at all.
func (l *ledger) check(db *DB) error {
	if _, err := db.GetBootstrapInfo(testShard, testReplica); l.bootstrap && err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	s, err := db.GetSnapshot(testShard, testReplica)
	if err != nil {
		return err
	}
	if s.Index != l.snapshot && s.Index != l.maySnap {
		return fmt.Errorf("snapshot %d, acknowledged %d, begun %d", s.Index, l.snapshot, l.maySnap)
	}
	if s.Index != l.snapshot {
		l.snapshot = s.Index
	}
	rs, err := db.ReadRaftState(testShard, testReplica, s.Index)
	if err != nil && !errors.Is(err, raftio.ErrNoSavedLog) {
		return err
	}
	got := uint64(0)
	if err == nil {
		got = rs.FirstIndex + rs.EntryCount - 1
	}
	if k := len(l.attempted); k > 0 {
		first := l.attempted[0]
		ents, _, _ := db.IterateEntries(nil, 0, testShard, testReplica, first.Index, first.Index+1, 0)
		if len(ents) == 1 && ents[0].Term == first.Term && bytes.Equal(ents[0].Cmd, first.Cmd) {
			for i := first.Index; i <= l.last; i++ {
				delete(l.entries, i)
			}
			for _, e := range l.attempted {
				l.entries[e.Index] = e
				l.last = e.Index
			}
		}
		l.attempted = nil
	}
	if got != l.last {
		return fmt.Errorf("last entry is %d, acknowledged %d", got, l.last)
	}
	for i := l.snapshot + 1; i <= l.last; i++ {
		want := l.entries[i]
		ents, _, _ := db.IterateEntries(nil, 0, testShard, testReplica, i, i+1, 0)
		if len(ents) != 1 || ents[0].Term != want.Term || !bytes.Equal(ents[0].Cmd, want.Cmd) {
			return fmt.Errorf("entry %d differs or is missing", i)
		}
	}
	return nil
}

func newLedger() *ledger { return &ledger{term: 1, entries: map[uint64]pb.Entry{}} }

func crashOptions(d *simdisk.Disk, seed uint64) Options {
	salts := rand.New(rand.NewPCG(seed, 99))
	o := testOptions(d)
	o.RewriteBytes = 16 << 10
	o.fullRetry = time.Millisecond
	o.Salt = func() (s [16]byte) {
		for i := range s {
			s[i] = byte(salts.Uint32())
		}
		return s
	}
	return o
}

// live runs one life of the store until the power goes, and returns what a restart then sees.
func live(d *simdisk.Disk, o Options, l *ledger, rng *rand.Rand) error {
	var db *DB
	o.OnFailed = func(error) { db.Abort() }
	db, err := Open(o)
	if err != nil {
		if d.PowerIsOut() {
			return nil
		}
		return err
	}
	if err := l.check(db); err != nil {
		return err
	}
	for !d.PowerIsOut() {
		if err := l.step(db, rng, d.PowerIsOut); err != nil && !d.PowerIsOut() {
			return err
		}
	}
	return nil
}

// crashes lives through several power cuts on one disk and says what was lost.
func crashes(seed uint64, lies simdisk.Lies, windows map[string]int) error {
	rng := rand.New(rand.NewPCG(seed, 1))
	d := simdisk.New(seed)
	d.SetLies(lies)
	o, l := crashOptions(d, seed), newLedger()
	for life := range 6 {
		d.CutAfter(uint64(rng.IntN(80))+1, func(op simdisk.Op) { windows[op.Kind.String()]++ })
		if err := live(d, o, l, rng); err != nil {
			return fmt.Errorf("life %d: %w", life, err)
		}
		switch rng.IntN(4) {
		case 0:
			d.Crash(simdisk.LoseAll())
		case 1:
			d.Crash(simdisk.KeepAll())
		default:
			d.Crash(d.RandomPolicy())
		}
	}
	d.CutAfter(0, nil)
	db, err := Open(o)
	if err != nil {
		return fmt.Errorf("at the end: %w", err)
	}
	if err := l.check(db); err != nil {
		return fmt.Errorf("at the end: %w", err)
	}
	return db.Close()
}

func TestPowerCutsLoseNothingAcknowledged(t *testing.T) {
	seeds := 2000 // MILLRACE_SIM_SEEDS=5000 go test ... for a night
	if n, err := strconv.Atoi(os.Getenv("MILLRACE_SIM_SEEDS")); err == nil {
		seeds = n
	}
	windows := map[string]int{}
	for seed := range uint64(seeds) {
		if err := crashes(seed, simdisk.Lies{}, windows); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	t.Logf("cuts by operation: %v", windows)
	for _, kind := range []string{"write", "fsync", "rename", "syncdir", "create", "fallocate"} {
		if windows[kind] < seeds/30 {
			t.Errorf("the power was cut in only %d operations %q of %v", windows[kind], kind, windows)
		}
	}
}

// A simulation that cannot fail proves nothing: without its flushes the store must be caught.
func TestSimulationCatchesMissingFlushes(t *testing.T) {
	for name, lies := range map[string]simdisk.Lies{"fsync": {Fsync: true}, "syncdir": {SyncDir: true}} {
		caught := 0
		for seed := range uint64(100) {
			if crashes(seed, lies, map[string]int{}) != nil {
				caught++
			}
		}
		if caught == 0 {
			t.Errorf("a lying %s went unnoticed", name)
		}
		t.Logf("a lying %s was caught by %d of 100 seeds", name, caught)
	}
}

// TestCutAtEveryOperation walks one fixed history and cuts it at each of its operations.
func TestCutAtEveryOperation(t *testing.T) {
	for cut := uint64(1); ; cut++ {
		d := simdisk.New(cut)
		o, l := crashOptions(d, cut), newLedger()
		rng := rand.New(rand.NewPCG(5, 5))
		d.CutAfter(cut, nil)
		var db *DB
		o.OnFailed = func(error) { db.Abort() }
		db, err := Open(o)
		for step := 0; err == nil && step < 120 && !d.PowerIsOut(); step++ {
			err = l.step(db, rng, d.PowerIsOut)
		}
		if !d.PowerIsOut() {
			t.Logf("%d operations", cut-1)
			must(t, err)
			return
		}
		d.Crash(d.RandomPolicy())
		again, err := Open(crashOptions(d, cut))
		if err != nil {
			t.Fatalf("cut at operation %d: %v", cut, err)
		}
		if err := l.check(again); err != nil {
			t.Fatalf("cut at operation %d: %v", cut, err)
		}
	}
}

// TestFailedFlushStopsTheStore: after one failed flush nothing is acknowledged any more, and the disk
// recovering does not change that.
func TestFailedFlushStopsTheStore(t *testing.T) {
	d := simdisk.New(1)
	o := testOptions(d)
	failed := make(chan error, 1)
	o.OnFailed = func(err error) { failed <- err }
	db := mustOpen(t, o)
	must(t, save(db, 1, 0, testEntry(1, 1, 20)))
	d.SetFaults(func(op simdisk.Op) simdisk.Fault {
		if op.Kind.String() == "fsync" {
			return simdisk.Fault{Err: syscall.EIO}
		}
		return simdisk.Fault{}
	})
	done := make(chan error, 2)
	go func() { done <- save(db, 1, 1, testEntry(2, 1, 20)) }()
	if err := <-failed; !errors.Is(err, syscall.EIO) {
		t.Fatalf("told of %v", err)
	}
	d.SetFaults(nil)
	select {
	case err := <-done:
		t.Fatalf("a save was answered after a failed flush: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	db.Abort()
	must(t, <-done) // as Abort says
	must(t, db.Close())
	again := mustOpen(t, testOptions(d))
	if got := lastIndexOf(t, again); got < 1 {
		t.Fatalf("last index %d", got)
	}
}

func TestFullDiskIsWaitedFor(t *testing.T) {
	d := simdisk.New(1)
	db := mustOpen(t, testOptions(d))
	must(t, save(db, 1, 0, testEntry(1, 1, 20)))
	d.SetCapacity(1)
	done := make(chan error, 1)
	go func() { done <- save(db, 1, 1, testEntry(2, 1, 400<<10)) }()
	select {
	case err := <-done:
		t.Fatalf("saved on a full disk: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if ents := entriesOf(t, db, 1, 2); len(ents) != 1 {
		t.Fatal("a full disk keeps readers waiting")
	}
	d.SetCapacity(1 << 30)
	must(t, <-done)
	db = reopen(t, db, true)
	if got := lastIndexOf(t, db); got != 2 {
		t.Fatalf("last index %d", got)
	}
}

// TestFullDiskAtOpenContinuesTheOldJournal, torn tail and all, through power cuts.
func TestFullDiskAtOpenContinuesTheOldJournal(t *testing.T) {
	for seed := range uint64(200) {
		d := simdisk.New(seed)
		o, l := crashOptions(d, seed), newLedger()
		rng := rand.New(rand.NewPCG(seed, 3))
		for life := range 5 {
			if life > 0 {
				d.SetCapacity(1)
			}
			d.CutAfter(30+rng.Uint64N(60), nil)
			space := time.AfterFunc(10*time.Millisecond, func() { d.SetCapacity(1 << 40) })
			if err := live(d, o, l, rng); err != nil {
				t.Fatalf("seed %d life %d: %v", seed, life, err)
			}
			space.Stop()
			d.Crash(d.RandomPolicy())
			d.SetCapacity(1 << 40)
		}
	}
}

func TestFullDiskDuringCompactionKeepsTheOldJournal(t *testing.T) {
	d := simdisk.New(1)
	o := testOptions(d)
	o.RewriteBytes = 1
	db := mustOpen(t, o)
	for i := uint64(1); i <= 20; i++ {
		must(t, save(db, 1, 0, testEntry(i, 1, 2000)))
	}
	d.SetCapacity(1)
	if _, err := db.CompactEntriesTo(testShard, testReplica, 0); err != nil {
		t.Fatal(err)
	}
	d.SetCapacity(1 << 30)
	must(t, save(db, 1, 0, testEntry(21, 1, 2000)))
	db = reopen(t, db, true)
	if got := lastIndexOf(t, db); got != 21 {
		t.Fatalf("last index %d", got)
	}
}
