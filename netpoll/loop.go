package netpoll

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Task is something to be done on a loop's thread.
type Task interface{ Run() }

// Loop is one epoll instance and the thread that serves it. See the package
// documentation for its turn.
type Loop struct {
	srv    *Server
	index  int
	poller poller
	start  time.Time
	now    int64 // ms since start, read once a turn

	conns  map[int32]*Conn // by descriptor
	files  map[int32]func()
	onTurn []func()
	timers timers

	ready     []*Conn // have something to be read; what is found during a turn waits for the next
	readyNow  []*Conn
	dirty     []*Conn // have something to be sent
	dirtyNow  []*Conn
	pins      []*Conn // sent memory of others that was not taken; see unpinAll
	half      list
	blocked   list
	hungry    list
	responses []*Response
	landing   *chunk
	landingAt int
	iov       [iovecsMax]unix.Iovec
	msg       unix.Msghdr
	pinTimer  Timer
	sweeping  bool  // the sweeper has a timer
	feedSoon  bool  // and so has the retry of the hungry
	hungryFor int64 // since when somebody has been waiting for memory; 0: nobody

	// inbox is what other threads have posted. asleep is set before the loop
	// looks at the inbox for the last time and sleeps; who clears it owes the one
	// write that wakes the loop.
	mu      sync.Mutex
	inbox   []Task
	ended   bool // under mu: nothing is taken any more
	asleep  atomic.Bool
	outbox  []Task // the inbox of the turn before, reused
	stopped bool
	drain   bool

	counts counts // of this turn; see Stats
	stats  atomicCounts
	done   chan struct{}
}

func newLoop(s *Server, index int) (*Loop, error) {
	l := &Loop{
		srv: s, index: index, start: time.Now(), //nolint:forbidigo // the loop's own clock
		conns: map[int32]*Conn{}, files: map[int32]func(){},
		half: list{which: listHalf}, blocked: list{which: listBlocked}, hungry: list{which: listHungry},
		done: make(chan struct{}),
	}
	if err := l.poller.open(); err != nil {
		return nil, err
	}
	return l, nil
}

// Index is the loop's place in Server.Loops.
func (l *Loop) Index() int { return l.index }

// Now is the time of this turn in milliseconds since some fixed point. The
// loop's thread only.
func (l *Loop) Now() int64 { return l.now }

// AddFD calls onReadable on the loop's thread while fd is readable. Before Start
// only; onReadable must take away what makes fd readable. A negative fd is ignored.
func (l *Loop) AddFD(fd int, onReadable func()) {
	if fd < 0 {
		return
	}
	if err := l.poller.add(fd, unix.EPOLLIN, 0); err != nil {
		panic("BUG: AddFD: " + err.Error())
	}
	l.files[int32(fd)] = onReadable
}

// OnTurnEnd calls f in every turn of the loop, after its events were handled and
// before answers are sent. Before Start only; f must be cheap when there is nothing to do.
func (l *Loop) OnTurnEnd(f func()) { l.onTurn = append(l.onTurn, f) }

// Post runs t on the loop's thread, in the order of posting, soon. It is safe on
// any thread, takes no longer than a short lock and at most one eventfd write, and
// does nothing once the loop has ended. The queue is as long as its callers make
// it: they post at most one task for each request under way.
func (l *Loop) Post(t Task) {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return
	}
	l.inbox = append(l.inbox, t)
	l.mu.Unlock()
	if l.asleep.Load() && l.asleep.CompareAndSwap(true, false) {
		l.poller.wake()
	}
}

// run is the loop's goroutine.
func (l *Loop) run() {
	// The thread belongs to the loop: a ring with a single issuer may be driven from
	// here, and no other goroutine makes a request wait. It ends with the goroutine.
	runtime.LockOSThread()
	l.tick()
	for !l.stopped {
		l.turn(l.wait())
	}
	l.end()
	close(l.done)
}

func (l *Loop) tick() {
	l.now = time.Since(l.start).Milliseconds() //nolint:forbidigo // the loop's own clock
}

