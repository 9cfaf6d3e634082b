package main

import (
	"errors"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// networkPiece is what one call sends: a fetch's worth.
const networkPiece = 256 << 10

func (r *run) network() error {
	data := make([]byte, networkPiece)
	if err := r.loopback("loopback_writev", func(fd int) (int, error) {
		return unix.Writev(fd, [][]byte{data[:61], data[61:]})
	}); err != nil {
		return err
	}
	f, err := os.CreateTemp(r.dir, "limits-sendfile-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // it is in a temporary directory
	defer func() { _ = f.Close() }()
	const size = 64 << 20 // beyond the caches, within memory
	for range size / networkPiece {
		if _, err := f.Write(data); err != nil {
			return err
		}
	}
	at := int64(0)
	return r.loopback("loopback_sendfile", func(fd int) (int, error) {
		if at >= size {
			at = 0
		}
		return unix.Sendfile(fd, int(f.Fd()), &at, networkPiece)
	})
}

// loopback sends over one connection to a reader that throws away, on blocking sockets and a thread each.
func (r *run) loopback(key string, send func(fd int) (int, error)) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	in, err := l.Accept()
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	outFile, errOut := out.(*net.TCPConn).File()
	inFile, errIn := in.(*net.TCPConn).File()
	if err := errors.Join(errOut, errIn); err != nil {
		return err
	}
	defer func() { _ = outFile.Close() }()
	defer func() { _ = inFile.Close() }()
	if err := errors.Join(unix.SetNonblock(int(outFile.Fd()), false), unix.SetNonblock(int(inFile.Fd()), false)); err != nil {
		return err
	}
	type side struct {
		bytes int64
		cpu   time.Duration
	}
	received := make(chan side)
	go func() {
		runtime.LockOSThread()
		var s side
		buf, began := make([]byte, 128<<10), threadCPU()
		for {
			n, err := unix.Read(int(inFile.Fd()), buf)
			if n <= 0 || err != nil {
				break
			}
			s.bytes += int64(n)
		}
		s.cpu = threadCPU() - began
		received <- s
	}()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var failed error
	var sent int64
	cpu, began := threadCPU(), time.Now()
	for time.Since(began) < r.slice && failed == nil {
		var n int
		n, failed = send(int(outFile.Fd()))
		sent += int64(max(n, 0))
	}
	cpu = threadCPU() - cpu
	took := time.Since(began)
	_ = unix.Shutdown(int(outFile.Fd()), unix.SHUT_WR) // the reader ends by it
	s := <-received
	if failed != nil {
		return failed
	}
	gb := float64(sent) / 1e9
	r.add(key, gb/took.Seconds(), "GB/s", "one connection")
	r.add(key+"_cpu", cpu.Seconds()/gb, "s/GB", "processor time of the sending thread")
	r.add(key+"_cpu_reader", s.cpu.Seconds()/gb, "s/GB", "of the receiving thread")
	return nil
}

func threadCPU() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
