package logdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"millrace/engine/disk"
)

const (
	journalName = "journal"
	// maxJournalBytes is refused at open; the store rewrites the journal long before.
	maxJournalBytes = 2 << 30
	reserveBytes    = 256 << 10
	rewritePayload  = 1 << 20
)

// ErrDamaged is wrapped by every CorruptionError: acknowledged entries may be missing, so that this
// replica must not start from this directory.
var ErrDamaged = errors.New("raft log is damaged")

// CorruptionError says where the journal contradicts itself.
type CorruptionError struct {
	File   string
	Pos    int64
	Reason string
}

func (e *CorruptionError) Error() string {
	return fmt.Sprintf("%v: %s at byte %d: %s", ErrDamaged, e.File, e.Pos, e.Reason)
}

// Unwrap makes errors.Is(err, ErrDamaged) true.
func (e *CorruptionError) Unwrap() error { return ErrDamaged }

// journal is one open file. At most one frame at a time is not durable: append flushes it before it
// returns. That is what lets replay tell a torn last frame from damage.
type journal struct {
	fs     disk.FS
	path   string
	file   disk.File
	header fileHeader
	seed   uint32

	nextSeq  uint64
	synced   uint64 // the last durable frame
	pos      int64  // where the next frame goes
	reserved int64  // space is allocated up to here
	buf      []byte
}

// replayed is what loading a journal found.
type replayed struct {
	header  fileHeader
	state   *state
	nextSeq uint64
	cut     int64 // bytes of a torn last frame that were dropped
}

// replayJournal interprets the bytes of a journal file. It errs on the side of refusing: only a bad frame
// behind the last durable one, with no frame behind itself, is the trace of an ordinary crash.
func replayJournal(path string, b []byte) (*replayed, error) {
	damaged := func(pos int, format string, args ...any) error {
		return &CorruptionError{File: path, Pos: int64(pos), Reason: fmt.Sprintf(format, args...)}
	}
	h, err := parseFileHeader(b)
	if err != nil {
		return nil, damaged(0, "%v", err)
	}
	seed := h.seed()
	var last mark
	marks := 0
	for slot := range 2 {
		at := markOffset + slot*sectorSize
		if at+sectorSize > len(b) {
			continue
		}
		if m, ok := parseMark(b[at:at+sectorSize], seed); ok {
			marks++
			if m.syncedSeq >= last.syncedSeq {
				last = m
			}
		}
	}
	if marks == 0 {
		// Only one of them is ever being written.
		return nil, damaged(markOffset, "both marks are unreadable")
	}
	r := &replayed{header: h, state: newState(), nextSeq: h.firstSeq}
	pos := frameOffset
	for pos < len(b) {
		f, ok := parseFrame(b[pos:], seed)
		if !ok {
			break
		}
		if f.seq != r.nextSeq || f.synced+1 != f.seq {
			return nil, damaged(pos, "frame %d (flushed %d) where frame %d belongs", f.seq, f.synced, r.nextSeq)
		}
		if err := r.state.replay(f.payload); err != nil {
			return nil, damaged(pos, "frame %d: %v", f.seq, err)
		}
		r.nextSeq++
		pos += f.size()
	}
	if r.nextSeq <= last.syncedSeq {
		return nil, damaged(pos, "frame %d is unreadable, frames up to %d had been flushed", r.nextSeq, last.syncedSeq)
	}
	if uint64(pos) < last.end {
		return nil, damaged(pos, "the journal ends before byte %d, which had been flushed", last.end)
	}
	for at := pos + sectorSize; at+frameHeaderSize <= len(b); at += sectorSize {
		if f, ok := parseFrame(b[at:], seed); ok {
			return nil, damaged(pos, "frame %d is unreadable, frame %d behind it is not", r.nextSeq, f.seq)
		}
	}
	r.cut = int64(len(b) - pos)
	return r, nil
}

