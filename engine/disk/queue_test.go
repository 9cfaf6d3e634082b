package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// eachBackend runs test on a queue of every backend that this machine has, on a
// locked thread, with a folder on a real disk.
func eachBackend(t *testing.T, depth int, test func(t *testing.T, q Queue, dir string)) {
	for _, mode := range []Mode{ModeUring, ModePwrite} {
		t.Run(mode.String(), func(t *testing.T) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			q, warning, err := NewQueue(mode, depth)
			if errors.Is(err, ErrUringUnavailable) {
				t.Skipf("SKIPPED, this machine has no io_uring: %v", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			if warning != "" {
				t.Log(warning)
			}
			if BackendOf(q) != mode.String() {
				t.Fatalf("asked for %v, got %s", mode, BackendOf(q))
			}
			defer func() {
				if err := q.Close(); err != nil {
					t.Error(err)
				}
			}()
			test(t, q, testDir(t))
		})
	}
}

// testDir is a folder on a filesystem with direct I/O: the one of the package,
// because /tmp is often tmpfs.
func testDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(".", "testdata-disk-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// writtenFile creates a file of size bytes that are written and flushed, as a WAL file is.
func writtenFile(t testing.TB, dir string, size int) File {
	t.Helper()
	f, err := OS().OpenFile(filepath.Join(dir, "wal"), os.O_RDWR|os.O_CREATE|Direct, 0o644)
	if err != nil {
		t.Skipf("SKIPPED, no direct I/O here: %v", err)
	}
	t.Cleanup(func() { _ = f.Close() })
	zeros := AlignedAlloc(size)
	if _, err := f.WriteAt(zeros, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Fdatasync(); err != nil {
		t.Fatal(err)
	}
	return f
}

// await reaps until n completions are there, sleeping on the eventfd as an event loop would.
func await(t testing.TB, q Queue, n int) []Completion {
	t.Helper()
	var done []Completion
	for {
		if done = q.Reap(done); len(done) >= n {
			return done
		}
		pollFD(t, q.EventFD(), 10*time.Second)
	}
}

func pollFD(t testing.TB, fd int, timeout time.Duration) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	deadline := time.Now().Add(timeout)
	for {
		n, err := unix.Poll(fds, int(time.Until(deadline).Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			t.Fatalf("the eventfd stayed silent: %v", err)
		}
		return
	}
}

func TestQueueWritesReachTheFile(t *testing.T) {
	eachBackend(t, 16, func(t *testing.T, q Queue, dir string) {
		f := writtenFile(t, dir, 1<<20)
		slab, err := NewSlab(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		defer slab.Free()
		rng := rand.New(rand.NewPCG(1, 1))
		for i := range slab.Bytes() {
			slab.Bytes()[i] = byte(rng.Uint32())
		}
		const chunk = 64 << 10
		for i := range 16 {
			if err := q.Write(f, slab.Bytes()[i*chunk:(i+1)*chunk], int64(i*chunk), i%3 == 0, uint64(100+i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := q.Fsync(f, 1); !errors.Is(err, ErrQueueFull) {
			t.Fatalf("17 operations in a queue of 16: %v", err)
		}
		if err := q.Submit(); err != nil {
			t.Fatal(err)
		}
		var ids []uint64
		for _, c := range await(t, q, 16) {
			if c.Err != nil || c.N != chunk {
				t.Fatalf("%+v", c)
			}
			ids = append(ids, c.ID)
		}
		slices.Sort(ids)
		for i, id := range ids {
			if id != uint64(100+i) {
				t.Fatalf("ids %v", ids)
			}
		}
		if err := q.Fsync(f, 7); err != nil {
			t.Fatal(err)
		}
		if err := q.Submit(); err != nil {
			t.Fatal(err)
		}
		if c := await(t, q, 1)[0]; c != (Completion{ID: 7}) {
			t.Fatalf("%+v", c)
		}
		got := AlignedAlloc(1 << 20)
		if _, err := f.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, slab.Bytes()) {
			t.Fatal("the file holds other bytes")
		}
	})
}

// TestQueueManyTurns drives the queue as the appender does, with a dumb twin in
// memory, and checks that its eventfd is never stuck in either direction.
func TestQueueManyTurns(t *testing.T) {
	eachBackend(t, 8, func(t *testing.T, q Queue, dir string) {
		const size, turns = 1 << 20, 400
		f := writtenFile(t, dir, size)
		twin := make([]byte, size)
		rng := rand.New(rand.NewPCG(2, 2))
		for turn := range turns {
			n := 1 + rng.IntN(8)
			used := map[int]bool{}
			for i := range n {
				block := rng.IntN(size / 4096)
				if used[block] {
					block = -1
				}
				if block < 0 {
					if err := q.Fsync(f, uint64(i)); err != nil {
						t.Fatal(err)
					}
					continue
				}
				used[block] = true
				p := AlignedAlloc(4096)
				for at := 0; at < 4096; at += 8 {
					binary.LittleEndian.PutUint64(p[at:], uint64(turn)<<32|uint64(block))
				}
				copy(twin[block*4096:], p)
				if err := q.Write(f, p, int64(block)*4096, rng.IntN(4) == 0, uint64(i)); err != nil {
					t.Fatal(err)
				}
			}
			if err := q.Submit(); err != nil {
				t.Fatal(err)
			}
			if turn%16 == 0 {
				runtime.GC() // buffers that only the queue refers to must live
			}
			seen := map[uint64]bool{}
			for _, c := range await(t, q, n) {
				if c.Err != nil || seen[c.ID] {
					t.Fatalf("turn %d: %+v, seen %v", turn, c, seen)
				}
				seen[c.ID] = true
			}
		}
		got := AlignedAlloc(size)
		if _, err := f.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, twin) {
			t.Fatal("the file differs from its twin")
		}
		// Idle: within a bounded number of Reap calls a level-triggered poller falls silent.
		for range 200 {
			if done := q.Reap(nil); len(done) > 0 {
				t.Fatalf("completions of nothing: %+v", done)
			}
		}
		fds := []unix.PollFd{{Fd: int32(q.EventFD()), Events: unix.POLLIN}}
		if n, _ := unix.Poll(fds, 0); n != 0 {
			t.Fatal("the eventfd of an idle queue stays readable")
		}
	})
}

func TestQueueReportsErrorsOfTheDevice(t *testing.T) {
	eachBackend(t, 4, func(t *testing.T, q Queue, dir string) {
		one := func(f File, p []byte, off int64) Completion {
			t.Helper()
			if err := q.Write(f, p, off, false, 5); err != nil {
				t.Fatal(err)
			}
			if err := q.Submit(); err != nil {
				t.Fatal(err)
			}
			return await(t, q, 1)[0]
		}
		full, err := OS().OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if c := one(full, AlignedAlloc(4096), 0); !errors.Is(c.Err, syscall.ENOSPC) || c.ID != 5 || c.N != 0 {
			t.Errorf("full device: %+v", c)
		}
		readOnly, err := OS().OpenFile(filepath.Join(dir, "r"), os.O_RDONLY|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = readOnly.Close() }()
		if c := one(readOnly, AlignedAlloc(4096), 0); !errors.Is(c.Err, syscall.EBADF) {
			t.Errorf("read-only file: %+v", c)
		}
		f := writtenFile(t, dir, 8192)
		if c := one(f, AlignedAlloc(8192)[1:4097], 0); !errors.Is(c.Err, syscall.EINVAL) {
			t.Errorf("misaligned: %+v", c)
		}
		// A file size limit is the portable way to a short write.
		var old unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
		limit := unix.Rlimit{Cur: 12288, Max: old.Max}
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		c := one(f, AlignedAlloc(16384), 4096)
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(c.Err, ErrShortWrite) || c.N != 8192 {
			t.Errorf("short write: %+v", c)
		}
		if c := one(f, AlignedAlloc(4096), 0); c.Err != nil {
			t.Errorf("the queue does not work after errors: %+v", c)
		}
	})
}

func TestQueueUnderProfilerSignals(t *testing.T) {
	eachBackend(t, 8, func(t *testing.T, q Queue, dir string) {
		f := writtenFile(t, dir, 1<<20)
		if err := pprof.StartCPUProfile(&bytes.Buffer{}); err == nil {
			defer pprof.StopCPUProfile()
		}
		// Signals to this very thread, at any instruction and inside the system calls.
		pid, tid := unix.Getpid(), unix.Gettid()
		stop := make(chan struct{})
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					_ = unix.Tgkill(pid, tid, unix.SIGPROF)
					time.Sleep(50 * time.Microsecond)
				}
			}
		}()
		p := AlignedAlloc(4096)
		deadline := time.Now().Add(time.Second)
		ops := 0
		for time.Now().Before(deadline) {
			for i := range 8 {
				if err := q.Write(f, p, int64(i)*4096, i == 0, uint64(i)); err != nil {
					t.Fatal(err)
				}
			}
			if err := q.Submit(); err != nil {
				t.Fatal(err)
			}
			for _, c := range await(t, q, 8) {
				if c.Err != nil {
					t.Fatal(c.Err)
				}
			}
			ops += 8
		}
		close(stop)
		<-stopped
		t.Logf("%d operations", ops)
	})
}

func TestQueueMayChangeItsThreadBetweenCommits(t *testing.T) {
	eachBackend(t, 4, func(t *testing.T, q Queue, dir string) {
		f := writtenFile(t, dir, 1<<16)
		commit := func() error {
			if err := q.Write(f, AlignedAlloc(4096), 0, true, 1); err != nil {
				return err
			}
			if err := q.Submit(); err != nil {
				return err
			}
			return await(t, q, 1)[0].Err
		}
		for round := range 3 {
			result := make(chan error)
			go func() {
				runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
				result <- commit()
			}()
			if err := <-result; err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if err := commit(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestQueueCloseWaitsForWrites(t *testing.T) {
	for _, mode := range []Mode{ModeUring, ModePwrite} {
		runtime.LockOSThread()
		q, _, err := NewQueue(mode, 64)
		if err != nil {
			t.Skipf("SKIPPED: %v", err)
		}
		dir := testDir(t)
		f := writtenFile(t, dir, 1<<20)
		for i := range 64 {
			p := AlignedAlloc(16384)
			p[0] = byte(i + 1)
			if err := q.Write(f, p, int64(i)*16384, false, 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := q.Submit(); err != nil {
			t.Fatal(err)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		runtime.UnlockOSThread()
		got := AlignedAlloc(1 << 20)
		if _, err := f.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		for i := range 64 {
			if got[i*16384] != byte(i+1) {
				t.Fatalf("%v: write %d is missing after Close", mode, i)
			}
		}
	}
}

// TestWritesToWrittenFilesStayInTheRing counts what the kernel hands to its own
// workers: overwrites of written blocks must never go there.
func TestWritesToWrittenFilesStayInTheRing(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	q, _, err := NewQueue(ModeUring, 32)
	if err != nil {
		t.Skipf("SKIPPED, no io_uring: %v", err)
	}
	defer func() { _ = q.Close() }()
	f := writtenFile(t, testDir(t), 4<<20)
	count, err := countPunts(t)
	if err != nil {
		t.Skipf("SKIPPED, punts cannot be counted here: %v", err)
	}
	for round := range 50 {
		for i := range 32 {
			if err := q.Write(f, AlignedAlloc(16384), int64(i)*65536, round%2 == 0, 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := q.Submit(); err != nil {
			t.Fatal(err)
		}
		for _, c := range await(t, q, 32) {
			if c.Err != nil {
				t.Fatal(c.Err)
			}
		}
	}
	punts, control, err := count(func() {
		// A flush always goes to a worker: it proves that the counter counts.
		if err := q.Fsync(f, 0); err != nil {
			t.Fatal(err)
		}
		if err := q.Submit(); err != nil {
			t.Fatal(err)
		}
		await(t, q, 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	if control == 0 {
		t.Skip("SKIPPED, the tracepoint did not see a flush go to a worker")
	}
	if punts != 0 {
		t.Errorf("%d of 1600 writes were handed to kernel workers", punts)
	}
}

// countPunts starts counting io_uring requests that this process hands to kernel
// workers. The function it returns gives their number, and how many more came
// from control.
func countPunts(t *testing.T) (func(control func()) (punts, controls int, err error), error) {
	root, unmount := "/sys/kernel/tracing", func() {}
	if _, err := os.Stat(root + "/instances"); err != nil {
		root = t.TempDir()
		if err := unix.Mount("tracefs", root, "tracefs", 0, ""); err != nil {
			return nil, fmt.Errorf("mount tracefs: %w", err)
		}
		unmount = func() { _ = unix.Unmount(root, unix.MNT_DETACH) }
	}
	dir, err := os.MkdirTemp(root+"/instances", "millrace-test-") //nolint:usetesting // the kernel fills this one
	if err != nil {
		unmount()
		return nil, err
	}
	event := dir + "/events/io_uring/io_uring_queue_async_work/enable"
	t.Cleanup(func() {
		_ = os.WriteFile(event, []byte("0"), 0)
		_ = os.Remove(dir)
		unmount()
	})
	if err := os.WriteFile(event, []byte("1"), 0); err != nil {
		return nil, err
	}
	mine := fmt.Sprintf("-%d ", unix.Gettid())
	count := func() (int, error) {
		trace, err := os.ReadFile(dir + "/trace")
		n := 0
		for line := range strings.SplitSeq(string(trace), "\n") {
			if strings.Contains(line, "io_uring_queue_async_work") && strings.Contains(line, mine) {
				n++
			}
		}
		return n, err
	}
	return func(control func()) (int, int, error) {
		before, err := count()
		if err != nil {
			return 0, 0, err
		}
		control()
		after, err := count()
		return before, after - before, err
	}, nil
}

func TestQueueDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	eachBackend(t, 4, func(t *testing.T, q Queue, dir string) {
		f := writtenFile(t, dir, 1<<16)
		p := AlignedAlloc(4096)
		done := make([]Completion, 0, 4)
		fds := []unix.PollFd{{Fd: int32(q.EventFD()), Events: unix.POLLIN}}
		allocs := testing.AllocsPerRun(200, func() {
			if err := q.Write(f, p, 0, true, 1); err != nil {
				t.Fatal(err)
			}
			if err := q.Submit(); err != nil {
				t.Fatal(err)
			}
			for done = q.Reap(done[:0]); len(done) == 0; done = q.Reap(done) {
				_, _ = unix.Poll(fds, 1000)
			}
		})
		if allocs != 0 {
			t.Errorf("%v allocations for each commit", allocs)
		}
	})
}

func TestForeignFilesAreRefused(t *testing.T) {
	eachBackend(t, 4, func(t *testing.T, q Queue, _ string) {
		if err := q.Write(noFDFile{}, AlignedAlloc(4096), 0, false, 1); !errors.Is(err, ErrForeignFile) {
			t.Error(err)
		}
		if err := q.Fsync(noFDFile{}, 1); !errors.Is(err, ErrForeignFile) {
			t.Error(err)
		}
	})
}

type noFDFile struct{ File }

func (noFDFile) Fd() uintptr { return NoFD }

func TestModesRoundTrip(t *testing.T) {
	for _, m := range []Mode{ModeAuto, ModeUring, ModePwrite} {
		if got, err := ParseMode(m.String()); got != m || err != nil {
			t.Errorf("%v: %v %v", m, got, err)
		}
	}
	if _, err := ParseMode("aio"); err == nil {
		t.Error("aio is a mode")
	}
	if _, _, err := NewQueue(ModeAuto, 0); err == nil {
		t.Error("a queue of depth 0")
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, mode := range []Mode{ModeUring, ModePwrite} {
		for _, size := range []int{4096, 65536} {
			b.Run(fmt.Sprintf("%v/%d", mode, size), func(b *testing.B) {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				q, _, err := NewQueue(mode, 4)
				if err != nil {
					b.Skip(err)
				}
				defer func() { _ = q.Close() }()
				f := writtenFile(b, testDir(b), 16<<20)
				p := AlignedAlloc(size)
				var done []Completion
				b.ResetTimer()
				for i := range b.N {
					off := int64(i) * int64(size) % (16 << 20)
					if err := q.Write(f, p, off, true, 1); err != nil {
						b.Fatal(err)
					}
					if err := q.Submit(); err != nil {
						b.Fatal(err)
					}
					for done = q.Reap(done[:0]); len(done) == 0; done = q.Reap(done) {
						pollFD(b, q.EventFD(), 10*time.Second)
					}
				}
			})
		}
	}
}
