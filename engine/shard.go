package engine

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine/disk"
)

// Shard is one WAL, one submission queue and one tail ring, shared by the logs
// that were created on it. Its commit path is a step machine: Poll reaps what the
// device finished, submits the next group and tells the logs, and never blocks.
//
// Poll, OnRoom callbacks and Progress run on one thread, the driver: a loop
// of the broker that attached the shard, or a thread of the engine.
type Shard struct {
	e   *Engine
	id  int
	dir string

	slabBytes int
	slabs     []*slab

	driver   any
	attached bool
	polling  sync.Mutex // held by Poll and by the release of queue and wake, so that a late Poll finds nothing
	wake     *wakeup    // nil in a simulation
	queue    disk.Queue

	// mu guards the fields below up to the next comment. A Log.mu may be held when it is
	// taken, nothing may be taken while it is held. Sections are a few instructions.
	mu           sync.Mutex
	open         *commit
	closed       []*commit // in LSN order, not yet submitted
	nextLSN      uint64    // of the next commit to be opened
	rowClass     int
	lastRowClass int
	pledged      int64 // WAL bytes that open and closed commits may need
	inFlight     int   // groups; when there is no room for another, a completion will call Poll
	enough       int   // bytes that are worth another group beside those in flight
	kickPending  bool
	wantRoom     bool // somebody got ErrBusy since the last time there was room
	filling      *slab
	freeSlabs    []*slab
	usedSlabs    []*slab       // oldest first; filling is the last
	cold         chan struct{} // there are free slabs without pages that will be needed soon
	commitPool   []*commit
	cur          *walFile   // pos belongs to the driver's thread, under mu
	fullFiles    []*walFile // oldest first
	freeFiles    []*walFile
	keptFiles    []*walFile // damaged ones
	generation   uint64
	roomWaiters  []func()
	wantFlush    bool // D1 data has waited long enough

	fileNumber int // of the newest WAL file; provisioner (and recovery) only

	// Driver only.
	groups    []*group // in flight, oldest first
	groupID   uint64   // of the newest group
	spares    []*group
	done      []*group // of this Poll
	comps     []disk.Completion
	unflushed []rowRef // D1 rows written and not flushed
	walDirty  bool     // commits were written and not flushed; under mu where the WAL file is chosen
	roomSpare []func()
	notify    []*Log

	writtenLSN atomic.Uint64 // every commit up to this one was written
	durableLSN atomic.Uint64 // and flushed
	dataLSN    atomic.Uint64 // newest commit that holds more than a Mark
	markedLSN  atomic.Uint64 // newest LSN that a later durable commit declares flushed
	lastCommit atomic.Int64  // when it completed, unix nanoseconds
	flushSince atomic.Int64  // since when the oldest D1 commit waits, 0: none
	flushLimit atomic.Int64  // shortest flush.ms among those waiting, nanoseconds
	oldest     atomic.Int64  // when the oldest group in flight was submitted, nanoseconds since Engine.opened; 0: none

	tuner  syncTuner
	stats  shardStats
	writer *segmentWriter
}

func newShard(e *Engine, id int) (*Shard, error) {
	s := &Shard{
		e:         e,
		id:        id,
		dir:       e.o.path(shardDirName(id)),
		slabBytes: e.o.CommitBytesMax,
		nextLSN:   1,
		cold:      make(chan struct{}, 1),
	}
	slabs, err := newSlabs(e.o.RingBytes, s.slabBytes)
	if err != nil {
		return nil, fmt.Errorf("engine: tail ring: %w", err)
	}
	for range 2 * groupsMax { // in flight, and done but not told yet
		s.spares = append(s.spares, new(group))
	}
	s.slabs = slabs
	for i := len(slabs) - 1; i >= 0; i-- {
		s.freeSlabs = append(s.freeSlabs, slabs[i])
	}
	s.writer = newSegmentWriter(s)
	return s, nil
}

func shardDirName(id int) string { return fmt.Sprintf("shard-%03d", id) }

func (s *Shard) path(name string) string { return filepath.Join(s.dir, name) }

// ID is the shard's number.
func (s *Shard) ID() int { return s.id }

// Attach makes driver the owner of Poll. Before Engine.Start only.
func (s *Shard) Attach(driver any) {
	s.driver = driver
	s.attached = true
}

// Driver returns what Attach was given, nil when the engine drives the shard.
func (s *Shard) Driver() any { return s.driver }

