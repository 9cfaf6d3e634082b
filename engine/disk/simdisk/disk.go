package simdisk

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"

	"millrace/engine/disk"
)

// ErrPowerCut is what every operation returns after the power went out, until
// Crash restores it; handles and queues from before return it for ever.
var ErrPowerCut = errors.New("simdisk: power cut")

// Disk is a simulated disk with one filesystem. It implements disk.FS.
type Disk struct {
	mu   sync.Mutex // guards all fields, and all nodes, inodes, files and queues
	rng  *rand.Rand
	root *node

	epoch  int    // grows with Crash and Kill; handles of older ones are dead
	boot   int    // grows with Crash
	seq    uint64 // of the newest block version
	nextID uint64 // of the next inode
	locks  map[*inode]*file
	queues []*queue // of this epoch, in the order they were opened

	capacity  int64 // bytes
	allocated int64 // bytes of blocks written or reserved
	maxDelay  int   // Reap calls that an operation may stay in flight

	faults func(Op) Fault
	ops    uint64 // mutating operations begun
	cutAt  uint64 // 0: never
	onCut  func(Op)
	off    bool // the power is out
	lies   Lies
	effect uint64 // see note
	stats  Stats
}

// defaultCapacity is large enough never to matter; see SetCapacity.
const defaultCapacity = 1 << 40

// defaultMaxDelay bounds how many Reap calls an operation stays in flight.
const defaultMaxDelay = 3

// New returns an empty disk. The same seed and the same calls give the same disk.
func New(seed uint64) *Disk {
	return &Disk{
		rng:      rand.New(rand.NewPCG(seed, 0x6d696c6c72616365)),
		root:     newFolder(),
		locks:    make(map[*inode]*file),
		capacity: defaultCapacity,
		maxDelay: defaultMaxDelay,
		effect:   14695981039346656037,
	}
}

var _ disk.FS = (*Disk)(nil)

// node is a name's target: a folder or a file.
type node struct {
	inode *inode // nil for a folder

	entries map[string]*node // current names
	durable map[string]*node // names that survive a power cut
	changes []nameChange     // since the last SyncDir, oldest first
}

// nameChange is one atomic change of a folder: names that go, then a name that comes.
type nameChange struct {
	removed []string
	added   string // "" for none
	target  *node
}

func newFolder() *node {
	return &node{entries: make(map[string]*node), durable: make(map[string]*node)}
}

func (n *node) isDir() bool { return n.inode == nil }

func (n *node) change(c nameChange) {
	c.apply(n.entries)
	n.changes = append(n.changes, c)
}

func (c nameChange) apply(entries map[string]*node) {
	for _, name := range c.removed {
		delete(entries, name)
	}
	if c.added != "" {
		entries[c.added] = c.target
	}
}

