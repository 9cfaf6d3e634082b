//go:build race

package disk

func newSlab(n int) (*Slab, error) {
	return &Slab{mem: AlignedAlloc(n)}, nil
}

// Populate does nothing: the heap has its pages.
func (s *Slab) Populate() {}

// Free poisons the memory: a reader that still holds a slice of it sees garbage,
// and the race detector sees the write.
func (s *Slab) Free() {
	if s.mem == nil {
		panic("BUG: slab freed twice")
	}
	mem := s.mem
	s.mem = nil
	for i := range mem {
		mem[i] = 0xdb
	}
}
