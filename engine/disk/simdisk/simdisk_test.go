package simdisk

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"testing"

	"millrace/engine/disk"
)

const create = os.O_RDWR | os.O_CREATE

func mustOpen(t testing.TB, d *Disk, name string, flag int) disk.File {
	t.Helper()
	f, err := d.OpenFile(name, flag, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pattern is n aligned bytes of value.
func pattern(n int, value byte) []byte {
	p := disk.AlignedAlloc(n)
	for i := range p {
		p[i] = value
	}
	return p
}

func content(t testing.TB, d *Disk, name string) []byte {
	t.Helper()
	b, err := disk.ReadFile(d, name, 1<<30)
	must(t, err)
	return b
}

func reapAll(t testing.TB, q disk.Queue, n int) []disk.Completion {
	t.Helper()
	var got []disk.Completion
	for range 100 {
		if got = q.Reap(got); len(got) >= n {
			return got
		}
	}
	t.Fatalf("%d of %d completions", len(got), n)
	return nil
}

func TestPowerCutDropsWhatWasNotFlushed(t *testing.T) {
	d := New(1)
	f := mustOpen(t, d, "a", create)
	_, err := f.WriteAt(pattern(8192, 1), 0)
	must(t, err)
	must(t, f.Fdatasync())
	must(t, d.SyncDir("/"))
	_, err = f.WriteAt(pattern(8192, 2), 4096)
	must(t, err)

	d.Crash(LoseAll())

	if got := content(t, d, "a"); !bytes.Equal(got, pattern(8192, 1)) {
		t.Fatalf("after the cut: %d bytes, first %x last %x", len(got), got[0], got[len(got)-1])
	}
	if _, err := f.WriteAt(pattern(4096, 3), 0); !errors.Is(err, ErrPowerCut) {
		t.Fatalf("an old handle still works: %v", err)
	}
}

func TestPowerCutBringsOldContentOfRecycledBlocksBack(t *testing.T) {
	d := New(2)
	f := mustOpen(t, d, "wal", create|disk.Direct)
	_, err := f.WriteAt(pattern(1<<16, 'o'), 0)
	must(t, err)
	must(t, f.Fdatasync())
	must(t, d.SyncDir("/"))
	_, err = f.WriteAt(pattern(1<<16, 'n'), 0)
	must(t, err)
	d.Crash(Policy{Keep: 0.5})
	got := content(t, d, "wal")
	if len(got) != 1<<16 {
		t.Fatalf("size %d", len(got))
	}
	seen := map[byte]int{}
	for b := range slices.Chunk(got, blockSize) {
		if !bytes.Equal(b, pattern(blockSize, b[0])) {
			t.Fatal("a block is torn though the policy has no tears")
		}
		seen[b[0]]++
	}
	if seen['o'] == 0 || seen['n'] == 0 || len(seen) != 2 {
		t.Fatalf("blocks: %v", seen)
	}
}

func TestTornBlocksMixSectorsOfOldAndNew(t *testing.T) {
	d := New(3)
	f := mustOpen(t, d, "a", create)
	_, err := f.WriteAt(pattern(1<<16, 'o'), 0)
	must(t, err)
	must(t, f.Fdatasync())
	must(t, d.SyncDir("/"))
	_, err = f.WriteAt(pattern(1<<16, 'n'), 0)
	must(t, err)
	d.Crash(Policy{Keep: 1, Tear: 1})
	mixed := 0
	for b := range slices.Chunk(content(t, d, "a"), blockSize) {
		for s := range slices.Chunk(b, sectorSize) {
			if !bytes.Equal(s, pattern(sectorSize, s[0])) {
				t.Fatal("a sector is torn")
			}
		}
		if bytes.IndexByte(b, 'o') >= 0 && bytes.IndexByte(b, 'n') >= 0 {
			mixed++
		}
	}
	if mixed == 0 || d.Stats().BlocksTorn != 16 {
		t.Fatalf("mixed %d, stats %+v", mixed, d.Stats())
	}
}

func TestNamesNeedSyncDir(t *testing.T) {
	d := New(4)
	must(t, d.MkdirAll("data/x", 0o755))
	must(t, d.SyncDir("/"))
	must(t, d.SyncDir("data"))
	f := mustOpen(t, d, "data/x/old", create)
	_, err := f.WriteAt([]byte("old"), 0)
	must(t, err)
	must(t, f.Fdatasync())
	must(t, d.SyncDir("data/x"))
	g := mustOpen(t, d, "data/x/new", create)
	_, err = g.WriteAt([]byte("new"), 0)
	must(t, err)
	must(t, g.Fdatasync())
	must(t, d.Rename("data/x/new", "data/x/old"))
	if got := string(content(t, d, "data/x/old")); got != "new" {
		t.Fatalf("before the cut: %q", got)
	}
	d.Crash(LoseAll())
	if got := string(content(t, d, "data/x/old")); got != "old" {
		t.Fatalf("after the cut: %q", got)
	}
	if names, _ := d.ReadDir("data/x"); !slices.Equal(names, []string{"old"}) {
		t.Fatalf("names %v", names)
	}
	must(t, d.MkdirAll("data/y", 0o755))
	d.Crash(LoseAll())
	if _, err := d.Stat("data/y"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a folder survived without SyncDir: %v", err)
	}
}

func TestWriteFileAtomicIsAllOrNothingAtEveryCut(t *testing.T) {
	old, fresh := bytes.Repeat([]byte("o"), 9000), bytes.Repeat([]byte("n"), 12000)
	outcomes := map[string]int{}
	for seed := range uint64(200) {
		for cut := uint64(1); ; cut++ {
			d := New(seed)
			must(t, disk.WriteFileAtomic(d, "f", old))
			d.CutAfter(cut, nil)
			err := disk.WriteFileAtomic(d, "f", fresh)
			d.Crash(d.RandomPolicy())
			got := content(t, d, "f")
			switch {
			case err == nil && !bytes.Equal(got, fresh):
				t.Fatalf("seed %d cut %d: success was reported and then lost", seed, cut)
			case bytes.Equal(got, old):
				outcomes["old"]++
			case bytes.Equal(got, fresh):
				outcomes["new"]++
			default:
				t.Fatalf("seed %d cut %d: %d bytes of neither", seed, cut, len(got))
			}
			if err == nil {
				break
			}
		}
	}
	if outcomes["old"] == 0 || outcomes["new"] == 0 {
		t.Fatalf("outcomes %v", outcomes)
	}
}

func TestLiesAreCaught(t *testing.T) {
	for _, lies := range []Lies{{Fsync: true}, {SyncDir: true}} {
		lost := 0
		for seed := range uint64(50) {
			d := New(seed)
			must(t, disk.WriteFileAtomic(d, "f", []byte("old")))
			d.SetLies(lies)
			must(t, disk.WriteFileAtomic(d, "f", []byte("new")))
			d.Crash(d.RandomPolicy())
			if got := content(t, d, "f"); string(got) != "new" {
				lost++
			}
		}
		if lost == 0 {
			t.Errorf("%+v: nothing was lost", lies)
		}
	}
}

func TestKillKeepsCompletedWritesAndTheBootID(t *testing.T) {
	d := New(5)
	f := mustOpen(t, d, "a", create)
	_, err := f.WriteAt([]byte("abc"), 0)
	must(t, err)
	_, err = d.Lock("LOCK")
	must(t, err)
	if _, err := d.Lock("LOCK"); !errors.Is(err, disk.ErrLocked) {
		t.Fatalf("second lock: %v", err)
	}
	boot, _ := d.BootID()
	d.Kill()
	if again, _ := d.BootID(); again != boot {
		t.Fatal("the boot id changed without a boot")
	}
	if got := string(content(t, d, "a")); got != "abc" {
		t.Fatalf("%q", got)
	}
	lock, err := d.Lock("LOCK")
	must(t, err)
	must(t, lock.Close())
	d.Crash(LoseAll())
	if again, _ := d.BootID(); again == boot {
		t.Fatal("the boot id survived a boot")
	}
	if _, err := d.Stat("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("what the killed process wrote was flushed by nobody, but survived: %v", err)
	}
}

func TestQueueReordersAndDsyncIsDurable(t *testing.T) {
	d := New(6)
	f := mustOpen(t, d, "wal", create|disk.Direct)
	must(t, d.SyncDir("/"))
	q := d.NewQueue(64)
	for i := range 32 {
		must(t, q.Write(f, pattern(4096, byte(i)), int64(i)*4096, i%2 == 0, uint64(i)))
	}
	must(t, q.Submit())
	got := reapAll(t, q, 32)
	inOrder := slices.IsSortedFunc(got, func(a, b disk.Completion) int { return int(a.ID) - int(b.ID) })
	if inOrder {
		t.Error("32 completions came in order")
	}
	for _, c := range got {
		if c.Err != nil || c.N != 4096 {
			t.Fatalf("%+v", c)
		}
	}
	d.Crash(LoseAll())
	data := content(t, d, "wal")
	for i := 0; i < 32; i += 2 {
		if i*4096 >= len(data) || data[i*4096] != byte(i) {
			t.Fatalf("dsync write %d is gone", i)
		}
	}
	if len(data) > 31*4096 || data[4096] != 0 {
		t.Fatal("a write without a flush survived LoseAll")
	}
}

func TestFlushCoversOnlyCompletedWrites(t *testing.T) {
	lost := 0
	for seed := range uint64(50) {
		d := New(seed)
		f := mustOpen(t, d, "wal", create|disk.Direct)
		_, err := f.WriteAt(pattern(4096, 'o'), 0)
		must(t, err)
		must(t, f.Fdatasync())
		must(t, d.SyncDir("/"))
		q := d.NewQueue(4)
		must(t, q.Write(f, pattern(4096, 'n'), 0, false, 1))
		must(t, q.Fsync(f, 2)) // a bug: the write has not completed
		must(t, q.Submit())
		reapAll(t, q, 2)
		d.Crash(LoseAll())
		if content(t, d, "wal")[0] == 'o' {
			lost++
		}
	}
	if lost == 0 {
		t.Fatal("a flush beside its write was never caught")
	}
}

func TestFailedFlushIsNeverRepairedByTheNextOne(t *testing.T) {
	d := New(7)
	f := mustOpen(t, d, "a", create)
	must(t, d.SyncDir("/"))
	_, err := f.WriteAt(pattern(4096, 1), 0)
	must(t, err)
	d.SetFaults(func(op Op) Fault {
		if op.Kind == Fsync {
			return Fault{Err: syscall.EIO}
		}
		return Fault{}
	})
	if err := f.Fdatasync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	d.SetFaults(nil)
	must(t, f.Fdatasync())
	d.Crash(KeepAll())
	if got := content(t, d, "a"); bytes.IndexByte(got, 1) >= 0 {
		t.Fatal("the bytes became durable after all")
	}
}

func TestFaultsOfWrites(t *testing.T) {
	d := New(8)
	f := mustOpen(t, d, "a", create|disk.Direct)
	q := d.NewQueue(4)
	var next Fault
	d.SetFaults(func(op Op) Fault {
		if op.Kind == Write {
			return next
		}
		return Fault{}
	})
	write := func() disk.Completion {
		must(t, q.Write(f, pattern(8192, 7), 0, false, 9))
		must(t, q.Submit())
		return reapAll(t, q, 1)[0]
	}
	next = Fault{Short: 4096}
	if c := write(); !errors.Is(c.Err, disk.ErrShortWrite) || c.N != 4096 {
		t.Fatalf("%+v", c)
	}
	next = Fault{Err: syscall.EIO}
	if c := write(); !errors.Is(c.Err, syscall.EIO) {
		t.Fatalf("%+v", c)
	}
	next = Fault{Flip: 10}
	if c := write(); c.Err != nil {
		t.Fatalf("%+v", c)
	}
	if got := content(t, d, "a"); got[1] != 7^2 {
		t.Fatalf("no bit was flipped: %x", got[:4])
	}
	next = Fault{}
	d.SetCapacity(8192)
	if _, err := f.WriteAt(pattern(4096, 1), 8192); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("full disk: %v", err)
	}
	if err := f.Fallocate(0, 16384, true); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("full disk: %v", err)
	}
	if free, total, _ := d.Statfs("/"); free != 0 || total != 8192 {
		t.Fatalf("free %d of %d", free, total)
	}
	must(t, q.Close())
	must(t, f.Close())
	must(t, d.Remove("a"))
	if free, _, _ := d.Statfs("/"); free != 8192 {
		t.Fatalf("free %d after Remove", free)
	}
}

