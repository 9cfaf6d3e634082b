package engine

import (
	"fmt"
	"sync"
	"sync/atomic"

	"millrace/engine/batch"
	"millrace/engine/epoch"
	"millrace/engine/index"
	"millrace/engine/producer"
)

// Log is one partition's log on this node. All methods are safe for concurrent use;
// those that block say so.
//
// It has two states. The head is where appends happen: offsets, producers and epochs as of
// the last appended record. The stable state follows behind it: what has been moved from
// the ring into segments, exactly as of one record, which is what the checkpoint
// keeps. Records between the two are in the WAL and in the ring.
type Log struct {
	e         *Engine
	s         *Shard
	id        uint64
	topicID   TopicID
	topic     string
	partition int32

	cfg      atomic.Pointer[LogConfig]
	observer atomic.Pointer[Observer]

	// mu guards the head. Shard.mu may be taken while it is held; never the other way round.
	mu         sync.Mutex
	dropped    bool
	quarantine string          // why appends are refused; "" for a healthy log
	end        int64           // next offset; appendedEnd follows it
	seq        uint64          // of the newest record of this log
	producers  *producer.State // nil until a producer id was seen
	epochs     epoch.Cache
	aborted    index.Aborted
	tail       tailIndex
	ops        []logOp // records other than batches that the stable state has not seen
	unmoved    int64   // bytes of tail entries not moved
	dirtyLSN   uint64  // LSN of the oldest record that no durable checkpoint covers; 0: none
	nextDirty  uint64  // what dirtyLSN becomes when the checkpoint being written is durable
	inSnap     bool    // such a checkpoint is being written
	swallowed  uint64  // LSN of the oldest unmoved batch that the current op removes
	dropLSN    uint64  // of the Drop record
	lastSlab   *slab   // guarded by Shard.mu

	// endMu guards moves of the ends against a concurrent truncation.
	endMu  sync.Mutex
	cutSeq uint64 // records before this one no longer say anything about the end

	logStart    atomic.Int64
	appendedEnd atomic.Int64 // every byte below is in the ring or in a segment
	writtenEnd  atomic.Int64 // written to the device's WAL
	durableEnd  atomic.Int64 // and flushed
	ackEnd      atomic.Int64
	highWater   atomic.Int64 // hint: newest high watermark that was logged
	leaderEpoch atomic.Int32

	queued        atomic.Bool // in the segment writer's queue
	checkpointDue atomic.Bool // the stable state differs from the checkpoint although no record says so

	// Driver only.
	inNotify      bool
	unflushedMsgs int64

	stable stableState
}

// Observer hears about progress.
type Observer interface {
	// Progress is called on the shard's driver thread, once for each log and commit, after
	// AckEnd moved. It must not block.
	Progress(l *Log)
}

// Releaser gives a reference back.
type Releaser interface{ Release() }

// logOp is a record other than a batch, waiting for its turn in the stable state.
type logOp struct {
	kind  recordType
	seq   uint64
	lsn   uint64
	base  int64
	epoch int32
	done  *waiter // completed when the stable state has it; may be nil
	// from is the LSN of the oldest record that the stable state skips because this one removed
	// its batch from the ring: what a snapshot before this record does not cover begins there.
	from uint64
}

func newLog(e *Engine, s *Shard, id uint64, c createPayload) *Log {
	l := &Log{e: e, s: s, id: id, topicID: c.topicID, topic: c.topic, partition: c.partition}
	cfg := LogConfig{}.withDefaults()
	l.cfg.Store(&cfg)
	l.leaderEpoch.Store(-1)
	l.highWater.Store(-1)
	l.stable.init()
	return l
}

// TopicID is the id of the topic that the log belongs to.
func (l *Log) TopicID() TopicID { return l.topicID }

// Topic is the name of the topic.
func (l *Log) Topic() string { return l.topic }

// Partition is the partition's number.
func (l *Log) Partition() int32 { return l.partition }

// Shard is where the log's commits go.
func (l *Log) Shard() *Shard { return l.s }

// ID is the log id: unique in the data directory and never reused.
func (l *Log) ID() uint64 { return l.id }

// String names the log in messages.
func (l *Log) String() string { return fmt.Sprintf("%s-%d (log %d)", l.topic, l.partition, l.id) }

// SetObserver makes o hear of progress; nil ends it.
func (l *Log) SetObserver(o Observer) {
	if o == nil {
		l.observer.Store(nil)
		return
	}
	l.observer.Store(&o)
}

func (l *Log) config() *LogConfig { return l.cfg.Load() }

// Config returns the settings in force.
func (l *Log) Config() LogConfig { return *l.config() }

// SetConfig changes the settings.
func (l *Log) SetConfig(c LogConfig) {
	c = c.withDefaults()
	l.cfg.Store(&c)
}

// LogStartOffset is the first offset that may be read.
func (l *Log) LogStartOffset() int64 { return l.logStart.Load() }

