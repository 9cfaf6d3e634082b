package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// A bulk frame has flagBulk in its header, and as payload
//
//	headLength  u32
//	head        headLength bytes
//	bulk        the rest
//
// The header's payload CRC covers headLength and head alone. The bulk is for bytes that carry checksums of their own and
// may go from a file to the socket unseen: who reads them checks them, by means of the head where their own do not
// cover everything.
const (
	flagBulk   = 1
	bulkPrefix = 4
)

// Piece is a part of a bulk: memory, or a range of a file where Mem is nil.
type Piece struct {
	Mem []byte
	FD  int
	Pos int64
	Len int
}

// Bulk is what WriteBulk sends behind the head.
type Bulk struct {
	Pieces []Piece
	// Patience is how long the pieces' memory may be used while the peer takes nothing. Then what is left of it is
	// copied, and Slow is called, once: from then on nobody looks at it. 0 is as long as the write takes.
	Patience time.Duration
	Slow     func()
}

// Size is how many bytes the pieces are.
func (b *Bulk) Size() int {
	n := 0
	for i := range b.Pieces {
		n += b.Pieces[i].size()
	}
	return n
}

func (p *Piece) size() int {
	if p.Mem != nil {
		return len(p.Mem)
	}
	return p.Len
}

// WriteBulk writes one frame of a head and a bulk. File ranges go by sendfile where the connection is plain TCP. A file
// that is shorter than its range ends the connection: the length has been promised.
func (c *Conn) WriteBulk(frameType byte, head []byte, bulk *Bulk) error {
	if frameType >= firstOwnType {
		panic("BUG: transport: a stream uses a frame type of the handshake")
	}
	c.write.Lock()
	defer c.write.Unlock()
	if err := c.flushRest(); err != nil {
		return err
	}
	var prefix [frameHeader + bulkPrefix]byte
	lead := append(append(c.write.lead[:0], prefix[:]...), head...)
	if cap(lead) <= joinBelow {
		c.write.lead = lead
	}
	if err := putBulkHeader(lead, frameType, bulk.Size()); err != nil {
		return err
	}
	err := c.writeBulk(lead, bulk)
	if err != nil {
		c.close(err) // half a frame may be out
	}
	return err
}

// putBulkHeader fills in the header and the head's length before a head; size is the bulk's.
func putBulkHeader(lead []byte, frameType byte, size int) error {
	head := len(lead) - frameHeader - bulkPrefix
	if total := bulkPrefix + head + size; total > MaxFrameBytes {
		return fmt.Errorf("%w: %d bytes", ErrFrameTooLarge, total)
	}
	binary.LittleEndian.PutUint16(lead[0:], frameMagic)
	lead[2], lead[3] = frameType, flagBulk
	binary.LittleEndian.PutUint32(lead[4:], uint32(bulkPrefix+head+size))
	binary.LittleEndian.PutUint32(lead[frameHeader:], uint32(head))
	binary.LittleEndian.PutUint32(lead[8:], crc32.Checksum(lead[frameHeader:], castagnoli))
	binary.LittleEndian.PutUint32(lead[12:], crc32.Checksum(lead[:12], castagnoli))
	return nil
}

