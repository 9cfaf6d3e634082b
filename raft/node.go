package raft

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/client"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/dragonboat/v4/statemachine"

	"millrace/engine/disk"
	"millrace/raft/logdb"
)

// Constants that a directory is bound to for life.
const (
	shardID      = 1
	deploymentID = 0x6d696c6c72616365 // "millrace": the cluster's own id is in its first command
)

const (
	rttMillis     = 5
	electionTicks = 10

	defaultSnapshotEntries = 4000
	keptEntries            = 1000     // behind a snapshot, for replicas that are a little late
	maxLogBytes            = 32 << 20 // of commands since the last snapshot, before another one is taken
	maxInMemoryLog         = 64 << 20
	snapshotSlack          = 16 << 20 // free space that a snapshot must leave

	// Close waits for a full disk, for a slow one, and for what an abort releases.
	waitTimeout    = time.Second
	readTimeout    = time.Second      // of one attempt to read in a cluster
	forwardTimeout = 2 * time.Second  // of one proposal in a cluster: an election takes less
	defaultTimeout = 10 * time.Second // of a Propose or Latest whose context has no deadline
	closeTimeout   = 10 * time.Second
	abandonTimeout = 300 * time.Millisecond
)

// Errors of Node's calls.
var (
	ErrClosed = errors.New("raft: node is closed")
	// ErrOutcomeUnknown: the command may have been applied, may still be, or is lost. Look at the image
	// or propose again: commands are compare-and-set.
	ErrOutcomeUnknown = errors.New("raft: outcome of the proposal is unknown")
	// ErrNotReady: the command was certainly not applied; no leader took it in time.
	ErrNotReady = errors.New("raft: no leader took the proposal")
	// ErrAbandoned is Close's answer when the disk holds a part of the node.
	ErrAbandoned = errors.New("raft: the node waits for its disk and was abandoned")
)

// Options of Open.
type Options struct {
	// Dir belongs to this package alone.
	Dir string
	FS  disk.FS // nil: the machine's
	// NodeID is the broker's id; ReplicaID its raft replica's, never reused; 0 makes NodeID+1.
	NodeID    int32
	ReplicaID uint64
	// ExpectFormed refuses an empty log: the data directory belongs to a formed cluster, so that the
	// metadata was here and is lost.
	ExpectFormed bool
	Logger       *slog.Logger
	// OnFailed is told once, on its own goroutine, that this replica can go no further: its log
	// cannot be written, or it met a command that it cannot apply. The process should stop.
	OnFailed func(error)
	// SnapshotEntries is how many commands lie between two snapshots.
	SnapshotEntries uint64
	// ReadyTimeout bounds Open's wait for a leader.
	ReadyTimeout time.Duration
	// Cluster gives the node a cluster port. Open then does not wait for the others: AwaitReady does.
	Cluster *Cluster
}

// Node is one replica of the metadata. It is safe for concurrent use.
type Node struct {
	o       Options
	replica atomic.Uint64
	cluster *clusterNode // nil without a cluster port
	lock    io.Closer
	log     *logdb.DB
	files   *libraryFS
	host    atomic.Pointer[dragonboat.NodeHost]
	sm      *stateMachine

	failed   atomic.Pointer[error] // the first failure
	ready    atomic.Bool           // Open has returned
	closing  chan struct{}
	closed   sync.Once
	workers  sync.WaitGroup
	closeErr error

	snapshotting sync.Mutex
}

// ErrMetadataLost is what ExpectFormed refuses with.
var ErrMetadataLost = errors.New("raft: this data directory belongs to a formed cluster, but its metadata log is empty or gone")

