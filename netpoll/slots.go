package netpoll

import "fmt"

// Slot is a place in the order of a connection's answers.
type Slot uint64

// slots are the answers of a connection that wait for their turn: entries
// [head, tail) of a ring. An entry is nil until it is replied or skipped.
type slots struct {
	ring       []*Response // length is a power of two
	head, tail uint64
	first      [4]*Response // the ring of most connections
}

// skipped stands in the ring for an answer that will not be sent.
var skipped = new(Response)

func (s *slots) inflight() int { return int(s.tail - s.head) }

func (s *slots) begin() Slot {
	if s.inflight() == len(s.ring) {
		s.widen()
	}
	s.tail++
	return Slot(s.tail - 1)
}

func (s *slots) widen() {
	if s.ring == nil {
		s.ring = s.first[:]
		return
	}
	wide := make([]*Response, 2*len(s.ring))
	for i := s.head; i != s.tail; i++ {
		wide[i&uint64(len(wide)-1)] = s.ring[i&uint64(len(s.ring)-1)]
	}
	clear(s.first[:])
	s.ring = wide
}

// put enters the answer of a slot.
func (s *slots) put(slot Slot, r *Response) {
	i := uint64(slot)
	if i-s.head >= s.tail-s.head {
		panic(fmt.Sprintf("BUG: answer for slot %d, slots %d..%d are open", i, s.head, s.tail))
	}
	e := &s.ring[i&uint64(len(s.ring)-1)]
	if *e != nil {
		panic(fmt.Sprintf("BUG: slot %d answered twice", i))
	}
	*e = r
}

// pop takes the next answer if it is there. r is nil for a skipped one.
func (s *slots) pop() (r *Response, ok bool) {
	if s.head == s.tail {
		return nil, false
	}
	e := &s.ring[s.head&uint64(len(s.ring)-1)]
	if *e == nil {
		return nil, false
	}
	r, *e = *e, nil
	s.head++
	if r == skipped {
		r = nil
	}
	return r, true
}

// each calls f for every answer that waits for an earlier one.
func (s *slots) each(f func(*Response)) {
	for i := s.head; i != s.tail; i++ {
		if r := s.ring[i&uint64(len(s.ring)-1)]; r != nil && r != skipped {
			f(r)
		}
	}
}

// drop forgets all slots; the answers in them are given back.
func (s *slots) drop() {
	s.each((*Response).recycle)
	clear(s.ring)
	s.head = s.tail
}
