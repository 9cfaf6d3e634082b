package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"

	"millrace/engine/batch"
	"millrace/engine/disk"
)

// inspectedSegment walks the batches of a segment: its file, and for an active one what the checkpoint
// keeps of its last block.
type inspectedSegment struct {
	name string
	path string
	e    *segmentEntry
	f    disk.File
	file int64 // bytes of the file that count
	tail []byte
}

func segmentFileName(e *segmentEntry, ext string) string {
	return fmt.Sprintf("%020d.%d.%s", e.base, e.generation, ext)
}

// openSegmentFile opens a segment. written and tail matter for an active one. The error wraps fs.ErrNotExist for
// a missing file.
func (x *inspector) openSegmentFile(dir string, e *segmentEntry, written int64, tail []byte) (*inspectedSegment, error) {
	s := &inspectedSegment{name: segmentFileName(e, "log"), e: e, file: e.size}
	s.path = x.path(logsName, dir, s.name)
	if !e.sealed {
		s.file, s.tail = written, tail
	}
	if !e.hasFile {
		return s, nil
	}
	f, err := x.fs.OpenFile(s.path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	s.f = f
	return s, nil
}

func (s *inspectedSegment) close() {
	if s.f != nil {
		_ = s.f.Close()
	}
}

// ReadAt reads logical bytes: file, then tail.
func (s *inspectedSegment) ReadAt(p []byte, pos int64) (int, error) {
	done := 0
	if pos < s.file && s.f != nil {
		n := int(min(int64(len(p)), s.file-pos))
		got, err := s.f.ReadAt(p[:n], pos)
		if got < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return got, err
		}
		done = n
	}
	if done < len(p) {
		at := pos + int64(done) - s.file
		if at < 0 || at >= int64(len(s.tail)) {
			return done, io.EOF
		}
		done += copy(p[done:], s.tail[at:])
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// inspectedBatch is one batch of a segment. The bytes are valid until the next one.
type inspectedBatch struct {
	pos int64
	raw []byte
	h   batch.Header
}

// walk visits the batches in order, with their checksums verified. A *CorruptionError ends it at the first one
// that is not what was written.
func (s *inspectedSegment) walk(visit func(inspectedBatch) error) error {
	var scan batchScanner
	scan.reset(s.path, s, &planSegment{base: s.e.base, next: s.e.next, size: s.e.size})
	for {
		pos := scan.pos
		b, h, err := scan.scan()
		if err == io.EOF { //nolint:errorlint // a wrapped one is a file that is too short, not the end
			return nil
		}
		if err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
				return &CorruptionError{File: s.path, Pos: pos, Reason: "the file is too short"}
			}
			return err
		}
		if err := visit(inspectedBatch{pos: pos, raw: b, h: h}); err != nil {
			return err
		}
	}
}

// batchPlace is what an index is compared with.
type batchPlace struct {
	pos, base        int64
	newest           int64 // largest timestamp up to here
	newestWithRecord int64 // the same, without batches that compaction has emptied
}

// indexProblem compares an index with the batches of its segment; "" when they agree. Entries at or above next are
// left over from before a truncation.
func indexProblem(x *segmentIndex, places []batchPlace, next int64) string {
	i := 0
	for n := range x.offsets.Len() {
		offset, pos := x.offsets.Entry(n)
		if offset >= next {
			break
		}
		for i < len(places) && places[i].pos < pos {
			i++
		}
		if i == len(places) || places[i].pos != pos || places[i].base != offset {
			return fmt.Sprintf("offset entry %d (offset %d at byte %d) is not where a batch begins", n, offset, pos)
		}
	}
	for n := range x.times.Len() {
		t, offset := x.times.Entry(n)
		if offset >= next {
			break
		}
		at, found := slices.BinarySearchFunc(places, offset, func(p batchPlace, o int64) int {
			switch {
			case p.base < o:
				return -1
			case p.base > o:
				return 1
			}
			return 0
		})
		if !found {
			return fmt.Sprintf("time entry %d names offset %d, where no batch begins", n, offset)
		}
		if t > places[at].newest || t < places[at].newestWithRecord {
			return fmt.Sprintf("time entry %d says %d up to offset %d, the batches say %d", n, t, offset, places[at].newest)
		}
	}
	return ""
}

// readIndexFile reads the index of a sealed segment; nil without an error when there is none.
func (x *inspector) readIndexFile(dir string, e *segmentEntry) (*segmentIndex, error) {
	data, err := disk.ReadFile(x.fs, x.path(logsName, dir, segmentFileName(e, "index")), indexMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // it can be made again
	}
	if err != nil {
		return nil, err
	}
	return decodeIndexFile(data, e.base, e.generation)
}

// minTime is smaller than every timestamp.
const minTime = math.MinInt64