// AppendedEnd is the log end offset: everything below may be read by replication.
func (l *Log) AppendedEnd() int64 { return l.appendedEnd.Load() }

// WrittenEnd is the end of what the device has taken.
func (l *Log) WrittenEnd() int64 { return l.writtenEnd.Load() }

// DurableEnd is the end of what the device has flushed.
func (l *Log) DurableEnd() int64 { return l.durableEnd.Load() }

// AckEnd is the end of what may be acknowledged: DurableEnd, or WrittenEnd for logs
// whose flush.messages is above 1.
func (l *Log) AckEnd() int64 { return l.ackEnd.Load() }

// HighWatermarkHint is the newest high watermark that was logged, -1 if none. After a
// restart it is a lower bound of the true one.
func (l *Log) HighWatermarkHint() int64 { return l.highWater.Load() }

// SetHighWatermarkHint gives the value that the next records carry.
func (l *Log) SetHighWatermarkHint(hw int64) { l.highWater.Store(hw) }

// LeaderEpoch is the newest epoch that was begun or appended, -1 if none.
func (l *Log) LeaderEpoch() int32 { return l.leaderEpoch.Load() }

// Quarantined says why the log refuses appends; "" for a healthy log.
func (l *Log) Quarantined() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.quarantine
}

// EndOffsetForEpoch returns the largest epoch <= the given one and the offset where it ends.
// (-1, -1) when the log knows no such epoch.
func (l *Log) EndOffsetForEpoch(e int32) (int32, int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epochs.EndOffsetFor(e, l.end)
}

// Producers returns the idempotent producers that the log remembers.
func (l *Log) Producers() []producer.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.producers == nil {
		return nil
	}
	return l.producers.Entries()
}

// LastStableOffset is the first offset that a read_committed consumer may not see yet,
// given the high watermark.
func (l *Log) LastStableOffset(hw int64) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.producers == nil {
		return hw
	}
	if first, ok := l.producers.FirstUnstable(); ok && first < hw {
		return first
	}
	return hw
}

// AbortedTxns returns the aborted transactions that overlap [from, to).
func (l *Log) AbortedTxns(from, to int64) []AbortedTxn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.aborted.Overlapping(from, to)
}

// AbortedTxn is an aborted transaction of a producer.
type AbortedTxn = index.AbortedTxn

// usable reports why the log takes no records. Called with mu.
func (l *Log) usable() error {
	switch {
	case l.dropped:
		return ErrDropped
	case l.quarantine != "":
		return ErrQuarantined
	}
	return l.e.refusal()
}

// advance takes the news that record r was written (and flushed). It reports
// whether something moved that an observer may wait for. Driver only.
func (l *Log) advance(r *rowRef, flushed bool) bool {
	l.endMu.Lock()
	defer l.endMu.Unlock()
	if r.seq < l.cutSeq || r.end < 0 {
		return false
	}
	moved := raise(&l.writtenEnd, r.end)
	if flushed {
		moved = raise(&l.durableEnd, r.end) || moved
	}
	if l.config().acksBeforeFlush() {
		raise(&l.ackEnd, r.end)
	} else if flushed {
		raise(&l.ackEnd, l.durableEnd.Load())
	}
	return moved
}

func raise(v *atomic.Int64, to int64) bool {
	if v.Load() >= to {
		return false
	}
	v.Store(to)
	return true
}

// cutEnds lowers the ends for a record (seq) that makes end the log's end. A Reset may lie above
// what is durable: then the ends follow when its record does. Called with mu.
func (l *Log) cutEnds(end int64, seq uint64) {
	l.endMu.Lock()
	defer l.endMu.Unlock()
	l.cutSeq = seq
	l.appendedEnd.Store(end)
	for _, v := range []*atomic.Int64{&l.writtenEnd, &l.durableEnd, &l.ackEnd} {
		if v.Load() > end {
			v.Store(end)
		}
	}
}

// forgetSlab drops the tail entries in b, and those before them: the log's tail in memory is one
// piece. All of them have been moved to the segment.
func (l *Log) forgetSlab(b *slab) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for i, e := range l.tail.live() {
		if e.slab == b {
			n = i + 1
		}
	}
	if n > 0 {
		l.tail.dropFront(n)
	}
	l.s.mu.Lock()
	if l.lastSlab == b {
		l.lastSlab = nil
	}
	l.s.mu.Unlock()
}

// touched remembers that lsn holds a record that no checkpoint covers. Called with mu.
func (l *Log) touched(lsn uint64) {
	if l.dirtyLSN == 0 {
		l.dirtyLSN = lsn
	}
	if l.inSnap && l.nextDirty == 0 {
		l.nextDirty = lsn
	}
}

// batchFlags are the row flags of a batch.
func batchFlags(h *batch.Header) uint8 {
	var f uint8
	if h.IsTransactional() {
		f |= rowFlagTransactional
	}
	if h.IsControl() {
		f |= rowFlagControl
	}
	return f
}
