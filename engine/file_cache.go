package engine

import (
	"container/list"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"millrace/engine/disk"
)

// fileCache keeps the descriptors of segment files: the most recently used ones
// stay open, none is closed while somebody uses it. Safe for concurrent use.
type fileCache struct {
	fs     disk.FS
	direct func(path string, flag int) (disk.File, error)
	limit  int

	mu    sync.Mutex // guards all below; not held during opens
	files map[fileKey]*openFile
	lru   *list.List // of *openFile, most recently used first
}

type fileKey struct {
	g     *segment
	write bool
}

// openFile is one use-counted descriptor.
type openFile struct {
	disk.File
	cache *fileCache
	key   fileKey
	refs  int // guarded by cache.mu
	at    *list.Element
	dead  bool // no longer in the cache: close with the last use
}

// newFileCache returns a cache that opens files for writing with direct.
func newFileCache(fsys disk.FS, direct func(string, int) (disk.File, error), limit int) *fileCache {
	return &fileCache{fs: fsys, direct: direct, limit: limit, files: make(map[fileKey]*openFile), lru: list.New()}
}

// acquire opens the segment's file for reading through the page cache, or for direct
// writes. The caller calls Release once.
func (c *fileCache) acquire(g *segment, write, create bool) (*openFile, error) {
	key := fileKey{g, write}
	c.mu.Lock()
	if f := c.files[key]; f != nil {
		f.refs++
		c.lru.MoveToFront(f.at)
		c.mu.Unlock()
		return f, nil
	}
	c.mu.Unlock()

	file, err := c.open(g.path(), write, create)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	if f := c.files[key]; f != nil { // somebody was faster
		f.refs++
		c.lru.MoveToFront(f.at)
		c.mu.Unlock()
		_ = file.Close()
		return f, nil
	}
	f := &openFile{File: file, cache: c, key: key, refs: 1}
	f.at = c.lru.PushFront(f)
	c.files[key] = f
	victims := c.evict()
	c.mu.Unlock()
	for _, v := range victims {
		_ = v.File.Close()
	}
	return f, nil
}

func (c *fileCache) open(path string, write, create bool) (disk.File, error) {
	if !write {
		return c.fs.OpenFile(path, os.O_RDONLY, 0)
	}
	flag := os.O_RDWR
	if create {
		flag |= os.O_CREATE
	}
	return c.direct(path, flag)
}

// openDirect opens a file for direct I/O, or buffered where the filesystem has none.
func (e *Engine) openDirect(path string, flag int) (disk.File, error) {
	if !e.buffered.Load() {
		f, err := e.fs.OpenFile(path, flag|disk.Direct, 0o644)
		if !errors.Is(err, syscall.EINVAL) {
			return f, err
		}
		if !e.buffered.Swap(true) {
			e.o.Warn("%s: the filesystem has no direct I/O; writes go through the page cache", e.o.Dir)
		}
	}
	return e.fs.OpenFile(path, flag, 0o644)
}

// evict takes unused files beyond the limit out of the cache. Called with mu.
func (c *fileCache) evict() []*openFile {
	var victims []*openFile
	for e := c.lru.Back(); e != nil && len(c.files) > c.limit; {
		f := e.Value.(*openFile)
		e = e.Prev()
		if f.refs == 0 {
			c.remove(f)
			victims = append(victims, f)
		}
	}
	return victims
}

func (c *fileCache) remove(f *openFile) {
	delete(c.files, f.key)
	c.lru.Remove(f.at)
	f.dead = true
}

// Release ends one use. It implements Releaser.
func (f *openFile) Release() {
	c := f.cache
	c.mu.Lock()
	f.refs--
	if f.refs < 0 {
		panic(fmt.Sprintf("BUG: %s released twice", f.Name()))
	}
	last := f.dead && f.refs == 0
	c.mu.Unlock()
	if last {
		_ = f.File.Close()
	}
}

// forget drops the segment's descriptors: its file is about to go.
func (c *fileCache) forget(g *segment) {
	c.mu.Lock()
	var unused []*openFile
	for _, write := range []bool{false, true} {
		if f := c.files[fileKey{g, write}]; f != nil {
			c.remove(f)
			if f.refs == 0 {
				unused = append(unused, f)
			}
		}
	}
	c.mu.Unlock()
	for _, f := range unused {
		_ = f.File.Close()
	}
}

// close closes what nobody uses.
func (c *fileCache) close() {
	c.mu.Lock()
	var unused []*openFile
	for _, f := range c.files {
		c.remove(f)
		if f.refs == 0 {
			unused = append(unused, f)
		}
	}
	c.mu.Unlock()
	for _, f := range unused {
		_ = f.File.Close()
	}
}
