package logdb

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"

	"millrace/engine/disk"
)

const (
	// Name is how the store introduces itself to dragonboat.
	Name = "millrace-journal"

	defaultRewriteBytes = 8 << 20
	defaultMarkDelay    = 100 * time.Millisecond
	defaultFullRetry    = 200 * time.Millisecond
)

// ErrClosed is returned by calls after Close.
var ErrClosed = errors.New("raft log is closed")

var errAborted = errors.New("raft log was aborted")

// Options say where a store lives and whom it tells about trouble.
type Options struct {
	Dir string
	FS  disk.FS
	// Salt draws the random part of a file's checksums; crypto/rand if nil.
	Salt func() [16]byte
	// RewriteBytes is the size from which a journal of mostly dead records is rewritten.
	RewriteBytes int64
	// MarkDelay is after how much idleness the mark behind the last frame is flushed too, so that rot
	// in that frame cannot pass for a torn tail; negative: only by the next frame and by Close.
	MarkDelay time.Duration
	// SumFile returns size and checksum of the file of a snapshot, for VerifySnapshot; nil: no sums.
	SumFile func(pb.Snapshot) (FileSum, error)
	// OnFailed is told once, on its own goroutine, that nothing can be made durable any more. The call
	// that met the failure, and every later one, waits for Abort: an error would only make dragonboat
	// end the process less politely.
	OnFailed func(error)
	Logger   *slog.Logger

	fullRetry time.Duration // how often a full disk is tried again
}

// DB is a raftio.ILogDB. It is safe for concurrent use.
type DB struct {
	o Options

	// write is held while a frame, a rewrite or a flush is under way. Lock order: write, then mu.
	write    sync.Mutex
	journal  *journal
	deferred map[nodeID]bool // replicas whose state or removedTo is newer in memory than in the journal
	live     int64           // size of the journal after the last rewrite
	failed   error
	closed   bool
	marked   uint64 // last sequence whose mark is durable
	timer    *time.Timer
	size     atomic.Int64 // of the journal, for Size
	waiting  atomic.Bool  // for space, or for Abort after a failure

	mu    sync.RWMutex
	state *state

	abort     chan struct{}
	abortOnce sync.Once
}

var _ raftio.ILogDB = (*DB)(nil)

