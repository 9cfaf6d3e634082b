package engine

import (
	"fmt"
	"path/filepath"
	"time"

	"millrace/engine/disk"
)

// TopicID is a topic's unique id (KIP-516).
type TopicID = [16]byte

// Limits that are part of the design and not settings.
const (
	maxCommitBytes   = 16 << 20 // no valid commit is larger; bounds what recovery allocates
	groupBytesMax    = 8 << 20  // bytes of commits under one flush
	writeBytesMax    = 1 << 20  // bytes of one queued write
	queueDepth       = 64
	chunkBytesMax    = 1 << 20 // bytes of one segment write
	markDelay        = 100 * time.Millisecond
	housekeepingTick = 25 * time.Millisecond
)

// Options says where the engine lives and how much it may use. Zero values
// are replaced by defaults, except Dir.
type Options struct {
	Dir       string
	FS        disk.FS
	NewQueue  func(mode disk.Mode, depth int) (disk.Queue, string, error)
	IO        disk.Mode
	Shards    int // for new logs; existing shard folders are always recovered
	NodeID    int32
	ClusterID string

	WALBytes       int64 // all WAL files of a shard
	WALFileBytes   int64
	RingBytes      int64 // tail ring of a shard
	CommitBytesMax int   // one commit, and one slab of the ring

	// DiskReserveBytes is what must stay free on the filesystem for produce to be admitted.
	DiskReserveBytes int64
	// OpenFilesMax bounds the descriptors of segment files.
	OpenFilesMax int

	Now      func() time.Time
	OnFailed func(error)  // the directory failed; called once, from any goroutine
	OnCommit func(*Shard) // after all Progress calls of one completed commit, on the shard's driver thread
	Warn     func(format string, args ...any)

	// For tests of this package.
	sabotage    sabotage
	onWindow    func(window)
	salt        func([]byte) // fills random bytes
	syncWorkers int          // parallel fdatasync calls of a checkpoint round
	chunkBytes  int          // one segment write
	stalled     func()       // manual: a blocking call makes no progress
	manual      bool         // no goroutines: the test drives Poll and the background steps
}

// withDefaults returns o with every unset option filled in.
func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = disk.OS()
	}
	if o.NewQueue == nil {
		o.NewQueue = disk.NewQueue
	}
	if o.Shards == 0 {
		o.Shards = 1
	}
	if o.CommitBytesMax == 0 {
		o.CommitBytesMax = 4 << 20
	}
	if o.RingBytes == 0 {
		o.RingBytes = 64 << 20
	}
	if o.WALFileBytes == 0 {
		o.WALFileBytes = 64 << 20
	}
	if o.WALBytes == 0 {
		o.WALBytes = 1 << 30
	}
	if o.DiskReserveBytes == 0 {
		o.DiskReserveBytes = 256 << 20
	}
	if o.OpenFilesMax == 0 {
		o.OpenFilesMax = 1024
	}
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // the one place where the clock comes from
	}
	if o.OnFailed == nil {
		o.OnFailed = func(error) {}
	}
	if o.OnCommit == nil {
		o.OnCommit = func(*Shard) {}
	}
	if o.Warn == nil {
		o.Warn = func(string, ...any) {}
	}
	if o.salt == nil {
		o.salt = randomBytes
	}
	if o.chunkBytes == 0 {
		o.chunkBytes = chunkBytesMax
	}
	if o.syncWorkers == 0 {
		o.syncWorkers = 8
	}
	if o.onWindow == nil {
		o.onWindow = func(window) {}
	}
	return o
}

