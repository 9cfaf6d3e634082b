package engine

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// wakeup is one descriptor for the two reasons to call Poll: the queue has
// completions, or somebody kicked. It is an epoll set of two eventfds, because the
// queue counts the signals on its own one.
type wakeup struct {
	set    int
	event  int
	queue  int // the queue's eventfd, not ours to close
	kicked atomic.Bool
}

func newWakeup(queueFD int) (*wakeup, error) {
	set, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("engine: epoll: %w", err)
	}
	event, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		_ = unix.Close(set)
		return nil, fmt.Errorf("engine: eventfd: %w", err)
	}
	w := &wakeup{set: set, event: event, queue: queueFD}
	for _, fd := range []int{event, queueFD} {
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err := unix.EpollCtl(set, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			w.close()
			return nil, fmt.Errorf("engine: epoll: %w", err)
		}
	}
	return w, nil
}

func (w *wakeup) fd() int { return w.set }

// kick makes fd readable. Any thread; one system call until the next clear.
func (w *wakeup) kick() {
	if w.kicked.Swap(true) {
		return
	}
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	for {
		if _, err := unix.Write(w.event, one[:]); err != unix.EINTR {
			return
		}
	}
}

// clear takes the kicks so far. What was done before them is visible afterwards.
func (w *wakeup) clear() {
	if !w.kicked.Load() {
		return
	}
	var b [8]byte
	for {
		if _, err := unix.Read(w.event, b[:]); err != unix.EINTR {
			break
		}
	}
	// After the read: a kick in between writes again at worst.
	w.kicked.Store(false)
}

// wait blocks until fd is readable.
func (w *wakeup) wait() {
	var ev [2]unix.EpollEvent
	for {
		if _, err := unix.EpollWait(w.set, ev[:], -1); err != unix.EINTR {
			return
		}
	}
}

func (w *wakeup) close() {
	_ = unix.Close(w.event)
	_ = unix.Close(w.set)
}
