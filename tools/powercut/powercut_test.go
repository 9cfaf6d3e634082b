package powercut

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/engine/disk"
)

const diskBytes = 96 << 20

func newDisk(t *testing.T) *Disk {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED: -short")
	}
	d, err := New(t.TempDir(), diskBytes)
	if errors.Is(err, ErrUnavailable) {
		t.Skipf("SKIPPED, NO POWER CUT WAS TESTED: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func filled(n int, value byte) []byte {
	p := disk.AlignedAlloc(n)
	for i := range p {
		p[i] = value
	}
	return p
}

func TestCutDropsUnflushedAndKeepsFlushedBytes(t *testing.T) {
	d := newDisk(t)
	must(t, d.Start())
	path := filepath.Join(d.Path(), "f")
	f, err := disk.OS().OpenFile(path, os.O_RDWR|os.O_CREATE|disk.Direct, 0o644)
	must(t, err)
	_, err = f.WriteAt(filled(65536, 'a'), 0)
	must(t, err)
	must(t, f.Fdatasync())
	must(t, disk.OS().SyncDir(d.Path()))
	_, err = f.WriteAt(filled(16384, 'b'), 0) // completed, and readable, but not flushed
	must(t, err)
	must(t, d.CutHard())
	if _, err := f.WriteAt(filled(4096, 'c'), 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("a write after the cut: %v", err)
	}
	must(t, f.Close())
	must(t, d.Stop())
	if d.Stats().Lost < 4 {
		t.Errorf("stats %+v", d.Stats())
	}

	must(t, d.Start())
	got, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, filled(65536, 'a')) {
		t.Errorf("%d bytes, first %q", len(got), got[0])
	}
	must(t, d.Stop())
}

// ledgerLoad writes ever newer numbers into the blocks of a written file, each block for
// itself, and notes those that were acknowledged as durable.
type ledgerLoad struct {
	mode  disk.Mode
	dsync bool
	fsync bool // after each group of writes
	rng   *rand.Rand
	next  uint64
	acked [256]uint64

	tolerant bool // losses are counted, not reported
	lost     int  // blocks found older than acknowledged
}

func (l *ledgerLoad) run(ctx context.Context, dir string, _ int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	f, err := disk.OS().OpenFile(filepath.Join(dir, "wal"), os.O_RDWR|os.O_CREATE|disk.Direct, 0o644)
	if err != nil {
		return nil // cut before it could open
	}
	defer func() { _ = f.Close() }()
	if size, err := f.Size(); err == nil && size < int64(len(l.acked))*4096 {
		if _, err := f.WriteAt(disk.AlignedAlloc(len(l.acked)*4096), 0); err != nil || f.Fdatasync() != nil || disk.OS().SyncDir(dir) != nil {
			return nil
		}
	}
	q, _, err := disk.NewQueue(l.mode, 8)
	if err != nil {
		return err
	}
	defer func() { _ = q.Close() }()
	for ctx.Err() == nil {
		group := map[uint64]uint64{} // id (block) -> number
		for range 1 + l.rng.IntN(8) {
			block := uint64(l.rng.IntN(len(l.acked)))
			if group[block] != 0 {
				continue
			}
			l.next++
			group[block] = l.next
			p := disk.AlignedAlloc(4096)
			for at := 0; at < len(p); at += 8 {
				binary.LittleEndian.PutUint64(p[at:], l.next)
			}
			if err := q.Write(f, p, int64(block)*4096, l.dsync, block); err != nil {
				return err
			}
		}
		if !settle(q, len(group)) {
			return nil
		}
		if l.fsync {
			if err := q.Fsync(f, 0); err != nil {
				return err
			}
			if !settle(q, 1) {
				return nil
			}
		}
		for block, number := range group {
			l.acked[block] = number
		}
	}
	return nil
}

// settle submits and waits for n completions; false when one failed.
func settle(q disk.Queue, n int) bool {
	ok := q.Submit() == nil
	for done := []disk.Completion(nil); n > 0; done = done[:0] {
		done = q.Reap(done)
		n -= len(done)
		for _, c := range done {
			ok = ok && c.Err == nil
		}
		if n > 0 && len(done) == 0 {
			fds := []unix.PollFd{{Fd: int32(q.EventFD()), Events: unix.POLLIN}}
			_, _ = unix.Poll(fds, 100)
		}
	}
	return ok
}

