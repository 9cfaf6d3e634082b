package main

import (
	"encoding/binary"
	"errors"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

func (r *run) kernel() error {
	n, took := repeat(r.slice/2, func() { _, _, _ = unix.RawSyscall(unix.SYS_GETPID, 0, 0, 0) })
	r.add("getpid", float64(took.Nanoseconds())/float64(n), "ns", "one system call")

	ep, err := unix.EpollCreate1(0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(ep) }()
	events := make([]unix.EpollEvent, 8)
	n, took = repeat(r.slice/2, func() { _, _ = unix.EpollWait(ep, events, 0) })
	r.add("epoll_wait_0", float64(took.Nanoseconds())/float64(n), "ns", "a poll that finds nothing")

	trips, took, err := pingPong(r.slice)
	if err != nil {
		return err
	}
	r.add("eventfd_ping_pong", float64(took.Microseconds())/float64(trips), "us", "there and back between two threads that block")
	return nil
}

// pingPong sends a wake-up to another thread and back, with blocking reads.
func pingPong(d time.Duration) (trips int, took time.Duration, err error) {
	a, errA := unix.Eventfd(0, unix.EFD_CLOEXEC)
	b, errB := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err := errors.Join(errA, errB); err != nil {
		return 0, 0, err
	}
	defer func() { _ = unix.Close(a) }()
	defer func() { _ = unix.Close(b) }()
	one := binary.NativeEndian.AppendUint64(nil, 1)
	done := make(chan struct{})
	quit := binary.NativeEndian.AppendUint64(nil, 1<<32)
	go func() {
		runtime.LockOSThread()
		defer close(done)
		buf := make([]byte, 8)
		for {
			if _, err := unix.Read(a, buf); err != nil || binary.NativeEndian.Uint64(buf) >= 1<<32 {
				return
			}
			if _, err := unix.Write(b, one); err != nil {
				return
			}
		}
	}()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	buf := make([]byte, 8)
	trips, took = repeat(d, func() {
		if err == nil {
			_, err = unix.Write(a, one)
		}
		if err == nil {
			_, err = unix.Read(b, buf)
		}
	})
	_, _ = unix.Write(a, quit)
	<-done
	return trips, took, err
}