// EventFD is readable when Poll has something to do. It is -1 in a simulation.
func (s *Shard) EventFD() int {
	if s.wake == nil {
		return -1
	}
	return s.wake.fd()
}

// OnRoom calls f once on the driver thread as soon as an append that got ErrBusy
// may be tried again.
func (s *Shard) OnRoom(f func()) {
	s.mu.Lock()
	s.roomWaiters = append(s.roomWaiters, f)
	s.wantRoom = true
	s.mu.Unlock()
	s.kick()
}

// kick wakes the driver.
func (s *Shard) kick() {
	if s.wake != nil {
		s.wake.kick()
	}
}

// pressure wakes the background steps that make room.
func (s *Shard) pressure() { s.writer.poke() }

// Poll does what can be done now: take completions, submit the next group, tell
// the logs and their observers what became durable. Driver thread only. It never blocks; after
// Engine.Close it does nothing.
func (s *Shard) Poll() {
	s.polling.Lock()
	defer s.polling.Unlock()
	if s.wake != nil {
		s.wake.clear()
	}
	if s.queue == nil {
		return
	}
	s.comps = s.queue.Reap(s.comps[:0])
	for i := range s.comps {
		s.complete(&s.comps[i])
	}
	if s.e.failed.Load() != nil {
		s.failWaiters()
		return
	}
	done := s.advance()
	s.submitNext()
	for _, g := range done {
		s.finish(g)
	}
	clear(done)
	if len(done) > 0 && len(s.groups) == 0 {
		s.submitNext() // what they who were told have added
	}
	s.reclaim()
	s.tellRoom()
}

// finish tells the logs of a written (and flushed) group.
func (s *Shard) finish(g *group) {
	now := s.e.now().UnixNano()
	s.lastCommit.Store(now)
	notify := s.notify[:0]
	if g.flush {
		for i := range s.unflushed {
			s.unflushed[i].log.unflushedMsgs = 0
			notify = s.advanceLog(notify, &s.unflushed[i], true)
		}
		clear(s.unflushed)
		s.unflushed = s.unflushed[:0]
		s.flushSince.Store(0)
		s.flushLimit.Store(0)
	}
	for _, c := range g.commits {
		data := false
		for i := range c.used {
			r := &c.rows[i]
			data = data || r.log != nil
			if r.log == nil {
				continue
			}
			notify = s.advanceLog(notify, r, g.flush)
			if !g.flush {
				s.keepUnflushed(r, now)
			}
			if r.wait != nil {
				r.wait.complete(nil)
			}
		}
		if data {
			s.dataLSN.Store(c.lsn)
		}
		if g.flush {
			s.markedLSN.Store(c.flushedLSN)
		}
	}
	for _, l := range notify {
		l.inNotify = false
		if o := l.observer.Load(); o != nil {
			(*o).Progress(l)
		}
	}
	clear(notify)
	s.notify = notify[:0]

	s.mu.Lock()
	for _, c := range g.commits {
		c.slab.busy.Add(-1)
		s.recycleCommit(c)
	}
	clear(g.commits)
	g.commits = g.commits[:0]
	s.spares = append(s.spares, g)
	s.mu.Unlock()
	s.e.o.OnCommit(s)
}

// advanceLog moves the ends of one log and remembers to tell its observer.
func (s *Shard) advanceLog(notify []*Log, r *rowRef, flushed bool) []*Log {
	l := r.log
	if !l.advance(r, flushed) || l.inNotify {
		return notify
	}
	l.inNotify = true
	return append(notify, l)
}

// unflushedRowsMax bounds what D1 may leave to the next flush.
const unflushedRowsMax = 1 << 16

// keepUnflushed remembers a written row until a flush covers it.
func (s *Shard) keepUnflushed(r *rowRef, now int64) {
	s.unflushed = append(s.unflushed, *r)
	if s.flushSince.Load() == 0 {
		s.flushSince.Store(now)
	}
	cfg := r.log.config()
	limit := cfg.FlushMillis * int64(time.Millisecond)
	if old := s.flushLimit.Load(); old == 0 || limit < old {
		s.flushLimit.Store(limit)
	}
	r.log.unflushedMsgs += int64(r.msgs)
	if r.log.unflushedMsgs >= cfg.FlushMessages || len(s.unflushed) >= unflushedRowsMax {
		s.mu.Lock()
		s.wantFlush = true
		s.mu.Unlock()
	}
}

