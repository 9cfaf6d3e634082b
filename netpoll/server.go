package netpoll

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Handler is told what happens to connections, on the loop of each of them. None of its
// methods may block.
type Handler interface {
	OnOpen(c *Conn)
	// OnFrame takes over f; see Frame.Release.
	OnFrame(c *Conn, f Frame)
	// OnClose is the last call for c. reason is what Close was given: io.EOF
	// when the peer has closed its side.
	OnClose(c *Conn, reason error)
}

// Server is a set of loops, their listeners and connections. It is safe for
// concurrent use.
type Server struct {
	opts    Options
	handler Handler
	loops   []*Loop
	memory  *memory
	limits  limits
	spare   spareFile
	nextID  atomic.Uint64
	open    []atomic.Int64 // connections of each loop

	trimming atomic.Bool

	mu        sync.Mutex
	listeners []*listener
	running   bool
	accepting bool
	closed    bool
}

// New makes the loops; they run after Start or StartLoops.
func New(o Options, h Handler) (*Server, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	s := &Server{
		opts: o, handler: h,
		memory: newMemory(o.TotalMemory, o.Loops),
		limits: limits{max: o.MaxConns, maxPerIP: o.MaxConnsPerIP, perIP: map[netip.Addr]int{}},
		spare:  spareFile{fd: -1},
		open:   make([]atomic.Int64, o.Loops),
	}
	for i := range o.Loops {
		l, err := newLoop(s, i)
		if err != nil {
			for _, l := range s.loops {
				l.poller.close()
			}
			return nil, err
		}
		s.loops = append(s.loops, l)
	}
	if !s.spare.open() {
		for _, l := range s.loops {
			l.poller.close()
		}
		return nil, fmt.Errorf("netpoll: no spare descriptor: %w", unix.EMFILE)
	}
	s.memory.onFree = func() {
		for _, l := range s.loops {
			l.Post((*feeding)(l))
		}
	}
	return s, nil
}

// Loops are the server's loops, the same ones from New to the end.
func (s *Server) Loops() []*Loop { return s.loops }

// StartLoops runs the loops without accepting anybody yet.
func (s *Server) StartLoops() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.startLoops()
}

func (s *Server) startLoops() {
	if s.running || s.closed {
		return
	}
	s.running = true
	for _, l := range s.loops {
		go l.run()
	}
}

// Start runs the loops, if StartLoops has not, and accepts clients.
func (s *Server) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.startLoops()
	if s.accepting || s.closed {
		return
	}
	s.accepting = true
	for _, l := range s.listeners {
		s.loops[0].Post((*opening)(l))
	}
}

// assign gives an accepted socket to the loop with the fewest connections.
func (s *Server) assign(fd int, remote netip.AddrPort) {
	least := 0
	for i := range s.open {
		if s.open[i].Load() < s.open[least].Load() {
			least = i
		}
	}
	s.open[least].Add(1)
	l := s.loops[least]
	id := s.nextID.Add(1)
	c := &Conn{
		loop: l, srv: s, fd: fd, id: id, remote: remote, maxFrame: s.opts.MaxFrameBytes,
		gen: uint32(id%(1<<32-1)) + 1, // never 0
	}
	if least == 0 {
		c.adopt()
		return
	}
	l.Post((*adopting)(c))
}

// adopting brings a connection to its loop.
type adopting Conn

// Run implements Task.
func (k *adopting) Run() { (*Conn)(k).adopt() }

func (c *Conn) adopt() {
	l := c.loop
	c.active, c.progressed = l.now, l.now
	l.conns[int32(c.fd)] = c
	c.idle = l.After(c.srv.opts.IdleTimeout, (*idling)(c))
	err := l.poller.add(c.fd, connEvents, c.gen)
	c.srv.handler.OnOpen(c)
	if err != nil {
		c.fail(err)
	} else if l.drain {
		c.Close(ErrServerClosed)
	}
}