// Validate reports the first option that cannot work.
func (o Options) Validate() error {
	switch {
	case o.Dir == "":
		return fmt.Errorf("engine: no data directory given")
	case o.Shards < 1 || o.Shards > 256:
		return fmt.Errorf("engine: %d shards, not between 1 and 256", o.Shards)
	case o.CommitBytesMax < 16<<10 || o.CommitBytesMax > maxCommitBytes || o.CommitBytesMax%blockSize != 0:
		return fmt.Errorf("engine: commits of %d bytes, not between 16 KiB and %d in steps of %d", o.CommitBytesMax, maxCommitBytes, blockSize)
	case o.RingBytes < int64(4*o.CommitBytesMax):
		return fmt.Errorf("engine: a ring of %d bytes cannot hold four commits of %d", o.RingBytes, o.CommitBytesMax)
	case o.WALFileBytes < int64(4*o.CommitBytesMax) || o.WALFileBytes%blockSize != 0:
		return fmt.Errorf("engine: WAL files of %d bytes cannot hold four commits of %d", o.WALFileBytes, o.CommitBytesMax)
	case o.WALBytes < 3*o.WALFileBytes:
		return fmt.Errorf("engine: a WAL of %d bytes has less than three files of %d", o.WALBytes, o.WALFileBytes)
	}
	return nil
}

func (o *Options) path(parts ...string) string {
	return filepath.Join(append([]string{o.Dir}, parts...)...)
}

// sabotage switches off one promise each. The tests prove that they would notice.
type sabotage struct {
	noFlush         bool // acknowledge without the WAL flush
	ignoreCRC       bool // recovery believes every commit header and batch
	ignoreSalt      bool // every file has the same salt, known to everybody
	noDirSync       bool // names are never made durable
	recycleEarly    bool // WAL files are recycled before the checkpoint
	skipTruncate    bool // recovery does not replay Truncate
	skipDrop        bool // recovery does not replay Drop
	loseTail        bool // the checkpoint forgets the tail blocks
	noSegmentSync   bool // segments are not flushed before the checkpoint
	noRecoveryFlush bool // recovery trusts what it read without flushing it
	ackOutOfOrder   bool // a group is done as soon as it is durable itself
	dsyncIsFlush    bool // RWF_DSYNC is taken for a flush of what was written before
}

// window names the step that a crash may interrupt. FORMAT.md lists them.
type window uint8

// The crash windows.
const (
	winIdle window = iota
	winWALWrite
	winWALFlush
	winSegmentWrite
	winSegmentSync
	winDirSync
	winCheckpoint
	winRecycle
	winTruncate
	winDrop
	winSeal
	winUnlink
	winRecovery
	winWALCreate
	winOverlap
	winCompaction
	windowCount
)

var windowNames = [windowCount]string{
	"idle", "wal-write", "wal-flush", "segment-write", "segment-sync", "dir-sync", "checkpoint", "recycle",
	"truncate", "drop", "seal", "unlink", "recovery", "wal-create", "overlap", "compaction",
}

func (w window) String() string { return windowNames[w] }

// LogConfig is what a topic's settings mean to its logs. Zero values of sizes and times
// mean Kafka's defaults where 0 makes no sense; -1 means no limit.
type LogConfig struct {
	SegmentBytes, SegmentMillis     int64
	RetentionBytes, RetentionMillis int64
	FlushMessages, FlushMillis      int64 // FlushMessages 1 (default): acknowledged after the flush
	DeleteRetentionMillis           int64
	MinCompactionLagMillis          int64
	MaxCompactionLagMillis          int64
	Compact, Delete                 bool
	MinCleanableRatio               float64
	IndexIntervalBytes              int
	ProducerExpirationMillis        int64
	TimestampLogAppend              bool
}

func (c LogConfig) withDefaults() LogConfig {
	if c.SegmentBytes <= 0 {
		c.SegmentBytes = 1 << 30
	}
	if c.SegmentMillis <= 0 {
		c.SegmentMillis = 7 * 24 * 3600 * 1000
	}
	if c.FlushMessages <= 0 {
		c.FlushMessages = 1
	}
	if c.FlushMillis <= 0 {
		c.FlushMillis = 1000
	}
	if c.RetentionBytes == 0 {
		c.RetentionBytes = -1
	}
	if c.RetentionMillis == 0 {
		c.RetentionMillis = -1
	}
	if c.IndexIntervalBytes <= 0 {
		c.IndexIntervalBytes = 4096
	}
	if c.ProducerExpirationMillis <= 0 {
		c.ProducerExpirationMillis = 24 * 3600 * 1000
	}
	return c
}

// acksBeforeFlush reports durability class D1.
func (c *LogConfig) acksBeforeFlush() bool { return c.FlushMessages > 1 }