func TestBufferChangedInFlightPanics(t *testing.T) {
	d := New(9)
	f := mustOpen(t, d, "a", create|disk.Direct)
	q := d.NewQueue(4)
	p := pattern(4096, 1)
	must(t, q.Write(f, p, 0, true, 1))
	must(t, q.Submit())
	p[17] = 2
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	reapAll(t, q, 1)
}

// TestRunsRepeat runs a random load twice a seed: the effects and what a power
// cut leaves must be the same.
func TestRunsRepeat(t *testing.T) {
	run := func(seed uint64) string {
		d := New(seed)
		rng := rand.New(rand.NewPCG(seed, 1))
		must(t, d.MkdirAll("w", 0o755))
		var files []disk.File
		for i := range 4 {
			files = append(files, mustOpen(t, d, fmt.Sprintf("w/%d", i), create|disk.Direct))
		}
		must(t, d.SyncDir("/"))
		q := d.NewQueue(16)
		var done []disk.Completion
		for step := range 300 {
			f := files[rng.IntN(len(files))]
			var err error
			switch rng.IntN(6) {
			case 0, 1:
				err = q.Write(f, pattern(4096*(1+rng.IntN(3)), byte(step)), int64(rng.IntN(16))*4096, rng.IntN(2) == 0, uint64(step))
			case 2:
				err = q.Fsync(f, uint64(step))
			case 3:
				err = q.Submit()
			case 4:
				done = q.Reap(done)
			case 5:
				err = d.SyncDir("w")
			}
			if err != nil && !errors.Is(err, disk.ErrQueueFull) {
				t.Fatal(err)
			}
		}
		d.Crash(d.RandomPolicy())
		state := fmt.Sprintf("%x %v %+v\n", d.EffectHash(), done, d.Stats())
		names, _ := d.ReadDir("w")
		for _, name := range names {
			state += fmt.Sprintf("%s %x\n", name, content(t, d, "w/"+name))
		}
		return state
	}
	for seed := range uint64(20) {
		if first, second := run(seed), run(seed); first != second {
			t.Fatalf("seed %d: two runs differ", seed)
		}
	}
}

