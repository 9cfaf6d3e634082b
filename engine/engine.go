package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/klauspost/crc32"

	"millrace/engine/disk"
)

// Engine is the logs of one data directory.
type Engine struct {
	o    Options
	fs   disk.FS
	lock io.Closer

	metaMu sync.Mutex // guards meta after Open, and its file
	meta   Meta

	shards  []*Shard
	files   *fileCache
	indexes *indexCache

	// mu guards the registry. Log.mu may be taken while it is held.
	mu        sync.RWMutex
	logs      map[logKey]*Log
	byID      map[uint64]*Log
	nextLogID atomic.Uint64

	report RecoveryReport
	opened time.Time // what Shard.oldest counts from

	failed   atomic.Pointer[error] // first failed write or flush
	failedCh chan struct{}
	closing  atomic.Bool
	diskFull atomic.Bool

	started     atomic.Bool
	quit        chan struct{}
	threads     sync.WaitGroup
	drivers     sync.WaitGroup
	stopDrivers atomic.Bool
	closeOnce   sync.Once
	buffered    atomic.Bool // the filesystem has no direct I/O
	stalls      int         // manual only

	logsDirMu    sync.Mutex      // one flush of logs/ at a time
	logsDirDirty atomic.Bool     // logs/ has a new folder that is not flushed
	strays       strays          // files to delete, until that is done
	unknownIDs   map[uint64]bool // ids of folders whose logs nobody knows: not given out. Not changed after Open
}

type logKey struct {
	topic     TopicID
	partition int32
}

// RecoveryReport says what Open found.
type RecoveryReport struct {
	Logs            int
	Quarantined     []QuarantinedLog
	Damage          []CorruptionError // every damaged place that was found
	Unknown         []string          // folders of logs that nobody knows, and nobody has dropped: kept
	CheckpointBytes int64
	WALBytes        int64
	Commits         int // replayed
	Records         int
	TornCommits     int // unfinished commits at the end of a WAL
	Duration        time.Duration
	DirectoryID     [16]byte
	// SameBoot: the kernel has run since the last start, so completed writes are
	// all there, flushed or not.
	SameBoot bool

	// For tests: LSN of the newest unfinished commit, and of the newest finished one behind it; 0: none.
	torn, behind uint64
}

// QuarantinedLog is a log that damage may have reached.
type QuarantinedLog struct {
	LogID     uint64
	Topic     string
	TopicID   TopicID
	Partition int32
	Offset    int64 // everything below is there
	Reason    string
}

// Open locks the data directory, recovers it and returns an engine whose logs can be
// read and appended to once Start was called and the attached shards are polled.
func Open(o Options) (*Engine, error) {
	o = o.withDefaults()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	e := &Engine{
		o:        o,
		fs:       o.FS,
		logs:     make(map[logKey]*Log),
		byID:     make(map[uint64]*Log),
		opened:   o.Now(),
		failedCh: make(chan struct{}),
		quit:     make(chan struct{}),
		indexes:  newIndexCache(),
	}
	e.files = newFileCache(o.FS, e.openDirect, o.OpenFilesMax)
	if err := e.open(); err != nil {
		e.release()
		return nil, err
	}
	return e, nil
}

func (e *Engine) open() error {
	began := e.now()
	e.o.onWindow(winRecovery)
	defer e.o.onWindow(winIdle)
	if err := disk.MkdirAllDurable(e.fs, e.o.Dir, 0o755); err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	lock, err := e.fs.Lock(e.o.path(lockName))
	if errors.Is(err, disk.ErrLocked) {
		return fmt.Errorf("engine: %s is used by another process: %w", e.o.Dir, err)
	} else if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	e.lock = lock
	e.meta, e.report.SameBoot, err = openMeta(&e.o)
	if err != nil {
		return err
	}
	e.report.DirectoryID = e.meta.DirectoryID
	if err := disk.MkdirAllDurable(e.fs, e.o.path(logsName), 0o755); err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	ids, err := e.shardIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		s, err := newShard(e, id)
		if err != nil {
			return err
		}
		e.shards = append(e.shards, s)
		if err := s.recover(); err != nil {
			return fmt.Errorf("engine: shard %d: %w", id, err)
		}
	}
	for _, s := range e.shards {
		if err := s.openQueue(); err != nil {
			return err
		}
	}
	if err := e.noteStrays(); err != nil {
		return err
	}
	e.checkSpace()
	e.report.Logs = len(e.byID)
	e.report.Duration = e.now().Sub(began)
	return nil
}