// wait returns the number of events. It sleeps only when nothing is left to do.
func (l *Loop) wait() int {
	// Under load the first look finds something, and a call that cannot block costs
	// the scheduler nothing. Without load it costs 0.3 us before going to sleep.
	n := l.poller.poll()
	if n > 0 || len(l.ready) > 0 || len(l.dirty) > 0 {
		return n
	}
	timeout := -1
	if at, ok := l.timers.next(); ok {
		l.tick()
		timeout = int(min(max(at-l.now, 0), 1<<30))
	}
	l.asleep.Store(true)
	l.mu.Lock()
	mail := len(l.inbox) > 0
	l.mu.Unlock()
	if mail || timeout == 0 {
		l.asleep.Store(false)
		return 0
	}
	n = l.poller.wait(timeout)
	l.asleep.Store(false)
	return n
}

// turn is one round: see the package documentation.
func (l *Loop) turn(n int) {
	l.tick()
	l.counts.turns++
	for i := range n {
		l.handle(&l.poller.events[i])
	}
	l.readyNow, l.ready = l.ready, l.readyNow[:0]
	for i, c := range l.readyNow {
		l.readyNow[i] = nil
		c.inReady = false
		c.read()
	}
	l.runInbox()
	for {
		t, ok := l.timers.expire(l.now)
		if !ok {
			break
		}
		t.Run()
	}
	for _, f := range l.onTurn {
		f()
	}
	l.dirtyNow, l.dirty = l.dirty, l.dirtyNow[:0]
	for i, c := range l.dirtyNow {
		l.dirtyNow[i] = nil
		c.inDirty = false
		c.flush()
	}
	if l.landing != nil && l.landing.refs.Load() == 1 {
		l.landingAt = 0 // every frame in it was released: stay in the same cache lines
	}
	l.stats.add(&l.counts)
}

func (l *Loop) handle(ev *unix.EpollEvent) {
	if gen := uint32(ev.Pad); gen != 0 {
		c := l.conns[ev.Fd]
		if c == nil || c.gen != gen {
			return // of a connection that had this descriptor before
		}
		c.handle(ev.Events)
		return
	}
	if f := l.files[ev.Fd]; f != nil {
		f()
	}
}

// runInbox runs what has been posted so far. What these tasks post waits for the
// next turn, so that tasks cannot keep the sockets waiting.
func (l *Loop) runInbox() {
	l.mu.Lock()
	l.outbox, l.inbox = l.inbox, l.outbox[:0]
	l.mu.Unlock()
	for i, t := range l.outbox {
		l.outbox[i] = nil
		t.Run()
	}
}

// markReady lets c read in the next turn.
func (l *Loop) markReady(c *Conn) {
	if !c.inReady {
		c.inReady = true
		l.ready = append(l.ready, c)
	}
}

// markDirty lets c send at the end of the turn.
func (l *Loop) markDirty(c *Conn) {
	if !c.inDirty {
		c.inDirty = true
		l.dirty = append(l.dirty, c)
	}
}

// window returns room for up to n bytes in the landing chunk, or nothing when
// the handler holds so many frames that no new chunk may be had.
func (l *Loop) window(n int) []byte {
	if l.landing == nil || len(l.landing.mem)-l.landingAt < n {
		if l.landing != nil && l.landing.refs.Load() == 1 {
			l.landingAt = 0
		} else {
			m := l.srv.memory
			if m.used.Add(landingBytes) > m.total+m.reserve {
				m.uncharge(landingBytes)
				return nil
			}
			if l.landing != nil {
				l.landing.Release()
			}
			l.landing, l.landingAt = m.alloc(landingBytes), 0
			l.srv.scheduleTrim()
		}
	}
	return l.landing.mem[l.landingAt : l.landingAt+n]
}

// end closes everything that is left.
func (l *Loop) end() {
	// Who has won the step to closing on another thread posts in a moment. Closing may
	// post, and what was posted may close.
	for {
		l.closeAll()
		l.runInbox()
		l.mu.Lock()
		l.ended = len(l.inbox) == 0 && len(l.conns) == 0
		l.mu.Unlock()
		if l.ended {
			break
		}
		runtime.Gosched()
	}
	if l.landing != nil {
		l.landing.Release()
		l.landing = nil
	}
	l.stats.add(&l.counts)
	l.poller.close()
}