// Open replays the journal of a directory, or begins one, and rewrites it.
func Open(o Options) (*DB, error) {
	if o.Salt == nil {
		o.Salt = randomSalt
	}
	if o.RewriteBytes == 0 {
		o.RewriteBytes = defaultRewriteBytes
	}
	if o.MarkDelay == 0 {
		o.MarkDelay = defaultMarkDelay
	}
	if o.fullRetry == 0 {
		o.fullRetry = defaultFullRetry
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := disk.MkdirAllDurable(o.FS, o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("open raft log: %w", err)
	}
	r := &replayed{state: newState(), nextSeq: 1}
	b, err := readJournal(o.FS, o.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("open raft log: %w", err)
	default:
		if r, err = replayJournal(filepath.Join(o.Dir, journalName), b); err != nil {
			return nil, err
		}
	}
	if r.cut > 0 {
		o.Logger.Info("raft log: cut a torn last frame, never acknowledged", "bytes", r.cut, "frame", r.nextSeq)
	}
	db := &DB{o: o, deferred: map[nodeID]bool{}, state: r.state, abort: make(chan struct{})}
	h := fileHeader{generation: r.header.generation + 1, firstSeq: r.nextSeq, salt: o.Salt()}
	db.journal, err = writeJournal(o.FS, o.Dir, h, r.state)
	if isNoSpace(err) && b != nil {
		// A full disk must not keep a broker from starting and serving reads: the old file has a reserve.
		o.Logger.Warn("raft log: no space to rewrite the journal, continuing the old one", "err", err)
		db.journal, err = continueJournal(o.FS, o.Dir, r, int64(len(b)))
	}
	if err != nil {
		return nil, fmt.Errorf("open raft log: %w", err)
	}
	db.live, db.marked = db.journal.pos, db.journal.synced
	db.size.Store(db.live)
	return db, nil
}

func randomSalt() (salt [16]byte) {
	_, _ = rand.Read(salt[:]) // never fails since Go 1.24
	return salt
}

// Name is part of raftio.ILogDB.
func (db *DB) Name() string { return Name }

// BinaryFormat is part of raftio.ILogDB; the journal's own header carries the version.
func (db *DB) BinaryFormat() uint32 { return raftio.PlainLogDBBinVersion }

// Abort releases every call that waits for a failed or full disk, as if it had succeeded, and has
// no snapshot recorded any more. The caller promises that nobody is told of their success, and that
// no snapshot file is touched once Aborted is closed.
func (db *DB) Abort() { db.abortOnce.Do(func() { close(db.abort) }) }

// Waiting reports whether calls are held for want of space or because of a failure.
func (db *DB) Waiting() bool { return db.waiting.Load() }

// Aborted is closed by Abort.
func (db *DB) Aborted() <-chan struct{} { return db.abort }

func (db *DB) aborted() bool {
	select {
	case <-db.abort:
		return true
	default:
		return false
	}
}

// Close flushes what was deferred and closes the journal.
func (db *DB) Close() error {
	db.write.Lock()
	defer db.write.Unlock()
	if db.closed {
		return nil
	}
	db.closed = true
	if db.timer != nil {
		db.timer.Stop()
	}
	var err error
	if db.failed == nil {
		if payload := db.appendDeferred(nil, nil); len(payload) > 0 {
			err = db.journal.append(payload)
		}
		if err == nil {
			err = db.journal.file.Fdatasync()
		}
	}
	return errors.Join(err, db.journal.file.Close())
}

// Size is the length of the journal in bytes.
func (db *DB) Size() int64 { return db.size.Load() }

// commit makes a frame durable and then visible. The caller holds write.
func (db *DB) commit(payload []byte, touched map[nodeID]bool) error {
	if db.closed {
		return ErrClosed
	}
	payload = db.appendDeferred(payload, touched)
	if db.failed == nil && !db.waitRoom(len(payload)) {
		db.failed = errAborted // what follows must not be written behind a gap
	}
	if db.failed == nil {
		if err := db.journal.append(payload); err != nil {
			db.fail(err)
		}
		db.size.Store(db.journal.pos)
	}
	if db.failed != nil {
		<-db.abort // then memory goes on alone, for as long as dragonboat needs to stop
	}
	db.mu.Lock()
	err := db.state.replay(payload)
	clear(db.deferred)
	db.mu.Unlock()
	if err != nil {
		panic(fmt.Sprintf("BUG: raft log cannot read its own frame: %v", err))
	}
	if db.failed == nil {
		db.armMark()
	}
	return nil
}

// fail records the first failure and tells the owner.
func (db *DB) fail(err error) {
	db.failed = fmt.Errorf("raft log %s: %w", db.journal.path, err)
	db.waiting.Store(true)
	db.o.Logger.Error("raft log failed: nothing can be committed any more", "err", err)
	if db.o.OnFailed != nil {
		go db.o.OnFailed(db.failed)
	}
}

// waitRoom waits for space. A full disk is no failure: the frame has not been begun. It reports
// false if Abort came first.
func (db *DB) waitRoom(payload int) bool {
	for {
		err := db.journal.room(payload)
		if err == nil {
			db.waiting.Store(false)
			return true
		}
		if !db.waiting.Swap(true) {
			db.o.Logger.Error("raft log: no space, metadata changes wait", "err", err)
		}
		select {
		case <-db.abort:
			return false
		case <-time.After(db.o.fullRetry): //nolint:forbidigo // waits for an operator
		}
	}
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// appendDeferred adds the records of what was changed in memory only, except for replicas in but.
func (db *DB) appendDeferred(b []byte, but map[nodeID]bool) []byte {
	db.mu.RLock()
	defer db.mu.RUnlock()
	for _, id := range db.state.sortedIDs() {
		if !db.deferred[id] {
			continue
		}
		n := db.state.nodes[id]
		if !but[id] && !pb.IsEmptyState(n.state) {
			b = appendMessage(b, recordState, id, nil, &n.state)
		}
		if n.removedTo > 0 {
			b = appendRecord(b, recordRemovedTo, id, binary.AppendUvarint(nil, n.removedTo))
		}
	}
	return b
}

// armMark has the mark of the last frame flushed soon, unless another frame does it first.
func (db *DB) armMark() {
	if db.o.MarkDelay < 0 {
		return
	}
	if db.timer == nil {
		db.timer = time.AfterFunc(db.o.MarkDelay, db.flushMark)
		return
	}
	db.timer.Reset(db.o.MarkDelay)
}

func (db *DB) flushMark() {
	db.write.Lock()
	defer db.write.Unlock()
	if db.closed || db.failed != nil || db.marked == db.journal.synced {
		return
	}
	if err := db.journal.file.Fdatasync(); err != nil {
		db.fail(err)
		return
	}
	db.marked = db.journal.synced
}

// rewriteIfLarge replaces a journal of mostly dead records. The caller holds write.
func (db *DB) rewriteIfLarge() {
	if db.closed || db.failed != nil || db.journal.pos < max(db.o.RewriteBytes, 2*db.live) {
		return
	}
	old := db.journal
	h := fileHeader{generation: old.header.generation + 1, firstSeq: old.nextSeq, salt: db.o.Salt()}
	db.mu.RLock()
	j, err := writeJournal(db.o.FS, db.o.Dir, h, db.state)
	db.mu.RUnlock()
	var lost *directoryError
	switch {
	case errors.As(err, &lost):
		db.fail(err)
		return
	case err != nil:
		// The old file is as good as before. Most likely the disk is full.
		db.o.Logger.Warn("raft log: rewrite failed, keeping the old journal", "err", err)
		db.live = old.pos
		return
	}
	_ = old.file.Close() // its name is gone, its bytes are no longer needed
	clear(db.deferred)
	db.journal, db.live, db.marked = j, j.pos, j.synced
	db.size.Store(j.pos)
}

// SaveRaftState makes entries, votes and received snapshots durable. A mere advance of the commit
// index is deferred to the next frame: raft finds it again by itself.
func (db *DB) SaveRaftState(updates []pb.Update, _ uint64) error {
	db.write.Lock()
	defer db.write.Unlock()
	var payload []byte
	touched := map[nodeID]bool{}
	for i := range updates {
		u := &updates[i]
		id := nodeID{u.ShardID, u.ReplicaID}
		old := db.nodeState(id)
		st := u.State
		if pb.IsEmptyState(st) {
			st = old
		}
		if len(u.EntriesToSave) == 0 && pb.IsEmptySnapshot(u.Snapshot) && st.Term == old.Term && st.Vote == old.Vote {
			db.deferState(id, st, old)
			continue
		}
		if !pb.IsEmptySnapshot(u.Snapshot) {
			if saved, newer := db.newerSnapshot(id, u.Snapshot); newer {
				payload = appendSnapshot(payload, recordInstalled, id, saved)
			}
		}
		for k := range u.EntriesToSave {
			payload = appendMessage(payload, recordEntry, id, nil, &u.EntriesToSave[k])
		}
		if !pb.IsEmptyState(st) {
			payload = appendMessage(payload, recordState, id, nil, &st)
		}
		touched[id] = true
	}
	if len(touched) == 0 {
		return nil
	}
	return db.commit(payload, touched)
}

func (db *DB) nodeState(id nodeID) pb.State {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if n := db.state.nodes[id]; n != nil {
		return n.state
	}
	return pb.State{}
}

func (db *DB) deferState(id nodeID, st, old pb.State) {
	if st.Commit == old.Commit {
		return
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	db.state.node(id).state = st
	db.deferred[id] = true
}

// newerSnapshot reports whether s is newer than the one known, with its checksum.
func (db *DB) newerSnapshot(id nodeID, s pb.Snapshot) (savedSnapshot, bool) {
	db.mu.RLock()
	known := uint64(0)
	if n := db.state.nodes[id]; n != nil {
		known = n.snapshot.meta.Index
	}
	db.mu.RUnlock()
	saved := savedSnapshot{meta: s}
	if s.Index <= known {
		return saved, false
	}
	if db.o.SumFile != nil && !s.Dummy && !s.Witness && db.failed == nil {
		sum, err := db.o.SumFile(s)
		switch {
		case err == nil:
			saved.sum = sum
		case !db.aborted():
			db.fail(fmt.Errorf("checksum of snapshot %d: %w", s.Index, err))
		}
	}
	return saved, true
}

// SaveSnapshots records snapshots that this replica took. The log goes on.
func (db *DB) SaveSnapshots(updates []pb.Update) error {
	db.write.Lock()
	defer db.write.Unlock()
	var payload []byte
	for i := range updates {
		u := &updates[i]
		id := nodeID{u.ShardID, u.ReplicaID}
		if pb.IsEmptySnapshot(u.Snapshot) {
			continue
		}
		if saved, newer := db.newerSnapshot(id, u.Snapshot); newer {
			payload = appendSnapshot(payload, recordSnapshot, id, saved)
		}
	}
	if len(payload) == 0 {
		return nil
	}
	if db.aborted() && db.failed == nil {
		db.failed = errAborted // its file may lack what was written after Abort
	}
	return db.commit(payload, nil)
}

// GetSnapshot returns the newest snapshot's metadata, or an empty one.
func (db *DB) GetSnapshot(shardID, replicaID uint64) (pb.Snapshot, error) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if n := db.state.nodes[nodeID{shardID, replicaID}]; n != nil {
		return n.snapshot.meta, nil
	}
	return pb.Snapshot{}, nil
}

// VerifySnapshot compares the newest snapshot's file with the checksum taken when it was made.
func (db *DB) VerifySnapshot(shardID, replicaID uint64) error {
	db.mu.RLock()
	n := db.state.nodes[nodeID{shardID, replicaID}]
	db.mu.RUnlock()
	if n == nil || db.o.SumFile == nil || n.snapshot.sum == (FileSum{}) {
		return nil
	}
	sum, err := db.o.SumFile(n.snapshot.meta)
	if err != nil {
		return &CorruptionError{File: n.snapshot.meta.Filepath, Reason: err.Error()}
	}
	if sum != n.snapshot.sum {
		return &CorruptionError{
			File: n.snapshot.meta.Filepath, Pos: 0,
			Reason: fmt.Sprintf("%d bytes with checksum %08x, was %d with %08x", sum.Size, sum.CRC, n.snapshot.sum.Size, n.snapshot.sum.CRC),
		}
	}
	return nil
}

// SaveBootstrapInfo is part of raftio.ILogDB.
func (db *DB) SaveBootstrapInfo(shardID, replicaID uint64, b pb.Bootstrap) error {
	db.write.Lock()
	defer db.write.Unlock()
	return db.commit(appendMessage(nil, recordBootstrap, nodeID{shardID, replicaID}, nil, &b), nil)
}

// GetBootstrapInfo is part of raftio.ILogDB.
func (db *DB) GetBootstrapInfo(shardID, replicaID uint64) (pb.Bootstrap, error) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	n := db.state.nodes[nodeID{shardID, replicaID}]
	if n == nil || n.bootstrap == nil {
		return pb.Bootstrap{}, raftio.ErrNoBootstrapInfo
	}
	return *n.bootstrap, nil
}

// ListNodeInfo lists the replicas that were bootstrapped here.
func (db *DB) ListNodeInfo() ([]raftio.NodeInfo, error) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	var out []raftio.NodeInfo
	for _, id := range db.state.sortedIDs() {
		if db.state.nodes[id].bootstrap != nil {
			out = append(out, raftio.NodeInfo{ShardID: id.shard, ReplicaID: id.replica})
		}
	}
	return out, nil
}

