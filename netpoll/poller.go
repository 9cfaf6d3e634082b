package netpoll

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller is one epoll instance and the eventfd that wakes it.
type poller struct {
	epfd   int
	wakefd int
	events [eventsMax]unix.EpollEvent
}

// The registration of a connection never changes: both directions, edge
// triggered. The generation stands beside the descriptor in the event; 0 is for
// descriptors that are not connections.
const connEvents = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

func (p *poller) open() error {
	var err error
	if p.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("netpoll: epoll_create1: %w", err)
	}
	if p.wakefd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(p.epfd)
		return fmt.Errorf("netpoll: eventfd: %w", err)
	}
	// Edge triggered: a wake-up is an event and nobody has to read the counter.
	if err := p.add(p.wakefd, unix.EPOLLIN|unix.EPOLLET, 0); err != nil {
		p.close()
		return err
	}
	return nil
}

func (p *poller) close() {
	_ = unix.Close(p.wakefd)
	_ = unix.Close(p.epfd)
}

func (p *poller) add(fd int, events uint32, gen uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(gen)}
	if err := unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("netpoll: epoll_ctl: %w", err)
	}
	return nil
}

func (p *poller) remove(fd int) { _ = unix.EpollCtl(p.epfd, unix.EPOLL_CTL_DEL, fd, nil) }

// poll returns what is ready now. It cannot block, so the scheduler is not told.
func (p *poller) poll() int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epfd), uintptr(unsafe.Pointer(&p.events[0])), eventsMax, 0, 0, 0)
	return epollResult(n, errno)
}

// wait sleeps until something is ready or millis have passed (-1: for ever).
func (p *poller) wait(millis int) int {
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epfd), uintptr(unsafe.Pointer(&p.events[0])), eventsMax, uintptr(millis), 0, 0)
	return epollResult(n, errno)
}

func epollResult(n uintptr, errno unix.Errno) int {
	switch errno {
	case 0:
		return int(n)
	case unix.EINTR:
		return 0
	default:
		panic("BUG: epoll_wait: " + errno.Error())
	}
}

// wake makes wait return, on any thread.
func (p *poller) wake() {
	one := uint64(1)
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(p.wakefd), uintptr(unsafe.Pointer(&one)), 8)
		if errno != unix.EINTR {
			// EAGAIN: the counter is full, so a wake-up is under way for sure.
			return
		}
	}
}

// The socket calls below never block: the descriptors are non-blocking.

// recv reads into up to two places in one call.
func recv(fd int, iov []unix.Iovec) (int, unix.Errno) {
	for {
		var n uintptr
		var errno unix.Errno
		if len(iov) == 1 {
			n, _, errno = unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(iov[0].Base)), uintptr(iov[0].Len))
		} else {
			n, _, errno = unix.RawSyscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
		}
		if errno == 0 {
			return int(n), 0
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// send writes iov; more tells the kernel to wait for what follows at once.
func send(fd int, msg *unix.Msghdr, iov []unix.Iovec, more bool) (int, unix.Errno) {
	flags := uintptr(unix.MSG_NOSIGNAL | unix.MSG_DONTWAIT)
	if more {
		flags |= unix.MSG_MORE
	}
	for {
		var n uintptr
		var errno unix.Errno
		if len(iov) == 1 {
			n, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(iov[0].Base)), uintptr(iov[0].Len), flags, 0, 0)
		} else {
			msg.Iov = &iov[0]
			msg.SetIovlen(len(iov))
			n, _, errno = unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(msg)), flags)
		}
		runtime.KeepAlive(iov)
		if errno == 0 {
			return int(n), 0
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// sendfile is a real system call for the scheduler: it may have to read a page
// that has left the cache.
func sendfile(fd, file int, off int64, n int) (int, unix.Errno) {
	for {
		sent, err := unix.Sendfile(fd, file, &off, n)
		if err == nil {
			return sent, 0
		}
		if errno, ok := errors.AsType[unix.Errno](err); !ok || errno != unix.EINTR {
			return 0, errno
		}
	}
}
