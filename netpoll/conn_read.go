package netpoll

import (
	"io"

	"golang.org/x/sys/unix"
)

// mayRead tells whether frames may be delivered. Everything that makes it true
// again marks the connection ready: Resume, an answer, a release, a write.
func (c *Conn) mayRead() bool {
	if c.state.Load() != stateOpen || c.paused || c.loop.drain || c.slots.inflight() >= c.srv.opts.MaxInflight {
		return false
	}
	limit := c.srv.opts.ConnMemory
	if c.held.Load()+int64(c.outBytes) < limit {
		return true
	}
	if int64(c.outBytes) >= limit {
		return false // flush marks it ready
	}
	// The frames may be released on another thread between the look and the flag.
	c.starved.Store(true)
	return c.held.Load()+int64(c.outBytes) < limit && c.starved.CompareAndSwap(true, false)
}

// read delivers what waits and then reads the socket, up to the turn's share.
func (c *Conn) read() {
	if c.Closed() {
		return
	}
	for budget := recvBudgetBytes; ; {
		// Also after a recv: frames may have been kept because too many were held,
		// and those may have been released on another thread since.
		if c.in != nil && !c.deliverIn() {
			return
		}
		if !c.readable || !c.mayRead() {
			return
		}
		if budget <= 0 {
			c.loop.markReady(c)
			return
		}
		n := c.fill()
		if n <= 0 {
			return
		}
		budget -= n
	}
}

// deliverIn delivers the whole frames among the waiting bytes. It returns false
// if one of them must go on waiting, or the connection is closed.
func (c *Conn) deliverIn() bool {
	r := c.deliver(c.in, c.r, c.w)
	if r > c.r {
		c.r, c.began = r, c.loop.now
		if c.links[listHalf].next != nil {
			c.loop.half.remove(c)
			c.loop.half.pushBack(c)
		}
	}
	if c.Closed() {
		return false
	}
	if c.r == c.w {
		c.dropIn()
		return true
	}
	end, known, err := frameEnd(c.in.mem[c.r:c.w], c.maxFrame)
	if err != nil {
		c.Close(err)
		return false
	}
	return !known || c.r+end > c.w
}

// deliver hands out the whole frames of k.mem[r:w] as long as the handler takes
// them, and returns where it stopped.
func (c *Conn) deliver(k *chunk, r, w int) int {
	for c.mayRead() {
		end, known, err := frameEnd(k.mem[r:w], c.maxFrame)
		if err != nil {
			c.Close(err)
			return r
		}
		if !known || end > w-r {
			return r
		}
		data := k.mem[r+sizeBytes : r+end : r+end]
		r += end
		k.refs.Add(1)
		c.hold(end)
		c.loop.counts.frames++
		c.srv.handler.OnFrame(c, Frame{Data: data, chunk: k, conn: c})
	}
	return r
}

// smallBytes is what a half frame may have and still be moved back in front of
// the landing window, so that one recv finishes it and brings what follows.
const smallBytes = 1 << 10

// fill is one recv and the delivery of what it brought. It returns the bytes
// read; 0 means that there is nothing to be had now, for whatever reason.
//
// Before it, in[r:w] is less than a frame, and the connection may read.
func (c *Conn) fill() int {
	window := recvWindowBytes
	if c.srv.memory.scarce() {
		window = recvScarceBytes
	}
	if c.w-c.r <= smallBytes {
		return c.fillLanding(window)
	}
	return c.fillOwn(window)
}

// fillLanding receives into the landing chunk, behind what there is of a small
// half frame.
func (c *Conn) fillLanding(window int) int {
	l := c.loop
	have := c.w - c.r
	landing := l.window(have + window)
	if landing == nil {
		l.starve(c)
		return 0
	}
	l.unstarve(c)
	if have > 0 {
		copy(landing, c.in.mem[c.r:c.w])
	}
	n := c.recv(1, landing[have:], nil)
	if n <= 0 {
		return 0
	}
	// The handler may do anything, but nothing that lands here: the chunk stays.
	k, from := l.landing, l.landingAt
	to := from + have + n
	l.landingAt = min((to+63)&^63, len(k.mem))
	r := c.deliver(k, from, to)
	switch {
	case c.Closed():
	case r == from && have > 0:
		c.extend(k.mem[from+have : to])
	default:
		c.dropIn()
		if r < to {
			c.keep(k.mem[r:to])
		}
	}
	return n
}

