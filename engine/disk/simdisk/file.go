package simdisk

import (
	"io"
	"io/fs"
	"slices"
	"syscall"

	"millrace/engine/disk"
)

// blockSize is what a power cut keeps or loses as one; sectorSize is what a tear respects.
const (
	blockSize  = 4096
	sectorSize = 512
)

// inode is a file without its name.
type inode struct {
	id      uint64
	path    string // its newest name, for Op and messages
	links   int
	handles int

	size        int64
	durableSize int64
	blocks      map[int64]*block
	dirty       map[int64]struct{} // blocks that have versions
	reserved    []extent           // from Fallocate, sorted, apart
}

// block is 4 KiB of a file. Contents are never changed in place: a write makes a
// new slice. nil is all zeros.
type block struct {
	current  []byte
	durable  []byte
	versions []version // written since the last flush, oldest first; the last is current
}

type version struct {
	seq  uint64
	data []byte
}

// maxVersions bounds the unsynced history of a block: old versions beyond it cannot come back.
const maxVersions = 4

// extent is a range of block numbers.
type extent struct{ from, to int64 }

func (d *Disk) newInode(path string) *inode {
	d.nextID++
	return &inode{id: d.nextID, path: path, blocks: make(map[int64]*block), dirty: make(map[int64]struct{})}
}

// unlink removes a name of i.
func (d *Disk) unlink(i *inode) {
	i.links--
	d.release(i)
}

// release gives the space of i back when nothing refers to it.
func (d *Disk) release(i *inode) {
	if i.links == 0 && i.handles == 0 {
		d.allocated -= i.allocatedBytes()
	}
}

func (i *inode) isReserved(b int64) bool {
	for _, e := range i.reserved {
		if e.from <= b && b < e.to {
			return true
		}
	}
	return false
}

func (i *inode) allocatedBytes() int64 {
	var n int64
	for _, e := range i.reserved {
		n += e.to - e.from
	}
	for b := range i.blocks {
		if !i.isReserved(b) {
			n++
		}
	}
	return n * blockSize
}

// reserve makes [from,to) blocks part of the file; it fails when the disk is full.
func (d *Disk) reserve(i *inode, from, to int64) error {
	before := i.allocatedBytes()
	old := i.reserved
	merged := extent{from, to}
	var rest []extent
	for _, e := range old {
		if e.to < merged.from || merged.to < e.from {
			rest = append(rest, e)
		} else {
			merged = extent{min(e.from, merged.from), max(e.to, merged.to)}
		}
	}
	i.reserved = append(rest, merged)
	slices.SortFunc(i.reserved, func(a, b extent) int { return int(a.from - b.from) })
	grown := i.allocatedBytes() - before
	if d.allocated+grown > d.capacity {
		i.reserved = old
		return syscall.ENOSPC
	}
	d.allocated += grown
	return nil
}

// write puts p at off into the current view. durable: the bytes survive a power cut at
// once. On a full disk it writes what fits.
func (d *Disk) write(i *inode, p []byte, off int64, durable bool) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		number, within := at/blockSize, int(at%blockSize)
		n := min(len(p)-done, blockSize-within)
		b := i.blocks[number]
		if b == nil {
			if !i.isReserved(number) {
				if d.allocated+blockSize > d.capacity {
					return done, syscall.ENOSPC
				}
				d.allocated += blockSize
			}
			b = &block{}
			i.blocks[number] = b
		}
		data := make([]byte, blockSize)
		copy(data, b.current)
		copy(data[within:], p[done:done+n])
		d.setBlock(i, number, b, data, durable)
		done += n
		i.size = max(i.size, at+int64(n))
		if durable {
			i.durableSize = max(i.durableSize, at+int64(n))
		}
	}
	return done, nil
}

func (d *Disk) setBlock(i *inode, number int64, b *block, data []byte, durable bool) {
	d.seq++
	b.current = data
	if durable {
		b.durable, b.versions = data, nil
		delete(i.dirty, number)
		return
	}
	if len(b.versions) == maxVersions {
		b.versions = slices.Delete(b.versions, 0, 1)
	}
	b.versions = append(b.versions, version{d.seq, data})
	i.dirty[number] = struct{}{}
}

// flush makes the versions up to seq durable, and the size.
func (i *inode) flush(seq uint64, size int64) {
	for number := range i.dirty { // each block for itself: the order does not matter
		b := i.blocks[number]
		kept := 0
		for kept < len(b.versions) && b.versions[kept].seq <= seq {
			b.durable = b.versions[kept].data
			kept++
		}
		b.versions = b.versions[kept:]
		if len(b.versions) == 0 {
			b.versions = nil
			delete(i.dirty, number)
		}
	}
	i.durableSize = size
}

// failFlush is what Linux does after an I/O error: the pages are clean but not durable.
func (i *inode) failFlush() {
	for number := range i.dirty {
		i.blocks[number].versions = nil
	}
	clear(i.dirty)
}

