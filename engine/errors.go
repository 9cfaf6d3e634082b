package engine

import (
	"errors"
	"fmt"
)

// Errors of appends and reads. They mean: the caller's request cannot be served
// now (or ever), nothing is damaged.
var (
	// ErrBusy says that the tail ring or the WAL is full: the device is behind. Retry after Shard.OnRoom.
	ErrBusy = errors.New("engine: no room in the commit buffers")
	// ErrDiskFull says that the filesystem has no room for more data. Reads go on.
	ErrDiskFull = errors.New("engine: disk full")
	// ErrFailed says that a write or flush failed: the data directory takes nothing until it is reopened.
	ErrFailed = errors.New("engine: data directory failed")
	// ErrQuarantined says that damage was found that this log may be part of.
	ErrQuarantined = errors.New("engine: log is quarantined")
	// ErrDropped says that the log was deleted.
	ErrDropped = errors.New("engine: log was dropped")
	// ErrClosed says that the engine is closing.
	ErrClosed = errors.New("engine: closed")
	// ErrStaleEpoch says that the caller's leader epoch is older than the log's.
	ErrStaleEpoch = errors.New("engine: stale leader epoch")
	// ErrTooLarge says that a batch does not fit into one commit (Engine.MaxBatchBytes).
	ErrTooLarge = errors.New("engine: batch larger than a commit")
	// ErrNotContiguous says that given offsets do not continue the log.
	ErrNotContiguous = errors.New("engine: offsets do not continue the log")
	// ErrOffsetOutOfRange says that the offset is below the log start or above the end.
	ErrOffsetOutOfRange = errors.New("engine: offset out of range")
	// ErrWouldBlock says that the read needs a file: repeat it with MayBlock off the event loops.
	ErrWouldBlock = errors.New("engine: read would block on a file")
	// ErrExists says that a log of this topic id and partition is there already.
	ErrExists = errors.New("engine: log exists")
)

// CorruptionError says that bytes on disk are not what was written. It is never
// answered by reading on past the damage.
type CorruptionError struct {
	File   string
	Pos    int64 // -1: the file as a whole
	Reason string
}

func (e *CorruptionError) Error() string {
	if e.Pos < 0 {
		return fmt.Sprintf("engine: corrupt: %s: %s", e.File, e.Reason)
	}
	return fmt.Sprintf("engine: corrupt: %s at byte %d: %s", e.File, e.Pos, e.Reason)
}
