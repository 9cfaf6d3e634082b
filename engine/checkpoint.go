package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"millrace/engine/disk"
)

// checkpointFile is a shard's checkpoint: a base with the entries of all logs and frames
// with the newer entries of some. When the frames outgrow the base, a file with
// the next number replaces it. One goroutine at a time.
type checkpointFile struct {
	s      *Shard
	f      disk.File
	name   string
	number uint64
	size   int64
	base   int64 // size when the file was made
	seq    uint64

	replayLSN uint64
	// least is what frames of earlier processes said. No frame takes it back: the one that is written at
	// the start, before the WAL was read, would else forget which LSNs and log ids were given out.
	least frameHead
	at    map[uint64]entryPlace
}

// entryPlace is where a log's newest entry is.
type entryPlace struct {
	pos     int64
	length  uint32 // with its own length field
	dropped bool
	dropLSN uint64
}

const checkpointPrefix = "checkpoint-"

func checkpointName(number uint64) string { return fmt.Sprintf("%s%08d", checkpointPrefix, number) }

func (c *checkpointFile) close() {
	if c.f != nil {
		_ = c.f.Close()
		c.f = nil
	}
}

// frame builds a frame around encoded entries.
func (c *checkpointFile) frame(entries []byte, count int, replayLSN uint64) []byte {
	s := c.s
	s.mu.Lock()
	h := frameHead{
		seq:        c.seq + 1,
		replayLSN:  replayLSN,
		nextLogID:  max(s.e.nextLogID.Load(), c.least.nextLogID),
		lsnFloor:   max(s.durableLSN.Load(), c.least.lsnFloor),
		generation: max(s.generation, c.least.generation),
		length:     uint32(len(entries)),
		count:      uint32(count),
	}
	s.mu.Unlock()
	b := make([]byte, frameHeadSz, frameHeadSz+len(entries))
	b = append(b, entries...)
	h.put(b)
	return b
}

// append adds a frame and makes it durable. entries are encoded log entries, ids and drops
// describe them.
func (c *checkpointFile) append(entries []byte, places []entryPlace, ids []uint64, replayLSN uint64) error {
	if c.f == nil {
		return errors.New("engine: checkpoint file is gone")
	}
	b := c.frame(entries, len(ids), replayLSN)
	c.s.e.o.onWindow(winCheckpoint)
	defer c.s.e.o.onWindow(winIdle)
	if _, err := c.f.WriteAt(b, c.size); err != nil {
		return c.broken(err)
	}
	if err := c.f.Fdatasync(); err != nil {
		return c.broken(err)
	}
	for i, id := range ids {
		p := places[i]
		p.pos += c.size + frameHeadSz
		c.at[id] = p
	}
	c.size += int64(len(b))
	c.seq++
	c.replayLSN = replayLSN
	c.s.stats.checkpointBytes.Add(uint64(len(b)))
	return nil
}

// broken handles a failed frame. Without space the file keeps a torn frame at its end: the
// next checkpoint begins a new file. Anything else is final.
func (c *checkpointFile) broken(err error) error {
	if noSpace(err) {
		c.base = -1
	}
	return err
}

// outgrown reports that the file should be replaced by one without old entries.
func (c *checkpointFile) outgrown() bool {
	return c.base < 0 || c.size > 2*c.base+4<<20
}

