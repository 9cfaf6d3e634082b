package engine

import (
	"container/list"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/klauspost/crc32"

	"millrace/engine/disk"
	"millrace/engine/index"
)

func (x *segmentIndex) add(base, pos, maxTime, maxBase int64) {
	x.offsets.Append(base, pos)
	if maxTime >= 0 {
		x.times.Append(maxTime, maxBase)
	}
}

// truncated returns a copy without the entries of offset end and above.
func (x *segmentIndex) truncated(end int64) *segmentIndex {
	c := &segmentIndex{offsets: x.offsets.Clone(), times: x.times.Clone()}
	c.offsets.TruncateTo(end)
	c.times.TruncateTo(end)
	return c
}

func (x *segmentIndex) sizeBytes() int64 {
	return int64(x.offsets.SizeBytes() + x.times.SizeBytes() + 96)
}

// The index file of a sealed segment.
const (
	indexMagic   = 0x31584449_4c4c494d // "MILLIDX1"
	indexVersion = 1
	indexHeadSz  = 48
	indexMax     = 64 << 20
)

// encodeIndexFile returns the bytes of a sealed segment's index file.
func encodeIndexFile(g *segment, x *segmentIndex) []byte {
	le := binary.LittleEndian
	b := make([]byte, indexHeadSz, indexHeadSz+8*x.offsets.Len()+16*x.times.Len())
	le.PutUint64(b[0:], indexMagic)
	le.PutUint32(b[12:], indexVersion)
	le.PutUint64(b[16:], uint64(g.base))
	le.PutUint64(b[24:], g.generation)
	b = x.offsets.AppendTo(b)
	le.PutUint32(b[32:], uint32(len(b)-indexHeadSz))
	n := len(b)
	b = x.times.AppendTo(b)
	le.PutUint32(b[36:], uint32(len(b)-n))
	le.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	return b
}

// decodeIndexFile is the inverse of encodeIndexFile.
func decodeIndexFile(b []byte, base int64, generation uint64) (*segmentIndex, error) {
	le := binary.LittleEndian
	if len(b) < indexHeadSz || le.Uint64(b) != indexMagic {
		return nil, errors.New("not an index file")
	}
	if le.Uint32(b[8:]) != crc32.Checksum(b[12:], castagnoli) {
		return nil, errors.New("checksum mismatch")
	}
	if v := le.Uint32(b[12:]); v != indexVersion {
		return nil, fmt.Errorf("version %d", v)
	}
	if int64(le.Uint64(b[16:])) != base || le.Uint64(b[24:]) != generation {
		return nil, errors.New("index of another segment")
	}
	offsetsLen, timesLen := uint64(le.Uint32(b[32:])), uint64(le.Uint32(b[36:]))
	if indexHeadSz+offsetsLen+timesLen != uint64(len(b)) {
		return nil, errors.New("lengths do not fit")
	}
	body := b[indexHeadSz:]
	var x segmentIndex
	var err error
	if x.offsets, err = index.DecodeOffsets(body[:offsetsLen]); err != nil {
		return nil, err
	}
	if x.times, err = index.DecodeTimes(body[offsetsLen:]); err != nil {
		return nil, err
	}
	if x.offsets.Base() != base || x.times.Base() != base {
		return nil, errors.New("base offset mismatch")
	}
	return &x, nil
}

// writeIndexFile keeps a sealed segment's index. The file can be made again from the
// segment, so a full disk only postpones it. Called with writeMu.
func (e *Engine) writeIndexFile(g *segment) error {
	x := g.index
	if !g.indexDirty || !g.hasFile || x == nil {
		return nil
	}
	err := e.writeWhole(g.indexPath(), encodeIndexFile(g, x))
	if noSpace(err) {
		return nil
	}
	if err != nil {
		return err
	}
	g.indexDirty = false
	g.dirDirty = true
	e.indexes.add(g, x)
	return nil
}

// writeWhole replaces a file. Its name is not flushed: after a crash there may be the old one, or none, but never half a file.
func (e *Engine) writeWhole(path string, data []byte) error {
	temp := path + disk.TempSuffix
	f, err := e.fs.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Fdatasync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = e.fs.Remove(temp)
		return err
	}
	return e.fs.Rename(temp, path)
}

