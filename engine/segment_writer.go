package engine

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// segmentWriter is the background of a shard, off the path of acknowledgements. It has two
// threads: one moves batches out of the ring (step), one makes them durable, writes
// checkpoints and gives WAL files back (stepRound). They meet only at a log's writeMu.
type segmentWriter struct {
	s *Shard

	wake  chan struct{} // capacity 1
	mu    sync.Mutex    // guards queue
	queue []*Log        // logs with a chunk to write

	mover *mover // of step
	spare []*Log

	roundWake  chan struct{} // capacity 1
	roundMover *mover        // of stepRound
	checkpoint *checkpointFile
	urgent     atomic.Bool   // somebody waits for the next round
	rounds     atomic.Uint64 // completed
	doomed     []*segment    // files that the newest checkpoint no longer names
	retryAt    time.Time     // after a full disk
}

func newSegmentWriter(s *Shard) *segmentWriter {
	return &segmentWriter{
		s:          s,
		wake:       make(chan struct{}, 1),
		roundWake:  make(chan struct{}, 1),
		mover:      newMover(s),
		roundMover: newMover(s),
	}
}

func (w *segmentWriter) close() {
	if w.checkpoint != nil {
		w.checkpoint.close()
	}
}

// want puts a log in the queue: it has a chunk's worth of batches. Called with the
// log's mu.
func (w *segmentWriter) want(l *Log) {
	if l.queued.Swap(true) {
		return
	}
	w.mu.Lock()
	w.queue = append(w.queue, l)
	w.mu.Unlock()
	w.poke()
}

// poke wakes both threads: the ring or the WAL needs room.
func (w *segmentWriter) poke() {
	for _, c := range []chan struct{}{w.wake, w.roundWake} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// run is the mover's thread.
func (w *segmentWriter) run(quit <-chan struct{}) {
	w.loop(quit, w.wake, w.step)
}

// runRounds is the checkpointer's thread.
func (w *segmentWriter) runRounds(quit <-chan struct{}) {
	w.loop(quit, w.roundWake, w.stepRound)
}

func (w *segmentWriter) loop(quit <-chan struct{}, wake <-chan struct{}, step func() bool) {
	tick := time.NewTicker(backgroundTick) //nolint:forbidigo // wakes a thread; what it does then has its time from Options.Now
	defer tick.Stop()
	for {
		select {
		case <-quit:
			return
		case <-wake:
		case <-tick.C:
		}
		for step() {
			select {
			case <-quit:
				return
			default:
			}
		}
	}
}

// backgroundTick is how often the background looks whether it is needed although nobody
// called: retries, WAL files to make.
const backgroundTick = 50 * time.Millisecond

// step moves what has to leave the ring. It reports whether there may be more to do.
func (w *segmentWriter) step() bool {
	if w.s.e.failed.Load() != nil {
		return false
	}
	w.mu.Lock()
	queue := w.queue
	w.queue = w.spare[:0]
	w.mu.Unlock()
	for i, l := range queue {
		l.queued.Store(false)
		if !w.moved(w.mover.moveLog(l)) {
			w.again(queue[i:])
			return false
		}
	}
	clear(queue)
	w.spare = queue[:0]
	logs := w.crowded()
	for _, l := range logs {
		if !w.moved(w.mover.moveLog(l)) {
			return false
		}
	}
	if len(queue)+len(logs) > 0 {
		w.s.kick() // the driver evicts and tells those who wait for room
	}
	return false
}

// again puts logs back into the queue: the disk was full.
func (w *segmentWriter) again(logs []*Log) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, l := range logs {
		// The first was taken out already; somebody may have put it back.
		if i > 0 || !l.queued.Swap(true) {
			w.queue = append(w.queue, l)
		}
	}
}

// crowded returns the logs of the oldest slab that is still needed, when more than half of
// the ring is: by then every log has gathered as much as it can get.
func (w *segmentWriter) crowded() []*Log {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest *slab
	dirty := 0
	for _, b := range s.usedSlabs {
		if b != s.filling && b.busy.Load() > 0 {
			dirty++
			if oldest == nil {
				oldest = b
			}
		}
	}
	if oldest == nil || dirty <= len(s.slabs)/2 && !(s.wantRoom && len(s.freeSlabs) == 0) {
		return nil
	}
	if s.flushSince.Load() != 0 {
		s.wantFlush = true // D1 batches can be moved only once they are flushed
	}
	return slices.Clone(oldest.logs)
}

