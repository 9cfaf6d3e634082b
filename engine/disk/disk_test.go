package disk

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"unsafe"
)

func TestSlabsAreAlignedAndZero(t *testing.T) {
	for _, n := range []int{1, 4096, 4097, 1 << 20, hugePageSize, hugePageSize + 4096, 8 << 20} {
		s, err := NewSlab(n)
		if err != nil {
			t.Fatal(err)
		}
		b := s.Bytes()
		if len(b) != AlignUp(n) || !IsAligned(b, 0) {
			t.Errorf("%d: length %d", n, len(b))
		}
		if n >= hugePageSize && !raceEnabled && uintptr(unsafe.Pointer(&b[0]))%hugePageSize != 0 {
			t.Errorf("%d: not aligned to huge pages", n)
		}
		if bytes.Count(b, []byte{0}) != len(b) {
			t.Errorf("%d: not zero", n)
		}
		b[0], b[len(b)-1] = 1, 1
		s.Free()
		if s.Bytes() != nil {
			t.Errorf("%d: bytes after Free", n)
		}
	}
}

func TestAlignedAllocIsAlignedAtEverySize(t *testing.T) {
	for _, n := range []int{0, 1, 511, 4095, 4096, 4097, 100000} {
		b := AlignedAlloc(n)
		if len(b) != n || cap(b) != n || (n > 0 && uintptr(unsafe.Pointer(&b[0]))%Alignment != 0) {
			t.Errorf("%d: len %d cap %d", n, len(b), cap(b))
		}
	}
	if AlignUp(4097) != 8192 || AlignDown(int64(8191)) != 4096 || AlignUp(0) != 0 {
		t.Error("rounding")
	}
}

func TestWriteFileAtomicReplaces(t *testing.T) {
	dir := testDir(t)
	path := filepath.Join(dir, "meta")
	for _, text := range []string{"one", "and a longer two", "3", ""} {
		if err := WriteFileAtomic(OS(), path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		got, err := ReadFile(OS(), path, 100)
		if err != nil || string(got) != text {
			t.Fatalf("%q %v", got, err)
		}
	}
	if names, _ := OS().ReadDir(dir); !slices.Equal(names, []string{"meta"}) {
		t.Errorf("left behind: %v", names)
	}
	if err := WriteFileAtomic(OS(), path, make([]byte, 101)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(OS(), path, 100); err == nil {
		t.Error("a file over the limit was read")
	}
	if err := WriteFileAtomic(OS(), filepath.Join(dir, "no", "meta"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestLockIsExclusive(t *testing.T) {
	path := filepath.Join(testDir(t), "LOCK")
	lock, err := OS().Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OS().Lock(path); !errors.Is(err, ErrLocked) {
		t.Fatalf("second lock: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	lock, err = OS().Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if err := lock.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("second close: %v", err)
	}
}

func TestFilesOfTheMachine(t *testing.T) {
	dir := testDir(t)
	sys := OS()
	if err := MkdirAllDurable(sys, filepath.Join(dir, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "a", "b", "f")
	if _, err := sys.OpenFile(path, os.O_RDONLY, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	f, err := sys.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|Direct, 0o644)
	if err != nil {
		t.Skipf("SKIPPED, no direct I/O here: %v", err)
	}
	defer func() { _ = f.Close() }()
	if _, err := sys.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	p := AlignedAlloc(8192)
	copy(p, "hello")
	if _, err := f.WriteAt(p, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(p[:100], 0); !errors.Is(err, ErrMisaligned) {
		t.Error(err)
	}
	if size, err := f.Size(); size != 12288 || err != nil {
		t.Error(size, err)
	}
	got := AlignedAlloc(16384)
	if n, err := f.ReadAt(got, 0); n != 12288 || !errors.Is(err, io.EOF) {
		t.Error(n, err)
	}
	if string(got[4096:4101]) != "hello" {
		t.Error("other bytes")
	}
	if err := f.Fallocate(0, 1<<20, true); err != nil && !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Error(err)
	}
	if size, _ := f.Size(); size != 12288 {
		t.Error("KEEP_SIZE changed the size to", size)
	}
	if err := errors.Join(f.Fdatasync(), f.AdviseDontNeed(0, 0), f.TryLock(), sys.SyncDir(dir), sys.SyncFS(dir)); err != nil {
		t.Error(err)
	}
	if err := sys.Rename(path, path+"2"); err != nil {
		t.Error(err)
	}
	if info, err := sys.Stat(path + "2"); err != nil || info.IsDir || info.Size != 12288 {
		t.Error(info, err)
	}
	if err := sys.Remove(path + "2"); err != nil {
		t.Error(err)
	}
	if free, total, err := sys.Statfs(dir); err != nil || free <= 0 || total < free {
		t.Error(free, total, err)
	}
	if id, err := sys.BootID(); err != nil || len(id) != 36 {
		t.Error(id, err)
	}
}

func TestProbeFindsFacts(t *testing.T) {
	dir := testDir(t)
	r, err := Probe(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", r)
	if r.Kernel == "" || r.Filesystem == "" {
		t.Error("no kernel or filesystem")
	}
	if r.Uring == (r.UringFlags == "") {
		t.Errorf("io_uring %v, flags %q", r.Uring, r.UringFlags)
	}
	if r.Direct && (r.Flush.Dsync.Samples == 0 || r.Flush.WriteFsync.P50 <= 0) {
		t.Errorf("flush: %+v", r.Flush)
	}
	if names, _ := OS().ReadDir(dir); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
	if _, err := Probe(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	tmpfs, err := Probe("/dev/shm")
	if err == nil && tmpfs.Filesystem == "tmpfs" && tmpfs.Device != "" {
		t.Errorf("tmpfs: %+v", tmpfs)
	}
	t.Logf("%+v", tmpfs)
}