// writeBulk writes a frame. Called with the write lock.
func (c *Conn) writeBulk(lead []byte, bulk *Bulk) error {
	if err := c.net.SetWriteDeadline(now().Add(c.write.timeout)); err != nil {
		return err
	}
	tcp, plain := c.net.(*net.TCPConn)
	if !plain {
		return c.writeCopied(lead, bulk)
	}
	files := false
	for i := range bulk.Pieces {
		files = files || bulk.Pieces[i].Mem == nil
	}
	if !files {
		return c.writeMemory(lead, bulk)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	if bulk.Slow != nil {
		// What is in memory beside files is the end of a log's segment, small and a copy already; to be sure:
		for i := range bulk.Pieces {
			if m := bulk.Pieces[i].Mem; m != nil {
				bulk.Pieces[i].Mem = append(make([]byte, 0, len(m)), m...)
			}
		}
		bulk.Slow()
	}
	// Corked, so that the head does not travel in a packet of its own.
	cork(raw, 1)
	defer cork(raw, 0)
	if _, err := c.net.Write(lead); err != nil {
		return err
	}
	for i := range bulk.Pieces {
		p := &bulk.Pieces[i]
		if p.Mem != nil {
			_, err = c.net.Write(p.Mem)
		} else {
			err = sendFile(raw, p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeMemory writes with one writev, and copies what the socket does not take in time.
func (c *Conn) writeMemory(lead []byte, bulk *Bulk) error {
	all := append(c.write.parts[:0], lead)
	for i := range bulk.Pieces {
		all = append(all, bulk.Pieces[i].Mem)
	}
	c.write.parts = all
	defer clear(all) // WriteTo may leave some of it
	parts := &c.write.left
	*parts = all
	impatient := bulk.Slow != nil && bulk.Patience > 0 && bulk.Patience < c.write.timeout
	if impatient {
		if err := c.net.SetWriteDeadline(now().Add(bulk.Patience)); err != nil {
			return err
		}
	}
	_, err := parts.WriteTo(c.net)
	if err == nil || !impatient || !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	size := 0
	for _, p := range *parts { // WriteTo has taken away what it wrote
		size += len(p)
	}
	rest := make([]byte, 0, size)
	for _, p := range *parts {
		rest = append(rest, p...)
	}
	bulk.Slow()
	if err := c.net.SetWriteDeadline(now().Add(c.write.timeout)); err != nil {
		return err
	}
	_, err = c.net.Write(rest)
	return err
}

// copyStep is how much of a frame is copied at once on its way into TLS.
const copyStep = 256 << 10

// writeCopied writes through memory of its own: TLS encrypts from there, and cannot go on after a deadline.
func (c *Conn) writeCopied(lead []byte, bulk *Bulk) error {
	size := bulk.Size()
	if bulk.Slow != nil { // slabs are let go before anything can block
		mem := make([]byte, 0, size)
		pieces := make([]Piece, 0, len(bulk.Pieces))
		for _, p := range bulk.Pieces {
			if p.Mem != nil {
				at := len(mem)
				mem = append(mem, p.Mem...)
				p.Mem = mem[at:len(mem):len(mem)]
			}
			pieces = append(pieces, p)
		}
		bulk.Slow()
		bulk = &Bulk{Pieces: pieces}
	}
	buf := make([]byte, 0, min(len(lead)+size, copyStep))
	put := func(b []byte) error {
		for len(b) > 0 {
			n := min(cap(buf)-len(buf), len(b))
			buf = append(buf, b[:n]...)
			b = b[n:]
			if len(buf) == cap(buf) {
				if _, err := c.net.Write(buf); err != nil {
					return err
				}
				buf = buf[:0]
			}
		}
		return nil
	}
	if err := put(lead); err != nil {
		return err
	}
	var step []byte
	for i := range bulk.Pieces {
		p := &bulk.Pieces[i]
		if p.Mem != nil {
			if err := put(p.Mem); err != nil {
				return err
			}
			continue
		}
		if step == nil {
			step = make([]byte, 64<<10)
		}
		for at := 0; at < p.Len; {
			n, err := syscall.Pread(p.FD, step[:min(len(step), p.Len-at)], p.Pos+int64(at))
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err == nil && n == 0 {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return fmt.Errorf("transport: read a file to send: %w", err)
			}
			if err := put(step[:n]); err != nil {
				return err
			}
			at += n
		}
	}
	_, err := c.net.Write(buf)
	return err
}

// sendFileMax is what one sendfile call may take: a range that has left the page cache costs one read and no more.
const sendFileMax = 256 << 10

func sendFile(raw syscall.RawConn, p *Piece) error {
	at, left := p.Pos, p.Len
	var failed error
	err := raw.Write(func(fd uintptr) bool {
		for left > 0 {
			n, err := syscall.Sendfile(int(fd), p.FD, &at, min(left, sendFileMax))
			switch {
			case errors.Is(err, syscall.EINTR):
				continue
			case errors.Is(err, syscall.EAGAIN):
				return false
			case err == nil && n == 0:
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				failed = fmt.Errorf("transport: sendfile: %w", err)
				return true
			}
			left -= n
		}
		return true
	})
	if failed != nil {
		return failed
	}
	return err
}

func cork(raw syscall.RawConn, on int) {
	_ = raw.Control(func(fd uintptr) { // without it there is a packet more
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CORK, on)
	})
}

// ReadBulk returns the next frame of this stream, of at most limit bytes: a bulk frame's head and bulk, any other frame's
// payload as head. Both lie in memory that is buf's where it suffices and replaces it where not; the next call with buf
// overwrites them. The bulk has not been checked.
func (c *Conn) ReadBulk(limit int, buf *[]byte) (frameType byte, head, bulk []byte, err error) {
	for {
		frameType, head, bulk, err = readBulk(c.in, limit, buf)
		if err != nil {
			return 0, nil, nil, err
		}
		own, err := c.arrived(frameType)
		if err != nil {
			return 0, nil, nil, err
		}
		if !own {
			return frameType, head, bulk, nil
		}
	}
}

// readBulk reads one frame of either form.
func readBulk(r io.Reader, limit int, buf *[]byte) (kind byte, head, bulk []byte, err error) {
	h, err := readHeader(r, limit)
	if err != nil {
		return 0, nil, nil, err
	}
	payload, err := readInto(r, h.size, buf)
	if err != nil {
		return 0, nil, nil, noEOF(err)
	}
	covered := payload
	if h.flags == flagBulk {
		if len(payload) < bulkPrefix {
			return 0, nil, nil, fmt.Errorf("%w: a bulk frame of %d bytes", ErrFrameMagic, len(payload))
		}
		n := binary.LittleEndian.Uint32(payload)
		if int64(n) > int64(len(payload)-bulkPrefix) {
			return 0, nil, nil, fmt.Errorf("%w: a head of %d bytes in %d", ErrFrameMagic, n, len(payload))
		}
		covered, bulk = payload[:bulkPrefix+int(n)], payload[bulkPrefix+int(n):]
		head = covered[bulkPrefix:]
	} else {
		head = payload
	}
	if crc32.Checksum(covered, castagnoli) != h.crc {
		return 0, nil, nil, ErrFrameCRC
	}
	return h.kind, head, bulk, nil
}

// keepBelow is the largest buffer that is kept for the next frame.
const keepBelow = 4 << 20

// readInto reads n bytes into buf, which grows at most by what has arrived.
func readInto(r io.Reader, n int, buf *[]byte) ([]byte, error) {
	b := *buf
	if cap(b) > keepBelow && n <= keepBelow/2 {
		b = nil // one large frame does not hold its memory for ever
	}
	have := 0
	for {
		room := min(n, max(cap(b), firstStep, 2*have))
		if room > cap(b) {
			grown := make([]byte, room)
			copy(grown, b[:have])
			b = grown
		}
		b = b[:room]
		*buf = b
		if _, err := io.ReadFull(r, b[have:]); err != nil {
			return nil, err
		}
		if have = room; have == n {
			return b, nil
		}
	}
}