// fillOwn receives into the connection's chunk, and what follows the frame into
// the landing chunk.
func (c *Conn) fillOwn(window int) int {
	l := c.loop
	if !c.widen() {
		return 0
	}
	end, _, _ := frameEnd(c.in.mem[c.r:c.w], c.maxFrame)
	missing := c.r + end - c.w
	own := min(len(c.in.mem)-c.w, missing, recvBudgetBytes)
	var landing []byte
	if own == missing && missing < window {
		landing = l.window(window) // none: do without
	}
	n := c.recv(2, c.in.mem[c.w:c.w+own], landing)
	if n <= 0 {
		return 0
	}
	c.w += min(n, own)
	if n < missing {
		return n
	}
	c.deliverIn()
	if c.Closed() {
		return n
	}
	if c.in != nil {
		panic("BUG: a whole frame was not delivered although the connection may read")
	}
	if n > own {
		k, from := l.landing, l.landingAt
		to := from + n - own
		l.landingAt = min((to+63)&^63, len(k.mem))
		if r := c.deliver(k, from, to); r < to && !c.Closed() {
			c.keep(k.mem[r:to])
		}
	}
	return n
}

// recv reads once, and takes note of what that says about the socket.
func (c *Conn) recv(places int, first, second []byte) int {
	l := c.loop
	iov := l.iov[:1]
	iov[0].Base = &first[0]
	iov[0].SetLen(len(first))
	if places == 2 && len(second) > 0 {
		iov = l.iov[:2]
		iov[1].Base = &second[0]
		iov[1].SetLen(len(second))
	}
	n, errno := recv(c.fd, iov)
	switch {
	case errno == unix.EAGAIN:
		c.readable = false
		return 0
	case errno != 0:
		c.fail(errno)
		return 0
	case n == 0:
		c.fail(io.EOF)
		return 0
	}
	l.counts.bytesIn += uint64(n)
	c.active = l.now
	if n < len(first)+len(second) && !c.hup {
		c.readable = false // the next byte is a new edge
	}
	return n
}

// keep copies bytes that cannot be delivered yet from the landing chunk to the
// connection's own. These bytes have come and must be kept, whatever the
// budget says; only memory ahead of them is asked for.
func (c *Conn) keep(b []byte) {
	end, known, err := frameEnd(b, c.maxFrame)
	if err != nil {
		c.Close(err)
		return
	}
	m := c.srv.memory
	want := len(b)
	if known && end > want && c.expects(end) && m.admit(sizeFor(end), end) {
		want = end
	} else {
		m.charge(sizeFor(want))
	}
	c.in = m.alloc(want)
	c.r, c.w = 0, copy(c.in.mem, b)
	c.began = c.loop.now
	c.loop.half.pushBack(c)
	c.loop.sweepSoon()
	c.srv.scheduleTrim()
}

// extend adds bytes to a small half frame.
func (c *Conn) extend(b []byte) {
	if len(c.in.mem)-c.w < len(b) {
		m := c.srv.memory
		have := c.w - c.r
		m.charge(sizeFor(have + len(b)))
		in := m.alloc(have + len(b))
		copy(in.mem, c.in.mem[c.r:c.w])
		c.in.Release()
		c.in, c.r, c.w = in, 0, have
	}
	c.w += copy(c.in.mem[c.w:], b)
}

// expects tells that a frame may get its memory before its bytes: there is a lot
// of memory, and this peer has sent such a frame before.
func (c *Conn) expects(end int) bool { return end <= c.lastBig && c.srv.memory.plenty() }

// widen makes room for more of the half frame, whose size is known. The chunk
// grows with what has come, to four times that, or in steps when it is large. It
// returns false if the budget refuses; the connection then waits on the hungry list.
func (c *Conn) widen() bool {
	m := c.srv.memory
	k := c.in
	end, _, _ := frameEnd(k.mem[c.r:c.w], c.maxFrame)
	have, room := c.w-c.r, len(k.mem)-c.w
	if c.r+end <= len(k.mem) || room > 0 && (room >= len(k.mem)/4 || k.class == mappedClass) {
		c.loop.unstarve(c)
		return true
	}
	alone := k.refs.Load() == 1
	if alone && end <= len(k.mem) {
		// The frames before it are gone: there is room at the front.
		c.r, c.w = 0, copy(k.mem, k.mem[c.r:c.w])
		c.loop.unstarve(c)
		return true
	}
	target := min(end, 4*have)
	if c.expects(end) {
		target = end
	} else if largest := chunkClasses[len(chunkClasses)-1]; target > largest {
		target = min(end, max(have+max(mapStepBytes, have/4), largest))
	}
	size := sizeFor(target)
	if k.class == mappedClass && c.r == 0 && alone {
		if !m.admit(size-len(k.mem), end) {
			c.loop.starve(c)
			return false
		}
		m.grow(k, size)
	} else {
		if !m.admit(size, end) {
			if room > 0 {
				return true
			}
			c.loop.starve(c)
			return false
		}
		in := m.alloc(size)
		copy(in.mem, k.mem[c.r:c.w])
		k.Release()
		c.in, c.r, c.w = in, 0, have
	}
	c.loop.unstarve(c)
	return true
}

// dropIn gives back the chunk of a connection whose bytes were delivered or are
// not wanted any more.
func (c *Conn) dropIn() {
	if c.in == nil {
		return
	}
	c.lastBig = c.r
	c.in.Release()
	c.in, c.r, c.w = nil, 0, 0
	c.loop.half.remove(c)
	c.loop.unstarve(c)
}