func TestSimulationPassesTheFileContract(t *testing.T) {
	d := New(10)
	if _, err := d.OpenFile("missing", os.O_RDONLY, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	f := mustOpen(t, d, "a", create)
	if _, err := d.OpenFile("a", create|os.O_EXCL, 0); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	_, err := f.WriteAt([]byte("hello"), 4094)
	must(t, err)
	if size, _ := f.Size(); size != 4099 {
		t.Errorf("size %d", size)
	}
	p := make([]byte, 10)
	if n, err := f.ReadAt(p, 4094); n != 5 || err == nil || string(p[:5]) != "hello" {
		t.Errorf("%d %v %q", n, err, p)
	}
	must(t, f.Truncate(4096))
	must(t, f.Truncate(5000))
	if n, _ := f.ReadAt(p, 4094); n != 10 || !bytes.Equal(p, append([]byte("he"), make([]byte, 8)...)) {
		t.Errorf("after growing again: %q", p)
	}
	must(t, f.Fallocate(0, 1<<20, true))
	if size, _ := f.Size(); size != 5000 {
		t.Errorf("size %d", size)
	}
	must(t, f.Close())
	if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
	must(t, d.MkdirAll("x/y", 0o755))
	if err := d.Remove("x"); err == nil {
		t.Error("removed a folder that is not empty")
	}
	must(t, disk.MkdirAllDurable(d, "p/q/r", 0o755))
	d.Crash(LoseAll())
	if info, err := d.Stat("p/q/r"); err != nil || !info.IsDir {
		t.Error(err)
	}
}