// IterateEntries appends the entries [low, high) that are there to ents, until their size exceeds
// maxSize; 0 is no limit.
func (db *DB) IterateEntries(ents []pb.Entry, size, shardID, replicaID, low, high, maxSize uint64) ([]pb.Entry, uint64, error) {
	if maxSize == 0 {
		maxSize = math.MaxUint64
	}
	db.mu.RLock()
	defer db.mu.RUnlock()
	n := db.state.nodes[nodeID{shardID, replicaID}]
	if n == nil {
		return ents, size, nil
	}
	for _, e := range n.entriesFrom(low, high) {
		size += uint64(e.SizeUpperLimit())
		ents = append(ents, e)
		if size > maxSize {
			break
		}
	}
	return ents, size, nil
}

// ReadRaftState returns the state and the range of entries behind a snapshot.
func (db *DB) ReadRaftState(shardID, replicaID, snapshotIndex uint64) (raftio.RaftState, error) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	n := db.state.nodes[nodeID{shardID, replicaID}]
	if n == nil || pb.IsEmptyState(n.state) {
		return raftio.RaftState{}, raftio.ErrNoSavedLog
	}
	rs := raftio.RaftState{State: n.state, FirstIndex: snapshotIndex + 1}
	// A snapshot is of committed entries only, and may be durable before the commit index is.
	rs.State.Commit = max(rs.State.Commit, snapshotIndex)
	if last := n.lastIndex(); len(n.entries) > 0 && last > snapshotIndex {
		if first := n.entries[0].Index; first > snapshotIndex+1 {
			return raftio.RaftState{}, &CorruptionError{
				File: journalName, Reason: fmt.Sprintf("entries begin at %d, the snapshot ends at %d", first, snapshotIndex),
			}
		}
		rs.EntryCount = last - snapshotIndex
	}
	return rs, nil
}

