package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"millrace/engine/disk"
)

// Looking at a directory that nobody has open. What is here shares the decoders with the running
// engine and nothing else: it writes nothing, repairs nothing, and goes on where recovery stops.

// ErrInUse says that a process has the data directory open.
var ErrInUse = errors.New("engine: the data directory is in use")

// setAsideName is the folder of what Repair took out of use.
const setAsideName = "set-aside"

// inspector reads one data directory. It holds the directory's lock.
type inspector struct {
	fs   disk.FS
	dir  string
	lock io.Closer
	meta Meta
}

// inspect locks the directory and reads its meta file.
func inspect(fsys disk.FS, dir string) (*inspector, error) {
	if fsys == nil {
		fsys = disk.OS()
	}
	x := &inspector{fs: fsys, dir: dir}
	if _, err := fsys.Stat(dir); err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	data, err := disk.ReadFile(fsys, x.path(metaName), metaMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("engine: %s is not a data directory: it has no meta file", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	if x.lock, err = lockExisting(fsys, x.path(lockName)); err != nil {
		return nil, fmt.Errorf("%w: %s", err, dir)
	}
	if x.meta, err = decodeMeta(data); err != nil {
		x.close()
		return nil, &CorruptionError{File: x.path(metaName), Reason: err.Error()}
	}
	return x, nil
}

func (x *inspector) close() {
	if x.lock != nil {
		_ = x.lock.Close()
		x.lock = nil
	}
}

// lockExisting takes the lock without making the file.
func lockExisting(fsys disk.FS, path string) (io.Closer, error) {
	f, err := fsys.OpenFile(path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // a directory that was copied without it: nobody has it open
	}
	if err != nil {
		return nil, err
	}
	if err := f.TryLock(); err != nil {
		_ = f.Close()
		if errors.Is(err, disk.ErrLocked) {
			return nil, ErrInUse
		}
		return nil, err
	}
	return f, nil
}

func (x *inspector) path(parts ...string) string {
	return filepath.Join(append([]string{x.dir}, parts...)...)
}

// relative is a path as it is shown: below the data directory.
func (x *inspector) relative(path string) string {
	if rel, err := filepath.Rel(x.dir, path); err == nil {
		return rel
	}
	return path
}

// shardIDs are the shard folders, in order.
func (x *inspector) shardIDs() ([]int, error) {
	names, err := x.fs.ReadDir(x.dir)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	var ids []int
	for _, name := range names {
		if id, ok := parseShardDirName(name); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

func parseShardDirName(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, "shard-")
	if !ok {
		return 0, false
	}
	id, err := strconv.Atoi(digits)
	return id, err == nil && id >= 0 && shardDirName(id) == name
}

// openForRead opens a file past the page cache where that is possible: direct writes of a
// process that has just died may not show in it.
func (x *inspector) openForRead(path string) (disk.File, error) {
	f, err := x.fs.OpenFile(path, os.O_RDONLY|disk.Direct, 0)
	if errors.Is(err, syscall.EINVAL) {
		f, err = x.fs.OpenFile(path, os.O_RDONLY, 0)
	}
	return f, err
}

// logDirName is the folder of a log.
func logDirName(topic string, partition int32, id uint64) string {
	s := &Shard{e: &Engine{}}
	return filepath.Base(s.logDir(&Log{topic: topic, partition: partition, id: id}))
}