// left takes a closed connection off the counts.
func (s *Server) left(c *Conn) {
	s.open[c.loop.index].Add(-1)
	s.limits.leave(c.remote.Addr())
}

// Drain stops accepting and delivering, lets every request that was delivered be
// answered and every answer be sent, and closes the connections. When ctx ends first
// the remaining ones are closed as they are. The loops go on running.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	running := s.running
	listeners := s.listeners
	s.listeners = nil
	s.mu.Unlock()
	if !running {
		for _, l := range listeners {
			_ = unix.Close(l.fd)
		}
		return nil
	}
	s.onLoops(s.loops[:1], func(*Loop) {
		for _, l := range listeners {
			l.close()
		}
	})
	if s.drainLoops(ctx) {
		return nil
	}
	s.onLoops(s.loops, (*Loop).closeAll)
	<-s.limits.empty()
	return ctx.Err()
}

// Shutdown is Drain, and then the end of the loops: when it returns, no method of
// the handler runs or will run, and posted tasks are not run any more.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.Drain(ctx)
	s.mu.Lock()
	running := s.running
	s.running = false
	s.mu.Unlock()
	for _, l := range s.loops {
		if !running {
			l.mu.Lock()
			l.ended = true
			l.mu.Unlock()
			continue
		}
		l.Post((*stopping)(l))
	}
	for _, l := range s.loops {
		if running {
			<-l.done
		}
	}
	s.spare.close()
	return err
}

// stopping ends a loop.
type stopping Loop

// Run implements Task.
func (k *stopping) Run() { k.stopped = true }

// drainLook is how often Drain looks again for connections that have nothing left to wait for.
const drainLook = 100 * time.Millisecond

// drainLoops waits until no connection is left and reports whether that came before the end of ctx.
func (s *Server) drainLoops(ctx context.Context) bool {
	empty := s.limits.empty()
	look := time.NewTicker(drainLook)
	defer look.Stop()
	for {
		s.onLoops(s.loops, (*Loop).startDrain)
		select {
		case <-empty:
			return true
		case <-ctx.Done():
			return false
		case <-look.C:
		}
	}
}

// startDrain closes what waits for nothing. It may be called again and again.
func (l *Loop) startDrain() {
	l.drain = true
	for _, c := range l.conns {
		switch {
		case c.slots.inflight() == 0 && c.outFront == nil:
			c.Close(ErrServerClosed)
		case c.outFront != nil && !c.stuck:
			l.markDirty(c)
		}
	}
}

// closeAll ends every connection, also those that linger.
func (l *Loop) closeAll() {
	for _, c := range l.conns {
		if c.lingering {
			c.leave()
		} else {
			c.broken = true
			c.Close(ErrServerClosed)
		}
	}
}

// onLoops runs f on each loop's thread and waits for all of them.
func (s *Server) onLoops(loops []*Loop, f func(*Loop)) {
	var wg sync.WaitGroup
	for _, l := range loops {
		wg.Add(1)
		l.Post(taskFunc(func() {
			f(l)
			wg.Done()
		}))
	}
	wg.Wait()
}

type taskFunc func()

// Run implements Task.
func (f taskFunc) Run() { f() }

// scheduleTrim makes sure that chunks which nobody needs any more go back to the
// kernel some time later. Any loop.
func (s *Server) scheduleTrim() {
	if s.trimming.Load() || !s.trimming.CompareAndSwap(false, true) {
		return
	}
	s.loops[0].Post((*trimming)(s))
}

// trimming runs on loop 0.
type trimming Server

// Run implements Task.
func (k *trimming) Run() {
	s := (*Server)(k)
	l := s.loops[0]
	l.Schedule(l.now+trimPeriod, taskFunc(s.trim))
}

func (s *Server) trim() {
	more := s.memory.trim()
	s.trimming.Store(false)
	if more || s.memory.idle.Load() > 0 {
		s.scheduleTrim()
	}
}
