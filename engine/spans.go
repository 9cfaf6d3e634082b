package engine

import "unsafe"

// spanStart is where a span's memory begins in its slab.
func spanStart(s *Span, b *slab) int {
	return int(uintptr(unsafe.Pointer(unsafe.SliceData(s.Mem))) - uintptr(unsafe.Pointer(unsafe.SliceData(b.mem))))
}

func leUint64(b []byte) uint64 {
	return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
		uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
}