// shardIDs are the shard folders that exist and those that are asked for.
func (e *Engine) shardIDs() ([]int, error) {
	names, err := e.fs.ReadDir(e.o.Dir)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	ids := make(map[int]bool)
	for i := range e.o.Shards {
		ids[i] = true
	}
	for _, name := range names {
		if digits, ok := strings.CutPrefix(name, "shard-"); ok {
			if id, err := strconv.Atoi(digits); err == nil && id >= 0 {
				ids[id] = true
			}
		}
	}
	list := make([]int, 0, len(ids))
	for id := range ids {
		list = append(list, id)
	}
	sort.Ints(list)
	return list, nil
}

// openQueue opens the submission queue.
func (s *Shard) openQueue() error {
	q, warning, err := s.e.o.NewQueue(s.e.o.IO, queueDepth)
	if err != nil {
		return fmt.Errorf("engine: WAL queue: %w", err)
	}
	if warning != "" {
		s.e.o.Warn("%s", warning)
	}
	s.queue = q
	if fd := q.EventFD(); fd >= 0 {
		if s.wake, err = newWakeup(fd); err != nil {
			return err
		}
	}
	return nil
}

// release frees what an engine that does not run holds.
func (e *Engine) release() {
	for _, s := range e.shards {
		s.polling.Lock()
		if s.queue != nil {
			_ = s.queue.Close()
			s.queue = nil
		}
		if s.wake != nil {
			s.wake.close()
			s.wake = nil
		}
		s.polling.Unlock()
		for _, w := range append(append(append([]*walFile(nil), s.fullFiles...), s.freeFiles...), append(s.keptFiles, s.cur)...) {
			if w != nil {
				_ = w.f.Close()
			}
		}
		s.writer.close()
		freeSlabs(s.slabs)
	}
	e.files.close()
	if e.lock != nil {
		_ = e.lock.Close()
	}
}

// now is the clock given in the options.
func (e *Engine) now() time.Time { return e.o.Now() }

// Recovery says what Open found.
func (e *Engine) Recovery() RecoveryReport { return e.report }

// DirectoryID is the random id of the data directory.
func (e *Engine) DirectoryID() [16]byte { return e.meta.DirectoryID }

// ClusterID is the cluster that the directory belongs to, "" before the first formation.
func (e *Engine) ClusterID() string {
	e.metaMu.Lock()
	defer e.metaMu.Unlock()
	return e.meta.ClusterID
}

// SetClusterID binds the directory to a cluster. It may be done once.
func (e *Engine) SetClusterID(id string) error {
	e.metaMu.Lock()
	defer e.metaMu.Unlock()
	switch e.meta.ClusterID {
	case id:
		return nil
	case "":
	default:
		return fmt.Errorf("engine: directory belongs to cluster %s, not %s", e.meta.ClusterID, id)
	}
	m := e.meta
	m.ClusterID = id
	if err := disk.WriteFileAtomic(e.fs, e.o.path(metaName), m.encode()); err != nil {
		return err
	}
	e.meta = m
	return nil
}

// Shards returns the shards, those of earlier settings included.
func (e *Engine) Shards() []*Shard { return e.shards }

// MaxBatchBytes is the largest batch that an append takes.
func (e *Engine) MaxBatchBytes() int {
	return e.o.CommitBytesMax - blockSize
}

// Log returns the log of a partition, nil if there is none.
func (e *Engine) Log(id TopicID, partition int32) *Log {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.logs[logKey{id, partition}]
}

// Logs returns all logs in order of creation.
func (e *Engine) Logs() []*Log {
	e.mu.RLock()
	list := make([]*Log, 0, len(e.logs))
	for _, l := range e.logs {
		list = append(list, l)
	}
	e.mu.RUnlock()
	slices.SortFunc(list, func(a, b *Log) int { return cmp.Compare(a.id, b.id) })
	return list
}

// logsOf returns the logs of a shard in order of creation, those included whose Drop no
// checkpoint has yet.
func (e *Engine) logsOf(s *Shard) []*Log {
	e.mu.RLock()
	list := make([]*Log, 0, len(e.byID))
	for _, l := range e.byID {
		if l.s == s {
			list = append(list, l)
		}
	}
	e.mu.RUnlock()
	slices.SortFunc(list, func(a, b *Log) int { return cmp.Compare(a.id, b.id) })
	return list
}