// indexOf returns the segment's index, reading or rebuilding it for a sealed segment. It may block.
func (e *Engine) indexOf(g *segment) (*segmentIndex, error) {
	st := &g.log.stable
	st.mu.Lock()
	x := g.index
	st.mu.Unlock()
	if x != nil {
		e.indexes.touch(g)
		return x, nil
	}
	g.loading.Lock()
	defer g.loading.Unlock()
	st.mu.Lock()
	x = g.index
	st.mu.Unlock()
	if x != nil {
		return x, nil
	}
	data, err := disk.ReadFile(e.fs, g.indexPath(), indexMax)
	if err == nil {
		x, err = decodeIndexFile(data, g.base, g.generation)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			e.o.Warn("index %s is rebuilt: %v", g.indexPath(), err)
		}
		if x, err = e.rebuildIndex(g); err != nil {
			return nil, err
		}
	}
	st.mu.Lock()
	if g.next < lastIndexed(x) {
		x = x.truncated(g.next) // the file was cut logically after it was sealed
	}
	g.index = x
	st.mu.Unlock()
	e.indexes.add(g, x)
	return x, nil
}

func lastIndexed(x *segmentIndex) int64 {
	offset, _, ok := x.offsets.Last()
	if !ok {
		return -1
	}
	return offset + 1
}

// rebuildIndex reads the whole segment.
func (e *Engine) rebuildIndex(g *segment) (*segmentIndex, error) {
	x := newSegmentIndex(g.base)
	interval := indexInterval(g.log.config())
	last, maxTime, maxBase := int64(-1), int64(-1), int64(-1)
	r, err := g.log.openSegment(g)
	if err != nil {
		return nil, err
	}
	defer r.close()
	for pos := int64(0); pos < r.size; {
		h, err := r.header(pos)
		if err != nil {
			return nil, err
		}
		if h.MaxTimestamp > maxTime {
			maxTime, maxBase = h.MaxTimestamp, h.BaseOffset
		}
		if last < 0 || pos-last >= interval {
			x.add(h.BaseOffset, pos, maxTime, maxBase)
			last = pos
		}
		pos += int64(h.Size())
	}
	return x, nil
}

// indexCache bounds the memory of sealed segments' indexes: the least recently used
// ones go. Lock order: its mu after no other lock, stableState.mu after it.
type indexCache struct {
	limit int64

	mu    sync.Mutex
	bytes int64
	lru   *list.List // of *segment
	at    map[*segment]*list.Element
	size  map[*segment]int64
}

const indexCacheBytes = 64 << 20

func newIndexCache() *indexCache {
	return &indexCache{limit: indexCacheBytes, lru: list.New(), at: make(map[*segment]*list.Element), size: make(map[*segment]int64)}
}

// add takes charge of the index of a sealed segment.
func (c *indexCache) add(g *segment, x *segmentIndex) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.at[g]; ok {
		return
	}
	c.at[g] = c.lru.PushFront(g)
	c.size[g] = x.sizeBytes()
	c.bytes += c.size[g]
	for c.bytes > c.limit && c.lru.Len() > 1 {
		c.drop(c.lru.Back().Value.(*segment))
	}
}

func (c *indexCache) drop(g *segment) {
	c.lru.Remove(c.at[g])
	delete(c.at, g)
	c.bytes -= c.size[g]
	delete(c.size, g)
	st := &g.log.stable
	st.mu.Lock()
	g.index = nil
	st.mu.Unlock()
}

// touch marks the index as used.
func (c *indexCache) touch(g *segment) {
	c.mu.Lock()
	if at := c.at[g]; at != nil {
		c.lru.MoveToFront(at)
	}
	c.mu.Unlock()
}

// forget drops the index of a segment that is gone.
func (c *indexCache) forget(g *segment) {
	c.mu.Lock()
	if c.at[g] != nil {
		c.drop(g)
	}
	c.mu.Unlock()
}
