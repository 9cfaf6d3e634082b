package disk

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// eventFD is a counter in the kernel that threads use to wake each other.
type eventFD int

func newEventFD(flags int) (eventFD, error) {
	fd, err := unix.Eventfd(0, flags|unix.EFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("eventfd: %w", err)
	}
	return eventFD(fd), nil
}

// add raises the counter.
func (e eventFD) add(n uint64) {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], n)
	for {
		_, err := unix.Write(int(e), b[:])
		switch err {
		case nil:
			return
		case unix.EINTR:
		default:
			panic(fmt.Sprintf("BUG: write eventfd %d: %v", e, err))
		}
	}
}

// take reads the counter: all of it, or 1 of a semaphore. A non-blocking eventfd
// at zero returns 0.
func (e eventFD) take() uint64 {
	var b [8]byte
	for {
		_, err := unix.Read(int(e), b[:])
		switch err {
		case nil:
			return binary.NativeEndian.Uint64(b[:])
		case unix.EINTR:
		case unix.EAGAIN:
			return 0
		default:
			panic(fmt.Sprintf("BUG: read eventfd %d: %v", e, err))
		}
	}
}

func (e eventFD) close() { _ = unix.Close(int(e)) }
