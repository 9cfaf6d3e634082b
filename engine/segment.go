package engine

import (
	"fmt"
	"path/filepath"
	"sync"

	"millrace/engine/epoch"
	"millrace/engine/index"
	"millrace/engine/producer"
)

// segmentIndex finds batches in a segment: by offset and by time.
type segmentIndex struct {
	offsets index.Offsets
	times   index.Times
}

func newSegmentIndex(base int64) *segmentIndex {
	return &segmentIndex{offsets: index.NewOffsets(base), times: index.NewTimes(base)}
}

// segment is one file of a log: Kafka's own batch bytes from base on, padded to whole blocks.
//
//	active: written blocks in the file | partial block in memory (stableState.tail)
//	sealed: immutable; its logical size is metadata, the rest of the last block is padding
//
// No written block is rewritten and no file is cut: truncation and compaction
// make a new file under a new generation.
type segment struct {
	log        *Log
	base       int64
	generation uint64

	// Guarded by stableState.mu.
	size    int64 // logical bytes, the tail block included
	next    int64 // offset after the last batch
	sealed  bool
	maxTime int64         // largest batch timestamp, -1 for none
	maxBase int64         // base offset of the batch that has it
	created int64         // when the first batch came, unix milliseconds
	index   *segmentIndex // nil for a sealed segment whose index is not in memory
	indexed int64         // position of the newest index entry, -1 before the first
	gone    bool          // no longer part of the log

	// Segment writer only (Log.writeMu).
	hasFile    bool // the file has been created
	dirDirty   bool // its name is not flushed
	unsynced   bool // blocks written since the last fdatasync
	indexDirty bool // sealed, and the index file is not written

	loading sync.Mutex // one loader of a sealed segment's index
}

func (g *segment) name() string {
	return fmt.Sprintf("%020d.%d.log", g.base, g.generation)
}

func (g *segment) path() string { return filepath.Join(g.log.dir(), g.name()) }

func (g *segment) indexPath() string {
	return filepath.Join(g.log.dir(), fmt.Sprintf("%020d.%d.index", g.base, g.generation))
}

// dir is the log's folder.
func (l *Log) dir() string { return l.s.logDir(l) }

// stableState is what has been moved from the ring to segments, valid exactly after
// record seq. Log.writeMu serialises those who change it; mu guards what readers look
// at, and is never held during I/O.
type stableState struct {
	// writeMu is taken before Log.mu and before mu.
	writeMu sync.Mutex

	mu       sync.Mutex
	segments []*segment // ordered by base; the last one is active unless sealed
	written  int64      // bytes of the active segment that are in its file; whole blocks
	tail     []byte     // the bytes of the active segment after them; never changed in place
	start    int64      // log start offset
	end      int64      // next offset
	size     int64      // logical bytes of all segments

	// writeMu only.
	seq        uint64
	hw         int64
	epoch      int32
	producers  *producer.State
	epochs     epoch.Cache
	aborted    index.Aborted
	dropped    bool
	quarantine string
	obsolete   []*segment // not named by the next checkpoint: their files go after it
	generation uint64     // newest used in this incarnation
	dirMade    bool
}

func (st *stableState) init() {
	st.hw = -1
	st.epoch = -1
}

// active returns the segment that takes appends, nil if the next batch begins one.
// Called with mu or writeMu.
func (st *stableState) active() *segment {
	if n := len(st.segments); n > 0 && !st.segments[n-1].sealed {
		return st.segments[n-1]
	}
	return nil
}

// lastNext is the offset after the last batch that has been moved.
func (st *stableState) lastNext() int64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	if n := len(st.segments); n > 0 {
		return st.segments[n-1].next
	}
	return 0
}

// indexInterval is the distance of index entries in bytes: the topic's setting, but
// at most 16,384 entries a segment, because the active one is part of every checkpoint.
func indexInterval(c *LogConfig) int64 {
	return max(int64(c.IndexIntervalBytes), c.SegmentBytes/16384)
}

// SizeBytes is the size of the log: segments and what is still in the ring.
func (l *Log) SizeBytes() int64 {
	l.mu.Lock()
	n := l.unmoved
	l.mu.Unlock()
	l.stable.mu.Lock()
	defer l.stable.mu.Unlock()
	return n + l.stable.size
}

// SegmentInfo describes one segment.
type SegmentInfo struct {
	BaseOffset, NextOffset int64
	Generation             uint64
	Bytes                  int64
	Sealed                 bool
	MaxTimestamp           int64
	Path                   string
}

// Segments lists the log's segments, oldest first.
func (l *Log) Segments() []SegmentInfo {
	l.stable.mu.Lock()
	defer l.stable.mu.Unlock()
	list := make([]SegmentInfo, len(l.stable.segments))
	for i, g := range l.stable.segments {
		list[i] = SegmentInfo{BaseOffset: g.base, NextOffset: g.next, Generation: g.generation, Bytes: g.size, Sealed: g.sealed, MaxTimestamp: g.maxTime, Path: g.path()}
	}
	return list
}
