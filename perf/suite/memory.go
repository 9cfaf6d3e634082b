package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"millrace/tools/millrace/bench"
)

// groupName is the control group of the broker whose memory is limited. It is there only for a row's length.
var groupName = "perf-" + strconv.Itoa(os.Getpid())

// memoryGroup is where the memory controller is: its own tree (version 1) or the common one (version 2).
func memoryGroup() (dir, limitFile string, ok bool) {
	if _, err := os.Stat("/sys/fs/cgroup/memory/memory.limit_in_bytes"); err == nil {
		return filepath.Join("/sys/fs/cgroup/memory", groupName), "memory.limit_in_bytes", true
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return filepath.Join("/sys/fs/cgroup", groupName), "memory.max", true
	}
	return "", "", false
}

// limitMemory puts a process into a group that may use so many bytes, the page cache of its reads included.
func (s *suite) limitMemory(pid int, bytes int64) bool {
	dir, file, ok := memoryGroup()
	if !ok {
		return false
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false
	}
	for _, w := range []struct{ file, value string }{{file, strconv.FormatInt(bytes, 10)}, {"cgroup.procs", strconv.Itoa(pid)}} {
		if err := os.WriteFile(filepath.Join(dir, w.file), []byte(w.value), 0o644); err != nil {
			s.note("the broker's memory cannot be limited: %v", err)
			return false
		}
	}
	return true
}

// dropGroup removes the group; a group with processes stays.
func dropGroup() {
	if dir, _, ok := memoryGroup(); ok {
		_ = os.Remove(dir) // mostly it is not there
	}
}

// directoryBytes is what the files below dir have been written to.
func directoryBytes(dir string) (n float64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // a file that has gone meanwhile counts nothing
		}
		if info, err := d.Info(); err == nil {
			n += float64(info.Size())
		}
		return nil
	})
	return n
}

// forget drops the pages of the files below dir from memory, so that a reader finds them on the disk whoever wrote
// them how.
func forget(dir string) {
	_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // it has gone meanwhile
		}
		f, err := os.Open(name)
		if err != nil {
			return nil // likewise
		}
		defer func() { _ = f.Close() }()
		_ = f.Sync() // what cannot be dropped stays, and the row is a little too fast
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		return nil
	})
}

func readReport(file string) (*bench.Report, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(bench.Report)
	return r, json.Unmarshal(text, r)
}
