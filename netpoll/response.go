package netpoll

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Releaser owns memory or a file range until it has been sent. Release is called
// exactly once, on the loop's thread.
type Releaser interface{ Release() }

// Response is one answer: a list of parts, of own bytes, memory of others and file
// ranges. It comes from Loop.NewResponse and ends with Conn.Reply (or Drop); the
// loop's thread only.
type Response struct {
	loop  *Loop
	buf   []byte // own bytes; the first four are the frame's size
	cut   int    // buf[:cut] is already part of parts
	parts []part
	at    int // parts[:at] were sent

	size    int // payload bytes, known once sealed
	inMem   int // bytes not in files, known once sealed
	foreign bool
	next    *Response
}

// part is a piece of a response. mem == nil: n bytes at off of fd, else the bytes
// of mem. from and to stand for own bytes until seal, because buf may still move.
type part struct {
	mem      []byte
	from, to int
	fd       int
	off      int64
	n        int
	owner    Releaser // nil: nobody
	kind     partKind
}

type partKind uint8

const (
	partOwn    partKind = iota // bytes of buf
	partMem                    // memory of others: pinned while queued
	partCopied                 // was partMem, now in a chunk of ours
	partFile
)

const (
	responseBufBytes   = 256
	responseBufKeptMax = 64 << 10 // larger buffers are left to the garbage collector
	responsesKeptMax   = 512      // of one loop
)

// NewResponse returns an empty response.
func (l *Loop) NewResponse() *Response {
	if n := len(l.responses); n > 0 {
		r := l.responses[n-1]
		l.responses[n-1] = nil
		l.responses = l.responses[:n-1]
		return r
	}
	return &Response{loop: l, buf: make([]byte, sizeBytes, responseBufBytes), cut: 0}
}

// Buffer returns the own bytes so far, to be appended to and given back with
// Commit before any other method is called.
func (r *Response) Buffer() []byte { return r.buf }

// Commit takes back what Buffer gave, with bytes appended.
func (r *Response) Commit(b []byte) {
	if len(b) < len(r.buf) {
		panic(fmt.Sprintf("BUG: response shrinks from %d to %d bytes", len(r.buf), len(b)))
	}
	r.buf = b
}

// Append copies b to the end of the response.
func (r *Response) Append(b []byte) { r.buf = append(r.buf, b...) }

// Grow adds n bytes to the end of the response and returns them, to be filled
// before the next call.
func (r *Response) Grow(n int) []byte {
	old := len(r.buf)
	if cap(r.buf)-old < n {
		grown := make([]byte, old, max(2*cap(r.buf), old+n))
		copy(grown, r.buf)
		r.buf = grown
	}
	r.buf = r.buf[:old+n]
	return r.buf[old:]
}

// AppendMem adds data to the end without copying it. owner (or nil) is released
// when the bytes were sent, copied or dropped.
func (r *Response) AppendMem(data []byte, owner Releaser) {
	if len(data) == 0 {
		if owner != nil {
			owner.Release()
		}
		return
	}
	r.cutOwn()
	r.parts = append(r.parts, part{mem: data, owner: owner, kind: partMem})
	r.foreign = true
}

// AppendFile adds n bytes at off of an open file. owner (or nil) is released when
// they were sent or dropped.
func (r *Response) AppendFile(fd int, off int64, n int, owner Releaser) {
	if n < 0 || off < 0 {
		panic(fmt.Sprintf("BUG: %d bytes at %d of a file", n, off))
	}
	if n == 0 {
		if owner != nil {
			owner.Release()
		}
		return
	}
	r.cutOwn()
	r.parts = append(r.parts, part{fd: fd, off: off, n: n, owner: owner, kind: partFile})
}

// Len is the number of payload bytes so far.
func (r *Response) Len() int {
	n := len(r.buf) - sizeBytes
	for i := range r.parts {
		n += len(r.parts[i].mem) + r.parts[i].n
	}
	return n
}

// Drop gives back a response that will not be sent.
func (r *Response) Drop() { r.recycle() }

// cutOwn makes a part of the own bytes that are not yet in one.
func (r *Response) cutOwn() {
	if r.cut < len(r.buf) {
		r.parts = append(r.parts, part{from: r.cut, to: len(r.buf), kind: partOwn})
		r.cut = len(r.buf)
	}
}

// seal writes the size and fixes the parts; nothing may be appended afterwards.
func (r *Response) seal() {
	r.size = r.Len()
	if r.size > math.MaxInt32 {
		panic(fmt.Sprintf("BUG: response of %d bytes", r.size))
	}
	r.cutOwn()
	binary.BigEndian.PutUint32(r.buf, uint32(r.size))
	r.inMem = 0
	for i := range r.parts {
		p := &r.parts[i]
		if p.kind == partOwn {
			p.mem = r.buf[p.from:p.to]
		}
		r.inMem += len(p.mem)
	}
}

// pinned tells whether unsent memory of others is referenced.
func (r *Response) pinned() bool {
	if !r.foreign {
		return false
	}
	for i := r.at; i < len(r.parts); i++ {
		if r.parts[i].kind == partMem {
			return true
		}
	}
	r.foreign = false
	return false
}

// recycle releases the owners that are left and gives r back to its loop.
func (r *Response) recycle() {
	for i := r.at; i < len(r.parts); i++ {
		if o := r.parts[i].owner; o != nil {
			o.Release()
		}
	}
	clear(r.parts)
	l := r.loop
	if len(l.responses) >= responsesKeptMax {
		return
	}
	if cap(r.buf) > responseBufKeptMax {
		r.buf = make([]byte, sizeBytes, responseBufBytes)
	}
	*r = Response{loop: l, buf: r.buf[:sizeBytes], parts: r.parts[:0]}
	l.responses = append(l.responses, r)
}
