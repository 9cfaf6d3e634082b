package disk

import (
	"io"
	"io/fs"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// osFile is a bare descriptor. It is not an os.File because those have
// finalizers and a poller of their own, and our descriptors are shared with the
// kernel's rings and sendfile.
type osFile struct {
	name   string
	fd     int
	direct bool
	closed atomic.Bool
}

func openOSFile(name string, flag int, perm fs.FileMode) (*osFile, error) {
	fd, err := openRetry(name, flag|unix.O_CLOEXEC, uint32(perm.Perm()))
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &osFile{name: name, fd: fd, direct: flag&Direct != 0}, nil
}

func (f *osFile) Name() string { return f.name }

func (f *osFile) Fd() uintptr { return uintptr(f.fd) }

func (f *osFile) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.name, Err: err}
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(f.fd, p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, f.fail("read", err)
		}
		if n == 0 {
			return done, io.EOF
		}
		done += n
		if f.direct && n%Alignment != 0 {
			// A direct read ends unaligned only at the end of the file.
			if done < len(p) {
				return done, io.EOF
			}
		}
	}
	return done, nil
}

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	if f.direct && !IsAligned(p, off) {
		return 0, f.fail("write", ErrMisaligned)
	}
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(f.fd, p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, f.fail("write", err)
		}
		if n == 0 || (f.direct && n%Alignment != 0) {
			return done + n, f.fail("write", ErrShortWrite)
		}
		// A short count is not yet an error: writing the rest names the reason.
		done += n
	}
	return done, nil
}

func (f *osFile) Size() (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return 0, f.fail("stat", err)
	}
	return st.Size, nil
}

func (f *osFile) Fdatasync() error {
	for {
		err := unix.Fdatasync(f.fd)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return f.fail("fdatasync", err)
		}
		return nil
	}
}

func (f *osFile) Fallocate(off, length int64, keepSize bool) error {
	var mode uint32
	if keepSize {
		mode = unix.FALLOC_FL_KEEP_SIZE
	}
	for {
		err := unix.Fallocate(f.fd, mode, off, length)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return f.fail("fallocate", err)
		}
		return nil
	}
}

func (f *osFile) Truncate(size int64) error {
	for {
		err := unix.Ftruncate(f.fd, size)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return f.fail("truncate", err)
		}
		return nil
	}
}

func (f *osFile) AdviseDontNeed(off, length int64) error {
	if err := unix.Fadvise(f.fd, off, length, unix.FADV_DONTNEED); err != nil {
		return f.fail("fadvise", err)
	}
	return nil
}

func (f *osFile) TryLock() error {
	err := unix.Flock(f.fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return ErrLocked
	}
	if err != nil {
		return f.fail("flock", err)
	}
	return nil
}

func (f *osFile) Close() error {
	if f.closed.Swap(true) {
		return f.fail("close", fs.ErrClosed)
	}
	// close is never retried: on Linux the descriptor is gone also after EINTR.
	if err := unix.Close(f.fd); err != nil && err != unix.EINTR {
		return f.fail("close", err)
	}
	return nil
}
