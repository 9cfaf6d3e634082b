package disk

import (
	"errors"
	"fmt"
)

// Queue submits direct writes and flushes without blocking and collects their
// results. It belongs to one OS thread. Operations are unordered: a flush covers
// only writes whose completions were reaped before it was submitted.
type Queue interface {
	// Write queues an aligned direct write of p at off. p stays with the queue
	// until the completion with this id was reaped. dsync asks that the bytes be on
	// the device at completion (RWF_DSYNC). It returns ErrQueueFull when depth
	// operations are queued or in flight; nothing else is checked before Submit.
	Write(f File, p []byte, off int64, dsync bool, id uint64) error
	// Fsync queues a data flush of f.
	Fsync(f File, id uint64) error
	// Submit hands everything queued to the kernel. It never blocks. An error
	// means that the queue is broken: operations may or may not happen.
	Submit() error
	// Reap appends the completions that are there to dst. It never blocks. A short
	// write is an error (ErrShortWrite).
	Reap(dst []Completion) []Completion
	// EventFD is a non-blocking eventfd that is readable when completions wait.
	// Reap clears it; it may be readable for nothing now and then. A simulation
	// returns -1: call Reap.
	EventFD() int
	// Close waits for what is in flight and frees the queue. Completions that were
	// not reaped are lost. It may be called from any thread once the owner has stopped.
	Close() error
}

// Completion is the result of one operation.
type Completion struct {
	ID  uint64
	N   int   // bytes written; 0 for a flush
	Err error // nil: all bytes were taken (and are durable, if dsync was asked)
}

var (
	// ErrQueueFull says that depth operations are already queued or in flight.
	ErrQueueFull = errors.New("disk: queue full")
	// ErrForeignFile says that the file does not belong to this kind of queue.
	ErrForeignFile = errors.New("disk: file has no descriptor for this queue")
	// ErrUringUnavailable says that io_uring cannot be used here; the text around it says why.
	ErrUringUnavailable = errors.New("disk: io_uring unavailable")
)

// maxQueueDepth bounds the operations that a queue can carry at once.
const maxQueueDepth = 4096

// Mode chooses the backend of a queue.
type Mode int

// The modes of --io.
const (
	ModeAuto   Mode = iota // io_uring where the kernel lets us, else pwrite
	ModeUring              // io_uring or an error
	ModePwrite             // pwritev2 and fdatasync on worker threads
)

// String returns the mode as it is written on the command line.
func (m Mode) String() string {
	switch m {
	case ModeAuto:
		return "auto"
	case ModeUring:
		return "uring"
	case ModePwrite:
		return "pwrite"
	}
	return fmt.Sprintf("Mode(%d)", int(m))
}

// ParseMode is the inverse of String.
func ParseMode(s string) (Mode, error) {
	for _, m := range []Mode{ModeAuto, ModeUring, ModePwrite} {
		if s == m.String() {
			return m, nil
		}
	}
	return 0, fmt.Errorf("disk: unknown I/O mode %q (auto, uring, pwrite)", s)
}

// NewQueue opens a queue for up to depth operations. warning is not empty when
// ModeAuto had to fall back, or when the kernel gave less than asked for: one
// sentence for the operator.
func NewQueue(mode Mode, depth int) (q Queue, warning string, err error) {
	if depth < 1 || depth > maxQueueDepth {
		return nil, "", fmt.Errorf("disk: queue depth %d is not between 1 and %d", depth, maxQueueDepth)
	}
	switch mode {
	case ModePwrite:
		q, err = newPwriteQueue(depth)
		return q, "", err
	case ModeUring:
		return newUringQueue(depth)
	case ModeAuto:
		q, warning, err = newUringQueue(depth)
		if err == nil {
			return q, warning, nil
		}
		reason := err
		q, err = newPwriteQueue(depth)
		return q, fmt.Sprintf("%v; writing with pwritev2 on worker threads instead: expect higher latency and CPU cost", reason), err
	}
	return nil, "", fmt.Errorf("disk: unknown I/O mode %d", int(mode))
}

// BackendOf names what carries q: "uring", "pwrite", or "custom" for queues of others.
func BackendOf(q Queue) string {
	if b, ok := q.(interface{ Backend() string }); ok {
		return b.Backend()
	}
	return "custom"
}
