package netpoll

import (
	"errors"
	"io"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Reasons for which a connection is closed, as OnClose reports them. A peer that
// closes its side is io.EOF.
var (
	ErrServerClosed = errors.New("netpoll: server closed")
	ErrIdle         = errors.New("netpoll: nothing under way for too long")
	ErrFrameTimeout = errors.New("netpoll: frame not complete in time")
	ErrWriteTimeout = errors.New("netpoll: answer not taken in time")
	ErrShed         = errors.New("netpoll: old half frame given up for others: memory is short")
	ErrSlowReader   = errors.New("netpoll: answers not taken and no memory to keep them")
	ErrShortFile    = errors.New("netpoll: file ends before the range to be sent")
)

// Conn is one connection. Its methods are for its loop's thread, except where they say otherwise.
// It is never reused: a Conn kept after OnClose does nothing.
type Conn struct {
	// Data belongs to the handler.
	Data any

	loop   *Loop
	srv    *Server
	fd     int
	gen    uint32 // of the registration with epoll
	id     uint64
	remote netip.AddrPort

	state  atomic.Uint32
	reason error // set by the thread that won the step to closing

	// Reading. in[r:w] are bytes that wait: a half frame, and before it whole
	// frames if they could not be delivered.
	in       *chunk
	r, w     int
	maxFrame int
	lastBig  int // size of the last frame that needed a chunk of its own
	began    int64
	active   int64 // when bytes last moved

	readable bool // the socket may have bytes
	hup      bool // the peer has closed its side: read on until 0
	paused   bool
	inReady  bool
	inDirty  bool
	inPins   bool
	stuck    bool // the socket takes nothing; wait for EPOLLOUT
	broken   bool // the socket has failed: not worth a last flush
	sentAny  bool
	// lingering: closed for the handler; the descriptor waits until the peer has
	// had time to take its last answers.
	lingering bool

	// held are the bytes of delivered frames that were not released. starved is
	// set when the loop stopped reading because of them; the release that brings
	// them below the limit posts the connection.
	held    atomic.Int64
	starved atomic.Bool

	slots    slots
	outFront *Response
	outBack  *Response
	outBytes int // of answers replied and not sent, without file parts
	charged  int // of those, what is charged to the budget because the peer does not take it

	progressed int64 // when the peer last took something
	links      [listCount]link
	idle       Timer // of IdleTimeout, then of lingerTime
}

const (
	stateOpen uint32 = iota
	stateClosing
	stateClosed
)

// Loop is where the connection lives. Any thread.
func (c *Conn) Loop() *Loop { return c.loop }

// ID is unique in the process. Any thread.
func (c *Conn) ID() uint64 { return c.id }

// RemoteAddr is the peer's address; a mapped IPv4 address is given as IPv4. Any thread.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.remote }

// Closed tells whether Close was called, by whomever. Any thread.
func (c *Conn) Closed() bool { return c.state.Load() != stateOpen }

// SetMaxFrameBytes limits the frames from here on, for instance before authentication.
func (c *Conn) SetMaxFrameBytes(n int) { c.maxFrame = min(n, c.srv.opts.MaxFrameBytes) }

// Inflight is the number of slots that wait for an answer or for their turn.
func (c *Conn) Inflight() int { return c.slots.inflight() }

// Begin takes the next place in the order of answers.
func (c *Conn) Begin() Slot { return c.slots.begin() }

// Reply gives the answer of a slot; r passes to the connection. Answers leave in
// the order of their slots, at the end of the turn.
func (c *Conn) Reply(s Slot, r *Response) {
	if c.state.Load() == stateClosed {
		r.recycle()
		return
	}
	r.seal()
	c.outBytes += r.inMem
	c.slots.put(s, r)
	c.advance()
	if queued := r.next != nil || c.outBack == r; r.foreign && (c.stuck || !queued) {
		// It waits for an earlier one, perhaps for minutes, or for the peer.
		c.loop.pin(c)
	}
}

// Skip says that nothing will be sent for a slot.
func (c *Conn) Skip(s Slot) {
	if c.state.Load() == stateClosed {
		return
	}
	c.slots.put(s, skipped)
	c.advance()
}

// advance queues the answers whose turn it is.
func (c *Conn) advance() {
	moved := false
	for {
		r, ok := c.slots.pop()
		if !ok {
			break
		}
		moved = true
		if r == nil {
			continue
		}
		if c.outBack != nil {
			c.outBack.next = r
		} else {
			c.outFront = r
		}
		c.outBack = r
	}
	if !moved {
		return
	}
	if c.outFront != nil && !c.stuck || c.loop.drain {
		c.loop.markDirty(c)
	}
	c.readMore()
}

// Pause stops delivering frames. What was read stays.
func (c *Conn) Pause() { c.paused = true }

// Resume goes on delivering, in the next turn.
func (c *Conn) Resume() {
	if c.paused {
		c.paused = false
		c.readMore()
	}
}

// readMore lets c read again if something kept it from doing so.
func (c *Conn) readMore() {
	if c.readable || c.in != nil {
		c.loop.markReady(c)
	}
}

// Close ends the connection for the given reason, on any thread. No frame is
// delivered after it; what was already replied in order gets one chance to leave.
func (c *Conn) Close(reason error) {
	if c.state.CompareAndSwap(stateOpen, stateClosing) {
		c.reason = reason
		c.loop.Post((*closing)(c))
	}
}

// closing is the second half of Close, on the loop.
type closing Conn

// Run implements Task.
func (k *closing) Run() { (*Conn)(k).shut() }

// shut gives back everything but the descriptor.
func (c *Conn) shut() {
	l := c.loop
	if !c.broken && c.outFront != nil && !c.stuck {
		c.flush()
	}
	linger := !c.broken && c.outFront == nil && c.sentAny && lingers(c.reason)
	c.state.Store(stateClosed)
	l.half.remove(c)
	l.blocked.remove(c)
	l.unstarve(c)
	c.dropIn()
	c.slots.drop()
	for r := c.outFront; r != nil; {
		next := r.next
		r.recycle()
		r = next
	}
	c.outFront, c.outBack, c.outBytes = nil, nil, 0
	c.recharge(0)
	c.idle.Stop()
	l.counts.closed(c.reason)
	c.srv.handler.OnClose(c, c.reason)
	if linger && unix.Shutdown(c.fd, unix.SHUT_WR) == nil {
		c.lingering = true
		c.idle = l.After(lingerTime, (*leaving)(c))
		c.discard()
		return
	}
	c.leave()
}

// lingers tells whether a connection closed for this reason may have answers on
// the way that the peer is entitled to.
func lingers(reason error) bool {
	for _, r := range [...]error{ErrIdle, ErrFrameTimeout, ErrWriteTimeout, ErrShed, ErrSlowReader, ErrShortFile} {
		if errors.Is(reason, r) {
			return false
		}
	}
	_, garbage := errors.AsType[*FrameSizeError](reason)
	return !garbage
}

// discard reads what the peer still sends. If it were left, or refused, the kernel
// would reset the connection and throw away answers on their way.
func (c *Conn) discard() {
	for range 64 {
		b := c.loop.window(recvScarceBytes)
		if b == nil {
			break
		}
		c.loop.iov[0].Base = &b[0]
		c.loop.iov[0].SetLen(len(b))
		n, errno := recv(c.fd, c.loop.iov[:1])
		if errno == unix.EAGAIN {
			return // leaving comes, or the peer's end
		}
		if errno != 0 || n == 0 {
			break
		}
	}
	c.leave()
}

// leave is the only place where a connection's descriptor is closed.
func (c *Conn) leave() {
	if c.fd < 0 {
		return
	}
	c.idle.Stop()
	delete(c.loop.conns, int32(c.fd))
	_ = unix.Close(c.fd) // also ends the registration: nobody has a copy of the descriptor
	c.fd = -1
	c.srv.left(c)
}

// leaving is the end of lingerTime.
type leaving Conn

// Run implements Task.
func (k *leaving) Run() { (*Conn)(k).leave() }

// fail closes a connection whose socket is of no use any more.
func (c *Conn) fail(err error) {
	c.broken = true
	c.Close(err)
}

// handle takes an event of the socket.
func (c *Conn) handle(events uint32) {
	if c.Closed() {
		if c.lingering && events&^unix.EPOLLOUT != 0 {
			c.discard()
		}
		return
	}
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		// Both directions are gone: no answer can arrive. Requests that came whole
		// before it are still read, unless somebody has stopped the reading.
		c.hup = true
		if !c.mayRead() {
			c.fail(socketError(c.fd))
			return
		}
	}
	if events&unix.EPOLLRDHUP != 0 {
		c.hup = true
	}
	if events&unix.EPOLLOUT != 0 && c.stuck {
		c.stuck = false
		c.loop.markDirty(c)
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		c.readable = true
		if !c.inReady {
			c.read()
		}
	}
}

// socketError is why a socket has failed.
func socketError(fd int) error {
	if n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && n != 0 {
		return unix.Errno(n)
	}
	return io.EOF
}

// hold charges a frame that is about to be delivered.
func (c *Conn) hold(n int) { c.held.Add(int64(n)) }

// unhold is hold's inverse, on any thread.
func (c *Conn) unhold(n int) {
	if held := c.held.Add(int64(-n)); c.starved.Load() && held < c.srv.opts.ConnMemory && c.starved.CompareAndSwap(true, false) {
		c.loop.Post((*reading)(c))
	}
}

// reading lets a connection read that could not because of the frames it held.
type reading Conn

// Run implements Task.
func (k *reading) Run() {
	if c := (*Conn)(k); !c.Closed() {
		c.readMore()
	}
}