// LogSpec describes a log to create.
type LogSpec struct {
	TopicID   TopicID
	Topic     string
	Partition int32
	Config    LogConfig
}

// maxTopicBytes is Kafka's limit for a topic name.
const maxTopicBytes = 249

// CreateLogs creates logs and returns when their Create records are durable. It blocks. When one
// exists already nothing is created.
func (e *Engine) CreateLogs(specs []LogSpec) ([]*Log, error) {
	if err := e.refusal(); err != nil {
		return nil, err
	}
	e.mu.Lock()
	seen := make(map[logKey]bool, len(specs))
	for _, spec := range specs {
		k := logKey{spec.TopicID, spec.Partition}
		if e.logs[k] != nil || seen[k] {
			e.mu.Unlock()
			return nil, fmt.Errorf("%w: %s-%d", ErrExists, spec.Topic, spec.Partition)
		}
		if spec.Topic == "" || len(spec.Topic) > maxTopicBytes {
			e.mu.Unlock()
			return nil, fmt.Errorf("engine: topic name of %d bytes", len(spec.Topic))
		}
		seen[k] = true
	}
	created := make([]*Log, 0, len(specs))
	for _, spec := range specs {
		id := e.nextLogID.Add(1)
		for e.unknownIDs[id] {
			id = e.nextLogID.Add(1)
		}
		s := e.shards[int(id)%min(len(e.shards), e.o.Shards)]
		l := newLog(e, s, id, createPayload{topicID: spec.TopicID, partition: spec.Partition, topic: spec.Topic})
		l.SetConfig(spec.Config)
		// Until its record is there nobody may append.
		l.dropped = true
		e.logs[logKey{spec.TopicID, spec.Partition}] = l
		e.byID[id] = l
		created = append(created, l)
	}
	e.mu.Unlock()
	var failure error
	waits := make([]*waiter, 0, len(created))
	for _, l := range created {
		w, err := l.recordCreate()
		if err != nil {
			failure = err
			break
		}
		waits = append(waits, w)
	}
	for _, w := range waits {
		if err := e.await(w); err != nil && failure == nil {
			failure = err
		}
	}
	if failure != nil {
		e.forget(created)
		return nil, failure
	}
	return created, nil
}

// recordCreate adds the Create record, waiting for room if it must, and opens the log for appends.
func (l *Log) recordCreate() (*waiter, error) {
	c := createPayload{topicID: l.topicID, partition: l.partition, topic: l.topic}
	payload := c.appendTo(nil)
	for {
		w, err := l.tryCreate(payload)
		if !errors.Is(err, ErrBusy) {
			return w, err
		}
		if err := l.e.waitRoom(l.s); err != nil {
			return nil, err
		}
	}
}

func (l *Log) tryCreate(payload []byte) (*waiter, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	res, err := l.s.reserve(l, len(payload), false, false)
	if err != nil {
		return nil, err
	}
	w := newWaiter()
	copy(res.payload(len(payload)), payload)
	l.seq++
	row := walRow{logID: l.id, hw: -1, seq: l.seq, length: uint32(len(payload)), crc: crc32.Checksum(payload, castagnoli), leaderEpoch: -1, pos: uint32(res.pos), kind: recCreate}
	res.c.putRow(res.row, &row)
	res.c.rows[res.row] = rowRef{log: l, seq: l.seq, end: -1, wait: w}
	l.ops = append(l.ops, logOp{kind: recCreate, seq: l.seq, lsn: res.c.lsn})
	l.touched(res.c.lsn)
	l.dropped = false
	l.s.landed(&res)
	return w, nil
}

// WaitRoom blocks until an append to the log that got ErrBusy may be tried again. Not on a loop thread.
func (l *Log) WaitRoom() error { return l.e.waitRoom(l.s) }

// waitRoom blocks until a shard may have room again.
func (e *Engine) waitRoom(s *Shard) error {
	if e.o.manual {
		s.Poll()
		s.writer.step()
		s.writer.stepRound()
		e.noteStall()
		return e.failure()
	}
	room := make(chan struct{})
	s.OnRoom(func() { close(room) })
	select {
	case <-room:
		return nil
	case <-e.failedCh:
		return ErrFailed
	}
}