// Open starts the replica of a directory as the only voter, creating it if it is empty, and
// returns once its image holds everything that was ever acknowledged.
func Open(o Options) (*Node, error) {
	if o.FS == nil {
		o.FS = disk.OS()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.ReplicaID == 0 {
		o.ReplicaID = uint64(o.NodeID) + 1
	}
	if o.SnapshotEntries == 0 {
		o.SnapshotEntries = defaultSnapshotEntries
	}
	if o.ReadyTimeout == 0 {
		o.ReadyTimeout = time.Minute
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("raft: %w", err)
	}
	o.Dir = dir
	routeLibraryLog(o.Logger)
	n := &Node{o: o, closing: make(chan struct{})}
	n.replica.Store(o.ReplicaID)
	if o.Cluster != nil {
		n.cluster = newClusterNode(n)
	}
	n.sm = newStateMachine(n.fail, n.mayWriteSnapshot)
	if err := n.open(); err != nil {
		_ = n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Node) open() (err error) {
	if err := disk.MkdirAllDurable(n.o.FS, n.o.Dir, 0o755); err != nil {
		return fmt.Errorf("raft: %w", err)
	}
	if n.lock, err = n.o.FS.Lock(filepath.Join(n.o.Dir, "lock")); err != nil {
		return fmt.Errorf("raft: %w", err)
	}
	name, err := os.Hostname()
	if err != nil || name == "" || strings.ContainsRune(name, filepath.Separator) {
		return fmt.Errorf("raft: this machine has no usable host name (%q): %w", name, err)
	}
	n.log, err = logdb.Open(logdb.Options{
		Dir: filepath.Join(n.o.Dir, "log"), FS: n.o.FS, OnFailed: n.fail, Logger: n.o.Logger,
		SumFile: func(s raftpb.Snapshot) (logdb.FileSum, error) {
			return sumFile(n.o.FS, filepath.Join(n.o.Dir, snapshotDir, n.snapshotPath(s)))
		},
	})
	if err != nil {
		return err
	}
	if n.cluster != nil {
		err = n.cluster.open()
	} else {
		err = n.checkIdentity()
	}
	if err != nil {
		return err
	}
	if err := n.log.VerifySnapshot(shardID, n.replicaID()); err != nil {
		return err
	}
	n.files = &libraryFS{
		fs: n.o.FS, dir: n.o.Dir, host: name, log: n.o.Logger, fail: n.fail, aborted: n.log.Aborted(),
	}
	if err := n.start(); err != nil {
		return n.orFailure(err)
	}
	if n.cluster != nil {
		n.workers.Go(n.cluster.claim)
		n.ready.Store(true)
		if err := n.failed.Load(); err != nil {
			return *err
		}
		return nil
	}
	if err := n.awaitLeader(); err != nil {
		return n.orFailure(err)
	}
	// A command of this term is applied after all that came before it: then the image is complete.
	ctx, cancel := context.WithTimeout(context.Background(), n.o.ReadyTimeout)
	defer cancel()
	if _, err := n.Propose(ctx, BecomeController{NodeID: n.o.NodeID}); err != nil {
		return n.orFailure(fmt.Errorf("raft: not ready: %w", err))
	}
	n.ready.Store(true)
	if err := n.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// checkIdentity refuses a log of another replica, and an empty one that ought not to be.
func (n *Node) checkIdentity() error {
	known, err := n.log.ListNodeInfo()
	if err != nil {
		return err
	}
	for _, k := range known {
		if k.ShardID != shardID || k.ReplicaID != n.replicaID() {
			return fmt.Errorf("raft: %s is the log of replica %d, not of %d: a node of a cluster starts with raft-cluster, and --node-id never changes", n.o.Dir, k.ReplicaID, n.replicaID())
		}
	}
	if len(known) == 0 {
		if n.o.ExpectFormed {
			return fmt.Errorf("%w: %s", ErrMetadataLost, n.o.Dir)
		}
		return nil
	}
	voters, isVoter, err := n.membersOnDisk()
	if err != nil {
		return err
	}
	if len(voters) > 1 || !isVoter {
		return fmt.Errorf("%w: %s has %d voters", ErrClusterDirectory, n.o.Dir, len(voters))
	}
	return nil
}

func (n *Node) replicaID() uint64 { return n.replica.Load() }

// start starts dragonboat on a goroutine of its own, because it may meet a disk that holds it for good.
func (n *Node) start() error {
	started := make(chan error, 1)
	go func() { started <- n.startLibrary() }()
	deadline := after(n.o.ReadyTimeout)
	for {
		select {
		case err := <-started:
			return err
		case <-deadline:
			n.log.Abort()
		case <-n.log.Aborted():
			for range 30 { // looks, as in closeHost
				select {
				case err := <-started:
					return err
				case <-after(abandonTimeout / 30):
				}
			}
			return fmt.Errorf("start: %w", ErrAbandoned)
		}
	}
}

// startLibrary runs dragonboat, which reports some failures of its start by panics.
func (n *Node) startLibrary() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("raft: %v", p)
		}
	}()
	nodeHost := config.NodeHostConfig{
		DeploymentID:   deploymentID,
		NodeHostDir:    n.o.Dir,
		RTTMillisecond: rttMillis,
		RaftAddress:    replicaAddress(n.replicaID()),
		Expert: config.ExpertConfig{
			LogDBFactory:     logFactory{n.log},
			TransportFactory: transportFactory{},
			// One group needs one worker of each kind.
			Engine: config.EngineConfig{ExecShards: 1, CommitShards: 1, ApplyShards: 1, SnapshotShards: 1, CloseShards: 1},
			LogDB:  config.LogDBConfig{Shards: 1},
			FS:     n.files,
		},
	}
	replica := config.Config{
		ReplicaID:           n.replicaID(),
		ShardID:             shardID,
		CheckQuorum:         true,
		PreVote:             true,
		ElectionRTT:         electionTicks,
		HeartbeatRTT:        1,
		SnapshotEntries:     n.o.SnapshotEntries,
		CompactionOverhead:  keptEntries,
		MaxInMemLogSize:     maxInMemoryLog,
		OrderedConfigChange: true,
	}
	members, join := map[uint64]string{n.replicaID(): replicaAddress(n.replicaID())}, false
	if n.cluster != nil {
		if members, join, err = n.cluster.configure(&nodeHost, &replica); err != nil {
			return err
		}
	}
	host, err := dragonboat.NewNodeHost(nodeHost)
	if err != nil {
		return fmt.Errorf("raft: %w", err)
	}
	n.host.Store(host)
	n.files.started.Store(true) // from here on dragonboat's own goroutines meet the disk
	create := func(uint64, uint64) statemachine.IConcurrentStateMachine { return n.sm }
	if err := host.StartConcurrentReplica(members, join, create, replica); err != nil {
		return fmt.Errorf("raft: %w", err)
	}
	if n.cluster != nil {
		n.cluster.port.ServeRaft()
	}
	return nil
}

