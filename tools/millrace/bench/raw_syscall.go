package bench

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below cannot block, since their descriptors do not: the scheduler need not hear of them.

func writev(fd int, parts []unix.Iovec) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&parts[0])), uintptr(len(parts)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func read(fd int, buf []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// epollWait waits at most timeout, with the resolution of nanoseconds that open loops need.
func epollWait(ep int, events []unix.EpollEvent, timeout time.Duration) (int, error) {
	var ts unix.Timespec
	// Most of the time there is something already.
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(ep), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	if errno == 0 && n == 0 && timeout > 0 {
		ts = unix.NsecToTimespec(timeout.Nanoseconds())
		n, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(ep), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	}
	switch errno {
	case 0:
		return int(n), nil
	case unix.EINTR:
		return 0, nil
	default:
		return 0, errno
	}
}
