//go:build !race

package disk

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

func newSlab(n int) (*Slab, error) {
	length := n
	if n >= hugePageSize {
		// Room to start at a huge page boundary; the unused ends cost address space only.
		length += hugePageSize
	}
	mapping, err := unix.Mmap(-1, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map a slab of %d bytes: %w", n, err)
	}
	mem := mapping[:n:n]
	if n >= hugePageSize {
		skip := 0
		if rest := int(uintptr(unsafe.Pointer(unsafe.SliceData(mapping))) & (hugePageSize - 1)); rest != 0 {
			skip = hugePageSize - rest
		}
		mem = mapping[skip : skip+n : skip+n]
		// Advice only: a machine without huge pages works all the same.
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	}
	// Pages come with their first use: faulting in a ring of many MiB here would
	// hold up every start and make an idle broker as large as a busy one.
	return &Slab{mem: mem, mapping: mapping}, nil
}

// Populate faults all pages in, without changing a byte. Any thread, also while others use the memory; where the
// kernel cannot (before Linux 5.14) pages come with their first use.
func (s *Slab) Populate() { _ = unix.Madvise(s.mem, unix.MADV_POPULATE_WRITE) }

// Free gives the memory back to the system. Nobody may hold a slice of it.
func (s *Slab) Free() {
	if s.mapping == nil {
		panic("BUG: slab freed twice")
	}
	mapping := s.mapping
	s.mem, s.mapping = nil, nil
	if err := unix.Munmap(mapping); err != nil {
		panic(fmt.Sprintf("BUG: unmap a slab: %v", err))
	}
}
