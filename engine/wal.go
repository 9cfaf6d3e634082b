package engine

import (
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"strings"

	"millrace/engine/disk"
)

// walFile is one file of a shard's WAL. Its bytes are written through once when it is
// made and then overwritten for ever, so that a commit never allocates.
type walFile struct {
	f    disk.File
	name string // base name
	size int64

	// Of the current use. Belong to the driver; lastLSN and the lists are guarded
	// by Shard.mu.
	generation uint64
	firstLSN   uint64
	lastLSN    uint64
	salt       [saltSz]byte
	pos        int64 // where the next commit goes
	fresh      bool  // its header has not been submitted yet
	header     []byte
	damaged    bool // recovery met damage in it: kept, never recycled
	named      bool // and its name says so
}

// end is where commits must stop: the last block repeats the file header.
func (w *walFile) end() int64 { return w.size - blockSize }

// usable is the room that admission counts on: the end of a file may be left
// empty because the next commit does not fit.
func (s *Shard) usable(from, end int64) int64 {
	return max(0, end-from-int64(s.slabBytes-blockSize))
}

// walAdmits reports whether n more bytes of commits fit into the WAL files that are ready. Batches leave
// one file for the records that must always fit. Called with Shard.mu.
func (s *Shard) walAdmits(n int64, isAppend bool) bool {
	room := -s.pledged
	if s.cur != nil {
		room += s.usable(s.cur.pos, s.cur.end())
	}
	free := s.freeFiles
	if isAppend {
		if len(free) == 0 {
			return false
		}
		free = free[1:]
	}
	for _, w := range free {
		room += s.usable(blockSize, w.end())
	}
	return room >= n
}

// place finds the commit's position, or reports that a new file must be begun first.
func (w *walFile) fits(size int) bool { return w.pos+int64(size) <= w.end() }

// beginFile makes a free file the current one. Called with Shard.mu.
func (s *Shard) beginFile(firstLSN uint64) bool {
	if len(s.freeFiles) == 0 {
		return false
	}
	w := s.freeFiles[0]
	s.freeFiles = append(s.freeFiles[:0], s.freeFiles[1:]...)
	if s.cur != nil {
		s.cur.lastLSN = firstLSN - 1
		s.fullFiles = append(s.fullFiles, s.cur)
	}
	s.generation++
	w.generation = s.generation
	w.firstLSN = firstLSN
	w.lastLSN = 0
	w.pos = blockSize
	w.fresh = true
	s.e.o.salt(w.salt[:])
	if s.e.o.sabotage.ignoreSalt {
		clear(w.salt[:])
	}
	h := walFileHeader{
		features:    knownFeatures,
		directoryID: s.e.meta.DirectoryID,
		shard:       uint32(s.id),
		generation:  w.generation,
		firstLSN:    firstLSN,
		salt:        w.salt,
	}
	if w.header == nil {
		w.header = disk.AlignedAlloc(blockSize)
	}
	h.put(w.header)
	s.cur = w
	return true
}

func randomBytes(b []byte) {
	if _, err := rand.Read(b); err != nil {
		panic(fmt.Sprintf("BUG: no random bytes: %v", err))
	}
}

// zeroChunk is what WAL files are written through with. Never written to.
var zeroChunk = disk.AlignedAlloc(writeBytesMax)

const walTempSuffix = ".new"

// walDamagedSuffix ends the name of a WAL file in which damage was met. It is read like any other as long as the
// checkpoint needs it, and stays until Repair sets it aside.
const walDamagedSuffix = ".damaged"

// parseWALName reads the number in the name of a WAL file.
func parseWALName(name string) (number int, damaged, ok bool) {
	digits, ok := strings.CutPrefix(name, "wal-")
	if !ok {
		return 0, false, false
	}
	digits, damaged = strings.CutSuffix(digits, walDamagedSuffix)
	n, err := strconv.Atoi(digits)
	return n, damaged, err == nil && n > 0
}

// createWALFile makes a file of the given size, every block written, durable under its name.
// It blocks: never on a loop.
func (s *Shard) createWALFile(size int64) (*walFile, error) {
	s.e.o.onWindow(winWALCreate)
	defer s.e.o.onWindow(winIdle)
	s.fileNumber++
	name := fmt.Sprintf("wal-%06d", s.fileNumber)
	path := s.path(name)
	temp := path + walTempSuffix
	f, err := s.e.openDirect(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return nil, err
	}
	if err := fillZeros(f, size); err != nil {
		_ = f.Close()
		_ = s.e.fs.Remove(temp)
		return nil, fmt.Errorf("create WAL file: %w", err)
	}
	if err := s.e.fs.Rename(temp, path); err != nil {
		_ = f.Close()
		return nil, err
	}
	if err := s.e.syncDir(s.dir); err != nil {
		_ = f.Close()
		return nil, err
	}
	if err := f.TryLock(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &walFile{f: f, name: name, size: size}, nil
}

func fillZeros(f disk.File, size int64) error {
	// The reservation keeps the extents together; the zeros make them written.
	if err := f.Fallocate(0, size, false); err != nil && !unsupported(err) {
		return err
	}
	for off := int64(0); off < size; off += int64(len(zeroChunk)) {
		n := min(int64(len(zeroChunk)), size-off)
		if _, err := f.WriteAt(zeroChunk[:n], off); err != nil {
			return err
		}
	}
	return f.Fdatasync()
}
