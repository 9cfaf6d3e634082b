package disk

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pwriteWorkers is how many threads carry writes at once. A large commit is split
// into up to eight writes; four keep a device busy while they cost few threads.
const pwriteWorkers = 4

// pwriteQueue is the Queue of machines without io_uring: worker threads that
// block in pwritev2 and fdatasync. Threads wake each other by eventfd only: a Go
// channel or condition costs several times as long to a locked thread.
//
//	owner -> todo ring + wake (semaphore) -> worker -> done stack + ready (eventfd) -> owner
type pwriteQueue struct {
	ops    []pwriteOp
	free   []int32 // slots that carry nothing; owner only
	staged []int32 // queued since the last Submit; owner only

	todo todoRing
	wake eventFD // semaphore: one unit for each entry in todo

	done  atomic.Int32 // 1 + slot of the newest finished operation, 0 when none; a stack linked by next
	ready eventFD
	// owed is how many signals on ready belong to operations that Reap has seen but were
	// not read yet: a worker signals each time it finds the stack empty.
	owed int64

	workers sync.WaitGroup
	closed  bool
}

type pwriteOp struct {
	id    uint64
	fd    int
	sync  bool // fdatasync, else a write
	dsync bool
	off   int64
	iov   unix.Iovec
	n     int
	err   error
	next  int32 // 1 + slot of the operation finished before this one
}

func newPwriteQueue(depth int) (*pwriteQueue, error) {
	wake, err := newEventFD(unix.EFD_SEMAPHORE)
	if err != nil {
		return nil, err
	}
	ready, err := newEventFD(unix.EFD_NONBLOCK)
	if err != nil {
		wake.close()
		return nil, err
	}
	q := &pwriteQueue{
		ops:    make([]pwriteOp, depth),
		free:   make([]int32, 0, depth),
		staged: make([]int32, 0, depth),
		wake:   wake,
		ready:  ready,
	}
	q.todo.init(depth + pwriteWorkers)
	for slot := depth - 1; slot >= 0; slot-- {
		q.free = append(q.free, int32(slot))
	}
	for range min(depth, pwriteWorkers) {
		q.workers.Add(1)
		go q.work()
	}
	return q, nil
}

func (q *pwriteQueue) Backend() string { return "pwrite" }

func (q *pwriteQueue) EventFD() int { return int(q.ready) }

func (q *pwriteQueue) Write(f File, p []byte, off int64, dsync bool, id uint64) error {
	op, err := q.stage(f, id)
	if err != nil {
		return err
	}
	op.dsync, op.off = dsync, off
	op.iov.Base = unsafe.SliceData(p)
	op.iov.SetLen(len(p))
	return nil
}

func (q *pwriteQueue) Fsync(f File, id uint64) error {
	op, err := q.stage(f, id)
	if err != nil {
		return err
	}
	op.sync = true
	return nil
}

func (q *pwriteQueue) stage(f File, id uint64) (*pwriteOp, error) {
	fd := f.Fd()
	if fd == NoFD {
		return nil, ErrForeignFile
	}
	if len(q.free) == 0 {
		return nil, ErrQueueFull
	}
	slot := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	q.staged = append(q.staged, slot)
	op := &q.ops[slot]
	*op = pwriteOp{id: id, fd: int(fd)}
	return op, nil
}

func (q *pwriteQueue) Submit() error {
	if len(q.staged) == 0 {
		return nil
	}
	for _, slot := range q.staged {
		q.todo.push(slot)
	}
	q.wake.add(uint64(len(q.staged)))
	q.staged = q.staged[:0]
	return nil
}

func (q *pwriteQueue) Reap(dst []Completion) []Completion {
	for {
		if q.done.Load() != 0 {
			dst = q.drain(dst, q.done.Swap(0))
			q.owed++
		}
		if q.owed == 0 {
			return dst
		}
		read := int64(q.ready.take())
		q.owed -= read
		if read == 0 {
			// A worker is between its push and its signal. The signal will find nothing
			// to announce; a later call reads it.
			return dst
		}
		// Look again: we may just have read the signal of a newer operation.
	}
}

