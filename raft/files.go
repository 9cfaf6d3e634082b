package raft

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lni/vfs"

	"millrace/engine/disk"
)

// libraryFS gives dragonboat the files of a directory through disk.FS, so that tests can pull the
// plug under its snapshots too. It also takes the host name out of dragonboat's hands: the
// library puts it into its paths and refuses to start when it has changed. Here <dir>/<host name>/...
// is <dir>/snapshots/..., and the files in which it notes its identity are swallowed: identity is
// kept by the journal, by the engine's meta file and by the replicated state.
//
// Dragonboat ends the process when a snapshot cannot be written. So errors of changes do not reach it:
// a full disk is waited for, any other failure is reported and its caller held. Once the log was
// aborted no file changes any more, and who wants to write one is held for good: the process is ending,
// and to pretend would only make dragonboat trip over the missing file.
type libraryFS struct {
	fs      disk.FS
	dir     string // absolute
	host    string
	log     *slog.Logger
	fail    func(error)
	aborted <-chan struct{}
	waiting atomic.Bool
	// started: before it, errors are returned as they are.
	started atomic.Bool
}

// run runs an operation that can be repeated. Only what dragonboat expects of a healthy disk is
// returned: success, or that a name does not exist.
func (l *libraryFS) run(op func() error) error {
	for {
		select {
		case <-l.aborted:
			select {}
		default:
		}
		err := op()
		if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.EOF) || !l.started.Load() {
			l.waiting.Store(false)
			return err
		}
		noSpace := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
		if !l.waiting.Swap(true) && noSpace {
			l.log.Error("metadata snapshot: no space, waiting", "err", err)
		}
		if !noSpace {
			l.fail(fmt.Errorf("metadata snapshot: %w", err))
			<-l.aborted
		}
		select {
		case <-l.aborted:
		case <-after(fullRetry):
		}
	}
}

// remove runs an operation that only takes away; after an abort it does nothing.
func (l *libraryFS) remove(op func() error) error {
	select {
	case <-l.aborted:
		return nil
	default:
		return l.run(op)
	}
}

const fullRetry = 200 * time.Millisecond

var _ vfs.FS = (*libraryFS)(nil)

const snapshotDir = "snapshots"

// swallowed are dragonboat's notes to itself at the top of its directory.
var swallowed = map[string]bool{"dragonboat.ds": true, "NODEHOST.ID": true, "LOCK": true}

// real maps a path of the library to one on disk.
func (l *libraryFS) real(name string) (path string, isSwallowed bool) {
	rel, err := filepath.Rel(l.dir, name)
	if err != nil {
		return name, false
	}
	if swallowed[rel] {
		return name, true
	}
	first, rest, _ := strings.Cut(rel, string(filepath.Separator))
	if first != l.host {
		return name, false
	}
	return filepath.Join(l.dir, snapshotDir, rest), false
}

func (l *libraryFS) open(name string, flag int) (vfs.File, error) {
	path, gone := l.real(name)
	if gone {
		if flag&os.O_CREATE != 0 {
			return nowhere{}, nil
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	var f disk.File
	openFile := func() (err error) {
		f, err = l.fs.OpenFile(path, flag, 0o644)
		return err
	}
	if err := l.run(openFile); err != nil {
		return nil, err
	}
	return &libraryFile{File: f, fs: l}, nil
}

func (l *libraryFS) Create(name string) (vfs.File, error) {
	return l.open(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

func (l *libraryFS) Open(name string, _ ...vfs.OpenOption) (vfs.File, error) {
	return l.open(name, os.O_RDONLY)
}

func (l *libraryFS) OpenForAppend(name string) (vfs.File, error) {
	f, err := l.open(name, os.O_RDWR)
	if err == nil {
		_, err = f.Seek(0, io.SeekEnd)
	}
	return f, err
}

func (l *libraryFS) OpenDir(name string) (vfs.File, error) {
	path, _ := l.real(name)
	info, err := l.stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("not a directory")}
	}
	return &libraryDir{fs: l, path: path}, nil
}

func (l *libraryFS) Remove(name string) error {
	path, _ := l.real(name)
	return l.remove(func() error { return l.fs.Remove(path) })
}

func (l *libraryFS) RemoveAll(name string) error {
	path, _ := l.real(name)
	return l.remove(func() error { return removeAll(l.fs, path) })
}

func removeAll(fsys disk.FS, path string) error {
	info, err := fsys.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir {
		names, err := fsys.ReadDir(path)
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := removeAll(fsys, filepath.Join(path, n)); err != nil {
				return err
			}
		}
	}
	return fsys.Remove(path)
}

func (l *libraryFS) Rename(from, to string) error {
	f, _ := l.real(from)
	t, _ := l.real(to)
	return l.run(func() error { return l.fs.Rename(f, t) })
}

func (l *libraryFS) MkdirAll(dir string, perm os.FileMode) error {
	path, _ := l.real(dir)
	return l.run(func() error { return l.fs.MkdirAll(path, perm) })
}

func (l *libraryFS) List(dir string) (names []string, err error) {
	path, _ := l.real(dir)
	err = l.run(func() (err error) {
		names, err = l.fs.ReadDir(path)
		return err
	})
	return names, err
}

func (l *libraryFS) Stat(name string) (os.FileInfo, error) {
	path, gone := l.real(name)
	if gone {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	info, err := l.stat(path)
	if err != nil {
		return nil, err
	}
	return fileInfo{name: filepath.Base(path), info: info}, nil
}

func (l *libraryFS) stat(path string) (info disk.FileInfo, err error) {
	err = l.run(func() (err error) {
		info, err = l.fs.Stat(path)
		return err
	})
	return info, err
}

func (l *libraryFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	free, total, err := l.fs.Statfs(l.dir)
	return vfs.DiskUsage{AvailBytes: uint64(free), TotalBytes: uint64(total), UsedBytes: uint64(total - free)}, err
}

// Lock locks nothing: Open holds the lock of the directory before dragonboat starts.
func (l *libraryFS) Lock(string) (io.Closer, error) { return nowhere{}, nil }

func (l *libraryFS) Link(string, string) error { return errors.ErrUnsupported }

func (l *libraryFS) ReuseForWrite(string, string) (vfs.File, error) {
	return nil, errors.ErrUnsupported
}

func (l *libraryFS) PathBase(path string) string    { return filepath.Base(path) }
func (l *libraryFS) PathJoin(elem ...string) string { return filepath.Join(elem...) }
func (l *libraryFS) PathDir(path string) string     { return filepath.Dir(path) }

// libraryFile adds a position to a disk.File.
type libraryFile struct {
	disk.File
	fs  *libraryFS
	mu  sync.Mutex
	pos int64
}

func (f *libraryFile) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil // io.ReadFull counts on getting what there is first
	}
	return n, err
}