func sortedNames(entries map[string]*node) []string {
	names := make([]string, 0, len(entries))
	for name := range entries {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// clean turns a name into an absolute path: there is no working folder here.
func clean(name string) string { return path.Clean("/" + filepath.ToSlash(name)) }

// lookup finds a name.
func (d *Disk) lookup(name string) (*node, error) {
	n := d.root
	for part := range strings.SplitSeq(strings.TrimPrefix(clean(name), "/"), "/") {
		if part == "" {
			continue
		}
		if !n.isDir() {
			return nil, syscall.ENOTDIR
		}
		child, ok := n.entries[part]
		if !ok {
			return nil, syscall.ENOENT
		}
		n = child
	}
	return n, nil
}

// parent finds the folder that holds name.
func (d *Disk) parent(name string) (*node, string, error) {
	full := clean(name)
	if full == "/" {
		return nil, "", syscall.EINVAL
	}
	dir, err := d.lookup(path.Dir(full))
	if err != nil {
		return nil, "", err
	}
	if !dir.isDir() {
		return nil, "", syscall.ENOTDIR
	}
	return dir, path.Base(full), nil
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// OpenFile implements disk.FS.
func (d *Disk) OpenFile(name string, flag int, _ fs.FileMode) (disk.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.open(name, flag)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return f, nil
}

func (d *Disk) open(name string, flag int) (*file, error) {
	if d.off {
		return nil, ErrPowerCut
	}
	n, err := d.lookup(name)
	switch {
	case err == nil && flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return nil, syscall.EEXIST
	case err == nil && n.isDir():
		return nil, syscall.EISDIR
	case errors.Is(err, syscall.ENOENT) && flag&os.O_CREATE != 0:
		if n, err = d.create(name); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	f := &file{d: d, epoch: d.epoch, name: name, inode: n.inode, direct: flag&disk.Direct != 0, writable: flag&(os.O_WRONLY|os.O_RDWR) != 0}
	if flag&os.O_TRUNC != 0 {
		if err := d.begin(Op{Kind: Truncate, Path: clean(name)}); err != nil {
			return nil, err
		}
		d.truncate(n.inode, 0)
	}
	n.inode.handles++
	return f, nil
}

func (d *Disk) create(name string) (*node, error) {
	dir, base, err := d.parent(name)
	if err != nil {
		return nil, err
	}
	n := &node{inode: d.newInode(clean(name))}
	n.inode.links = 1
	err = d.begin(Op{Kind: Create, Path: clean(name)})
	if err != nil && !d.halfDone(err) {
		return nil, err
	}
	dir.change(nameChange{added: base, target: n})
	return n, err
}

// Rename implements disk.FS. Folders cannot be renamed.
func (d *Disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return pathError("rename", from, d.rename(from, to))
}

func (d *Disk) rename(from, to string) error {
	if d.off {
		return ErrPowerCut
	}
	n, err := d.lookup(from)
	if err != nil {
		return err
	}
	if n.isDir() {
		return syscall.ENOTSUP
	}
	if clean(from) == clean(to) {
		return nil
	}
	fromDir, fromBase, err := d.parent(from)
	if err != nil {
		return err
	}
	toDir, toBase, err := d.parent(to)
	if err != nil {
		return err
	}
	old := toDir.entries[toBase]
	if old != nil && old.isDir() {
		return syscall.EISDIR
	}
	err = d.begin(Op{Kind: Rename, Path: clean(to)})
	if err != nil && !d.halfDone(err) {
		return err
	}
	if fromDir == toDir {
		toDir.change(nameChange{removed: []string{fromBase}, added: toBase, target: n})
	} else {
		toDir.change(nameChange{added: toBase, target: n})
		fromDir.change(nameChange{removed: []string{fromBase}})
	}
	if old != nil {
		d.unlink(old.inode)
	}
	n.inode.path = clean(to)
	return err
}

// Remove implements disk.FS.
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return pathError("remove", name, d.remove(name))
}

func (d *Disk) remove(name string) error {
	if d.off {
		return ErrPowerCut
	}
	n, err := d.lookup(name)
	if err != nil {
		return err
	}
	if n.isDir() && len(n.entries) > 0 {
		return syscall.ENOTEMPTY
	}
	dir, base, err := d.parent(name)
	if err != nil {
		return err
	}
	err = d.begin(Op{Kind: Remove, Path: clean(name)})
	if err != nil && !d.halfDone(err) {
		return err
	}
	dir.change(nameChange{removed: []string{base}})
	if !n.isDir() {
		d.unlink(n.inode)
	}
	return err
}

// MkdirAll implements disk.FS.
func (d *Disk) MkdirAll(dir string, _ fs.FileMode) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return pathError("mkdir", dir, d.mkdirAll(clean(dir)))
}

func (d *Disk) mkdirAll(dir string) error {
	if d.off {
		return ErrPowerCut
	}
	n := d.root
	for part := range strings.SplitSeq(strings.TrimPrefix(dir, "/"), "/") {
		if part == "" {
			continue
		}
		child, ok := n.entries[part]
		if !ok {
			err := d.begin(Op{Kind: Mkdir, Path: dir})
			if err != nil && !d.halfDone(err) {
				return err
			}
			child = newFolder()
			n.change(nameChange{added: part, target: child})
			if err != nil {
				return err
			}
		}
		if !child.isDir() {
			return syscall.ENOTDIR
		}
		n = child
	}
	return nil
}

// ReadDir implements disk.FS.
func (d *Disk) ReadDir(dir string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return nil, pathError("readdir", dir, ErrPowerCut)
	}
	n, err := d.lookup(dir)
	if err == nil && !n.isDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, pathError("readdir", dir, err)
	}
	return sortedNames(n.entries), nil
}