// housekeep is called every few ticks from a background thread: it asks for flushes
// and Marks whose time has come.
func (s *Shard) housekeep(now time.Time) {
	kick := false
	if since := s.flushSince.Load(); since != 0 && now.UnixNano()-since >= s.flushLimit.Load() {
		s.mu.Lock()
		s.wantFlush = true
		s.mu.Unlock()
		kick = true
	}
	if s.durableLSN.Load() > s.markedLSN.Load() && s.dataLSN.Load() > s.markedLSN.Load() &&
		now.UnixNano()-s.lastCommit.Load() >= int64(markDelay) {
		kick = s.mark() || kick
	}
	if kick {
		s.kick()
	}
}

// mark adds a commit that says how far the WAL is flushed, so that damage to the last
// data commit cannot pass for a torn tail.
func (s *Shard) mark() bool {
	s.mu.Lock()
	busy := s.open != nil || len(s.closed) > 0 || s.inFlight > 0
	s.mu.Unlock()
	if busy {
		return false // the next commit carries the same news
	}
	r, err := s.reserve(nil, 0, false, true)
	if err != nil {
		return false
	}
	row := walRow{base: int64(s.durableLSN.Load()), hw: -1, kind: recMark, pos: uint32(r.pos)}
	r.c.putRow(r.row, &row)
	r.c.rows[r.row] = rowRef{end: -1}
	s.landed(&r)
	return true
}

// reclaim keeps a few slabs free: it evicts the oldest clean ones. Driver only.
func (s *Shard) reclaim() {
	s.mu.Lock()
	want := max(2, len(s.slabs)/8)
	if len(s.freeSlabs) >= want {
		s.mu.Unlock()
		return
	}
	var victims []*slab
	kept := s.usedSlabs[:0]
	for _, b := range s.usedSlabs {
		if len(s.freeSlabs)+len(victims) < want && b != s.filling && b.busy.Load() == 0 && b.pins.CompareAndSwap(0, -1) {
			victims = append(victims, b)
			continue
		}
		kept = append(kept, b)
	}
	clear(s.usedSlabs[len(kept):])
	s.usedSlabs = kept
	short := len(s.freeSlabs)+len(victims) < want
	s.mu.Unlock()

	for _, b := range victims {
		for _, l := range b.logs {
			l.forgetSlab(b)
		}
		clear(b.logs)
		b.logs = b.logs[:0]
	}
	if len(victims) > 0 {
		s.mu.Lock()
		s.freeSlabs = append(s.freeSlabs, victims...)
		s.mu.Unlock()
		s.stats.evictions.Add(uint64(len(victims)))
	}
	if short {
		s.pressure()
	}
}

// tellRoom calls those who got ErrBusy, once there is room again.
func (s *Shard) tellRoom() {
	s.mu.Lock()
	if !s.wantRoom || len(s.roomWaiters) == 0 || !s.hasRoom() {
		s.mu.Unlock()
		return
	}
	s.wantRoom = false
	s.roomWaiters, s.roomSpare = s.roomSpare[:0], s.roomWaiters
	s.mu.Unlock()
	for i, f := range s.roomSpare {
		s.roomSpare[i] = nil
		f()
	}
}

// hasRoom reports whether an append can be expected to succeed. Called with mu.
func (s *Shard) hasRoom() bool {
	if len(s.freeSlabs) > 0 {
		return s.walAdmits(int64(s.slabBytes), true)
	}
	return s.open != nil && !s.open.tight && s.open.limit-s.open.fill >= s.slabBytes/2
}

// failWaiters answers everybody who waits for a commit that will never be. Driver only.
func (s *Shard) failWaiters() {
	s.mu.Lock()
	commits := append([]*commit(nil), s.closed...)
	if s.open != nil {
		commits = append(commits, s.open)
	}
	waiters := s.roomWaiters
	s.roomWaiters = nil
	s.mu.Unlock()
	for _, g := range s.groups {
		commits = append(commits, g.commits...)
	}
	for _, c := range commits {
		if c.copies.Load()&(closedBit-1) != 0 {
			continue
		}
		for i := range c.used {
			if w := c.rows[i].wait; w != nil {
				c.rows[i].wait = nil
				w.complete(ErrFailed)
			}
		}
	}
	for _, f := range waiters {
		f()
	}
}
