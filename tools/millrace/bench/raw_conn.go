package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// rawCopyMax is the largest batch that is copied behind others into one buffer; what is larger is written from where
// it is.
const rawCopyMax = 16 << 10

// rawResponseMax bounds an answer to a produce request of one partition.
const rawResponseMax = 64 << 10

// rawConn is one connection of a raw load with at most Inflight requests under way. It belongs to its thread.
type rawConn struct {
	fd          int
	index       int32 // of the thread's connections
	places      []int // indexes into load.places that it writes to in turn
	next        int   // of places
	batch       *rawBatch
	correlation uint32
	under       []rawSent // ring of requests without an answer
	first, n    int       // of under

	out      []byte // encoded and not written yet, from outAt on
	outAt    int
	large    []byte // follows out; nil: nothing
	largeAt  int
	watching bool // for room in the socket
	in       []byte
	refused  time.Time // no request before that: the broker said no
	broken   bool
}

type rawSent struct {
	at     time.Time // sent, or due
	number uint64
	place  int
}

// dialRaw connects to a broker, past the runtime's poller.
func dialRaw(address string) (int, error) {
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return -1, err
	}
	domain, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: tcp.Port, Addr: [16]byte(tcp.IP.To16())})
	if ip := tcp.IP.To4(); ip != nil {
		domain, sa = unix.AF_INET, &unix.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(ip)}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = unix.Connect(fd, sa)
	for errors.Is(err, unix.EINTR) {
		err = unix.Connect(fd, sa)
	}
	if err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), unix.SetNonblock(fd, true)); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect %s: %w", address, err)
	}
	return fd, nil
}

// room reports whether the connection can take one more request now.
func (c *rawConn) room(now time.Time) bool {
	return !c.broken && c.n < len(c.under) && c.large == nil && (c.refused.IsZero() || !now.Before(c.refused))
}

// push encodes one request behind what waits to be written.
func (c *rawConn) push(l *load, number uint64, at time.Time) {
	index := c.places[c.next]
	if c.next++; c.next == len(c.places) {
		c.next = 0
	}
	c.batch.stamp(l.payload, number, at)
	begin := len(c.out)
	c.out = append(c.out, l.heads[index].frame...)
	binary.BigEndian.PutUint32(c.out[begin+correlationAt:], c.correlation)
	c.correlation++
	if len(c.batch.data) <= rawCopyMax {
		c.out = append(append(c.out, c.batch.data...), rawTail[:]...)
	} else {
		c.large, c.largeAt = c.batch.data, 0
	}
	last := c.first + c.n
	if last >= len(c.under) {
		last -= len(c.under)
	}
	c.under[last] = rawSent{at: at, number: number, place: index}
	c.n++
}

// flush writes what waits; more is true if the socket took everything, so that another request may be pushed.
func (c *rawConn) flush() (more bool, err error) {
	for c.outAt < len(c.out) || c.large != nil {
		var parts [3]unix.Iovec
		n := 0
		if rest := c.out[c.outAt:]; len(rest) > 0 {
			parts[n].Base = &rest[0]
			parts[n].SetLen(len(rest))
			n++
		}
		if c.large != nil {
			if c.largeAt < len(c.large) {
				rest := c.large[c.largeAt:]
				parts[n].Base = &rest[0]
				parts[n].SetLen(len(rest))
				n++
			}
			parts[n].Base = &rawTail[0]
			parts[n].SetLen(len(rawTail))
			if over := c.largeAt - len(c.large); over > 0 { // a piece of the tail has gone
				parts[n].Base = &rawTail[over]
				parts[n].SetLen(len(rawTail) - over)
			}
			n++
		}
		written, err := writev(c.fd, parts[:n])
		if errors.Is(err, unix.EAGAIN) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		small := min(written, len(c.out)-c.outAt)
		c.outAt += small
		if c.outAt == len(c.out) {
			c.out, c.outAt = c.out[:0], 0
		}
		if c.large != nil {
			if c.largeAt += written - small; c.largeAt == len(c.large)+len(rawTail) {
				c.large = nil
			}
		}
	}
	return true, nil
}

// fill reads what has come and calls take for every whole answer.
func (c *rawConn) fill(buf []byte, take func(answer []byte) error) error {
	kept := copy(buf, c.in)
	n, err := read(c.fd, buf[kept:])
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return err
	case n == 0:
		return io.ErrUnexpectedEOF
	}
	data := buf[:kept+n]
	for len(data) >= 4 {
		size := int(binary.BigEndian.Uint32(data))
		if size < 4 || size > rawResponseMax {
			return fmt.Errorf("an answer announces %d bytes", size)
		}
		if len(data) < 4+size {
			break
		}
		if err := take(data[4 : 4+size]); err != nil {
			return err
		}
		data = data[4+size:]
	}
	c.in = append(c.in[:0], data...)
	return nil
}

// pop takes the oldest request under way, which the answer must be for.
func (c *rawConn) pop(answer []byte) (rawSent, error) {
	want := c.correlation - uint32(c.n)
	if got := binary.BigEndian.Uint32(answer); c.n == 0 || got != want {
		return rawSent{}, fmt.Errorf("answer %d came where %d was due", got, want)
	}
	s := c.under[c.first]
	if c.first++; c.first == len(c.under) {
		c.first = 0
	}
	c.n--
	return s, nil
}
