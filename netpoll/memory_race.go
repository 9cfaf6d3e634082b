//go:build race

package netpoll

// The race detector does not see mapped memory, so under -race chunks come from
// the heap, and are overwritten when they are free: who still reads one is found.

func mapMemory(n int) []byte { return make([]byte, n) }

func remapMemory(b []byte, n int) []byte {
	grown := make([]byte, n)
	copy(grown, b)
	poison(b)
	return grown
}

func unmapMemory(b []byte) { poison(b) }

func dropPages(b []byte) { poison(b) }

func poison(b []byte) {
	for i := range b {
		b[i] = 0xdb
	}
}
