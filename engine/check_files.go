package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"millrace/engine/disk"
)

// files looks for names that nothing knows.
func (c *checker) files(shards []int) error {
	names, err := c.x.fs.ReadDir(c.x.dir)
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	for _, name := range names {
		_, isShard := parseShardDirName(name)
		switch {
		case isShard, name == metaName, name == lockName, name == logsName, name == setAsideName, name == "raft", name == "registration", name == "lost+found":
		case name == metaName+disk.TempSuffix, name == "registration"+disk.TempSuffix:
			c.note(c.x.path(name), -1, "left by a crash")
		default:
			c.note(c.x.path(name), -1, "not a file of a data directory")
		}
	}
	for _, id := range shards {
		if err := c.shardFiles(id); err != nil {
			return err
		}
	}
	return c.logFolders()
}

func (c *checker) shardFiles(shard int) error {
	dir := shardDirName(shard)
	names, err := c.x.fs.ReadDir(c.x.path(dir))
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	newest, err := c.x.newestCheckpoint(shard)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := c.x.path(dir, name)
		number, isCheckpoint := checkpointNumber(name)
		_, _, isWAL := parseWALName(name)
		switch {
		case isWAL:
		case isCheckpoint && number < newest:
			c.note(path, -1, "an older checkpoint, left by a crash")
		case isCheckpoint:
		case strings.HasSuffix(name, disk.TempSuffix), strings.HasSuffix(name, walTempSuffix):
			c.note(path, -1, "an unfinished file, left by a crash")
		default:
			c.foreign(path)
		}
	}
	return nil
}

func (c *checker) foreign(path string) {
	c.problem(path, -1, "a foreign file")
	c.bad.foreign[path] = true
}

// logFolders verifies that logs/ holds what the checkpoints name.
func (c *checker) logFolders() error {
	names, err := c.x.fs.ReadDir(c.x.path(logsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	for _, name := range names {
		path := c.x.path(logsName, name)
		_, digits, ok := cutLast(name, ".")
		id, err := strconv.ParseUint(digits, 10, 64)
		if info, serr := c.x.fs.Stat(path); !ok || err != nil || serr != nil || !info.IsDir {
			c.foreign(path)
			continue
		}
		st := c.logs[id]
		switch {
		case st == nil && id > c.nextID:
			c.problem(path, -1, "log %d was never given out (%d were)", id, c.nextID)
			c.bad.foreign[path] = true
		case st == nil && hasLog(c.gone, id):
			c.note(path, -1, "the log was dropped")
		case st == nil && c.strays:
			c.note(path, -1, "neither the checkpoint nor the WAL knows log %d, and nothing says that it was dropped: the folder is kept", id)
		case st == nil:
			c.problem(path, -1, "the checkpoint entry of log %d is lost", id)
			c.bad.foreign[path] = true
		case st.dir != name:
			c.logProblem(st, path, -1, "the folder should be %s", st.dir)
			c.bad.foreign[path] = true
		default:
			if err := c.logFiles(st); err != nil {
				return err
			}
		}
	}
	return nil
}

func hasLog(m map[uint64]uint64, id uint64) bool {
	_, ok := m[id]
	return ok
}

// logFiles looks for files in a log's folder that its checkpoint entry does not name.
func (c *checker) logFiles(st *checkedState) error {
	names, err := c.x.fs.ReadDir(c.x.path(logsName, st.dir))
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	named := make(map[segmentID]bool)
	if st.entry != nil {
		for i := range st.entry.segments {
			named[segmentID{st.entry.segments[i].base, st.entry.segments[i].generation}] = true
		}
	}
	for _, name := range names {
		path := c.x.path(logsName, st.dir, name)
		id, ok := parseSegmentName(name)
		switch {
		case strings.HasSuffix(name, disk.TempSuffix):
			c.note(path, -1, "an unfinished file, left by a crash")
		case !ok:
			c.foreign(path)
		case named[id]:
		case id.generation>>generationBits > c.x.meta.Incarnation:
			c.logProblem(st, path, -1, "generation %d is of a later incarnation than the directory's (%d)", id.generation, c.x.meta.Incarnation)
			c.bad.foreign[path] = true
		default:
			// Written after the newest checkpoint, or out of use since an older one.
			c.note(path, -1, "no checkpoint names it: the WAL has its records, or they are gone")
			c.bad.strays[path] = true
		}
	}
	return nil
}
