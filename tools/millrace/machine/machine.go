package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Cores is how many CPUs this process may use at a time. The runtime has read the affinity mask and the
// control group's quota.
func Cores() int { return runtime.GOMAXPROCS(0) }

// Memory is the memory in bytes that this process may use: the machine's, or its control group's if that is
// less.
func Memory() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	total, err := meminfo(string(text), "MemTotal")
	if err != nil {
		return 0, err
	}
	if limit, ok := cgroupMemory("/sys/fs/cgroup", "/proc/self/cgroup"); ok && limit < total {
		return limit, nil
	}
	return total, nil
}

// Limited reports whether this process's control group or affinity gives it less than the machine has.
func Limited() bool {
	var si unix.Sysinfo_t
	memory, err := Memory()
	if err != nil || unix.Sysinfo(&si) != nil {
		return false
	}
	// The two sources count some reserved pages differently; a limit worth the name is below that.
	return memory < int64(si.Totalram)*int64(si.Unit)*9/10 || Cores() < runtime.NumCPU()
}

// meminfo finds one field of /proc/meminfo, in bytes.
func meminfo(text, field string) (int64, error) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		if name == field {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no %s", field)
}

// cgroupMemory is the smallest memory.max on the way from this process's group (version 2) up to the root.
func cgroupMemory(root, self string) (limit int64, ok bool) {
	text, err := os.ReadFile(self)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		group, found := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !found {
			continue
		}
		for dir := filepath.Join(root, group); strings.HasPrefix(dir, root); dir = filepath.Dir(dir) {
			value, err := os.ReadFile(filepath.Join(dir, "memory.max"))
			if err != nil {
				continue // the root has none, and "max" parses as no number
			}
			if n, err := strconv.ParseInt(strings.TrimSpace(string(value)), 10, 64); err == nil && (!ok || n < limit) {
				limit, ok = n, true
			}
		}
	}
	return limit, ok
}

// Disk is the size and the free space in bytes of the file system that dir is on, or will be on once it is
// created.
func Disk(dir string) (total, free int64, err error) {
	st, err := statfs(dir)
	if err != nil {
		return 0, 0, err
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}

// FileSystem is the name of the file system that dir is on, or will be on.
func FileSystem(dir string) (string, error) {
	st, err := statfs(dir)
	if err != nil {
		return "", err
	}
	if name, ok := fileSystems[uint32(st.Type)]; ok {
		return name, nil
	}
	return fmt.Sprintf("type %#x", uint32(st.Type)), nil
}

// fileSystems are the magic numbers of statfs(2).
var fileSystems = map[uint32]string{
	unix.EXT4_SUPER_MAGIC:      "ext4",
	unix.XFS_SUPER_MAGIC:       "xfs",
	unix.BTRFS_SUPER_MAGIC:     "btrfs",
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	unix.NFS_SUPER_MAGIC:       "nfs",
	unix.FUSE_SUPER_MAGIC:      "fuse",
	unix.F2FS_SUPER_MAGIC:      "f2fs",
	0x2fc12fc1:                 "zfs",
	0xca451a4e:                 "bcachefs",
	0x01021997:                 "9p",
}

// statfs asks about dir, or the nearest directory above it that exists.
func statfs(dir string) (unix.Statfs_t, error) {
	var st unix.Statfs_t
	existing, err := Existing(dir)
	if err != nil {
		return st, err
	}
	if err := unix.Statfs(existing, &st); err != nil {
		return st, fmt.Errorf("statfs %s: %w", existing, err)
	}
	return st, nil
}

// Existing is dir, or the nearest directory above it that exists.
func Existing(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for {
		_, err := os.Stat(dir)
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return "", err
		}
		dir = filepath.Dir(dir)
	}
}

// Kernel is the release of the running kernel.
func Kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// CPUModel is the name of the first CPU.
func CPUModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
