package machine

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCgroupMemoryIsTheSmallestLimitOnTheWayUp(t *testing.T) {
	root := t.TempDir()
	self := filepath.Join(root, "self")
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(self, "0::/a/b\n")
	write(filepath.Join(root, "a/b/memory.max"), "max\n")
	if limit, ok := cgroupMemory(root, self); ok {
		t.Errorf("no limit is set, got %d", limit)
	}
	write(filepath.Join(root, "a/memory.max"), "4096\n")
	write(filepath.Join(root, "a/b/memory.max"), "8192\n")
	if limit, ok := cgroupMemory(root, self); !ok || limit != 4096 {
		t.Errorf("limit %d, %t; want 4096", limit, ok)
	}
}

func TestMeminfoFieldIsInBytes(t *testing.T) {
	if n, err := meminfo("MemFree: 1 kB\nMemTotal:       16384 kB\n", "MemTotal"); err != nil || n != 16<<20 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := meminfo("x", "MemTotal"); err == nil {
		t.Error("a missing field is no error")
	}
}

func TestDiskOfADirectoryToBeIsThatOfItsParent(t *testing.T) {
	dir := t.TempDir()
	total, free, err := Disk(filepath.Join(dir, "not", "yet"))
	if err != nil || total <= 0 || free > total {
		t.Errorf("total %d, free %d, %v", total, free, err)
	}
	if existing, err := Existing(filepath.Join(dir, "not", "yet")); err != nil || existing != dir {
		t.Errorf("%s, %v", existing, err)
	}
}

func TestMemoryAndCoresAreThere(t *testing.T) {
	if m, err := Memory(); err != nil || m < 1<<20 || Cores() < 1 {
		t.Errorf("memory %d, cores %d, %v", m, Cores(), err)
	}
}
