package raft

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strconv"
)

// ErrDecode is wrapped by every decoder's error: the bytes are not what an encoder wrote.
var ErrDecode = errors.New("raft: malformed bytes")

// encoder appends to b. Integers are varints: most of them are small ids and epochs.
type encoder struct{ b []byte }

func (e *encoder) byte(v byte)     { e.b = append(e.b, v) }
func (e *encoder) int(v int64)     { e.b = binary.AppendVarint(e.b, v) }
func (e *encoder) uint(v uint64)   { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int32(v int32)   { e.int(int64(v)) }
func (e *encoder) uuid(v UUID)     { e.b = append(e.b, v[:]...) }
func (e *encoder) string(v string) { e.uint(uint64(len(v))); e.b = append(e.b, v...) }

func (e *encoder) bool(v bool) {
	if v {
		e.byte(1)
	} else {
		e.byte(0)
	}
}

func (e *encoder) int32s(v []int32) {
	e.uint(uint64(len(v)))
	for _, x := range v {
		e.int32(x)
	}
}

func (e *encoder) strings(v []string) {
	e.uint(uint64(len(v)))
	for _, s := range v {
		e.string(s)
	}
}

// stringMap writes m sorted by key: equal maps give equal bytes on every replica.
func (e *encoder) stringMap(m map[string]string) {
	e.uint(uint64(len(m)))
	for _, k := range sortedKeys(m) {
		e.string(k)
		e.string(m[k])
	}
}

// decoder reads what encoder wrote. After the first error every read returns zero, so that callers
// check once at the end; a length is believed only as far as bytes are left to fill it.
type decoder struct {
	b   []byte
	bad bool
}

// finish returns the first error, or that something is left.
func (d *decoder) finish() error {
	if d.bad || len(d.b) != 0 {
		return ErrDecode
	}
	return nil
}

func (d *decoder) fail() { d.b, d.bad = nil, true }

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) bool() bool {
	v := d.byte()
	if v > 1 {
		d.fail()
	}
	return v == 1
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int32() int32 {
	v := d.int()
	if v < math.MinInt32 || v > math.MaxInt32 {
		d.fail()
		return 0
	}
	return int32(v)
}

func (d *decoder) uint16() uint16 {
	v := d.uint()
	if v > math.MaxUint16 {
		d.fail()
		return 0
	}
	return uint16(v)
}

func (d *decoder) uuid() (u UUID) {
	if len(d.b) < len(u) {
		d.fail()
		return u
	}
	copy(u[:], d.b)
	d.b = d.b[len(u):]
	return u
}

func (d *decoder) string() string {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

// count reads the length of a list whose elements take at least size bytes each.
func (d *decoder) count(size int) int {
	n := d.uint()
	if n > uint64(len(d.b)/size) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) int32s() []int32 {
	n := d.count(1)
	if n == 0 {
		return nil
	}
	v := make([]int32, n)
	for i := range v {
		v[i] = d.int32()
	}
	return v
}

func (d *decoder) strings() []string {
	n := d.count(1)
	if n == 0 {
		return nil
	}
	v := make([]string, n)
	for i := range v {
		v[i] = d.string()
	}
	return v
}

// stringMap insists on sorted, distinct keys: one state has one encoding.
func (d *decoder) stringMap() map[string]string {
	n := d.count(2)
	if n == 0 {
		return nil
	}
	m := make(map[string]string, n)
	last := ""
	for i := range n {
		k, v := d.string(), d.string()
		if i > 0 && k <= last {
			d.fail()
		}
		if d.bad {
			return nil
		}
		m[k], last = v, k
	}
	return m
}

// list writes a slice of anything.
func list[T any](e *encoder, v []T, each func(*encoder, *T)) {
	e.uint(uint64(len(v)))
	for i := range v {
		each(e, &v[i])
	}
}

// unlist reads a slice whose elements take at least size bytes each. It grows with what really
// decodes: elements are larger in memory than on the wire, and a bad one ends the list.
func unlist[T any](d *decoder, size int, each func(*decoder, *T)) []T {
	n := d.count(size)
	var v []T
	for range n {
		var x T
		each(d, &x)
		if d.bad {
			return nil
		}
		v = append(v, x)
	}
	return v
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func formatInt(v int64) string { return strconv.FormatInt(v, 10) }

func parseInt(s string) (int64, bool) {
	v, err := strconv.ParseInt(s, 10, 64)
	return v, err == nil
}