// Stat implements disk.FS.
func (d *Disk) Stat(name string) (disk.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return disk.FileInfo{}, pathError("stat", name, ErrPowerCut)
	}
	n, err := d.lookup(name)
	if err != nil {
		return disk.FileInfo{}, pathError("stat", name, err)
	}
	if n.isDir() {
		return disk.FileInfo{IsDir: true}, nil
	}
	return disk.FileInfo{Size: n.inode.size}, nil
}

// SyncDir implements disk.FS.
func (d *Disk) SyncDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return pathError("fsync", dir, ErrPowerCut)
	}
	n, err := d.lookup(dir)
	if err == nil && !n.isDir() {
		err = syscall.ENOTDIR
	}
	if err == nil {
		err = d.begin(Op{Kind: SyncDir, Path: clean(dir)})
	}
	if err != nil {
		return pathError("fsync", dir, err)
	}
	if !d.lies.SyncDir {
		n.syncNames()
	}
	return nil
}

func (n *node) syncNames() {
	for _, c := range n.changes {
		c.apply(n.durable)
	}
	n.changes = nil
}

// SyncFS implements disk.FS: every file and folder becomes durable.
func (d *Disk) SyncFS(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return pathError("syncfs", dir, ErrPowerCut)
	}
	if _, err := d.lookup(dir); err != nil {
		return pathError("syncfs", dir, err)
	}
	if err := d.begin(Op{Kind: SyncFS, Path: clean(dir)}); err != nil {
		return pathError("syncfs", dir, err)
	}
	if d.lies.Fsync {
		return nil
	}
	d.walk(d.root, func(n *node) {
		if n.isDir() {
			n.syncNames()
		} else {
			n.inode.flush(d.seq, n.inode.size)
		}
	})
	return nil
}

// walk visits n and all below it, by name.
func (d *Disk) walk(n *node, visit func(*node)) {
	visit(n)
	for _, name := range sortedNames(n.entries) {
		d.walk(n.entries[name], visit)
	}
}

// Statfs implements disk.FS.
func (d *Disk) Statfs(dir string) (free, total int64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return 0, 0, pathError("statfs", dir, ErrPowerCut)
	}
	return max(d.capacity-d.allocated, 0), d.capacity, nil
}

// Lock implements disk.FS.
func (d *Disk) Lock(name string) (io.Closer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.open(name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, pathError("lock", name, err)
	}
	if err := f.lock(); err != nil {
		f.close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

// BootID implements disk.FS. It changes with Crash and not with Kill.
func (d *Disk) BootID() (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Sprintf("simulated-boot-%d", d.boot), nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// note mixes an operation into the effect hash: FNV-1a over its numbers, with
// hardware CRCs for the long parts, because simulations write gigabytes.
func (d *Disk) note(kind Kind, name string, off int64, length int, data []byte) {
	for _, v := range []uint64{
		uint64(kind), uint64(off), uint64(length),
		uint64(crc32.Checksum([]byte(name), castagnoli)),
		uint64(crc32.Checksum(data, castagnoli)),
	} {
		for range 8 {
			d.effect = (d.effect ^ v&0xff) * 1099511628211
			v >>= 8
		}
	}
}

// EffectHash is a hash over all operations so far, in order, with their bytes. Two
// runs with the same seed must have the same hash.
func (d *Disk) EffectHash() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.effect
}

// forget removes q from the open queues.
func (d *Disk) forget(q *queue) {
	d.queues = slices.DeleteFunc(d.queues, func(o *queue) bool { return o == q })
}
