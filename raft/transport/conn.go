package transport

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is one stream between two nodes that know each other. It has one reader; writers share a lock.
type Conn struct {
	net   net.Conn
	in    *bufio.Reader
	peer  Identity
	kind  Kind
	write struct {
		sync.Mutex
		timeout time.Duration
		// Memory of WriteBulk; left is a field because net.Buffers.WriteTo would move a variable to the heap.
		lead        []byte
		parts, left net.Buffers
		try         tryState
	}
	onClose func()
	heard   atomic.Int64 // when the last frame arrived, unix nanoseconds
	once    sync.Once
	closed  chan struct{}
	reason  error
}

// Errors of a connection's end.
var (
	ErrClosed = errors.New("transport: connection is closed")
	ErrSilent = errors.New("transport: the peer has fallen silent")
)

func newConn(c net.Conn, writeTimeout time.Duration) *Conn {
	conn := &Conn{net: c, in: bufio.NewReaderSize(c, 64<<10), closed: make(chan struct{})}
	conn.write.timeout = writeTimeout
	return conn
}

// Peer is who the handshake found at the other end.
func (c *Conn) Peer() Identity { return c.peer }

// Kind is the kind of stream.
func (c *Conn) Kind() Kind { return c.kind }

// ReadFrame returns the next frame of this stream, of at most limit bytes. The payload is the caller's. Pings are
// answered on the way, so a stream that is read is a stream that is seen to live.
func (c *Conn) ReadFrame(limit int) (frameType byte, payload []byte, err error) {
	for {
		frameType, payload, err = readFrame(c.in, limit)
		if err != nil {
			return 0, nil, err
		}
		own, err := c.arrived(frameType)
		if err != nil {
			return 0, nil, err
		}
		if !own {
			return frameType, payload, nil
		}
	}
}

// arrived notes a sign of life and deals with the frames that are this package's own.
func (c *Conn) arrived(frameType byte) (own bool, err error) {
	c.heard.Store(now().UnixNano())
	switch {
	case frameType == framePing:
		return true, c.writeFrame(framePong)
	case frameType == framePong:
		return true, nil
	case frameType >= firstOwnType:
		return false, ErrFrameMagic // a handshake's frame after the handshake
	}
	return false, nil
}

// WriteFrame writes one frame whose payload is given in parts. The parts may be used again afterwards.
func (c *Conn) WriteFrame(frameType byte, parts ...[]byte) error {
	if frameType >= firstOwnType {
		panic("BUG: transport: a stream uses a frame type of the handshake")
	}
	return c.writeFrame(frameType, parts...)
}

const joinBelow = 16 << 10

func (c *Conn) writeFrame(frameType byte, parts ...[]byte) error {
	var h [frameHeader]byte
	if err := putHeader(&h, frameType, parts...); err != nil {
		return err
	}
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	c.write.Lock()
	defer c.write.Unlock()
	if err := c.flushRest(); err != nil {
		return err
	}
	err := c.net.SetWriteDeadline(now().Add(c.write.timeout))
	if err != nil {
		c.close(err)
		return err
	}
	if _, isTLS := c.net.(*tls.Conn); isTLS && size > joinBelow {
		// A record each is fine for large parts.
		if _, err = c.net.Write(h[:]); err == nil {
			for _, p := range parts {
				if _, err = c.net.Write(p); err != nil {
					break
				}
			}
		}
	} else if size <= joinBelow {
		b := make([]byte, 0, frameHeader+size)
		b = append(b, h[:]...)
		for _, p := range parts {
			b = append(b, p...)
		}
		_, err = c.net.Write(b)
	} else {
		bufs := append(net.Buffers{h[:]}, parts...)
		_, err = bufs.WriteTo(c.net)
	}
	if err != nil {
		c.close(err) // half a frame may be out
	}
	return err
}

// Raw hands out the connection below for sendfile. Frames and raw bytes must not be mixed without an agreement of
// both ends; buffered is what was read ahead.
func (c *Conn) Raw() (conn net.Conn, buffered *bufio.Reader) { return c.net, c.in }

// Done is closed when the connection is.
func (c *Conn) Done() <-chan struct{} { return c.closed }

// Close closes the connection. It may be called at any time and more than once.
func (c *Conn) Close() error {
	c.close(ErrClosed)
	return nil
}

func (c *Conn) close(reason error) {
	c.once.Do(func() {
		c.reason = reason
		close(c.closed)
		_ = c.net.Close()
		if c.onClose != nil {
			c.onClose()
		}
	})
}

// KeepAlive pings the peer every interval and closes the connection when nothing has arrived for silence. The peer's
// reader answers, and this end's must be running to notice. A process that stood still does not blame the peer.
func (c *Conn) KeepAlive(interval, silence time.Duration) {
	last := now()
	c.heard.Store(last.UnixNano())
	for {
		select {
		case <-c.closed:
			return
		case <-after(interval):
		}
		t := now()
		if t.Sub(last) > silence/2+interval {
			c.heard.Store(t.UnixNano())
		}
		last = t
		if t.UnixNano()-c.heard.Load() > silence.Nanoseconds() {
			c.close(ErrSilent)
			return
		}
		if c.write.TryLock() { // a frame under way is a sign of life to come, or its deadline ends it
			c.write.Unlock()
			if err := c.writeFrame(framePing); err != nil {
				return
			}
		}
	}
}
