package netpoll

import "golang.org/x/sys/unix"

// flush sends what is queued, up to the turn's share.
func (c *Conn) flush() {
	l := c.loop
	if c.state.Load() == stateClosed || c.stuck || c.broken {
		return
	}
	for budget := sendBudgetBytes; c.outFront != nil; {
		if budget <= 0 {
			l.markDirty(c)
			return
		}
		var n int
		var errno unix.Errno
		if p := c.nextPart(); p.kind == partFile {
			n, errno = sendfile(c.fd, p.fd, p.off, min(p.n, sendfileBytesMax))
			if n == 0 && errno == 0 {
				c.fail(ErrShortFile)
				return
			}
		} else {
			n, errno = c.sendMemory(budget)
		}
		if errno == unix.EAGAIN {
			c.block()
			return
		}
		if errno != 0 {
			c.fail(errno)
			return
		}
		budget -= n
		c.sentAny = true
		l.counts.bytesOut += uint64(n)
		c.active, c.progressed = l.now, l.now
		c.sent(n)
	}
	l.blocked.remove(c)
	c.recharge(0)
	if l.drain && c.slots.inflight() == 0 {
		c.Close(ErrServerClosed)
	}
	c.readMore()
}

// nextPart is the first part that was not sent.
func (c *Conn) nextPart() *part { return &c.outFront.parts[c.outFront.at] }

// sendMemory writes the memory parts up to the next file part, of as many
// answers as fit one call.
func (c *Conn) sendMemory(budget int) (int, unix.Errno) {
	l := c.loop
	count, bytes, more := 0, 0, false
gather:
	for r := c.outFront; r != nil; r = r.next {
		for i := r.at; i < len(r.parts); i++ {
			p := &r.parts[i]
			if p.kind == partFile {
				more = true
				break gather
			}
			if count == iovecsMax || bytes >= budget {
				break gather
			}
			take := min(len(p.mem), budget-bytes)
			l.iov[count].Base = &p.mem[0]
			l.iov[count].SetLen(take)
			count++
			bytes += take
		}
	}
	n, errno := send(c.fd, &l.msg, l.iov[:count], more)
	return n, errno
}

// sent takes n bytes off the front of the queue.
func (c *Conn) sent(n int) {
	for n > 0 {
		r := c.outFront
		p := &r.parts[r.at]
		left := len(p.mem)
		if p.kind == partFile {
			left = p.n
		}
		took := min(n, left)
		n -= took
		if p.kind == partFile {
			p.off += int64(took)
			p.n -= took
		} else {
			p.mem = p.mem[took:]
			c.outBytes -= took
		}
		if took < left {
			return
		}
		if p.owner != nil {
			p.owner.Release()
			p.owner = nil
		}
		r.at++
		if r.at == len(r.parts) {
			if c.outFront = r.next; c.outFront == nil {
				c.outBack = nil
			}
			r.recycle()
		}
	}
}

// block remembers that the socket takes nothing more now.
func (c *Conn) block() {
	l := c.loop
	c.stuck = true
	if l.blocked.has(c) {
		if c.links[listBlocked].next != nil && c.progressed == l.now {
			l.blocked.remove(c)
			l.blocked.pushBack(c)
		}
	} else {
		c.progressed = l.now
		l.blocked.pushBack(c)
		l.sweepSoon()
	}
	if !c.inPins {
		for r := c.outFront; r != nil; r = r.next {
			if r.pinned() {
				l.pin(c)
				break
			}
		}
	}
	c.recharge(c.ownBytes())
	if c.charged > 0 && c.srv.memory.used.Load() > c.srv.memory.total {
		c.fail(ErrSlowReader)
	}
}

// ownBytes is what the answers hold of the Go heap: memory of others is charged
// when it is copied.
func (c *Conn) ownBytes() int {
	n := 0
	for r := c.outFront; r != nil; r = r.next {
		n += len(r.buf)
	}
	c.slots.each(func(r *Response) { n += len(r.buf) })
	return n
}

// recharge sets what the budget knows of the answers that the peer does not take.
func (c *Conn) recharge(n int) {
	if d := n - c.charged; d > 0 {
		c.srv.memory.charge(d)
	} else if d < 0 {
		c.srv.memory.uncharge(-d)
	}
	c.charged = n
}

// pin remembers that answers of c hold memory of others and cannot be sent now.
func (l *Loop) pin(c *Conn) {
	if c.inPins {
		return
	}
	if l.srv.opts.PinTimeout < 0 {
		c.unpin()
		return
	}
	c.inPins = true
	l.pins = append(l.pins, c)
	if len(l.pins) == 1 {
		l.pinTimer = l.After(l.srv.opts.PinTimeout, (*unpinning)(l))
	}
}

// unpinning is the end of PinTimeout.
type unpinning Loop

// Run implements Task.
func (k *unpinning) Run() {
	l := (*Loop)(k)
	for i, c := range l.pins {
		l.pins[i] = nil
		c.inPins = false
		if !c.Closed() {
			c.unpin()
		}
	}
	l.pins = l.pins[:0]
}

// unpin copies what is left of others' memory and releases it: a slow reader
// costs its own budget, not the engine's buffers.
func (c *Conn) unpin() {
	if int64(c.outBytes) > c.srv.opts.ConnMemory {
		c.fail(ErrSlowReader)
		return
	}
	ok := true
	copyParts := func(r *Response) {
		for i := r.at; ok && r.foreign && i < len(r.parts); i++ {
			if p := &r.parts[i]; p.kind == partMem {
				ok = c.copyPart(p)
			}
		}
		r.foreign = r.foreign && !ok
	}
	for r := c.outFront; r != nil; r = r.next {
		copyParts(r)
	}
	c.slots.each(copyParts)
	if !ok {
		c.fail(ErrSlowReader)
	}
}

func (c *Conn) copyPart(p *part) bool {
	m := c.srv.memory
	n := len(p.mem)
	if !m.admit(sizeFor(n), n) {
		return false
	}
	k := m.alloc(n)
	copy(k.mem, p.mem)
	if p.owner != nil {
		p.owner.Release()
	}
	p.mem, p.owner, p.kind = k.mem[:n], k, partCopied
	c.srv.scheduleTrim()
	c.loop.counts.copied += uint64(n)
	return true
}
