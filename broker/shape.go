package broker

import (
	"errors"
	"fmt"
	"reflect"

	"millrace/broker/wire"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// kmsg believes what a request says of itself: ten bytes that announce four
// billion tagged fields keep its decoder busy for minutes, and every byte of an
// array may become a struct of a hundred. A request is therefore walked first
// against its shape: what is announced must be there, and what the decoder will
// allocate must be in proportion to what was sent.
//
// The shapes are not written down a second time. They are found out at the start
// from kmsg's own encoder: a field of which a change shows in the encoded bytes
// belongs to that version.

// shape is how one field, or one struct, lies on the wire in one version.
type shape struct {
	kind   shapeKind
	size   int     // of a fixed field, in bytes
	fields []shape // of a struct, in order
	elem   *shape  // of an array
	cost   int     // of one element of an array in memory
}

type shapeKind uint8

const (
	shapeFixed shapeKind = iota
	shapeString
	shapeBytes
	shapeArray
	shapeStruct
	shapeOptional // a struct behind one byte that tells whether it is there
)

// What a decoded request may take: more than any client's needs of its size, and
// never more than the last of them.
const (
	shapeFreeBytes = 64 << 10
	shapePerByte   = 32
	shapeBytesMax  = 32 << 20
	shapeTagCost   = 64
)

var errMalformed = errors.New("malformed request")

// shapeOf finds the shape of a request in one version.
func shapeOf(key, version int16) *shape {
	p := &shapeProbe{key: key, version: version}
	s := p.structure(reflect.TypeOf(kmsg.RequestForKey(key)).Elem(), func(root reflect.Value) reflect.Value { return root })
	return &s
}

// shapeProbe asks the encoder. It is used once.
type shapeProbe struct {
	key, version int16
}

// shapePlace finds the struct under examination inside a request, making what lies on
// the way.
type shapePlace func(root reflect.Value) reflect.Value

// encode encodes a request of default values in which change was made.
func (p *shapeProbe) encode(at shapePlace, change func(reflect.Value)) string {
	req := kmsg.RequestForKey(p.key)
	req.SetVersion(p.version)
	if v := at(reflect.ValueOf(req).Elem()); change != nil {
		change(v)
	}
	return string(req.AppendTo(nil))
}

func (p *shapeProbe) structure(t reflect.Type, at shapePlace) shape {
	s := shape{kind: shapeStruct}
	plain := p.encode(at, nil)
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() || f.Name == "UnknownTags" || f.Name == "Version" && f.Index[0] == 0 && f.Type.Kind() == reflect.Int16 {
			continue
		}
		field := func(root reflect.Value) reflect.Value { return at(root).Field(i) }
		if f.Type.Kind() == reflect.Struct {
			if inner := p.structure(f.Type, field); len(inner.fields) > 0 {
				s.fields = append(s.fields, inner)
			}
			continue
		}
		if p.encode(field, differ) != plain {
			s.fields = append(s.fields, p.field(f.Type, field))
		}
	}
	return s
}

func (p *shapeProbe) field(t reflect.Type, at shapePlace) shape {
	switch t.Kind() {
	case reflect.String:
		return shape{kind: shapeString}
	case reflect.Pointer:
		if t.Elem().Kind() == reflect.Struct {
			inner := p.structure(t.Elem(), func(root reflect.Value) reflect.Value { return made(at(root)).Elem() })
			return shape{kind: shapeOptional, elem: &inner}
		}
		return p.field(t.Elem(), func(root reflect.Value) reflect.Value { return made(at(root)).Elem() })
	case reflect.Slice:
		e := t.Elem()
		if e.Kind() == reflect.Uint8 {
			return shape{kind: shapeBytes}
		}
		first := func(root reflect.Value) reflect.Value { return made(at(root)).Index(0) }
		var elem shape
		if e.Kind() == reflect.Struct {
			elem = p.structure(e, first)
		} else {
			elem = p.field(e, first)
		}
		return shape{kind: shapeArray, elem: &elem, cost: int(e.Size())}
	default:
		return shape{kind: shapeFixed, size: int(t.Size())}
	}
}

// made gives a slice one element, or a pointer something to point at, of default
// values.
func made(v reflect.Value) reflect.Value {
	var inner reflect.Value
	switch {
	case v.Kind() == reflect.Slice && v.Len() == 0:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		inner = v.Index(0)
	case v.Kind() == reflect.Pointer && v.IsNil():
		v.Set(reflect.New(v.Type().Elem()))
		inner = v.Elem()
	default:
		return v
	}
	if d, ok := inner.Addr().Interface().(interface{ Default() }); ok {
		d.Default()
	}
	return v
}

// differ changes a field in a way that shows wherever it is encoded.
func differ(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(v.Uint() + 1)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(v.Float() + 1)
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Array:
		differ(v.Index(0))
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte{1})
			return
		}
		made(v)
	case reflect.Pointer:
		if v = made(v); v.Type().Elem().Kind() != reflect.Struct {
			differ(v.Elem())
		}
	default:
		panic(fmt.Sprintf("BUG: a request has a field of type %s", v.Type()))
	}
}

// check walks the body of a request.
func (s *shape) check(body []byte, flexible bool) error {
	w := shapeWalk{r: wire.NewReader(body), flexible: flexible, left: min(shapeFreeBytes+shapePerByte*len(body), shapeBytesMax+len(body))}
	if !w.walk(s) {
		return errMalformed
	}
	return nil
}

// shapeWalk is one walk through a body.
type shapeWalk struct {
	r        wire.Reader
	flexible bool
	left     int // of what the decoded request may take
}

func (w *shapeWalk) walk(s *shape) bool {
	switch s.kind {
	case shapeFixed:
		return w.skip(s.size)
	case shapeString:
		return w.skip(w.length(2))
	case shapeBytes:
		return w.skip(w.length(4))
	case shapeArray:
		n := w.length(4)
		// An element takes a byte at least.
		if n > w.r.Left() || !w.spend(n*s.cost) {
			return false
		}
		if s.elem.kind == shapeFixed {
			return w.skip(n * s.elem.size)
		}
		for range n {
			if !w.walk(s.elem) {
				return false
			}
		}
		return w.r.Err() == nil
	case shapeOptional:
		return w.r.Int8() == -1 || w.walk(s.elem)
	default:
		for i := range s.fields {
			if !w.walk(&s.fields[i]) {
				return false
			}
		}
		return w.tags()
	}
}

// tags walks the tagged fields behind a struct.
func (w *shapeWalk) tags() bool {
	if !w.flexible {
		return w.r.Err() == nil
	}
	n := int(w.r.Uvarint())
	if n > w.r.Left()/2 || !w.spend(n*shapeTagCost) {
		return false
	}
	for range n {
		w.r.Uvarint()
		if !w.skip(int(w.r.Uvarint())) {
			return false
		}
	}
	return w.r.Err() == nil
}

// length reads a length: a number of so many bytes, or compact; null is 0.
func (w *shapeWalk) length(size int) int {
	switch {
	case w.flexible:
		return max(int(w.r.Uvarint())-1, 0)
	case size == 2:
		return max(int(w.r.Int16()), 0)
	default:
		return max(int(w.r.Int32()), 0)
	}
}

func (w *shapeWalk) skip(n int) bool {
	w.r.Take(n)
	return w.r.Err() == nil
}

func (w *shapeWalk) spend(n int) bool {
	w.left -= n
	return w.left >= 0
}