func (l *ledgerLoad) verify(dir string, round int) error {
	data, err := os.ReadFile(filepath.Join(dir, "wal"))
	if err != nil && l.next > 0 && l.acked != [256]uint64{} {
		return err
	}
	for block, acked := range l.acked {
		if (block+1)*4096 > len(data) {
			if acked > 0 {
				return fmt.Errorf("block %d is gone", block)
			}
			continue
		}
		var newest uint64
		for s := 0; s < 4096; s += 512 {
			number := binary.LittleEndian.Uint64(data[block*4096+s:])
			if number < acked {
				l.lost++
				if !l.tolerant {
					return fmt.Errorf("round %d: block %d holds %d, acknowledged was %d", round, block, number, acked)
				}
			}
			newest = max(newest, number)
		}
		l.acked[block] = min(acked, newest)
	}
	return nil
}

func TestAcknowledgedWritesSurviveCuts(t *testing.T) {
	for _, load := range []*ledgerLoad{
		{mode: disk.ModeUring, dsync: true},
		{mode: disk.ModeUring, fsync: true},
		{mode: disk.ModePwrite, dsync: true},
		{mode: disk.ModePwrite, fsync: true},
	} {
		t.Run(fmt.Sprintf("%v/dsync=%v", load.mode, load.dsync), func(t *testing.T) {
			d := newDisk(t)
			q, _, err := disk.NewQueue(load.mode, 1)
			if errors.Is(err, disk.ErrUringUnavailable) {
				t.Skipf("SKIPPED: %v", err)
			}
			must(t, err)
			must(t, q.Close())
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			load.rng = rand.New(rand.NewPCG(seed, 0))
			plan := Plan{Seed: seed, Rounds: 4, RunMax: 300 * time.Millisecond, AfterCut: 50 * time.Millisecond, Logf: t.Logf}
			must(t, Run(t.Context(), d, plan, Workload{Run: load.run, Check: load.verify}))
			if load.next == 0 {
				t.Error("nothing was written")
			}
		})
	}
}

// TestHarnessCatches proves that lost acknowledgements are found: no flush at
// all, and a device that lies about it.
func TestHarnessCatches(t *testing.T) {
	for name, lie := range map[string]bool{"no flush": false, "lying flush": true} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			load := &ledgerLoad{mode: disk.ModePwrite, fsync: lie, rng: rand.New(rand.NewPCG(seed, 0)), tolerant: true}
			// One cut in eight happens to keep everything.
			plan := Plan{Seed: seed, Rounds: 7, RunMin: 50 * time.Millisecond, RunMax: 150 * time.Millisecond, Logf: t.Logf}
			if lie {
				plan.Faults = func(_ *rand.Rand, round int) Faults { return Faults{LieFsync: round > 0} }
			}
			must(t, Run(t.Context(), d, plan, Workload{Run: load.run, Check: load.verify}))
			if load.lost == 0 {
				t.Error("no loss was found")
			}
		})
	}
}

func TestFaultsReachTheProgram(t *testing.T) {
	d := newDisk(t)
	must(t, d.Start())
	f, err := disk.OS().OpenFile(filepath.Join(d.Path(), "f"), os.O_RDWR|os.O_CREATE|disk.Direct, 0o644)
	must(t, err)
	_, err = f.WriteAt(filled(8192, 'a'), 0)
	must(t, err)
	must(t, f.Fdatasync())
	d.SetFaults(Faults{FsyncDelay: 100 * time.Millisecond})
	start := time.Now()
	_, err = f.WriteAt(filled(4096, 'b'), 0)
	must(t, err)
	must(t, f.Fdatasync())
	if time.Since(start) < 100*time.Millisecond {
		t.Error("the flush was not slow")
	}
	d.SetFaults(Faults{WriteErr: syscall.EIO})
	if _, err := f.WriteAt(filled(4096, 'c'), 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("write: %v", err)
	}
	d.SetFaults(Faults{FsyncErr: syscall.EIO})
	_, _ = f.WriteAt(filled(4096, 'd'), 0)
	if err := f.Fdatasync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("flush: %v", err)
	}
	must(t, f.Close())
	must(t, d.CutHard())
	must(t, d.Stop())
}
