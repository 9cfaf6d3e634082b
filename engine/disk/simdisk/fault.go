package simdisk

import (
	"errors"
	"fmt"
	"syscall"
)

// Kind is what an operation does.
type Kind int

// The kinds of operation. All but Read count for CutAfter.
const (
	Create Kind = iota
	Rename
	Remove
	Mkdir
	Fallocate
	Truncate
	Write
	Fsync
	SyncDir
	SyncFS
	Read
	kindCount
)

var kindNames = [kindCount]string{
	"create", "rename", "remove", "mkdir", "fallocate", "truncate", "write", "fsync", "syncdir", "syncfs", "read",
}

// String returns the name of the kind.
func (k Kind) String() string {
	if k < 0 || k >= kindCount {
		return fmt.Sprintf("Kind(%d)", int(k))
	}
	return kindNames[k]
}

// Op is one operation, as the fault hook and the cut hook see it.
type Op struct {
	Kind   Kind
	Path   string // absolute
	Off    int64
	Len    int
	Direct bool
	Dsync  bool   // a queue's write that asked for it
	Seq    uint64 // counts operations from 1; 0 for a read
}

// String is for failure messages.
func (o Op) String() string {
	return fmt.Sprintf("#%d %s %s off=%d len=%d", o.Seq, o.Kind, o.Path, o.Off, o.Len)
}

// Fault says how an operation goes wrong. The zero value is health.
type Fault struct {
	// Err fails the operation. A failed write leaves a random part of its blocks
	// changed; a failed flush leaves what it covered readable but never durable.
	Err error
	// Short lets a write take that many bytes only: File.WriteAt then fails
	// with EIO, a queue's completion with disk.ErrShortWrite. 0 is no fault.
	Short int
	// Flip inverts bit Flip-1 of the bytes that are written or read. 0 is no fault.
	Flip int
	// Delay keeps a queue's operation in flight for so many further Reap calls.
	Delay int
	// Misdirect adds to the offset of a write: the bytes land elsewhere and success is reported.
	Misdirect int64
}

func (f Fault) flip(p []byte) {
	if bit := f.Flip - 1; bit >= 0 && bit/8 < len(p) {
		p[bit/8] ^= 1 << (bit % 8)
	}
}

// Lies lets flushes report success and do nothing: for tests that must fail, to
// prove that they can.
type Lies struct{ Fsync, Dsync, SyncDir bool }

// SetLies makes the disk lie from now on.
func (d *Disk) SetLies(l Lies) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lies = l
}

// SetFaults installs hook, which is asked about every operation, reads too, in
// their order; for a queue's operations when they are submitted. It must not call
// the disk. nil removes it.
func (d *Disk) SetFaults(hook func(Op) Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = hook
}

// SetCapacity sets the size of the disk: allocations beyond it fail with ENOSPC.
func (d *Disk) SetCapacity(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = bytes
}

// SetMaxDelay bounds the Reap calls that a queue's operation stays in flight. 0:
// everything that was submitted is delivered, in random order, by the next Reap.
func (d *Disk) SetMaxDelay(reaps int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.maxDelay = reaps
}

// CutAfter lets the power go out during the n-th operation from now (n >= 1; 0
// never): it and all after it return ErrPowerCut until Crash is called. onCut, if not nil, is
// told which operation it was; it must not call the disk.
func (d *Disk) CutAfter(n uint64, onCut func(Op)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutAt, d.onCut = 0, onCut
	if n > 0 {
		d.cutAt = d.ops + n
	}
}

// Ops returns how many operations were begun, to choose a CutAfter for the next run.
func (d *Disk) Ops() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// PowerIsOut reports whether the disk waits for Crash.
func (d *Disk) PowerIsOut() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.off
}

// Rot flips one bit of a file at rest, in the current view and in what is durable.
func (d *Disk) Rot(name string, off int64, bit int) error {
	return d.alter(name, off, func(b *byte) { *b ^= 1 << (bit % 8) })
}

// Overwrite changes one byte of a file at rest.
func (d *Disk) Overwrite(name string, off int64, value byte) error {
	return d.alter(name, off, func(b *byte) { *b = value })
}

