package engine

import (
	"cmp"
	"fmt"
	"slices"

	"millrace/engine/disk"
)

// Problem is one broken rule of FORMAT.md, or (as a note) something that a crash leaves and that
// the next opening tidies up.
type Problem struct {
	File   string `json:"file"`          // below the data directory
	Pos    int64  `json:"pos"`           // byte, -1 for the file as a whole
	Log    string `json:"log,omitempty"` // topic-partition, when it is about one log
	Reason string `json:"reason"`
}

func (p Problem) String() string {
	s := p.File
	if p.Pos >= 0 {
		s += fmt.Sprintf(" at byte %d", p.Pos)
	}
	if p.Log != "" {
		s += " (" + p.Log + ")"
	}
	return s + ": " + p.Reason
}

// CheckedLog is what can be proved of one log.
type CheckedLog struct {
	LogID     uint64  `json:"log_id"`
	Topic     string  `json:"topic"`
	TopicID   TopicID `json:"-"`
	Partition int32   `json:"partition"`
	Shard     int     `json:"shard"`
	Start     int64   `json:"start"`
	End       int64   `json:"end"` // everything in [Start, End) is there
	// LostTo > End: the offsets [End, LostTo) were there and are lost, or cannot be proved to follow. More may be.
	LostTo     int64  `json:"lost_to"`
	Quarantine string `json:"quarantine,omitempty"` // why it is, or will be, out of service
}

// Name is topic-partition.
func (l *CheckedLog) Name() string { return fmt.Sprintf("%s-%d", l.Topic, l.Partition) }

// Damaged reports that repair would have to cut the log or to bring it back to service.
func (l *CheckedLog) Damaged() bool { return l.Quarantine != "" || l.LostTo > l.End }

// CheckReport is what Check has found.
type CheckReport struct {
	Problems []Problem    `json:"problems"`
	Notes    []Problem    `json:"notes"`
	Logs     []CheckedLog `json:"logs"`

	Shards   int   `json:"shards"`
	WALFiles int   `json:"wal_files"`
	Commits  int   `json:"commits"`
	Records  int   `json:"records"`
	Segments int   `json:"segments"`
	Batches  int   `json:"batches"`
	Bytes    int64 `json:"bytes"` // read
}

// Check reads everything in a data directory that nobody has open, and verifies it against FORMAT.md. It
// writes nothing. The error says why it could not look; what it found is in the report.
func Check(fsys disk.FS, dir string) (*CheckReport, error) {
	x, err := inspect(fsys, dir)
	if err != nil {
		return nil, err
	}
	defer x.close()
	c, err := x.check()
	if err != nil {
		return nil, err
	}
	return c.report, nil
}

// checker verifies a directory.
type checker struct {
	x      *inspector
	report *CheckReport
	logs   map[uint64]*checkedState
	gone   map[uint64]uint64 // dropped logs: seq of their newest record
	nextID uint64            // highest log id given out
	strays bool              // nothing is damaged that could have named a folder's log
	unread map[uint64]bool   // logs whose Create record is lost
	bad    *badFiles

	pending       int // records that are in the WAL only
	walGeneration map[string]uint64
}

// badFiles is what stands in the way of an opening or of a clean check; Repair sets it aside.
type badFiles struct {
	unusable    map[string]bool              // WAL files with which the directory does not open
	wal         map[string]uint64            // WAL files with damage, and their generations
	foreign     map[string]bool              // files and folders that are not ours
	index       map[string]bool              // index files: they can be made again
	strays      map[string]bool              // segment and index files that nothing names
	checkpoints map[int]*inspectedCheckpoint // by shard: those that the engine would not read to the end
}

// checkedState is one log, first as of the checkpoint, then as of the end of the WAL.
type checkedState struct {
	CheckedLog
	dir       string
	entry     *logEntry // nil: no checkpoint knows it yet
	seq       uint64
	epochs    epochCache
	suspect   string
	suspectAt Problem
	dropped   bool
	reset     bool // since the checkpoint: nothing that it names is left

	truncated   bool  // since the checkpoint
	truncatedTo int64 // the smallest one
	cut         *segmentCut
}

// segmentCut is where the provable part of a log's segments ends.
type segmentCut struct {
	segment          int   // the first one that does not stay as it is
	size, next       int64 // what stays of it
	maxTime, maxBase int64
}

func (x *inspector) check() (*checker, error) {
	c := &checker{
		x:             x,
		report:        &CheckReport{},
		logs:          make(map[uint64]*checkedState),
		gone:          make(map[uint64]uint64),
		unread:        make(map[uint64]bool),
		strays:        true,
		walGeneration: make(map[string]uint64),
		bad: &badFiles{
			unusable: make(map[string]bool), wal: make(map[string]uint64), foreign: make(map[string]bool), index: make(map[string]bool),
			strays: make(map[string]bool), checkpoints: make(map[int]*inspectedCheckpoint),
		},
	}
	ids, err := x.shardIDs()
	if err != nil {
		return nil, err
	}
	c.report.Shards = len(ids)
	for _, id := range ids {
		if err := c.shard(id); err != nil {
			return nil, err
		}
	}
	c.twins()
	for _, st := range c.sorted() {
		if err := c.segments(st); err != nil {
			return nil, err
		}
	}
	if err := c.files(ids); err != nil {
		return nil, err
	}
	for _, st := range c.sorted() {
		if !st.dropped {
			c.report.Logs = append(c.report.Logs, st.CheckedLog)
		}
	}
	return c, nil
}

// sorted are the logs by id.
func (c *checker) sorted() []*checkedState {
	list := make([]*checkedState, 0, len(c.logs))
	for _, st := range c.logs {
		list = append(list, st)
	}
	slices.SortFunc(list, func(a, b *checkedState) int { return cmp.Compare(a.LogID, b.LogID) })
	return list
}

func (c *checker) problem(file string, pos int64, format string, args ...any) {
	c.report.Problems = append(c.report.Problems, Problem{File: c.x.relative(file), Pos: pos, Reason: fmt.Sprintf(format, args...)})
}

func (c *checker) note(file string, pos int64, format string, args ...any) {
	c.report.Notes = append(c.report.Notes, Problem{File: c.x.relative(file), Pos: pos, Reason: fmt.Sprintf(format, args...)})
}

// logProblem is a problem of one log.
func (c *checker) logProblem(st *checkedState, file string, pos int64, format string, args ...any) {
	c.problem(file, pos, format, args...)
	c.report.Problems[len(c.report.Problems)-1].Log = st.Name()
}

// quarantine says that the log's records end here.
func (c *checker) quarantine(st *checkedState, file string, pos int64, format string, args ...any) {
	st.suspect = ""
	st.Quarantine = fmt.Sprintf(format, args...)
	c.logProblem(st, file, pos, "%s; provable up to offset %d", st.Quarantine, st.End)
}

// twins looks for two logs of one partition.
func (c *checker) twins() {
	seen := make(map[logKey]*checkedState)
	for _, st := range c.sorted() {
		k := logKey{st.TopicID, st.Partition}
		if st.dropped {
			continue
		}
		if other := seen[k]; other != nil {
			c.logProblem(st, c.x.path(logsName, st.dir), -1, "log %d is of the same partition as log %d", st.LogID, other.LogID)
		}
		seen[k] = st
	}
}
