package engine

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/crc32"

	"millrace/engine/batch"
	"millrace/engine/disk"
)

// openFiles opens and locks all WAL files of the shard and reads their headers.
func (r *recovery) openFiles() error {
	s := r.s
	names, err := s.e.fs.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, walTempSuffix) || strings.HasSuffix(name, disk.TempSuffix) {
			if err := s.e.fs.Remove(s.path(name)); err != nil {
				return err
			}
			continue
		}
		n, damaged, ok := parseWALName(name)
		if !ok {
			continue
		}
		s.fileNumber = max(s.fileNumber, n)
		w, err := r.openFile(name)
		if err != nil {
			return err
		}
		w.damaged, w.named = damaged, damaged
		switch {
		case w.generation == 0 && damaged:
			s.keptFiles = append(s.keptFiles, w)
			r.damage(w, -1, keptReason)
			continue
		case w.generation == 0:
			s.freeFiles = append(s.freeFiles, w)
			continue
		}
		r.used = append(r.used, w)
		s.generation = max(s.generation, w.generation)
	}
	slices.SortFunc(r.used, func(a, b *walFile) int {
		switch {
		case a.generation < b.generation:
			return -1
		case a.generation > b.generation:
			return 1
		}
		return 0
	})
	return nil
}

// openFile opens one WAL file; generation stays 0 when no header is there.
func (r *recovery) openFile(name string) (*walFile, error) {
	s := r.s
	path := s.path(name)
	f, err := s.e.openDirect(path, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	w := &walFile{f: f, name: name}
	if err := lockWhenFree(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("engine: %s: %w", path, err)
	}
	if w.size, err = f.Size(); err != nil {
		_ = f.Close()
		return nil, err
	}
	if w.size < 4*blockSize || w.size%blockSize != 0 {
		_ = f.Close()
		return nil, &CorruptionError{File: path, Pos: w.size, Reason: "impossible size of a WAL file"}
	}
	b := disk.AlignedAlloc(blockSize)
	for _, pos := range []int64{0, w.end()} {
		if err := readFull(f, b, pos); err != nil {
			_ = f.Close()
			return nil, err
		}
		h, ok, err := parseWALFileHeader(b)
		if err == nil && ok && (h.directoryID != s.e.meta.DirectoryID || h.shard != uint32(s.id)) {
			err = &CorruptionError{File: path, Pos: pos, Reason: "WAL file of another directory or shard"}
		}
		if err != nil {
			_ = f.Close()
			return nil, err
		}
		// Two different headers: the file's newest use never got beyond its first commits.
		if ok && h.generation > w.generation {
			w.generation, w.firstLSN, w.salt = h.generation, h.firstLSN, h.salt
		}
	}
	return w, nil
}

// lockPatience is how long the last writes of a killed predecessor may take.
const lockPatience = 30 * time.Second

// lockWhenFree locks a WAL file. The directory is ours already, so whoever still holds the lock is a write that a
// killed predecessor left in the kernel: it must have ended before anything is read.
func lockWhenFree(f disk.File) error {
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) { //nolint:forbidigo // waits for the kernel
		err := f.TryLock()
		if !errors.Is(err, disk.ErrLocked) || time.Since(began) > lockPatience { //nolint:forbidigo // as above
			return err
		}
	}
}

// walWindow reads a WAL file through one aligned buffer.
type walWindow struct {
	f    disk.File
	size int64
	buf  []byte
	at   int64 // position of buf[0]
	n    int
	read int64 // bytes read so far
}

