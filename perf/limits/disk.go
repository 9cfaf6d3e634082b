package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"millrace/engine/disk"
)

// diskFile is the size of the files that are measured on.
const diskFile = 256 << 20

// writtenFile is the size of those that are gone round.
const writtenFile = 64 << 20

func (r *run) disk() error {
	buf := disk.AlignedAlloc(1 << 20)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	for _, kind := range []string{"written", "fallocated", "growing"} {
		for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
			for _, how := range []string{"dsync", "fdatasync"} {
				if err := r.flush(kind, how, buf[:size]); err != nil {
					return fmt.Errorf("%s file, %s: %w", kind, how, err)
				}
			}
		}
	}
	for _, size := range []int{4 << 10, 64 << 10} {
		for _, how := range []string{"dsync", "fdatasync"} {
			if err := r.flushMany(how, buf[:size]); err != nil {
				return fmt.Errorf("%d flushers, %s: %w", flushers, how, err)
			}
		}
	}
	for _, depth := range []int{1, 4} {
		if err := r.bandwidth(buf, depth); err != nil {
			return err
		}
	}
	return nil
}

// open makes a file of a kind. It is gone from its directory at once, so that nothing is left behind.
func (r *run) open(kind string, size int64) (*os.File, error) {
	name := filepath.Join(r.dir, fmt.Sprintf("limits-%d", os.Getpid()))
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_DIRECT, 0o600)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(name); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if kind != "growing" {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if kind == "written" {
		zeros := disk.AlignedAlloc(1 << 20)
		for at := int64(0); at < size && err == nil; at += int64(len(zeros)) {
			_, err = f.WriteAt(zeros, at)
		}
	}
	if err = errors.Join(err, f.Sync()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// flush measures durable writes, one after the other.
func (r *run) flush(kind, how string, b []byte) error {
	// A written file may go round; the others must not, or their second round would be on written blocks.
	size := int64(diskFile)
	if kind == "written" {
		size = writtenFile
	}
	f, err := r.open(kind, size)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // what was written is thrown away
	var took []time.Duration
	at, began := int64(0), time.Now()
	for time.Since(began) < r.slice && len(took) < 1<<20 {
		if at+int64(len(b)) > size {
			if kind != "written" {
				break
			}
			at = 0
		}
		start := time.Now()
		if err := durable(f, how, b, at); err != nil {
			return err
		}
		took = append(took, time.Since(start))
		at += int64(len(b))
	}
	all := time.Since(began)
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	r.add(fmt.Sprintf("flush_%s_%s_%dk", kind, how, len(b)>>10), float64(p50.Microseconds()), "us",
		fmt.Sprintf("median; p99 %.0f us, %.0f MB/s", float64(p99.Microseconds()), float64(len(took))*float64(len(b))/all.Seconds()/1e6))
	return nil
}

// durable writes b and flushes it, in one call or in two.
func durable(f *os.File, how string, b []byte, at int64) error {
	flags := 0
	if how == "dsync" {
		flags = unix.RWF_DSYNC
	}
	n, err := unix.Pwritev2(int(f.Fd()), [][]byte{b}, at, flags)
	if err == nil && n != len(b) {
		err = fmt.Errorf("%d of %d bytes written", n, len(b))
	}
	if err == nil && how == "fdatasync" {
		err = unix.Fdatasync(int(f.Fd()))
	}
	return err
}

// bandwidth writes without flushing, with depth writes under way, and flushes once at the end.
func (r *run) bandwidth(b []byte, depth int) error {
	f, err := r.open("written", diskFile)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // what was written is thrown away
	var next, done atomic.Int64
	var failed atomic.Pointer[error]
	began := time.Now()
	var writers sync.WaitGroup
	for range depth {
		writers.Go(func() {
			for time.Since(began) < 2*r.slice && failed.Load() == nil {
				at := (next.Add(1) - 1) * int64(len(b)) % diskFile
				n, err := unix.Pwrite(int(f.Fd()), b, at)
				if err != nil {
					failed.Store(&err)
					return
				}
				done.Add(int64(n))
			}
		})
	}
	writers.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return err
	}
	r.add(fmt.Sprintf("write_direct_1m_qd%d", depth), float64(done.Load())/time.Since(began).Seconds()/1e6, "MB/s", "with one flush at the end")
	return nil
}
