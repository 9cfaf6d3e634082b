package netpoll

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// listener is one listening socket. It is accepted from on loop 0, which hands
// connections to the loop that has the fewest: with SO_REUSEPORT the kernel would
// spread them by hash, unevenly for the few connections that carry most of the load, and connecting is rare.
type listener struct {
	srv  *Server
	fd   int
	addr net.Addr
	open bool // registered with loop 0
}

// Listen binds an address ("host:port", port 0 for any free one, "[::]:9092" for
// IPv4 and IPv6) and returns what it became. It may be called several times;
// before Start, clients wait in the kernel's queue.
func (s *Server) Listen(addr string) (net.Addr, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			// Accepted sockets inherit these on Linux: no system call for each of them.
			failed = errors.Join(
				unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 60),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4),
			)
		})
		return errors.Join(err, failed)
	}}
	// Package net knows names, zones and dual stacks; we keep a copy of its descriptor.
	nl, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("netpoll: %w", err)
	}
	defer func() { _ = nl.Close() }() // what listens is a copy of its descriptor
	tcp := nl.(*net.TCPListener)
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("netpoll: listen on %s: %w", addr, err)
	}
	l := &listener{srv: s, fd: -1, addr: tcp.Addr()}
	var failed error
	err = raw.Control(func(fd uintptr) {
		if l.fd, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); failed == nil {
			failed = unix.Listen(l.fd, s.opts.Backlog)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		if l.fd >= 0 {
			_ = unix.Close(l.fd)
		}
		return nil, fmt.Errorf("netpoll: listen on %s: %w", addr, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = unix.Close(l.fd)
		return nil, ErrServerClosed
	}
	s.listeners = append(s.listeners, l)
	if s.accepting {
		s.loops[0].Post((*opening)(l))
	}
	return l.addr, nil
}

// opening begins to accept, on loop 0.
type opening listener

// Run implements Task.
func (k *opening) Run() {
	l := (*listener)(k)
	loop := l.srv.loops[0]
	if l.open || l.fd < 0 {
		return
	}
	// Level triggered: what is left after acceptsMax comes again.
	if err := loop.poller.add(l.fd, unix.EPOLLIN, 0); err != nil {
		loop.Schedule(loop.now+acceptBackoff, k)
		return
	}
	l.open = true
	loop.files[int32(l.fd)] = l.accept
}

// pause stops accepting for a while.
func (l *listener) pause() {
	loop := l.srv.loops[0]
	if l.open {
		l.open = false
		loop.poller.remove(l.fd)
		delete(loop.files, int32(l.fd))
		loop.Schedule(loop.now+acceptBackoff, (*opening)(l))
	}
}

// close ends the listener, on loop 0; clients in the kernel's queue are reset.
func (l *listener) close() {
	loop := l.srv.loops[0]
	if l.open {
		loop.poller.remove(l.fd)
		delete(loop.files, int32(l.fd))
		l.open = false
	}
	if l.fd >= 0 {
		_ = unix.Close(l.fd)
		l.fd = -1
	}
}

// accept takes what waits at the listener.
func (l *listener) accept() {
	s := l.srv
	loop := s.loops[0]
	for range acceptsMax {
		fd, sa, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case err == nil:
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
			loop.counts.noFile++
			if !s.spare.refuse(l.fd) {
				l.pause()
				return
			}
			continue
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			l.pause()
			return
		default:
			continue // that client is gone: ECONNABORTED, EPROTO, EINTR and their kin
		}
		remote := addrPort(sa)
		if reason := s.limits.enter(remote.Addr()); reason != refusedNot {
			_ = unix.Close(fd)
			loop.counts.refused[reason]++
			continue
		}
		loop.counts.accepted++
		s.assign(fd, remote)
	}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// spareFile is a descriptor kept for the day on which there are none left: it is
// given up to accept a client and close it at once, which is kinder than letting
// it hang, and keeps the level-triggered listener from spinning.
type spareFile struct{ fd int }

func (s *spareFile) open() bool {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fd = -1
	}
	s.fd = fd
	return fd >= 0
}

// refuse accepts one client and closes it. It returns false when that is not
// possible either.
func (s *spareFile) refuse(listener int) bool {
	if s.fd < 0 && !s.open() {
		return false
	}
	s.close()
	if fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC); err == nil {
		_ = unix.Close(fd)
	}
	return s.open()
}

func (s *spareFile) close() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
}

// limits counts connections. Loops close them, so it has a lock.
type limits struct {
	mu       sync.Mutex
	max      int
	maxPerIP int
	count    int
	perIP    map[netip.Addr]int
	waiting  []chan struct{} // closed when count is 0
}

type refusal int

const (
	refusedNot refusal = iota
	refusedTotal
	refusedPerIP
	refusalCount
)

// ipKey is what counts as one address. Who has one IPv6 address has 2^64 of them.
func ipKey(a netip.Addr) netip.Addr {
	if a.Is6() {
		p, err := a.WithZone("").Prefix(64)
		if err == nil {
			return p.Addr()
		}
	}
	return a
}

func (l *limits) enter(a netip.Addr) refusal {
	key := ipKey(a)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.count >= l.max:
		return refusedTotal
	case l.perIP[key] >= l.maxPerIP:
		return refusedPerIP
	}
	l.count++
	l.perIP[key]++
	return refusedNot
}

func (l *limits) leave(a netip.Addr) {
	key := ipKey(a)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count--
	if l.perIP[key]--; l.perIP[key] == 0 {
		delete(l.perIP, key)
	}
	if l.count == 0 {
		for _, w := range l.waiting {
			close(w)
		}
		l.waiting = nil
	}
}

// empty is closed once there are no connections; nobody may enter any more.
func (l *limits) empty() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := make(chan struct{})
	if l.count == 0 {
		close(w)
	} else {
		l.waiting = append(l.waiting, w)
	}
	return w
}

func (l *limits) total() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}
