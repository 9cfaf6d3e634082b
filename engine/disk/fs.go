package disk

import (
	"errors"
	"io"
	"io/fs"
	"syscall"
)

// Alignment is what direct I/O on this engine's files uses for memory, offset
// and length. Devices often accept 512, but ext4 zeroes and serialises writes
// that do not cover whole filesystem blocks.
const Alignment = 4096

// Direct in the flag argument of FS.OpenFile asks for O_DIRECT. The other flags
// are those of package os.
const Direct = syscall.O_DIRECT

// NoFD is what File.Fd returns for a file that the kernel does not know.
const NoFD = ^uintptr(0)

var (
	// ErrLocked says that another process (or handle) holds the lock.
	ErrLocked = errors.New("disk: locked by another process")
	// ErrShortWrite says that the device took fewer bytes than it was given and
	// named no reason. The bytes on the device are undefined.
	ErrShortWrite = errors.New("disk: short write")
	// ErrMisaligned says that a direct read or write was not a multiple of Alignment.
	ErrMisaligned = errors.New("disk: direct I/O not aligned to 4096 bytes")
)

// FS is one filesystem. It is safe for concurrent use. Errors wrap the
// sentinels of io/fs (fs.ErrNotExist, fs.ErrExist) and syscall.Errno.
type FS interface {
	// OpenFile opens name as os.OpenFile does; flag may contain Direct.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Rename moves a name, replacing a file already there.
	Rename(from, to string) error
	// Remove deletes a file or an empty folder.
	Remove(name string) error
	// MkdirAll creates a folder and its missing parents. The new names are
	// durable only after SyncDir of each parent; see MkdirAllDurable.
	MkdirAll(dir string, perm fs.FileMode) error
	// ReadDir returns the names in dir, sorted.
	ReadDir(dir string) ([]string, error)
	// Stat describes name without opening it.
	Stat(name string) (FileInfo, error)
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
	// SyncFS flushes the whole filesystem that holds dir (syncfs). It is cheaper
	// than many Fdatasync calls where the data has a mount of its own.
	SyncFS(dir string) error
	// Statfs returns the bytes that are free for us and the size of the
	// filesystem that holds dir.
	Statfs(dir string) (free, total int64, err error)
	// Lock creates path when missing and takes an exclusive lock that lives
	// until Close or the death of the process. ErrLocked when it is held.
	Lock(path string) (io.Closer, error)
	// BootID names the running kernel: while it stays the same, every completed
	// write is still visible, flushed or not.
	BootID() (string, error)
}

// FileInfo describes a file or a folder.
type FileInfo struct {
	Size  int64
	IsDir bool
}

// File is an open file. It is safe for concurrent use; overlapping writes are
// the caller's business. A file must not be closed while a Queue has
// operations on it.
type File interface {
	io.ReaderAt
	// WriteAt writes all of p or returns an error.
	io.WriterAt
	// Size returns the current length.
	Size() (int64, error)
	// Fdatasync flushes the file's bytes, and the metadata needed to read them
	// back. An error means that unflushed bytes may be lost for good.
	Fdatasync() error
	// Fallocate reserves space. keepSize leaves the length as it is, else the
	// length grows to off+length.
	Fallocate(off, length int64, keepSize bool) error
	// Truncate sets the length. Never call it on a file that is being served.
	Truncate(size int64) error
	// AdviseDontNeed drops clean cached pages of the range (length 0: to the end).
	AdviseDontNeed(off, length int64) error
	// TryLock takes an exclusive flock on the open file. It returns ErrLocked when
	// another open file has it. The lock ends with the last write in flight
	// on this descriptor, also after the death of the process.
	TryLock() error
	// Fd is the file descriptor, or NoFD in a simulation.
	Fd() uintptr
	// Name is the path given to OpenFile.
	Name() string
	io.Closer
}