func (d *Disk) alter(name string, off int64, change func(*byte)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.lookup(name)
	if err != nil {
		return pathError("alter", name, err)
	}
	if n.isDir() {
		return pathError("alter", name, syscall.EISDIR)
	}
	i := n.inode
	if off < 0 || off >= i.size {
		return pathError("alter", name, syscall.EINVAL)
	}
	b := i.blocks[off/blockSize]
	if b == nil {
		b = &block{}
		i.blocks[off/blockSize] = b
	}
	altered := func(data []byte) []byte {
		fresh := make([]byte, blockSize)
		copy(fresh, data)
		change(&fresh[off%blockSize])
		return fresh
	}
	b.current, b.durable = altered(b.current), altered(b.durable)
	for v := range b.versions {
		b.versions[v].data = altered(b.versions[v].data)
	}
	return nil
}

func (d *Disk) fault(op Op) Fault {
	if d.faults == nil {
		return Fault{}
	}
	f := d.faults(op)
	if f.Err != nil || f.Short != 0 || f.Flip != 0 || f.Misdirect != 0 {
		d.stats.Faults++
	}
	return f
}

// count numbers a mutating operation and tells whether the power goes out in it.
func (d *Disk) count(op *Op) error {
	d.ops++
	op.Seq = d.ops
	d.stats.Ops[op.Kind]++
	if d.cutAt != 0 && d.ops >= d.cutAt {
		d.off, d.cutAt = true, 0
		if d.onCut != nil {
			d.onCut(*op)
		}
		return ErrPowerCut
	}
	return nil
}

// begin counts an operation without data and asks for its fault.
func (d *Disk) begin(op Op) error {
	if err := d.count(&op); err != nil {
		return err
	}
	d.note(op.Kind, op.Path, op.Off, op.Len, nil)
	return d.fault(op).Err
}

// halfDone decides whether a change of names that failed with err happened all the
// same: a cut in the middle may fall on either side.
func (d *Disk) halfDone(err error) bool {
	return errors.Is(err, ErrPowerCut) && d.rng.IntN(2) == 0
}

// runWrite is a whole synchronous write.
func (d *Disk) runWrite(op Op, i *inode, p []byte) (int, error) {
	if err := d.count(&op); err != nil {
		d.writePart(i, p, op.Off)
		return 0, err
	}
	fault := d.fault(op)
	n, err := d.applyWrite(op, fault, i, p)
	if err == nil && n < len(p) {
		err = syscall.EIO
	}
	return n, err
}

// applyWrite brings a write into the current view, with its fault.
func (d *Disk) applyWrite(op Op, fault Fault, i *inode, p []byte) (int, error) {
	d.note(op.Kind, op.Path, op.Off, op.Len, p)
	if fault.Err != nil {
		d.writePart(i, p, op.Off)
		return 0, fault.Err
	}
	if fault.Short > 0 && fault.Short < len(p) {
		p = p[:fault.Short]
	}
	if fault.Flip > 0 {
		p = append([]byte(nil), p...)
		fault.flip(p)
	}
	n, err := d.write(i, p, op.Off+fault.Misdirect, op.Dsync && !d.lies.Dsync)
	d.stats.WriteBytes += int64(n)
	if n > 0 {
		err = nil // a short count hides the reason, as with write(2)
	}
	return n, err
}

// writePart lets a random part of a write land: whole blocks, or their first sectors.
func (d *Disk) writePart(i *inode, p []byte, off int64) {
	for start := 0; start < len(p); start += blockSize {
		chunk := p[start:min(start+blockSize, len(p))]
		switch d.rng.IntN(4) {
		case 0: // lost
		case 1: // torn
			chunk = chunk[:min(len(chunk), sectorSize*d.rng.IntN(blockSize/sectorSize))]
			fallthrough
		default:
			// A full disk keeps what it has; nobody will hear of it.
			_, _ = d.write(i, chunk, off+int64(start), false)
		}
	}
}

// runFlush is a whole flush of the versions up to seq.
func (d *Disk) runFlush(op Op, i *inode, seq uint64, size int64) error {
	if err := d.count(&op); err != nil {
		return err
	}
	return d.applyFlush(op, d.fault(op), i, seq, size)
}

func (d *Disk) applyFlush(op Op, fault Fault, i *inode, seq uint64, size int64) error {
	d.note(op.Kind, op.Path, 0, 0, nil)
	switch {
	case fault.Err != nil:
		i.failFlush()
		return fault.Err
	case d.lies.Fsync:
		return nil
	}
	i.flush(seq, size)
	return nil
}
