package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"millrace/engine/disk"
)

// inspectedCheckpoint is a checkpoint file with all its frames, those behind a damaged one included.
type inspectedCheckpoint struct {
	name    string
	path    string
	number  uint64
	size    int64
	head    checkpointHead
	headErr error
	frames  []inspectedFrame
	end     int64 // of the last frame in order
	// broken is where the frames in order end although more of them follow, 0 if none do.
	broken int64
}

// inspectedFrame is a frame whose checksum is right.
type inspectedFrame struct {
	pos     int64
	head    frameHead
	entries []inspectedEntry
	problem string // the entries cannot be split
	after   bool   // it follows damage
}

// inspectedEntry is one log's state.
type inspectedEntry struct {
	pos int64
	raw []byte // without the length
	log *logEntry
	err error
}

// newestCheckpoint names the checkpoint that counts, 0 when there is none.
func (x *inspector) newestCheckpoint(shard int) (uint64, error) {
	names, err := x.fs.ReadDir(x.path(shardDirName(shard)))
	if err != nil {
		return 0, fmt.Errorf("engine: %w", err)
	}
	newest := uint64(0)
	for _, name := range names {
		if n, ok := checkpointNumber(name); ok {
			newest = max(newest, n)
		}
	}
	return newest, nil
}

// readCheckpoint reads the newest checkpoint of a shard, nil when there is none.
func (x *inspector) readCheckpoint(shard int) (*inspectedCheckpoint, error) {
	number, err := x.newestCheckpoint(shard)
	if err != nil || number == 0 {
		return nil, err
	}
	c := &inspectedCheckpoint{name: checkpointName(number), number: number}
	c.path = x.path(shardDirName(shard), c.name)
	f, err := x.fs.OpenFile(c.path, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	defer func() { _ = f.Close() }()
	if c.size, err = f.Size(); err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	b := make([]byte, min(c.size, checkpointHeadSz))
	if err := readFull(f, b, 0); err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	if c.head, c.headErr = decodeCheckpointHead(b); c.headErr == nil &&
		(c.head.directoryID != x.meta.DirectoryID || c.head.shard != uint32(shard) || c.head.number != number) {
		c.headErr = errors.New("checkpoint of another directory or shard")
	}
	return c, c.readFrames(f)
}

// readFrames reads the frames in order, then looks for more behind the first bad one.
func (c *inspectedCheckpoint) readFrames(f disk.File) error {
	pos, seq := int64(checkpointHeadSz), uint64(1)
	for {
		fr, ok, err := readFrameAt(f, pos, c.size)
		if err != nil {
			return err
		}
		if !ok || fr.head.seq != seq {
			break
		}
		c.frames = append(c.frames, fr)
		pos += frameHeadSz + int64(fr.head.length)
		seq++
	}
	c.end = pos
	var magic [8]byte
	binary.LittleEndian.PutUint64(magic[:], frameMagic)
	for at := pos; at < c.size; {
		next, err := findBytes(f, magic[:], at, c.size)
		if err != nil {
			return err
		}
		if next < 0 {
			break
		}
		fr, ok, err := readFrameAt(f, next, c.size)
		if err != nil {
			return err
		}
		if !ok || fr.head.seq < seq {
			at = next + 1
			continue
		}
		if c.broken == 0 {
			c.broken = pos
		}
		fr.after = true
		c.frames = append(c.frames, fr)
		at = next + frameHeadSz + int64(fr.head.length)
		seq = fr.head.seq + 1
	}
	return nil
}

// findBytes returns the position of the first want in [from, to), -1 for none.
func findBytes(f disk.File, want []byte, from, to int64) (int64, error) {
	b := make([]byte, 256<<10)
	for at := from; at+int64(len(want)) <= to; {
		n := int(min(int64(len(b)), to-at))
		if err := readFull(f, b[:n], at); err != nil {
			return -1, fmt.Errorf("engine: %w", err)
		}
		for i := 0; i+len(want) <= n; i++ {
			if b[i] == want[0] && slices.Equal(b[i:i+len(want)], want) {
				return at + int64(i), nil
			}
		}
		at += int64(n - len(want) + 1)
	}
	return -1, nil
}

// readFrameAt reads the frame at pos; ok is false when there is no whole valid one.
func readFrameAt(f disk.File, pos, size int64) (fr inspectedFrame, ok bool, err error) {
	if pos+frameHeadSz > size {
		return fr, false, nil
	}
	b := make([]byte, frameHeadSz)
	if err := readFull(f, b, pos); err != nil {
		return fr, false, fmt.Errorf("engine: %w", err)
	}
	h, ok := peekFrame(b)
	if !ok || pos+frameHeadSz+int64(h.length) > size {
		return fr, false, nil
	}
	b = make([]byte, frameHeadSz+int(h.length))
	if err := readFull(f, b, pos); err != nil {
		return fr, false, fmt.Errorf("engine: %w", err)
	}
	if !checkFrame(b) {
		return fr, false, nil
	}
	fr = inspectedFrame{pos: pos, head: h}
	list, err := splitEntries(b[frameHeadSz:], h.count)
	if err != nil {
		fr.problem = err.Error()
		return fr, true, nil //nolint:nilerr // it is what the inspection has found
	}
	at := pos + frameHeadSz
	for _, raw := range list {
		e := inspectedEntry{pos: at, raw: raw}
		e.log, e.err = decodeLogEntry(raw)
		fr.entries = append(fr.entries, e)
		at += int64(len(raw) + 4)
	}
	return fr, true, nil
}

// last is the head of the newest frame in order.
func (c *inspectedCheckpoint) last() (frameHead, bool) {
	var h frameHead
	ok := false
	for i := range c.frames {
		if !c.frames[i].after {
			h, ok = c.frames[i].head, true
		}
	}
	return h, ok
}

// newest are the newest readable entries, by log id.
func (c *inspectedCheckpoint) newest() map[uint64]*inspectedEntry {
	m := make(map[uint64]*inspectedEntry)
	for i := range c.frames {
		for j := range c.frames[i].entries {
			if e := &c.frames[i].entries[j]; e.err == nil {
				m[e.log.logID] = e
			}
		}
	}
	return m
}
