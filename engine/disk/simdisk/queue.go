package simdisk

import (
	"fmt"
	"hash/maphash"

	"millrace/engine/disk"
)

// queue is a disk.Queue. Operations are delivered by Reap in a random order,
// each after a random number of calls.
type queue struct {
	d        *Disk
	epoch    int
	depth    int
	staged   []queueOp
	inflight []queueOp
	reaps    int // Reap calls so far
	closed   bool
}

type queueOp struct {
	id     uint64
	f      *file
	op     Op
	p      []byte
	fault  Fault
	due    int    // the Reap call that may deliver it
	sum    uint64 // of p, at Submit
	landed bool   // the bytes are in the current view already; n and err are known
	n      int
	err    error
	seq    uint64 // a flush covers versions up to here
	size   int64
}

var _ disk.Queue = (*queue)(nil)

var bufferSeed = maphash.MakeSeed()

// NewQueue returns a queue on this disk for up to depth operations. Any number may be open.
func (d *Disk) NewQueue(depth int) disk.Queue {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := &queue{d: d, epoch: d.epoch, depth: depth}
	d.queues = append(d.queues, q)
	return q
}

func (q *queue) Backend() string { return "simdisk" }

func (q *queue) EventFD() int { return -1 }

func (q *queue) Write(f disk.File, p []byte, off int64, dsync bool, id uint64) error {
	sf, err := q.own(f)
	if err != nil {
		return err
	}
	if !disk.IsAligned(p, off) || !sf.direct {
		panic(fmt.Sprintf("BUG: queued write to %s is not aligned or its file not direct: off=%d len=%d", sf.name, off, len(p)))
	}
	op := sf.op(Write, off, len(p))
	op.Dsync = dsync
	return q.stage(queueOp{id: id, f: sf, op: op, p: p})
}

func (q *queue) Fsync(f disk.File, id uint64) error {
	sf, err := q.own(f)
	if err != nil {
		return err
	}
	return q.stage(queueOp{id: id, f: sf, op: sf.op(Fsync, 0, 0)})
}

func (q *queue) own(f disk.File) (*file, error) {
	sf, ok := f.(*file)
	if !ok || sf.d != q.d {
		return nil, disk.ErrForeignFile
	}
	return sf, nil
}

func (q *queue) stage(o queueOp) error {
	q.d.mu.Lock()
	defer q.d.mu.Unlock()
	if len(q.staged)+len(q.inflight) >= q.depth {
		return disk.ErrQueueFull
	}
	q.staged = append(q.staged, o)
	return nil
}

func (q *queue) Submit() error {
	q.d.mu.Lock()
	defer q.d.mu.Unlock()
	for _, o := range q.staged {
		q.submit(o)
	}
	q.staged = q.staged[:0]
	return nil
}

// submit begins one operation. Dead files and cuts show in its completion, as
// they would on a real machine.
func (q *queue) submit(o queueOp) {
	d := q.d
	o.due = q.reaps + 1
	o.err = o.f.usable()
	if o.err == nil {
		o.err = d.count(&o.op)
		if o.err != nil && o.op.Kind == Write {
			d.writePart(o.f.inode, o.p, o.op.Off)
		}
	}
	if o.err != nil {
		o.landed = true
		q.inflight = append(q.inflight, o)
		return
	}
	o.fault = d.fault(o.op)
	o.due += o.fault.Delay
	if d.maxDelay > 0 {
		o.due += d.rng.IntN(d.maxDelay + 1)
	}
	if o.op.Kind == Write {
		o.sum = maphash.Bytes(bufferSeed, o.p)
		// A read during the write may see the bytes or not.
		if d.rng.IntN(2) == 0 && !o.op.Dsync {
			o.land()
		}
	} else {
		// Only what had completed before the flush was submitted is covered by it; the versions
		// of writes that have landed early but were not delivered get no promise.
		o.seq, o.size = d.seq, o.f.inode.size
	}
	q.inflight = append(q.inflight, o)
}

// land brings a write into the current view.
func (o *queueOp) land() {
	o.n, o.err = o.f.d.applyWrite(o.op, o.fault, o.f.inode, o.p)
	o.landed = true
}

func (q *queue) Reap(dst []disk.Completion) []disk.Completion {
	q.d.mu.Lock()
	defer q.d.mu.Unlock()
	q.reaps++
	d := q.d
	if d.off || q.epoch != d.epoch {
		// The machine is gone. Tell the driver, so that it stops waiting.
		for _, o := range q.inflight {
			dst = append(dst, disk.Completion{ID: o.id, Err: ErrPowerCut})
		}
		q.inflight = q.inflight[:0]
		return dst
	}
	d.rng.Shuffle(len(q.inflight), func(a, b int) { q.inflight[a], q.inflight[b] = q.inflight[b], q.inflight[a] })
	waiting := q.inflight[:0]
	for _, o := range q.inflight {
		if o.due > q.reaps {
			waiting = append(waiting, o)
			continue
		}
		dst = append(dst, q.deliver(&o))
	}
	clear(q.inflight[len(waiting):])
	q.inflight = waiting
	return dst
}

// deliver finishes one operation.
func (q *queue) deliver(o *queueOp) disk.Completion {
	if o.op.Kind != Write {
		if o.err == nil {
			o.err = q.d.applyFlush(o.op, o.fault, o.f.inode, o.seq, o.size)
		}
		return disk.Completion{ID: o.id, Err: o.err}
	}
	if o.err == nil && maphash.Bytes(bufferSeed, o.p) != o.sum {
		panic(fmt.Sprintf("BUG: buffer changed while in flight: %v", o.op))
	}
	if !o.landed {
		o.land()
	}
	if o.err == nil && o.n < len(o.p) {
		o.err = fmt.Errorf("%w: %d of %d bytes", disk.ErrShortWrite, o.n, len(o.p))
	}
	return disk.Completion{ID: o.id, N: o.n, Err: o.err}
}

func (q *queue) uses(f *file) bool {
	for _, o := range q.inflight {
		if o.f == f {
			return true
		}
	}
	return false
}

// lose decides what becomes of the operations in flight when their process dies.
func (q *queue) lose() {
	for _, o := range q.inflight {
		q.d.stats.InFlightLost++
		if o.op.Kind != Write || o.landed {
			continue
		}
		switch q.d.rng.IntN(3) {
		case 0: // never reached the device
		case 1:
			o.land()
		case 2:
			q.d.writePart(o.f.inode, o.p, o.op.Off)
		}
	}
	q.inflight, q.staged = nil, nil
}

func (q *queue) Close() error {
	q.d.mu.Lock()
	defer q.d.mu.Unlock()
	if q.closed {
		return nil
	}
	q.closed = true
	if q.epoch == q.d.epoch && !q.d.off {
		for i := range q.inflight {
			_ = q.deliver(&q.inflight[i])
		}
	}
	q.inflight, q.staged = nil, nil
	q.d.forget(q)
	return nil
}
