package wire

import (
	"encoding/binary"
	"errors"
)

// ErrMalformed means that a message ends before its fields do, or that a
// length or count in it cannot be true.
var ErrMalformed = errors.New("malformed message")

// Reader reads Kafka's primitive types from a byte slice. The first
// impossible read sets its error; everything read after that is zero.
type Reader struct {
	b   []byte
	bad bool
}

// NewReader reads from b, which it aliases.
func NewReader(b []byte) Reader { return Reader{b: b} }

// Err is ErrMalformed after the first impossible read.
func (r *Reader) Err() error {
	if r.bad {
		return ErrMalformed
	}
	return nil
}

// Left is the number of bytes not read yet.
func (r *Reader) Left() int { return len(r.b) }

// Rest returns the bytes not read yet, without consuming them.
func (r *Reader) Rest() []byte { return r.b }

func (r *Reader) fail() {
	r.bad = true
	r.b = nil
}

// Take consumes n bytes.
func (r *Reader) Take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.fail()
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

// Int8 reads an INT8.
func (r *Reader) Int8() int8 {
	if len(r.b) < 1 {
		r.fail()
		return 0
	}
	v := int8(r.b[0])
	r.b = r.b[1:]
	return v
}

// Int16 reads a big-endian INT16.
func (r *Reader) Int16() int16 {
	if len(r.b) < 2 {
		r.fail()
		return 0
	}
	v := int16(binary.BigEndian.Uint16(r.b))
	r.b = r.b[2:]
	return v
}

// Int32 reads a big-endian INT32.
func (r *Reader) Int32() int32 {
	if len(r.b) < 4 {
		r.fail()
		return 0
	}
	v := int32(binary.BigEndian.Uint32(r.b))
	r.b = r.b[4:]
	return v
}

// Int64 reads a big-endian INT64.
func (r *Reader) Int64() int64 {
	if len(r.b) < 8 {
		r.fail()
		return 0
	}
	v := int64(binary.BigEndian.Uint64(r.b))
	r.b = r.b[8:]
	return v
}

// Uvarint reads an unsigned varint of at most 32 bits.
func (r *Reader) Uvarint() uint32 {
	var v uint32
	for i := 0; i < 5; i++ {
		if i >= len(r.b) {
			r.fail()
			return 0
		}
		c := r.b[i]
		if i == 4 && c > 0x0f {
			break
		}
		v |= uint32(c&0x7f) << (7 * i)
		if c < 0x80 {
			r.b = r.b[i+1:]
			return v
		}
	}
	r.fail()
	return 0
}

// UUID reads 16 bytes.
func (r *Reader) UUID() (id [16]byte) {
	copy(id[:], r.Take(16))
	return id
}

// length reads the length of a string, bytes or array; -1 is null.
func (r *Reader) length(flexible bool, wide bool) int {
	switch {
	case flexible:
		return int(r.Uvarint()) - 1
	case wide:
		return int(r.Int32())
	default:
		return int(r.Int16())
	}
}

// String reads a STRING or COMPACT_STRING that may be null (nil, false).
func (r *Reader) String(flexible bool) (s []byte, ok bool) {
	n := r.length(flexible, false)
	if r.bad || n == -1 {
		return nil, false
	}
	return r.Take(n), !r.bad
}

// Bytes reads BYTES, COMPACT_BYTES or RECORDS that may be null (nil, false).
func (r *Reader) Bytes(flexible bool) (b []byte, ok bool) {
	n := r.length(flexible, true)
	if r.bad || n == -1 {
		return nil, false
	}
	return r.Take(n), !r.bad
}

// Count reads the length of an array whose elements take at least elemMin
// bytes each; null reads as 0.
func (r *Reader) Count(flexible bool, elemMin int) int {
	n := r.length(flexible, true)
	if n == -1 {
		return 0
	}
	if n < 0 || n > len(r.b)/max(elemMin, 1) {
		r.fail()
		return 0
	}
	return n
}

// Tags reads the tagged fields that end a flexible structure; visit may be nil.
func (r *Reader) Tags(flexible bool, visit func(tag uint32, body []byte)) {
	if !flexible {
		return
	}
	n := r.Uvarint()
	if int64(n) > int64(len(r.b)/2) {
		r.fail()
		return
	}
	for range n {
		tag := r.Uvarint()
		body := r.Take(int(r.Uvarint()))
		if r.bad {
			return
		}
		if visit != nil {
			visit(tag, body)
		}
	}
}