func (f *libraryFile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *libraryFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.fs.run(func() (err error) {
		n, err = f.File.ReadAt(p, off)
		return err
	})
	return n, err
}

// Size is asked by Stat and Seek.
func (f *libraryFile) Size() (size int64, err error) {
	err = f.fs.run(func() (err error) {
		size, err = f.File.Size()
		return err
	})
	return size, err
}

func (f *libraryFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.fs.run(func() error {
		_, err := f.File.WriteAt(p, off)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *libraryFile) Seek(offset int64, whence int) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += f.pos
	case io.SeekEnd:
		size, err := f.Size()
		if err != nil {
			return 0, err
		}
		offset += size
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	f.pos = offset
	return offset, nil
}

// Close has nothing to report: what matters was flushed.
func (f *libraryFile) Close() error {
	_ = f.File.Close()
	return nil
}

// Sync is not repeated on a full disk: after a failed flush nobody knows what is durable.
func (f *libraryFile) Sync() error {
	return f.fs.run(func() error {
		if err := f.Fdatasync(); err != nil {
			return errors.New(err.Error())
		}
		return nil
	})
}

func (f *libraryFile) Stat() (os.FileInfo, error) {
	size, err := f.Size()
	return fileInfo{name: filepath.Base(f.Name()), info: disk.FileInfo{Size: size}}, err
}

// libraryDir is a directory opened to be flushed.
type libraryDir struct {
	nowhere
	fs   *libraryFS
	path string
}

func (d *libraryDir) Sync() error {
	return d.fs.remove(func() error { return d.fs.fs.SyncDir(d.path) })
}

func (d *libraryDir) Stat() (os.FileInfo, error) {
	return fileInfo{name: filepath.Base(d.path), info: disk.FileInfo{IsDir: true}}, nil
}

// nowhere is a file that swallows what is written to it.
type nowhere struct{}

func (nowhere) Read([]byte) (int, error)               { return 0, io.EOF }
func (nowhere) ReadAt([]byte, int64) (int, error)      { return 0, io.EOF }
func (nowhere) Write(p []byte) (int, error)            { return len(p), nil }
func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nowhere) Seek(int64, int) (int64, error)         { return 0, nil }
func (nowhere) Sync() error                            { return nil }
func (nowhere) Close() error                           { return nil }
func (nowhere) Stat() (os.FileInfo, error)             { return fileInfo{}, nil }

// fileInfo is what dragonboat asks of a file: its size and whether it is a directory.
type fileInfo struct {
	name string
	info disk.FileInfo
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.info.Size }
func (i fileInfo) IsDir() bool        { return i.info.IsDir }
func (i fileInfo) ModTime() time.Time { return time.Time{} }
func (i fileInfo) Sys() any           { return nil }

func (i fileInfo) Mode() os.FileMode {
	if i.info.IsDir {
		return os.ModeDir | 0o755
	}
	return 0o644
}