// writeJournal writes the state as a new file and puts it in the place of the old one, durably. It
// is called at every open and at every compaction: a journal is never continued behind a torn tail,
// and what was replayed from the page cache after a kill is flushed before anybody builds on it.
func writeJournal(fsys disk.FS, dir string, h fileHeader, s *state) (_ *journal, err error) {
	j := &journal{
		fs: fsys, path: filepath.Join(dir, journalName), header: h, seed: h.seed(),
		nextSeq: h.firstSeq, synced: h.firstSeq - 1, pos: frameOffset,
	}
	temp := j.path + disk.TempSuffix
	defer func() {
		if err != nil && j.file != nil {
			_ = j.file.Close()
			_ = fsys.Remove(temp)
		}
	}()
	j.file, err = fsys.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := j.reserve(frameOffset); err != nil {
		return nil, err
	}
	for _, payload := range s.records(rewritePayload) {
		if err := j.write(payload); err != nil {
			return nil, err
		}
		j.synced = j.nextSeq
		j.nextSeq++
	}
	if err := j.reserve(j.pos); err != nil {
		return nil, err
	}
	head := h.append(nil)
	m := mark{syncedSeq: j.synced, end: uint64(j.pos)}
	older := mark{syncedSeq: j.synced - 1, end: frameOffset}
	for _, m := range []mark{older, m} {
		if _, err := j.file.WriteAt(m.sector(j.seed), m.slotOffset()); err != nil {
			return nil, err
		}
	}
	if _, err := j.file.WriteAt(head, headerOffset); err != nil {
		return nil, err
	}
	if err := j.file.Fdatasync(); err != nil {
		return nil, err
	}
	if err := fsys.Rename(temp, j.path); err != nil {
		return nil, err
	}
	if err := fsys.SyncDir(dir); err != nil {
		return nil, &directoryError{err}
	}
	return j, nil
}

// directoryError is a failure after the rename: which of the two files a restart would find is not
// known, so that nothing may be acknowledged any more.
type directoryError struct{ err error }

func (e *directoryError) Error() string { return e.err.Error() }
func (e *directoryError) Unwrap() error { return e.err }

// continueJournal goes on behind the last good frame of an existing file, for when there is no space
// for a new one. What a restart would read is flushed first.
func continueJournal(fsys disk.FS, dir string, r *replayed, size int64) (*journal, error) {
	path := filepath.Join(dir, journalName)
	file, err := fsys.OpenFile(path, os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	j := &journal{
		fs: fsys, path: path, file: file, header: r.header, seed: r.header.seed(),
		nextSeq: r.nextSeq, synced: r.nextSeq - 1, pos: size - r.cut,
	}
	if r.cut > 0 {
		if err := file.Truncate(j.pos); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	if err := file.Fdatasync(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	m := mark{syncedSeq: j.synced, end: uint64(j.pos)}
	if _, err := file.WriteAt(m.sector(j.seed), m.slotOffset()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return j, nil
}

// room makes sure that a frame of this payload cannot fail for lack of space half way.
func (j *journal) room(payload int) error {
	end := j.pos + int64(frameSize(payload))
	if end <= j.reserved {
		return nil
	}
	err := j.reserve(end)
	if isNoSpace(err) {
		// Not ahead, then; and a continued file may have its reserve still.
		err = j.file.Fallocate(j.pos, end-j.pos, true)
	}
	if isNoSpace(err) {
		return err
	}
	j.reserved = max(j.reserved, end) // a filesystem without fallocate: the write itself will tell
	return nil
}

// reserve allocates space up to end and somewhat beyond, so that a few hundred small commands fit on
// a disk that is full: a restart needs two.
func (j *journal) reserve(end int64) error {
	end += reserveBytes
	err := j.file.Fallocate(j.pos, end-j.pos, true)
	switch {
	case err == nil:
		j.reserved = end
	case !isNoSpace(err):
		err = nil
	}
	return err
}

// append makes one frame durable.
func (j *journal) append(payload []byte) error {
	if err := j.write(payload); err != nil {
		return err
	}
	if err := j.file.Fdatasync(); err != nil {
		return err
	}
	j.synced = j.nextSeq
	j.nextSeq++
	m := mark{syncedSeq: j.synced, end: uint64(j.pos)}
	_, err := j.file.WriteAt(m.sector(j.seed), m.slotOffset())
	return err
}

// write puts the frame into the page cache and moves pos behind it.
func (j *journal) write(payload []byte) error {
	if len(payload) > maxFramePayload {
		return fmt.Errorf("frame of %d bytes, at most %d", len(payload), maxFramePayload)
	}
	f := frame{seq: j.nextSeq, synced: j.synced, payload: payload}
	j.buf = f.append(j.buf[:0], j.seed)
	if _, err := j.file.WriteAt(j.buf, j.pos); err != nil {
		return err
	}
	j.pos += int64(len(j.buf))
	if cap(j.buf) > 1<<20 {
		j.buf = nil
	}
	return nil
}

// readJournal returns the bytes of the journal, or fs.ErrNotExist.
func readJournal(fsys disk.FS, dir string) ([]byte, error) {
	path := filepath.Join(dir, journalName)
	if _, err := fsys.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return disk.ReadFile(fsys, path, maxJournalBytes)
}