// await blocks until a record is durable.
func (e *Engine) await(w *waiter) error {
	if e.o.manual {
		return e.awaitManual(w)
	}
	select {
	case <-w.done:
		return w.err
	case <-e.failedCh:
		return ErrFailed
	}
}

// awaitManual drives the shards until w is complete: there are no threads.
func (e *Engine) awaitManual(w *waiter) error {
	for range 1 << 16 {
		select {
		case <-w.done:
			return w.err
		default:
		}
		e.noteStall()
		for _, s := range e.shards {
			s.Poll()
			s.writer.step()
			s.writer.stepRound()
		}
		if err := e.failure(); err != nil {
			return err
		}
	}
	panic("BUG: record never became durable: " + e.describe())
}

// describe prints what decides whether commits go on.
func (e *Engine) describe() string {
	var b strings.Builder
	for _, s := range e.shards {
		s.mu.Lock()
		fmt.Fprintf(&b, "shard %d: open %v, %d closed, %d in flight, pledged %d, next LSN %d, written %d, durable %d, slabs %d free of %d, replay LSN %d, WAL dirty %v\n",
			s.id, s.open != nil, len(s.closed), s.inFlight, s.pledged, s.nextLSN, s.writtenLSN.Load(), s.durableLSN.Load(), len(s.freeSlabs), len(s.slabs), s.writer.checkpoint.replayLSN, s.walDirty)
		for _, w := range s.fullFiles {
			fmt.Fprintf(&b, "  full %s: generation %d, commits %d to %d\n", w.name, w.generation, w.firstLSN, w.lastLSN)
		}
		for _, w := range s.freeFiles {
			fmt.Fprintf(&b, "  free %s\n", w.name)
		}
		if s.cur != nil {
			fmt.Fprintf(&b, "  current %s: generation %d from %d, %d of %d bytes\n", s.cur.name, s.cur.generation, s.cur.firstLSN, s.cur.pos, s.cur.size)
		}
		s.mu.Unlock()
		for _, l := range e.logsOf(s) {
			l.mu.Lock()
			fmt.Fprintf(&b, "  %s: seq %d, stable %d, dirty LSN %d, %d in the ring, %d unmoved, ops %+v\n", l, l.seq, l.stable.seq, l.dirtyLSN, l.tail.len(), len(l.tail.unmoved()), l.ops)
			l.mu.Unlock()
		}
	}
	return b.String()
}

// noteStall tells a test now and then that a blocking call still waits.
func (e *Engine) noteStall() {
	if e.stalls++; e.stalls%100 == 0 && e.o.stalled != nil {
		e.o.stalled()
	}
}

// forget removes logs from the registry.
func (e *Engine) forget(logs []*Log) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range logs {
		delete(e.byID, l.id)
		if k := (logKey{l.topicID, l.partition}); e.logs[k] == l {
			delete(e.logs, k)
		}
	}
}

// refusal says why the engine takes no records.
func (e *Engine) refusal() error {
	if e.failed.Load() != nil {
		return ErrFailed
	}
	if e.closing.Load() {
		return ErrClosed
	}
	return nil
}

// failure returns the first failure, wrapped in ErrFailed.
func (e *Engine) failure() error {
	if p := e.failed.Load(); p != nil {
		return fmt.Errorf("%w: %w", ErrFailed, *p)
	}
	return nil
}

// Failed returns why the data directory failed, nil while it is healthy.
func (e *Engine) Failed() error {
	if p := e.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// fail stops the data directory: what was written is not trusted until it is read again.
func (e *Engine) fail(err error) {
	if !e.failed.CompareAndSwap(nil, &err) {
		return
	}
	close(e.failedCh)
	for _, s := range e.shards {
		s.kick()
	}
	e.o.OnFailed(err)
}

// noSpace reports errors that go away when somebody deletes something.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// unsupported reports errors of calls that a filesystem does not have.
func unsupported(err error) bool {
	return errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS)
}

// DiskFull reports that produce is refused for lack of space.
func (e *Engine) DiskFull() bool { return e.diskFull.Load() }

// FreeBytes is what the filesystem has left.
func (e *Engine) FreeBytes() int64 {
	free, _, err := e.fs.Statfs(e.o.Dir)
	if err != nil {
		return 0
	}
	return free
}

