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

// poison writes by copy, which the detector notes as one access to all of b.
func poison(b []byte) {
	for n := range b {
		if n == len(poisoned) {
			break
		}
		b[n] = poisoned[n]
	}
	for n := len(poisoned); n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
}

var poisoned = [...]byte{0xdb, 0xdb, 0xdb, 0xdb, 0xdb, 0xdb, 0xdb, 0xdb}
