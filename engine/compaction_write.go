package engine

import (
	"fmt"
	"os"

	"millrace/engine/batch"
	"millrace/engine/disk"
)

// segmentBuilder writes the file that replaces some segments. Nobody knows it before it is
// published.
type segmentBuilder struct {
	e        *Engine
	g        *segment
	f        disk.File
	buf      []byte // aligned
	n        int
	written  int64 // bytes in the file
	interval int64
}

// newSegmentBuilder creates the file of g, whose log, base, generation and created are set.
func (e *Engine) newSegmentBuilder(g *segment, buf []byte) (*segmentBuilder, error) {
	f, err := e.openDirect(g.path(), os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return nil, err
	}
	g.sealed, g.hasFile, g.indexDirty = true, true, true
	g.next, g.maxTime, g.maxBase, g.indexed = g.base, -1, -1, -1
	g.index = newSegmentIndex(g.base)
	return &segmentBuilder{e: e, g: g, f: f, buf: buf, interval: indexInterval(g.log.config())}, nil
}

// add appends a batch.
func (w *segmentBuilder) add(b []byte, h *batch.Header) error {
	g := w.g
	if h.BaseOffset < g.next || h.Size() != len(b) {
		panic(fmt.Sprintf("BUG: compaction puts batch %d..%d (%d bytes of %d) behind %d", h.BaseOffset, h.LastOffset(), len(b), h.Size(), g.next))
	}
	if h.NumRecords > 0 && h.MaxTimestamp > g.maxTime {
		g.maxTime, g.maxBase = h.MaxTimestamp, h.BaseOffset
	}
	if g.indexed < 0 || g.size-g.indexed >= w.interval {
		g.indexed = g.size
		g.index.add(h.BaseOffset, g.size, g.maxTime, g.maxBase)
	}
	g.size += int64(len(b))
	g.next = h.NextOffset()
	for len(b) > 0 {
		n := copy(w.buf[w.n:], b)
		w.n += n
		b = b[n:]
		if w.n == len(w.buf) {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes the buffer, padded to whole blocks: only the last one needs that.
func (w *segmentBuilder) flush() error {
	if w.n == 0 {
		return nil
	}
	whole := disk.AlignUp(w.n)
	clear(w.buf[w.n:whole])
	w.e.o.onWindow(winCompaction)
	defer w.e.o.onWindow(winIdle)
	if _, err := w.f.WriteAt(w.buf[:whole], w.written); err != nil {
		return err
	}
	w.written += int64(whole)
	w.n = 0
	return nil
}

// finish makes the file, its index and their names durable.
func (w *segmentBuilder) finish() error {
	if err := w.flush(); err != nil {
		return err
	}
	w.g.index.offsets.Trim()
	w.g.index.times.Trim()
	w.e.o.onWindow(winCompaction)
	err := w.f.Fdatasync()
	w.e.o.onWindow(winIdle)
	if err != nil {
		return err
	}
	if err := w.f.Close(); err != nil {
		return err
	}
	if err := w.e.writeIndexFile(w.g); err != nil {
		return err
	}
	w.g.dirDirty = false
	return w.e.syncDir(w.g.log.dir())
}

// discard removes what was written.
func (w *segmentBuilder) discard() {
	_ = w.f.Close()
	w.e.indexes.forget(w.g)
	_ = w.e.fs.Remove(w.g.path())
	_ = w.e.fs.Remove(w.g.indexPath())
}