// checkSpace refuses produce before the disk is really full, and lets it in again.
func (e *Engine) checkSpace() {
	free, _, err := e.fs.Statfs(e.o.Dir)
	if err != nil {
		return
	}
	switch full := e.diskFull.Load(); {
	case !full && free < e.o.DiskReserveBytes:
		e.diskFull.Store(true)
		e.o.Warn("disk almost full: %d bytes left, produce is refused", free)
	case full && free >= e.o.DiskReserveBytes+e.o.DiskReserveBytes/4:
		e.diskFull.Store(false)
		e.o.Warn("disk has room again: %d bytes left", free)
	}
}

// syncDir makes the names in dir durable.
func (e *Engine) syncDir(dir string) error {
	if e.o.sabotage.noDirSync {
		return nil
	}
	e.o.onWindow(winDirSync)
	return e.fs.SyncDir(dir)
}

// Close flushes what was appended, writes the last Mark and, as far as ctx allows, a
// checkpoint. Attached shards must still be polled, or were detached.
func (e *Engine) Close(ctx context.Context) error {
	var err error
	e.closeOnce.Do(func() { err = e.shutdown(ctx) })
	return err
}

func (e *Engine) shutdown(ctx context.Context) error {
	e.closing.Store(true)
	if !e.started.Load() && !e.o.manual {
		for _, s := range e.shards {
			e.startDriver(s)
		}
	}
	var err error
	for _, s := range e.shards {
		if derr := s.drain(ctx); derr != nil && err == nil {
			err = derr
		}
	}
	close(e.quit)
	e.threads.Wait()
	for _, s := range e.shards {
		if err == nil && ctx.Err() == nil {
			// Segments, checkpoint: not needed for safety, but the next start is quicker.
			err = s.writer.finalRound(ctx)
		}
	}
	for _, s := range e.shards {
		if err == nil {
			err = s.lastMark(ctx)
		}
	}
	e.stopDrivers.Store(true)
	for _, s := range e.shards {
		s.kick()
	}
	e.drivers.Wait()
	if f := e.Failed(); f != nil && err == nil {
		err = f
	}
	e.release()
	return err
}

// Detach gives an attached shard back to the engine: its driver has made its last call of
// Poll.
func (s *Shard) Detach() {
	if !s.attached {
		return
	}
	s.attached = false
	s.driver = nil
	if s.e.started.Load() {
		s.e.startDriver(s)
	}
}

// drain waits until everything that was appended is durable.
func (s *Shard) drain(ctx context.Context) error {
	return s.waitUntil(ctx, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open == nil && len(s.closed) == 0 && s.inFlight == 0 && s.flushSince.Load() == 0 {
			return true
		}
		s.wantFlush = s.flushSince.Load() != 0
		return false
	})
}

// lastMark writes the Mark of a clean stop. Where a full disk has filled WAL or ring there may be no room for one: all is
// flushed, only that the newest commits were is not written down.
func (s *Shard) lastMark(ctx context.Context) error {
	if s.dataLSN.Load() <= s.markedLSN.Load() {
		return nil
	}
	asked, refused := false, 0
	return s.waitUntil(ctx, func() bool {
		if !asked {
			s.mu.Lock()
			idle := s.open == nil && len(s.closed) == 0 && s.inFlight == 0
			s.mu.Unlock()
			if asked = s.mark(); !asked && idle {
				refused++
			}
		}
		return s.dataLSN.Load() <= s.markedLSN.Load() || refused > markTries
	})
}

// markTries is how often the last Mark is tried: each Poll in between may free room.
const markTries = 100

// waitUntil polls (or lets the driver poll) until done.
func (s *Shard) waitUntil(ctx context.Context, done func() bool) error {
	for !done() {
		if err := s.e.failure(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.e.o.manual {
			s.Poll()
			continue
		}
		s.kick()
		time.Sleep(200 * time.Microsecond) //nolint:forbidigo // lets the shard's thread work
	}
	return nil
}

func (s *Shard) logDir(l *Log) string {
	name := make([]byte, 0, len(l.topic)+32)
	for _, c := range []byte(l.topic) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.' && len(name) > 0, c == '_', c == '-':
			name = append(name, c)
		default:
			name = append(name, '_')
		}
	}
	return filepath.Join(s.e.o.Dir, logsName, fmt.Sprintf("%s-%d.%d", name, l.partition, l.id))
}
