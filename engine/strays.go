package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"millrace/engine/disk"
)

// Files that nothing names: a crash came between writing a segment and the checkpoint that
// would have named it, or between the checkpoint that dropped one and its unlink. What they are can be said for
// sure only right after recovery, so it is written down there; they are deleted later, slowly.
//
// A log's folder is deleted only on the word of its Drop: the checkpoint keeps the entry of a dropped log until the
// folder is durably gone. A folder of which nobody knows anything is kept and reported.
//
// With damage in the directory nothing is deleted: a stray file may be what repair needs.

// strays is what recovery says about the files that count.
type strays struct {
	dirs []string // folders of logs that are dropped
	logs []strayLog
}

// strayLog is a log and the segments that its checkpoint named. All other files of earlier
// incarnations in its folder are strays.
type strayLog struct {
	l     *Log
	named []segmentID
}

type segmentID struct {
	base       int64
	generation uint64
}

// strayPause is the rest after each file: unlinks of large ones hold the filesystem's journal.
const strayPause = 5 * time.Millisecond

// noteStrays runs at the end of recovery, before anything changes.
func (e *Engine) noteStrays() error {
	names, err := e.fs.ReadDir(e.o.path(logsName))
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	damaged := len(e.report.Damage) > 0 || len(e.report.Quarantined) > 0
	e.unknownIDs = make(map[uint64]bool)
	for _, name := range names {
		id, ok := folderLogID(name)
		if !ok {
			continue // not ours
		}
		l := e.byID[id]
		if l == nil && !e.droppedLog(id) {
			e.noteUnknown(name, id)
			continue
		}
		if damaged {
			continue
		}
		if l == nil {
			e.strays.dirs = append(e.strays.dirs, e.o.path(logsName, name))
			continue
		}
		s := strayLog{l: l}
		// Replay may have taken segments out already; the checkpoint still names them.
		for _, list := range [][]*segment{l.stable.segments, l.stable.obsolete} {
			for _, g := range list {
				s.named = append(s.named, segmentID{g.base, g.generation})
			}
		}
		e.strays.logs = append(e.strays.logs, s)
	}
	return nil
}

// folderLogID is the log id in the name of a log's folder.
func folderLogID(name string) (uint64, bool) {
	_, digits, ok := cutLast(name, ".")
	id, err := strconv.ParseUint(digits, 10, 64)
	return id, ok && err == nil
}

// droppedLog reports that a checkpoint says that the log was dropped.
func (e *Engine) droppedLog(id uint64) bool {
	for _, s := range e.shards {
		if s.writer.checkpoint.at[id].dropped {
			return true
		}
	}
	return false
}

// noteUnknown reports a folder whose log neither a checkpoint nor the WAL knows: its entry was lost, or it came from elsewhere.
func (e *Engine) noteUnknown(name string, id uint64) {
	path := e.o.path(logsName, name)
	e.unknownIDs[id] = true
	e.report.Unknown = append(e.report.Unknown, path)
	if given := e.nextLogID.Load(); id > given {
		e.o.Warn("%s is kept: log %d was never given out (%d were), so this is not the checkpoint that the folder belongs to", path, id, given)
		return
	}
	e.o.Warn("%s is kept: neither the checkpoint nor the WAL knows log %d, and nothing says that it was dropped", path, id)
}

// foldersLeft are the ids of the logs that have a folder. One that is not there stays away: log
// ids are not used twice, and the flush makes its absence outlive a power cut.
func (e *Engine) foldersLeft() (map[uint64]bool, error) {
	names, err := e.fs.ReadDir(e.o.path(logsName))
	if err != nil {
		return nil, err
	}
	left := make(map[uint64]bool, len(names))
	for _, name := range names {
		if id, ok := folderLogID(name); ok {
			left[id] = true
		}
	}
	return left, e.syncDir(e.o.path(logsName))
}

// runStrays deletes the strays once.
func (e *Engine) runStrays(quit <-chan struct{}) {
	rest := time.NewTimer(0) //nolint:forbidigo // how long a thread rests, not what time it is
	defer rest.Stop()
	e.deleteStrays(func() bool {
		rest.Reset(strayPause)
		select {
		case <-quit:
			return false
		case <-rest.C:
			return e.failed.Load() == nil
		}
	})
}

// deleteStrays deletes what noteStrays has found; goOn is asked after each file.
func (e *Engine) deleteStrays(goOn func() bool) {
	found := e.strays
	e.strays = strays{}
	deleted := 0
	defer func() {
		if deleted > 0 {
			e.o.Warn("deleted %d files that were left by a crash", deleted)
		}
	}()
	for _, dir := range found.dirs {
		if !e.deleteIn(dir, func(segmentID) bool { return true }, &deleted, goOn) {
			return
		}
		if err := e.fs.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			e.o.Warn("delete folder of a dropped log: %v", err)
		}
	}
	for _, s := range found.logs {
		named := make(map[segmentID]bool, len(s.named))
		for _, id := range s.named {
			named[id] = true
		}
		stray := func(id segmentID) bool {
			return id.generation>>generationBits < e.meta.Incarnation && !named[id]
		}
		if !e.deleteIn(s.l.dir(), stray, &deleted, goOn) {
			return
		}
	}
}

// generationBits of a segment's generation count within one incarnation.
const generationBits = 20

// deleteIn deletes the stray segment and index files of a folder.
func (e *Engine) deleteIn(dir string, stray func(segmentID) bool, deleted *int, goOn func() bool) bool {
	names, err := e.fs.ReadDir(dir)
	if err != nil {
		return true // dropped in the meantime
	}
	for _, name := range names {
		id, ok := parseSegmentName(strings.TrimSuffix(name, disk.TempSuffix))
		if !ok || !stray(id) {
			continue
		}
		path := filepath.Join(dir, name)
		switch err := e.fs.Remove(path); {
		case err == nil:
			*deleted++
		case !errors.Is(err, fs.ErrNotExist):
			e.o.Warn("delete %s: %v", path, err)
		}
		if !goOn() {
			return false
		}
	}
	return true
}

// parseSegmentName is the inverse of segment.name and of the index file's name.
func parseSegmentName(name string) (segmentID, bool) {
	stem, ext, ok := cutLast(name, ".")
	if !ok || ext != "log" && ext != "index" {
		return segmentID{}, false
	}
	base, generation, ok := strings.Cut(stem, ".")
	if !ok {
		return segmentID{}, false
	}
	var id segmentID
	var err, gerr error
	id.base, err = strconv.ParseInt(base, 10, 64)
	id.generation, gerr = strconv.ParseUint(generation, 10, 64)
	return id, err == nil && gerr == nil && id.base >= 0
}

// cutLast cuts s around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