// truncate sets the current size; what is cut off reads as zeros if the file grows again.
func (d *Disk) truncate(i *inode, size int64) {
	if size < i.size {
		for number, b := range i.blocks {
			start := number * blockSize
			switch {
			case start >= size:
				if b.current != nil {
					d.setBlock(i, number, b, nil, false)
				}
			case start+blockSize > size && b.current != nil:
				data := make([]byte, blockSize)
				copy(data, b.current[:size-start])
				d.setBlock(i, number, b, data, false)
			}
		}
	}
	i.size = size
}

func (i *inode) read(p []byte, off int64) int {
	if off >= i.size {
		return 0
	}
	p = p[:min(int64(len(p)), i.size-off)]
	for done := 0; done < len(p); {
		at := off + int64(done)
		within := int(at % blockSize)
		n := min(len(p)-done, blockSize-within)
		if b := i.blocks[at/blockSize]; b != nil && b.current != nil {
			copy(p[done:done+n], b.current[within:])
		} else {
			clear(p[done : done+n])
		}
		done += n
	}
	return len(p)
}

// file is an open file: disk.File.
type file struct {
	d        *Disk
	epoch    int
	name     string
	inode    *inode
	direct   bool
	writable bool
	closed   bool
}

var _ disk.File = (*file)(nil)

// usable must be called with the disk's mutex held.
func (f *file) usable() error {
	switch {
	case f.d.off || f.epoch != f.d.epoch:
		return ErrPowerCut
	case f.closed:
		return fs.ErrClosed
	}
	return nil
}

func (f *file) op(kind Kind, off int64, length int) Op {
	return Op{Kind: kind, Path: f.inode.path, Off: off, Len: length, Direct: f.direct}
}

func (f *file) Name() string { return f.name }

func (f *file) Fd() uintptr { return disk.NoFD }

func (f *file) Size() (int64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usable(); err != nil {
		return 0, pathError("stat", f.name, err)
	}
	return f.inode.size, nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usable(); err != nil {
		return 0, pathError("read", f.name, err)
	}
	if f.direct && !disk.IsAligned(p, off) {
		return 0, pathError("read", f.name, syscall.EINVAL)
	}
	fault := f.d.fault(f.op(Read, off, len(p)))
	if fault.Err != nil {
		return 0, pathError("read", f.name, fault.Err)
	}
	n := f.inode.read(p, off)
	f.d.stats.Reads++
	f.d.stats.ReadBytes += int64(n)
	fault.flip(p[:n])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usable(); err != nil {
		return 0, pathError("write", f.name, err)
	}
	if !f.writable {
		return 0, pathError("write", f.name, syscall.EBADF)
	}
	if f.direct && !disk.IsAligned(p, off) {
		return 0, pathError("write", f.name, syscall.EINVAL)
	}
	n, err := f.d.runWrite(f.op(Write, off, len(p)), f.inode, p)
	return n, pathError("write", f.name, err)
}

func (f *file) Fdatasync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usable(); err != nil {
		return pathError("fdatasync", f.name, err)
	}
	return pathError("fdatasync", f.name, f.d.runFlush(f.op(Fsync, 0, 0), f.inode, f.d.seq, f.inode.size))
}

func (f *file) Fallocate(off, length int64, keepSize bool) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usable(); err != nil {
		return pathError("fallocate", f.name, err)
	}
	if off < 0 || length <= 0 {
		return pathError("fallocate", f.name, syscall.EINVAL)
	}
	if err := f.d.begin(f.op(Fallocate, off, int(length))); err != nil {
		return pathError("fallocate", f.name, err)
	}
	if err := f.d.reserve(f.inode, off/blockSize, (off+length+blockSize-1)/blockSize); err != nil {
		return pathError("fallocate", f.name, err)
	}
	if !keepSize {
		f.inode.size = max(f.inode.size, off+length)
	}
	return nil
}

func (f *file) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usable(); err != nil {
		return pathError("truncate", f.name, err)
	}
	if err := f.d.begin(f.op(Truncate, size, 0)); err != nil {
		return pathError("truncate", f.name, err)
	}
	f.d.truncate(f.inode, size)
	return nil
}

func (f *file) AdviseDontNeed(int64, int64) error { return nil }

func (f *file) TryLock() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usable(); err != nil {
		return pathError("flock", f.name, err)
	}
	return f.lock()
}

func (f *file) lock() error {
	if holder, ok := f.d.locks[f.inode]; ok && holder != f {
		return disk.ErrLocked
	}
	f.d.locks[f.inode] = f
	return nil
}

func (f *file) Close() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.closed {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.close()
	return nil
}

func (f *file) close() {
	f.closed = true
	if f.epoch != f.d.epoch {
		return // the machine or process that had it open is gone
	}
	for _, q := range f.d.queues {
		if q.uses(f) {
			panic("BUG: file closed with operations in flight: " + f.name)
		}
	}
	if f.d.locks[f.inode] == f {
		delete(f.d.locks, f.inode)
	}
	f.inode.handles--
	f.d.release(f.inode)
}
