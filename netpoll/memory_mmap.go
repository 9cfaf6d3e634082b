//go:build !race

package netpoll

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// mapMemory returns fresh zero pages. They cost memory only once they are touched.
func mapMemory(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		// As when the Go heap cannot grow: there is nothing sensible left to do.
		panic(fmt.Sprintf("netpoll: out of memory: map %d bytes: %v", n, err))
	}
	return b
}

// remapMemory lengthens a mapping; it may move, its pages are not copied.
func remapMemory(b []byte, n int) []byte {
	b, err := unix.Mremap(b, n, unix.MREMAP_MAYMOVE)
	if err != nil {
		panic(fmt.Sprintf("netpoll: out of memory: remap to %d bytes: %v", n, err))
	}
	return b
}

func unmapMemory(b []byte) {
	if err := unix.Munmap(b); err != nil {
		panic(fmt.Sprintf("BUG: unmap %d bytes: %v", len(b), err))
	}
}

// dropPages gives the pages back and keeps the addresses.
func dropPages(b []byte) { _ = unix.Madvise(b, unix.MADV_DONTNEED) }

func poison([]byte) {}