// get returns n bytes at pos; both are multiples of blockSize. What is in the buffer
// already is not read again.
func (v *walWindow) get(pos int64, n int) ([]byte, error) {
	if pos >= v.at && pos+int64(n) <= v.at+int64(v.n) {
		return v.buf[pos-v.at : pos-v.at+int64(n)], nil
	}
	want := int(min(max(int64(n), writeBytesMax), v.size-pos))
	if want < n {
		return nil, errors.New("beyond the end of the file")
	}
	kept := 0
	old := v.buf
	if pos >= v.at && pos < v.at+int64(v.n) {
		kept = int(v.at + int64(v.n) - pos)
	}
	if want > len(v.buf) {
		v.buf = disk.AlignedAlloc(disk.AlignUp(want + want/4))
	}
	if kept > 0 && &v.buf[0] != &old[pos-v.at] {
		copy(v.buf[:kept], old[pos-v.at:])
	}
	v.at, v.n = pos, kept
	if err := readFull(v.f, v.buf[kept:want], pos+int64(kept)); err != nil {
		return nil, err
	}
	v.n = want
	v.read += int64(want - kept)
	return v.buf[:n], nil
}

// readCommit reads and verifies the commit at pos.
func (r *recovery) readCommit(v *walWindow, w *walFile, pos int64, expected uint64) (*replayCommit, commitProblem, error) {
	if pos+blockSize > v.size {
		return nil, noMagic, nil
	}
	b, err := v.get(pos, blockSize)
	if err != nil {
		return nil, noMagic, err
	}
	h, problem := peekCommit(b)
	if problem != commitOK {
		return nil, problem, nil
	}
	if pos+int64(h.size) > v.size {
		return nil, badShape, nil
	}
	need := int(h.size)
	if expected < r.replay {
		need = disk.AlignUp(rowRoomBytes(int(h.rows))) // the rest is not looked at
	}
	if b, err = v.get(pos, need); err != nil {
		return nil, noMagic, err
	}
	if problem := r.checkHeader(&h, b, w, pos); problem != commitOK {
		return nil, problem, nil
	}
	if h.lsn != expected {
		return nil, wrongPlace, nil
	}
	if expected < r.replay {
		return &replayCommit{head: h}, commitOK, nil // covered by the checkpoint: its payload does not matter
	}
	c := &replayCommit{head: h, mem: b}
	c.readRows(b[commitHeaderSz:])
	if bad := c.verify(r.s.e.o.sabotage.ignoreCRC); bad > 0 {
		return c, commitProblem(fmt.Sprintf("%d of %d records damaged", bad, len(c.rows))), nil
	}
	return c, commitOK, nil
}

func (r *recovery) checkHeader(h *commitHeader, b []byte, w *walFile, pos int64) commitProblem {
	if r.s.e.o.sabotage.ignoreCRC {
		return commitOK
	}
	return h.checkHeader(b, &w.salt, pos, w.generation)
}

// replayCommit is a commit read back.
type replayCommit struct {
	head commitHeader
	mem  []byte
	rows []walRow
	bad  []bool // by row; nil when all are good
}

func (c *replayCommit) readRows(b []byte) {
	c.rows = make([]walRow, c.head.rows)
	for i := range c.rows {
		c.rows[i].get(b[i*commitRowSz:])
	}
}

func (c *replayCommit) payload(r *walRow) []byte {
	return c.mem[r.pos : r.pos+r.length : r.pos+r.length]
}

// verify checks every payload and returns how many are bad.
func (c *replayCommit) verify(believe bool) int {
	bad := 0
	for i := range c.rows {
		if c.rowOK(&c.rows[i], believe) {
			continue
		}
		if c.bad == nil {
			c.bad = make([]bool, len(c.rows))
		}
		c.bad[i] = true
		bad++
	}
	return bad
}

func (c *replayCommit) rowOK(r *walRow, believe bool) bool {
	if r.length == 0 {
		return true
	}
	if uint64(r.pos)+uint64(r.length) > uint64(c.head.size) || r.pos < c.head.payloadPos {
		return false
	}
	p := c.payload(r)
	if r.kind != recAppend {
		return crc32.Checksum(p, castagnoli) == r.crc
	}
	h, err := batch.ParseHeader(p)
	if err != nil || h.Size() != len(p) {
		return false
	}
	if believe {
		return true
	}
	// What the batch's own CRC does not cover is repeated in the row.
	return h.BaseOffset == r.base && h.LeaderEpoch == r.leaderEpoch && h.CRC == r.crc && h.LastOffsetDelta == r.lastDelta &&
		crc32.Checksum(p[21:], castagnoli) == r.crc
}
