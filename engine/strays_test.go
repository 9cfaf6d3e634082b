package engine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestFilesOfDroppedLogsAreDeletedAfterACrash(t *testing.T) {
	s := newCompactionSim(t, 1)
	s.fill([][]byte{one(0, "a", "1")}, [][]byte{one(0, "b", "1")})
	kept, err := s.e.CreateLogs([]LogSpec{{TopicID: TopicID{1}, Topic: "kept"}})
	if err != nil {
		t.Fatal(err)
	}
	dir := s.l.dir()
	if err := s.e.DropLogs([]*Log{s.l}); err != nil {
		t.Fatal(err)
	}
	// The checkpoint with the drop becomes durable, the unlinks do not happen.
	w := s.e.shards[0].writer
	if err := w.cover([]*Log{s.l}); err != nil {
		t.Fatal(err)
	}
	s.disk.Kill()
	s.e.release()
	foreign := filepath.Join("/data", logsName, "notes.txt")
	if _, err := s.disk.OpenFile(foreign, os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		t.Fatal(err)
	}
	e, err := Open(s.o)
	if err != nil {
		t.Fatal(err)
	}
	if logs := e.Logs(); len(logs) != 1 || logs[0].ID() != kept[0].ID() {
		t.Fatalf("recovered %v", logs)
	}
	if _, err := s.disk.Stat(dir); err != nil {
		t.Fatalf("nothing to delete: %v", err)
	}
	e.deleteStrays(func() bool { return true })
	if _, err := s.disk.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the folder is still there: %v", err)
	}
	if _, err := s.disk.Stat(foreign); err != nil {
		t.Fatalf("a file that is not ours was deleted: %v", err)
	}
}

func TestSegmentNamesParse(t *testing.T) {
	g := segment{log: &Log{s: &Shard{e: &Engine{}}}, base: 1 << 40, generation: 3<<generationBits | 7}
	for _, name := range []string{g.name(), filepath.Base(g.indexPath())} {
		if id, ok := parseSegmentName(name); !ok || id != (segmentID{g.base, g.generation}) {
			t.Errorf("%s: %+v, %v", name, id, ok)
		}
	}
	for _, name := range []string{"", ".log", "1.log", "1.2.txt", "x.2.log", "-1.2.log", "1.-2.log", "1.2.log.tmp"} {
		if id, ok := parseSegmentName(name); ok {
			t.Errorf("%q: %+v", name, id)
		}
	}
}