// rewrite makes the next file from the newest entries and replaces this one.
func (c *checkpointFile) rewrite() error {
	c.s.e.o.onWindow(winCheckpoint)
	defer c.s.e.o.onWindow(winIdle)
	next := &checkpointFile{s: c.s, number: c.number + 1, at: make(map[uint64]entryPlace), replayLSN: c.replayLSN, least: c.least}
	next.name = checkpointName(next.number)
	temp := c.s.path(next.name) + disk.TempSuffix
	f, err := c.s.e.fs.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	next.f = f
	if err := next.fill(c); err != nil {
		_ = f.Close()
		_ = c.s.e.fs.Remove(temp)
		return err
	}
	if err := c.s.e.fs.Rename(temp, c.s.path(next.name)); err != nil {
		_ = f.Close()
		return err
	}
	if err := c.s.e.syncDir(c.s.dir); err != nil {
		_ = f.Close()
		return err
	}
	old := *c
	*c = *next
	if old.f != nil {
		_ = old.f.Close()
		// The new file is durable under its name. A file that stays is older and ignored.
		if err := c.s.e.fs.Remove(c.s.path(old.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// needed are the logs whose entries count, in order. That of a dropped one may go once no record of it can be replayed and its folder
// is gone: until then it is what allows to delete the folder.
func (c *checkpointFile) needed() ([]uint64, error) {
	ids := make([]uint64, 0, len(c.at))
	var folders map[uint64]bool
	for _, id := range slices.Sorted(maps.Keys(c.at)) {
		if p := c.at[id]; p.dropped && p.dropLSN < c.replayLSN {
			if folders == nil {
				var err error
				if folders, err = c.s.e.foldersLeft(); err != nil {
					return nil, err
				}
				c.s.e.o.onWindow(winCheckpoint)
			}
			if !folders[id] {
				continue
			}
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// fill writes head and base frames into a new file and flushes it.
func (c *checkpointFile) fill(old *checkpointFile) error {
	head := checkpointHead{features: knownFeatures, directoryID: c.s.e.meta.DirectoryID, shard: uint32(c.s.id), number: c.number}
	if _, err := c.f.WriteAt(head.encode(), 0); err != nil {
		return err
	}
	c.size = checkpointHeadSz
	ids, err := old.needed()
	if err != nil {
		return err
	}
	var entries []byte
	first := 0
	flush := func(end int) error {
		b := c.frame(entries, end-first, old.replayLSN)
		if _, err := c.f.WriteAt(b, c.size); err != nil {
			return err
		}
		c.size += int64(len(b))
		c.seq++
		first = end
		entries = entries[:0]
		return nil
	}
	for i, id := range ids {
		p := old.at[id]
		at := len(entries)
		entries = append(entries, make([]byte, p.length)...)
		if _, err := old.f.ReadAt(entries[at:], p.pos); err != nil {
			return err
		}
		p.pos = c.size + frameHeadSz + int64(at)
		c.at[id] = p
		if len(entries) >= frameBytesTarget {
			if err := flush(i + 1); err != nil {
				return err
			}
		}
	}
	if err := flush(len(ids)); err != nil {
		return err
	}
	c.base = c.size
	return c.f.Fdatasync()
}

// loadCheckpoint opens the newest checkpoint of the shard, or makes the first one. It returns
// the newest entry of every log.
func (s *Shard) loadCheckpoint() (map[uint64][]byte, frameHead, error) {
	names, err := s.e.fs.ReadDir(s.dir)
	if err != nil {
		return nil, frameHead{}, err
	}
	newest := uint64(0)
	for _, name := range names {
		if n, ok := checkpointNumber(name); ok {
			newest = max(newest, n)
		}
	}
	c := &checkpointFile{s: s, at: make(map[uint64]entryPlace), base: -1, replayLSN: 1}
	s.writer.checkpoint = c
	if newest == 0 {
		return nil, frameHead{replayLSN: 1}, c.rewrite()
	}
	c.number = newest
	c.name = checkpointName(newest)
	if c.f, err = s.e.fs.OpenFile(s.path(c.name), os.O_RDWR, 0); err != nil {
		return nil, frameHead{}, err
	}
	entries, head, err := c.load()
	if err != nil || s.e.o.sabotage.noRecoveryFlush {
		return entries, head, err
	}
	// What was read must not vanish in a later power cut. A flush is not enough: after one that
	// failed in the life of another process, Linux shows the bytes but never writes them.
	err = c.rewrite()
	if noSpace(err) {
		c.base = -1 // nothing may follow in this file; the next round tries again
		err = c.f.Fdatasync()
	}
	return entries, head, err
}

func checkpointNumber(name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, checkpointPrefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil
}

// load reads all frames.
func (c *checkpointFile) load() (map[uint64][]byte, frameHead, error) {
	path := c.s.path(c.name)
	damaged := func(pos int64, reason string) error {
		return &CorruptionError{File: path, Pos: pos, Reason: reason}
	}
	size, err := c.f.Size()
	if err != nil {
		return nil, frameHead{}, err
	}
	b := make([]byte, checkpointHeadSz)
	if err := readFull(c.f, b, 0); err != nil {
		return nil, frameHead{}, damaged(0, err.Error())
	}
	head, err := decodeCheckpointHead(b)
	switch {
	case err != nil:
		return nil, frameHead{}, damaged(0, err.Error())
	case head.directoryID != c.s.e.meta.DirectoryID || head.shard != uint32(c.s.id) || head.number != c.number:
		return nil, frameHead{}, damaged(0, "checkpoint of another directory or shard")
	}
	entries := make(map[uint64][]byte)
	last := frameHead{replayLSN: 1}
	c.size = checkpointHeadSz
	for c.size+frameHeadSz <= size {
		frame, h, err := c.readFrame(size)
		if err != nil {
			return nil, frameHead{}, err
		}
		if frame == nil || h.seq != c.seq+1 {
			break
		}
		list, err := splitEntries(frame[frameHeadSz:], h.count)
		if err != nil {
			return nil, frameHead{}, damaged(c.size, err.Error())
		}
		pos := c.size + frameHeadSz
		for _, entry := range list {
			e, err := decodeLogEntry(entry)
			if err != nil {
				return nil, frameHead{}, damaged(pos, err.Error())
			}
			entries[e.logID] = entry
			c.at[e.logID] = entryPlace{pos: pos, length: uint32(len(entry) + 4), dropped: e.dropped, dropLSN: e.dropLSN}
			pos += int64(len(entry) + 4)
		}
		c.size = pos
		c.seq++
		last = h
	}
	c.replayLSN, c.least = last.replayLSN, last
	c.s.e.report.CheckpointBytes += size
	if c.seq == 0 {
		return nil, frameHead{}, damaged(c.size, "no valid frame")
	}
	c.base = c.size
	if c.size < size {
		if behind, err := frameBehind(c.f, c.size, size, c.seq); err != nil {
			return nil, frameHead{}, err
		} else if behind {
			return nil, frameHead{}, damaged(c.size, "damaged frame: there are valid ones behind it")
		}
		// A torn frame: whether it was one that counted shows in the WAL, which then
		// begins too late. New frames must not hide behind it.
		c.base = -1
	}
	return entries, last, nil
}

// frameBehind reports that a valid frame follows pos: the bytes there were a frame that was flushed, not a torn one.
func frameBehind(f disk.File, pos, size int64, seq uint64) (bool, error) {
	var magic [8]byte
	binary.LittleEndian.PutUint64(magic[:], frameMagic)
	for at := pos; ; {
		next, err := findBytes(f, magic[:], at, size)
		if err != nil || next < 0 {
			return false, err
		}
		if fr, ok, err := readFrameAt(f, next, size); err != nil || ok && fr.head.seq > seq {
			return ok, err
		}
		at = next + 1
	}
}

// readFrame reads the frame at c.size; nil when there is no whole valid one.
func (c *checkpointFile) readFrame(size int64) ([]byte, frameHead, error) {
	head := make([]byte, frameHeadSz)
	if err := readFull(c.f, head, c.size); err != nil {
		return nil, frameHead{}, err
	}
	h, ok := peekFrame(head)
	if !ok || c.size+frameHeadSz+int64(h.length) > size {
		return nil, h, nil
	}
	b := make([]byte, frameHeadSz+int(h.length))
	if err := readFull(c.f, b, c.size); err != nil {
		return nil, h, err
	}
	if !checkFrame(b) {
		return nil, h, nil
	}
	return b, h, nil
}

func readFull(f io.ReaderAt, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// snapshot encodes the stable state of a log. Called with writeMu.
func (l *Log) snapshot(b []byte, dropLSN uint64) []byte {
	st := &l.stable
	e := logEntry{
		logID:      l.id,
		topicID:    l.topicID,
		partition:  l.partition,
		topic:      l.topic,
		dropped:    st.dropped,
		dropLSN:    dropLSN,
		quarantine: st.quarantine,
		seq:        st.seq,
		start:      st.start,
		end:        st.end,
		hw:         l.highWater.Load(),
		epoch:      st.epoch,
		written:    st.written,
		tail:       st.tail,
		epochs:     st.epochs,
		aborted:    st.aborted,
	}
	for _, g := range st.segments {
		e.segments = append(e.segments, segmentEntry{
			base: g.base, next: g.next, generation: g.generation, size: g.size,
			maxTime: g.maxTime, maxBase: g.maxBase, created: g.created, sealed: g.sealed, hasFile: g.hasFile,
		})
		if !g.sealed {
			e.active, e.indexed = g.index, g.indexed
		}
	}
	if l.e.o.sabotage.loseTail && len(e.tail) > 0 {
		e.tail = make([]byte, len(e.tail))
	}
	if st.producers != nil {
		e.producers = st.producers.AppendTo(nil)
	}
	if l.e.o.manual {
		if err := e.check(); err != nil && l.e.o.sabotage == (sabotage{}) {
			panic(fmt.Sprintf("BUG: snapshot of %s: %v: %+v", l, err, e))
		}
	}
	return e.appendTo(b)
}
