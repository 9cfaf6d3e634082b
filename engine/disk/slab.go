package disk

import (
	"fmt"
	"unsafe"
)

// hugePageSize is the transparent huge page of amd64 and of arm64 with 4 KiB pages.
const hugePageSize = 2 << 20

// Slab is a large block of aligned memory outside the Go heap: the garbage
// collector neither scans nor frees it, and it may be registered with the
// kernel. Under -race it comes from the heap instead, because the race detector
// does not see mapped memory, and Free poisons it so that a late reader is noticed.
type Slab struct {
	mem     []byte
	mapping []byte // what Free gives back; nil when mem is from the heap
}

// NewSlab returns a slab of at least n bytes (rounded up to Alignment), aligned to
// huge pages when it is as large as one. The memory is zero and resident.
func NewSlab(n int) (*Slab, error) {
	if n <= 0 {
		panic(fmt.Sprintf("BUG: slab of %d bytes", n))
	}
	return newSlab(AlignUp(n))
}

// Bytes is the memory. It must not be touched after Free.
func (s *Slab) Bytes() []byte { return s.mem }

// AlignedAlloc returns n zero bytes of garbage-collected memory that start at a
// multiple of Alignment. It is for small and short-lived buffers: checkpoints, tail
// blocks, padding. Long-lived commit buffers are Slabs.
func AlignedAlloc(n int) []byte {
	if n < 0 {
		panic(fmt.Sprintf("BUG: buffer of %d bytes", n))
	}
	b := make([]byte, n+Alignment-1)
	skip := 0
	if rest := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (Alignment - 1)); rest != 0 {
		skip = Alignment - rest
	}
	return b[skip : skip+n : skip+n]
}

// AlignUp rounds n up to a multiple of Alignment.
func AlignUp[T ~int | ~int64](n T) T { return (n + Alignment - 1) &^ (Alignment - 1) }

// AlignDown rounds n down to a multiple of Alignment.
func AlignDown[T ~int | ~int64](n T) T { return n &^ (Alignment - 1) }

// IsAligned reports whether p and off may be used for direct I/O.
func IsAligned(p []byte, off int64) bool {
	return (uintptr(unsafe.Pointer(unsafe.SliceData(p)))|uintptr(len(p))|uintptr(off))&(Alignment-1) == 0
}