// RemoveEntriesTo forgets entries that a snapshot covers. It is not flushed: a restart that still
// finds them loses nothing.
func (db *DB) RemoveEntriesTo(shardID, replicaID, index uint64) error {
	db.write.Lock()
	defer db.write.Unlock()
	id := nodeID{shardID, replicaID}
	db.mu.Lock()
	db.state.node(id).removeTo(index)
	db.deferred[id] = true
	db.mu.Unlock()
	return nil
}

// CompactEntriesTo gives the space of removed entries back.
func (db *DB) CompactEntriesTo(_, _, _ uint64) (<-chan struct{}, error) {
	db.write.Lock()
	defer db.write.Unlock()
	db.rewriteIfLarge()
	done := make(chan struct{}, 1)
	done <- struct{}{}
	return done, nil
}

// RemoveNodeData forgets a replica.
func (db *DB) RemoveNodeData(shardID, replicaID uint64) error {
	db.write.Lock()
	defer db.write.Unlock()
	id := nodeID{shardID, replicaID}
	delete(db.deferred, id)
	return db.commit(appendRecord(nil, recordRemoved, id, nil), nil)
}

// ImportSnapshot replaces all that is known of a replica by a snapshot.
func (db *DB) ImportSnapshot(s pb.Snapshot, replicaID uint64) error {
	db.write.Lock()
	defer db.write.Unlock()
	id := nodeID{s.ShardID, replicaID}
	saved := savedSnapshot{meta: s}
	delete(db.deferred, id)
	payload := appendRecord(nil, recordRemoved, id, nil)
	payload = appendMessage(payload, recordBootstrap, id, nil, &pb.Bootstrap{Join: true, Type: s.Type})
	payload = appendMessage(payload, recordState, id, nil, &pb.State{Term: s.Term, Commit: s.Index})
	payload = appendSnapshot(payload, recordInstalled, id, saved)
	return db.commit(payload, nil)
}

// Report logs what has nobody else to tell.
func (db *DB) Report(what string, err error) { db.o.Logger.Warn(what, "err", err) }