// awaitLeader waits for the election: dragonboat would only refuse proposals, with a warning each.
func (n *Node) awaitLeader() error {
	deadline := now().Add(n.o.ReadyTimeout)
	for {
		if _, _, ok, err := n.host.Load().GetLeaderID(shardID); ok && err == nil {
			return nil
		}
		select {
		case <-n.log.Aborted():
			return errors.New("raft: stopped while waiting for a leader")
		case <-after(time.Millisecond):
		}
		if now().After(deadline) {
			return fmt.Errorf("%w: no election within %v", ErrNotReady, n.o.ReadyTimeout)
		}
	}
}

// Image returns the newest image. It never blocks.
func (n *Node) Image() *Image { return n.sm.image.Load() }

// IsController reports whether this node may send the commands of a controller.
func (n *Node) IsController() bool {
	_, ok := n.ControllerEpoch()
	return ok
}

// Propose commits a command and returns what the state machine answered. An error says that there
// is no answer: ErrOutcomeUnknown, ErrNotReady, ErrClosed or ErrCommandTooLarge. A refusal by the
// state machine is no error here but Result.Err(). Without a deadline in ctx it waits ten seconds.
func (n *Node) Propose(ctx context.Context, c Command) (Result, error) {
	b, err := encodeCommand(c)
	if err != nil {
		return Result{}, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	session := n.host.Load().GetNoOPSession(shardID)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if n.isClosing() {
			return Result{}, ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return Result{}, fmt.Errorf("%w: %w", ErrNotReady, err)
		}
		r, err := n.proposeOnce(ctx, session, b)
		switch {
		case n.isClosing():
			// Whatever it says: a log that was aborted reports success too.
			return Result{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ErrClosed)
		case err == nil:
			n.snapshotIfLarge()
			return decodeResult(r.Data)
		case errors.Is(err, dragonboat.ErrShardNotReady), errors.Is(err, dragonboat.ErrSystemBusy):
			// Refused before it entered the log: try again.
		case errors.Is(err, dragonboat.ErrTimeoutTooSmall), errors.Is(err, dragonboat.ErrInvalidDeadline):
			return Result{}, fmt.Errorf("%w: %w", ErrNotReady, context.DeadlineExceeded)
		case errors.Is(err, dragonboat.ErrClosed), errors.Is(err, dragonboat.ErrShardClosed):
			return Result{}, ErrClosed
		default:
			return Result{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
		}
		select {
		case <-ctx.Done():
			return Result{}, fmt.Errorf("%w: %w", ErrNotReady, ctx.Err())
		case <-n.closing:
			return Result{}, ErrClosed
		case <-after(wait):
		}
	}
}

// proposeOnce does not wait for the caller's whole patience in a cluster: what was forwarded to a leader that died is
// lost, and only silence says so.
func (n *Node) proposeOnce(ctx context.Context, session *client.Session, b []byte) (statemachine.Result, error) {
	if n.cluster != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, forwardTimeout)
		defer cancel()
	}
	return n.host.Load().SyncPropose(ctx, session, b)
}

