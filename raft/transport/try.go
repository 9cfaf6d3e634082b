package transport

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// tryMax bounds a frame of TryWrite: what a socket does not take at once is copied.
const tryMax = 256 << 10

// tryState is what TryWrite keeps between calls. Guarded by the write lock.
type tryState struct {
	raw    syscall.RawConn // nil before the first try, and where there is no plain TCP connection
	asked  bool
	send   func(fd uintptr) // made once: a closure a call would be an allocation
	bufs   [][]byte
	n      int
	failed error
	rest   []byte // of a frame, not taken by the socket yet: it goes before anything else
}

// TryWrite writes one frame, a bulk frame if bulk is not nil, on a thread that must not block. sent is false, and nothing
// has happened, when somebody else is writing, or the frame is large, of files, or not for a plain TCP connection: WriteFrame
// and WriteBulk are for those. rest tells that the socket has not taken all of it: the remainder was copied and goes
// before any other frame, and somebody has to call Flush. The frame may be used again afterwards in any case.
func (c *Conn) TryWrite(frameType byte, head []byte, bulk *Bulk) (sent, rest bool, err error) {
	if frameType >= firstOwnType {
		panic("BUG: transport: a stream uses a frame type of the handshake")
	}
	if !c.write.TryLock() {
		return false, false, nil
	}
	defer c.write.Unlock()
	t := &c.write.try
	if len(t.rest) > 0 || !c.mayTry(head, bulk) {
		return false, false, nil
	}
	if err := c.putFrame(frameType, head, bulk); err != nil {
		return false, false, err
	}
	t.n, t.failed = 0, nil
	if err := t.raw.Control(t.send); err != nil {
		t.failed = err
	}
	defer clear(t.bufs)
	if t.failed != nil {
		c.close(t.failed)
		return false, false, t.failed
	}
	t.keep()
	return true, len(t.rest) > 0, nil
}

// mayTry reports whether a frame can be sent without blocking. Called with the write lock.
func (c *Conn) mayTry(head []byte, bulk *Bulk) bool {
	t := &c.write.try
	if !t.asked {
		t.asked = true
		if tcp, plain := c.net.(*net.TCPConn); plain {
			t.raw, _ = tcp.SyscallConn()
			t.send = t.sendOnce
		}
	}
	size := len(head)
	if bulk != nil {
		for i := range bulk.Pieces {
			if bulk.Pieces[i].Mem == nil {
				return false
			}
			size += len(bulk.Pieces[i].Mem)
		}
	}
	return t.raw != nil && size <= tryMax
}

// putFrame lays the parts of a frame out in bufs. Called with the write lock.
func (c *Conn) putFrame(frameType byte, head []byte, bulk *Bulk) error {
	t := &c.write.try
	t.bufs = t.bufs[:0]
	if bulk == nil {
		var h [frameHeader]byte
		if err := putHeader(&h, frameType, head); err != nil {
			return err
		}
		c.write.lead = append(append(c.write.lead[:0], h[:]...), head...)
		t.bufs = append(t.bufs, c.write.lead)
		return nil
	}
	var prefix [frameHeader + bulkPrefix]byte
	lead := append(append(c.write.lead[:0], prefix[:]...), head...)
	if err := putBulkHeader(lead, frameType, bulk.Size()); err != nil {
		return err
	}
	if cap(lead) <= joinBelow {
		c.write.lead = lead
	}
	t.bufs = append(t.bufs, lead)
	for i := range bulk.Pieces {
		t.bufs = append(t.bufs, bulk.Pieces[i].Mem)
	}
	return nil
}

// sendOnce offers the parts to the socket.
func (t *tryState) sendOnce(fd uintptr) {
	for {
		n, err := unix.SendmsgBuffers(int(fd), t.bufs, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch err {
		case nil:
			t.n = n
		case unix.EINTR:
			continue
		case unix.EAGAIN:
		default:
			t.failed = err
		}
		return
	}
}

// keep copies what the socket did not take.
func (t *tryState) keep() {
	n := t.n
	for _, b := range t.bufs {
		if n >= len(b) {
			n -= len(b)
			continue
		}
		t.rest = append(t.rest, b[n:]...)
		n = 0
	}
}

// Flush writes what TryWrite has left. It may block.
func (c *Conn) Flush() error {
	c.write.Lock()
	defer c.write.Unlock()
	return c.flushRest()
}

// flushRest writes the remainder of a frame before another one. Called with the write lock.
func (c *Conn) flushRest() error {
	t := &c.write.try
	if len(t.rest) == 0 {
		return nil
	}
	err := c.net.SetWriteDeadline(now().Add(c.write.timeout))
	if err == nil {
		_, err = c.net.Write(t.rest)
	}
	t.rest = t.rest[:0]
	if cap(t.rest) > joinBelow {
		t.rest = nil
	}
	if err != nil {
		c.close(err) // half a frame is out
	}
	return err
}