// moved looks at the result of a move. A full disk is waited for; anything else is the
// end of this directory.
func (w *segmentWriter) moved(err error) bool {
	switch {
	case err == nil:
		return true
	case noSpace(err):
		w.s.e.noteFull(err)
		return false
	}
	w.s.e.fail(err)
	return false
}

// noteFull remembers that the filesystem refused space.
func (e *Engine) noteFull(err error) {
	if !e.diskFull.Swap(true) {
		e.o.Warn("disk full: %v; produce is refused until there is room", err)
	}
}

// fsyncAll flushes files, several at a time: a journalling filesystem
// commits them together.
func (e *Engine) fsyncAll(files []*segment) error {
	if e.o.sabotage.noSegmentSync {
		return nil
	}
	e.o.onWindow(winSegmentSync)
	defer e.o.onWindow(winIdle)
	if e.o.syncWorkers <= 1 || len(files) < 2 {
		for _, g := range files {
			if err := e.fsyncSegment(g); err != nil {
				return err
			}
		}
		return nil
	}
	var (
		next  atomic.Int64
		first atomic.Pointer[error]
		group sync.WaitGroup
	)
	for range min(e.o.syncWorkers, len(files)) {
		group.Add(1)
		go func() {
			defer group.Done()
			for first.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(files) {
					return
				}
				if err := e.fsyncSegment(files[i]); err != nil {
					first.CompareAndSwap(nil, &err)
				}
			}
		}()
	}
	group.Wait()
	if p := first.Load(); p != nil {
		return *p
	}
	return nil
}

func (e *Engine) fsyncSegment(g *segment) error {
	f, err := e.files.acquire(g, true, false)
	if err != nil {
		return err
	}
	defer f.Release()
	return f.Fdatasync()
}

// finalRound moves and checkpoints everything, until ctx ends.
func (w *segmentWriter) finalRound(ctx context.Context) error {
	if w.s.e.failed.Load() != nil || ctx.Err() != nil {
		return nil //nolint:nilerr // whoever asked for the end knows; the WAL has it all
	}
	_, err := w.round(^uint64(0))
	if noSpace(err) {
		return nil // the WAL has it all
	}
	if err != nil {
		w.s.e.fail(err)
	}
	return err
}

var errNotReady = errors.New("engine: not durable yet")

// stepRound does what the WAL needs: a round when a full file must be given back,
// a new file when there are too few, unlinks. It reports whether to call again at once.
func (w *segmentWriter) stepRound() bool {
	s := w.s
	if s.e.failed.Load() != nil || s.e.now().Before(w.retryAt) {
		return false
	}
	more, err := w.stepWAL()
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		s.e.noteFull(err)
		w.retryAt = s.e.now().Add(500 * time.Millisecond)
		return false
	}
	if err != nil {
		s.e.fail(err)
		return false
	}
	return more
}

// walFilesReady is how many written-through files wait for their turn: one that
// appends may use, one that they leave to other records.
const walFilesReady = 2

// walFilesAhead is how many a round tries to keep free, of a WAL that has all its files: a quarter, because appends go on while it
// works, and a thousand logs take it as long as they take to fill some of them.
func walFilesAhead(files int) int { return max(walFilesReady, files/4) }

func (w *segmentWriter) stepWAL() (bool, error) {
	s := w.s
	s.mu.Lock()
	free, full := len(s.freeFiles), len(s.fullFiles)
	var limit uint64
	if full > 0 {
		limit = s.fullFiles[0].lastLSN
	}
	files := free + full
	total := int64(0)
	for _, f := range s.fullFiles {
		total += f.size
	}
	for _, f := range s.freeFiles {
		total += f.size
	}
	if s.cur != nil {
		total += s.cur.size
		files++
	}
	s.mu.Unlock()
	size := s.e.o.WALFileBytes
	canGrow := total+size <= s.e.o.WALBytes
	switch {
	case free < walFilesReady && canGrow:
		f, err := s.createWALFile(size)
		if err != nil {
			return false, err
		}
		s.mu.Lock()
		s.freeFiles = append(s.freeFiles, f)
		s.mu.Unlock()
		s.kick()
		return true, nil
	case free < walFilesAhead(files) && full > 0 && (free < walFilesReady || !canGrow):
		_, err := w.round(limit)
		if errors.Is(err, errNotReady) {
			return false, nil
		}
		s.kick()
		return err == nil, err
	case w.urgent.Swap(false):
		_, err := w.round(0)
		return false, err
	}
	return false, nil
}