// ProposeAgain is Propose for commands whose repetition is answered like the first time, or refused in a way that the
// caller understands: it proposes again for as long as the outcome is unknown and ctx lasts.
func (n *Node) ProposeAgain(ctx context.Context, c Command) (Result, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*defaultTimeout)
		defer cancel()
	}
	for {
		r, err := n.Propose(ctx, c)
		if !errors.Is(err, ErrOutcomeUnknown) || ctx.Err() != nil || n.isClosing() {
			return r, err
		}
	}
}

// Latest returns an image that holds everything acknowledged by any replica before the call: it asks
// a quorum. Image is what this replica happens to know.
func (n *Node) Latest(ctx context.Context) (*Image, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	for {
		attempt, cancel := n.readAttempt(ctx)
		m, err := n.host.Load().SyncRead(attempt, shardID, nil)
		cancel()
		switch {
		case n.isClosing():
			return nil, ErrClosed
		case err == nil:
			return m.(*Image), nil
		case !n.readAgain(ctx, err):
			return nil, fmt.Errorf("%w: %w", ErrNotReady, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrNotReady, ctx.Err())
		case <-n.closing:
			return nil, ErrClosed
		case <-after(time.Millisecond):
		}
	}
}

// readAttempt bounds one attempt to read in a cluster: what was forwarded to a leader that died is never answered.
func (n *Node) readAttempt(ctx context.Context) (context.Context, context.CancelFunc) {
	if n.cluster == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, readTimeout)
}

// readAgain reports whether a read that failed may succeed within ctx. Reads change nothing: they are repeated.
func (n *Node) readAgain(ctx context.Context, err error) bool {
	if errors.Is(err, dragonboat.ErrShardNotReady) || errors.Is(err, dragonboat.ErrSystemBusy) {
		return true
	}
	return n.cluster != nil && ctx.Err() == nil && (errors.Is(err, dragonboat.ErrTimeout) || errors.Is(err, dragonboat.ErrAborted))
}

// Stats are figures for metrics.
type Stats struct {
	Index    uint64 // of the newest image
	LogBytes int64  // length of the log's journal
	Waiting  bool   // changes wait for space, or the log has failed
}

// Stats returns the figures of the moment.
func (n *Node) Stats() Stats {
	return Stats{Index: n.Image().Index, LogBytes: n.log.Size(), Waiting: n.log.Waiting()}
}

// WaitIndex returns the newest image once it has reached a raft index.
func (n *Node) WaitIndex(ctx context.Context, index uint64) (*Image, error) {
	for {
		m, changed := n.sm.newest()
		if m.Index >= index {
			return m, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return m, ctx.Err()
		case <-n.closing:
			return m, ErrClosed
		}
	}
}

// Updates calls f, on a goroutine of its own, with the image it saw last and the newest one, first
// with an empty image as old. Images that came and went meanwhile are skipped: f sees the newest, and
// takes the difference (TopicChanges, ConfigChanges). After stop has returned f is not called any
// more; neither stop nor Close may be called from f, they wait for it.
func (n *Node) Updates(f func(old, now *Image)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	n.workers.Go(func() {
		defer close(done)
		for old := newImage(); ; {
			now, changed := n.sm.newest()
			if now != old && ctx.Err() == nil {
				f(old, now)
				old = now
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			case <-n.closing:
				return
			}
		}
	})
	return func() {
		cancel()
		<-done
	}
}

// Close stops the replica. Everything that was acknowledged is durable without it. On a disk that is
// full or failed it gives up what waits there; ErrAbandoned then says that not everything could be
// stopped, which is good enough for a process that ends.
func (n *Node) Close() error {
	n.closed.Do(func() {
		close(n.closing)
		if n.cluster != nil {
			n.cluster.done.Store(true)
		}
		n.workers.Wait()
		n.sm.stop()
		n.closeErr = n.close()
		if n.cluster != nil && n.cluster.port != nil {
			n.closeErr = errors.Join(n.closeErr, n.cluster.port.Close())
		}
	})
	return n.closeErr
}

func (n *Node) close() (err error) {
	switch {
	case n.host.Load() != nil:
		err = n.closeHost() // and the log
	case n.log != nil:
		err = n.log.Close()
	}
	if n.lock != nil && !errors.Is(err, ErrAbandoned) {
		err = errors.Join(err, n.lock.Close())
	}
	return err
}