// drain appends the finished operations from head on and frees their slots.
func (q *pwriteQueue) drain(dst []Completion, head int32) []Completion {
	for head != 0 {
		slot := head - 1
		op := &q.ops[slot]
		head = op.next
		dst = append(dst, Completion{ID: op.id, N: op.n, Err: op.err})
		op.iov.Base, op.err = nil, nil
		q.free = append(q.free, slot)
	}
	return dst
}

func (q *pwriteQueue) Close() error {
	if q.closed {
		return nil
	}
	q.closed = true
	stop := min(len(q.ops), pwriteWorkers)
	for range stop {
		q.todo.push(todoStop)
	}
	q.wake.add(uint64(stop))
	// The ring is first in, first out: what was submitted is written before the stop.
	q.workers.Wait()
	q.wake.close()
	q.ready.close()
	return nil
}

// work is the life of a worker thread.
func (q *pwriteQueue) work() {
	defer q.workers.Done()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		q.wake.take()
		slot := q.todo.pop()
		if slot == todoStop {
			return
		}
		op := &q.ops[slot]
		op.run()
		q.finish(slot, op)
	}
}

// finish pushes slot on the stack of finished operations and signals the owner
// if it was empty.
func (q *pwriteQueue) finish(slot int32, op *pwriteOp) {
	for {
		head := q.done.Load()
		op.next = head
		if q.done.CompareAndSwap(head, slot+1) {
			if head == 0 {
				q.ready.add(1)
			}
			return
		}
	}
}

func (op *pwriteOp) run() {
	if op.sync {
		for {
			op.err = unix.Fdatasync(op.fd)
			if !errors.Is(op.err, unix.EINTR) {
				return
			}
		}
	}
	flags := 0
	if op.dsync {
		flags = unix.RWF_DSYNC
	}
	for {
		// The offset is passed as two halves of a long: all of it in the first on 64 bit.
		n, _, errno := unix.Syscall6(unix.SYS_PWRITEV2, uintptr(op.fd), uintptr(unsafe.Pointer(&op.iov)), 1,
			uintptr(op.off), 0, uintptr(flags))
		switch {
		case errno == unix.EINTR:
			continue // nothing was written
		case errno != 0:
			op.err = errno
		default:
			op.n, op.err = int(n), shortWrite(int(n), int(op.iov.Len))
		}
		return
	}
}

// shortWrite turns a result that is not the whole length into an error.
func shortWrite(n, want int) error {
	if n != want {
		return fmt.Errorf("%w: %d of %d bytes", ErrShortWrite, n, want)
	}
	return nil
}

// todoStop in the todo ring ends the worker that takes it.
const todoStop = int32(-1)

// todoRing is a bounded first-in first-out queue from one producer to many
// consumers. A consumer may pop only after it got a unit of the semaphore that
// counts the entries, so pop never finds it empty. Each cell's turn says whose it
// is: t: free for position t; t+1: filled at position t.
type todoRing struct {
	cells []todoCell
	mask  uint64
	head  atomic.Uint64 // next position to pop
	tail  uint64        // next position to push; producer only
}

type todoCell struct {
	turn atomic.Uint64
	slot int32
}

func (r *todoRing) init(capacity int) {
	size := 1
	for size < capacity {
		size *= 2
	}
	r.cells = make([]todoCell, size)
	r.mask = uint64(size - 1)
	for i := range r.cells {
		r.cells[i].turn.Store(uint64(i))
	}
}

func (r *todoRing) push(slot int32) {
	cell := &r.cells[r.tail&r.mask]
	// The ring has room for every slot, so the cell is free, or its last consumer is
	// between two of its instructions.
	for cell.turn.Load() != r.tail {
		runtime.Gosched()
	}
	cell.slot = slot
	cell.turn.Store(r.tail + 1)
	r.tail++
}

func (r *todoRing) pop() int32 {
	pos := r.head.Add(1) - 1
	cell := &r.cells[pos&r.mask]
	if cell.turn.Load() != pos+1 {
		panic(fmt.Sprintf("BUG: popped position %d before it was pushed", pos))
	}
	slot := cell.slot
	cell.turn.Store(pos + r.mask + 1)
	return slot
}
