package disk

import (
	"errors"
	"fmt"
	"syscall"

	"millrace/engine/disk/uring"
)

// uringQueue puts files and ids on top of a ring, which knows only descriptors
// and slots.
type uringQueue struct {
	ring     *uring.Ring
	ops      []uringOp
	free     []int32 // slots that carry nothing
	staged   []int32 // queued since the last Submit
	inflight int     // submitted and not reaped
	results  []uring.Result
	broken   error // the first failed Submit; the queue takes nothing after it
	closed   bool
}

type uringOp struct {
	id    uint64
	fd    int
	p     []byte // keeps the memory alive while the kernel reads it; nil for a flush
	off   int64
	sync  bool
	dsync bool
}

func newUringQueue(depth int) (Queue, string, error) {
	ring, warning, err := uring.New(depth)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrUringUnavailable, err)
	}
	q := &uringQueue{
		ring:    ring,
		ops:     make([]uringOp, depth),
		free:    make([]int32, 0, depth),
		staged:  make([]int32, 0, depth),
		results: make([]uring.Result, 0, depth),
	}
	for slot := depth - 1; slot >= 0; slot-- {
		q.free = append(q.free, int32(slot))
	}
	return q, warning, nil
}

func (q *uringQueue) Backend() string { return "uring" }

func (q *uringQueue) EventFD() int { return q.ring.EventFD() }

func (q *uringQueue) Write(f File, p []byte, off int64, dsync bool, id uint64) error {
	return q.stage(f, uringOp{id: id, p: p, off: off, dsync: dsync})
}

func (q *uringQueue) Fsync(f File, id uint64) error {
	return q.stage(f, uringOp{id: id, sync: true})
}

func (q *uringQueue) stage(f File, op uringOp) error {
	fd := f.Fd()
	if fd == NoFD {
		return ErrForeignFile
	}
	if q.broken != nil {
		return q.broken
	}
	if len(q.free) == 0 {
		return ErrQueueFull
	}
	op.fd = int(fd)
	slot := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	q.ops[slot] = op
	q.staged = append(q.staged, slot)
	return nil
}

func (q *uringQueue) Submit() error {
	if len(q.staged) == 0 || q.broken != nil {
		return q.broken
	}
	q.prepare()
	err := q.ring.Submit()
	if errors.Is(err, uring.ErrOwner) && q.inflight == 0 {
		// The queue has changed hands between two commits. The kernel ties a ring to
		// the thread that enabled it, so the new owner gets a new ring.
		if err = q.ring.Rebind(); err == nil {
			q.prepare()
			err = q.ring.Submit()
		}
	}
	if err != nil {
		q.broken = fmt.Errorf("disk: submit to io_uring: %w", err)
		return q.broken
	}
	q.inflight += len(q.staged)
	q.staged = q.staged[:0]
	return nil
}

// prepare fills the submission ring from the staged operations.
func (q *uringQueue) prepare() {
	for _, slot := range q.staged {
		op := &q.ops[slot]
		if op.sync {
			q.ring.Fdatasync(op.fd, uint32(slot))
		} else {
			q.ring.Write(op.fd, op.p, op.off, op.dsync, uint32(slot))
		}
	}
}

func (q *uringQueue) Reap(dst []Completion) []Completion {
	q.results = q.ring.Reap(q.results[:0])
	for _, r := range q.results {
		op := &q.ops[r.Slot]
		c := Completion{ID: op.id}
		switch {
		case r.Res < 0:
			c.Err = syscall.Errno(-r.Res)
		case !op.sync:
			c.N = int(r.Res)
			c.Err = shortWrite(c.N, len(op.p))
		}
		op.p = nil
		q.free = append(q.free, int32(r.Slot))
		dst = append(dst, c)
	}
	q.inflight -= len(q.results)
	return dst
}

func (q *uringQueue) Close() error {
	if q.closed {
		return nil
	}
	q.closed = true
	return q.ring.Close(q.inflight)
}