// closeHost stops dragonboat, which waits for what its workers are doing.
func (n *Node) closeHost() error {
	done := make(chan struct{})
	go func() {
		n.host.Load().Close()
		close(done)
	}()
	// Time is counted in looks: on a machine that does not let this process run it does not pass.
	const look = 10 * time.Millisecond
	begun, stuck, aborted := time.Duration(0), time.Duration(0), time.Duration(-1)
	for {
		select {
		case <-done:
			return nil
		case <-after(look):
			begun += look
			stuck += look
			if !n.log.Waiting() && !n.files.waiting.Load() {
				stuck = 0
			}
			hopeless := n.failed.Load() != nil || stuck > waitTimeout || begun > closeTimeout
			switch {
			case hopeless && aborted < 0:
				n.log.Abort() // nobody is told of success from here on
				aborted = begun
			case aborted >= 0 && begun-aborted > abandonTimeout:
				return ErrAbandoned
			}
		}
	}
}

func (n *Node) isClosing() bool {
	select {
	case <-n.closing:
		return true
	default:
		return false
	}
}

// fail reports the first failure. While Open runs it is Open that reports it, once what waits for
// the disk has been released.
func (n *Node) fail(err error) {
	if !n.failed.CompareAndSwap(nil, &err) {
		return
	}
	n.o.Logger.Error("metadata replica stopped", "err", err)
	if !n.ready.Load() {
		n.log.Abort()
		return
	}
	if n.o.OnFailed != nil {
		go n.o.OnFailed(err)
	}
}

// orFailure prefers the failure that was at the bottom of err.
func (n *Node) orFailure(err error) error {
	if failed := n.failed.Load(); failed != nil {
		return *failed
	}
	return err
}

// mayWriteSnapshot postpones a snapshot that would fill the disk: dragonboat ends the process if a
// snapshot cannot be written, and the log is good without it.
func (n *Node) mayWriteSnapshot(size int64) error {
	free, _, err := n.o.FS.Statfs(n.o.Dir)
	if err != nil {
		return err
	}
	if free < 2*size+snapshotSlack {
		n.o.Logger.Warn("metadata snapshot postponed: no space", "free", free, "size", size)
		return fmt.Errorf("only %d bytes free", free)
	}
	return nil
}

// snapshotIfLarge bounds the log by bytes where few but large commands are proposed.
func (n *Node) snapshotIfLarge() {
	if n.log.Size() < maxLogBytes || !n.snapshotting.TryLock() {
		return
	}
	defer n.snapshotting.Unlock()
	option := dragonboat.SnapshotOption{OverrideCompactionOverhead: true, CompactionOverhead: 1}
	if _, err := n.host.Load().RequestSnapshot(shardID, option, time.Minute); err != nil {
		n.o.Logger.Warn("metadata snapshot not taken", "err", err)
	}
}

// snapshotPath is where dragonboat keeps a snapshot's file, below its host name.
func (n *Node) snapshotPath(s raftpb.Snapshot) string {
	parts := strings.Split(s.Filepath, string(filepath.Separator))
	// <dir>/<host>/<deployment>/<part>/<replica>/<snapshot>/<file>
	if len(parts) < 5 {
		return s.Filepath
	}
	return filepath.Join(parts[len(parts)-5:]...)
}

func sumFile(fsys disk.FS, path string) (s logdb.FileSum, err error) {
	f, err := fsys.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return s, err
	}
	defer func() { _ = f.Close() }()
	size, err := f.Size()
	if err != nil {
		return s, err
	}
	buf := make([]byte, 256<<10)
	for at := int64(0); at < size; {
		p := buf[:min(int64(len(buf)), size-at)]
		if k, err := f.ReadAt(p, at); k < len(p) {
			return s, fmt.Errorf("read %s: %w", path, err)
		}
		s.CRC = crc32.Update(s.CRC, castagnoli, p)
		at += int64(len(p))
	}
	s.Size = uint64(size)
	return s, nil
}

// logFactory hands an open log to dragonboat.
type logFactory struct{ log *logdb.DB }

// Create is part of config.LogDBFactory.
func (f logFactory) Create(config.NodeHostConfig, config.LogDBCallback, []string, []string) (raftio.ILogDB, error) {
	return closingLog{f.log}, nil
}

// closingLog keeps the error of the last flush from dragonboat, which would end the process: all that was acknowledged
// is durable without it.
type closingLog struct{ *logdb.DB }

// Close is part of raftio.ILogDB.
func (l closingLog) Close() error {
	if err := l.DB.Close(); err != nil {
		l.Report("raft log: closing failed", err)
	}
	return nil
}

// Name is part of config.LogDBFactory.
func (f logFactory) Name() string { return logdb.Name }
