package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/engine/batch"
)

// checkDir is a directory with three logs, and what is in them.
type checkDir struct {
	o       Options
	content map[string][][]byte // by topic-partition
}

func (d *checkDir) path(parts ...string) string {
	return filepath.Join(append([]string{d.o.Dir}, parts...)...)
}

// newCheckDir makes a directory: one log with several segments, one with a tail block only, one with a producer. In a
// clean one the checkpoint has everything, else only the first half and the WAL has the rest.
func newCheckDir(t *testing.T, clean bool) *checkDir {
	t.Helper()
	d := &checkDir{o: testOptions(t), content: make(map[string][][]byte)}
	e := mustOpen(t, d.o)
	long := mustCreate(t, e, "long", 1)[0]
	short := mustCreate(t, e, "short", 1)[0]
	idem := mustCreate(t, e, "idem", 1)[0]
	long.SetConfig(LogConfig{SegmentBytes: 24 << 10, IndexIntervalBytes: 1000})
	if err := idem.BeginEpoch(3); err != nil {
		t.Fatal(err)
	}
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			raw, h := testBatch(3, strings.Repeat("v", 500+i), int64(1000*i))
			appendOne(t, long, raw, h)
			if i%4 == 0 {
				raw, h = testBatch(2, fmt.Sprint("short ", i), int64(i))
				appendOne(t, short, raw, h)
			}
			b := batch.NewBuilder(0, 3)
			b.SetProducer(77, 1, int32(i))
			b.Append(int64(i), []byte("k"), []byte("v"), nil)
			raw = b.Build()
			h, err := batch.ParseHeader(raw)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := idem.Append(AppendRequest{Batch: raw, Header: h, LeaderEpoch: 3}); err != nil {
				t.Fatal(err)
			}
			if i%10 == 9 {
				awaitAck(t, long, long.AppendedEnd())
			}
		}
		for _, l := range []*Log{long, short, idem} {
			awaitAck(t, l, l.AppendedEnd())
		}
	}
	fill(0, 60)
	if !clean {
		if _, err := e.shards[0].writer.round(^uint64(0)); err != nil {
			t.Fatal(err)
		}
		fill(60, 90)
	}
	for _, l := range []*Log{long, short, idem} {
		d.content[fmt.Sprintf("%s-%d", l.topic, l.partition)] = readAll(t, l, 0)
	}
	if clean {
		mustClose(t, e)
		return d
	}
	// As if it had been killed: no last checkpoint.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	return d
}

// flip changes one bit.
func flip(t *testing.T, path string, pos int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, pos); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b, pos); err != nil {
		t.Fatal(err)
	}
}

// fingerprint is a hash over all names and bytes below dir.
func fingerprint(t *testing.T, dir string) [32]byte {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(h, path, info.Size(), info.ModTime().UnixNano())
		if e.IsDir() {
			return nil
		}
		b, err := os.ReadFile(path)
		h.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

func mustCheck(t *testing.T, d *checkDir) *CheckReport {
	t.Helper()
	r, err := Check(nil, d.o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCheckFindsNothingInACleanDirectory(t *testing.T) {
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			d := newCheckDir(t, clean)
			before := fingerprint(t, d.o.Dir)
			r := mustCheck(t, d)
			for _, p := range r.Problems {
				t.Errorf("%v", p)
			}
			if r.Commits == 0 || r.Segments < 5 || r.Batches < 60 || len(r.Logs) != 3 {
				t.Fatalf("looked at too little: %+v", r)
			}
			for _, l := range r.Logs {
				want := d.content[l.Name()]
				if last := want[len(want)-1]; l.End != mustHeader(t, last).NextOffset() || l.Start != 0 || l.LostTo != l.End {
					t.Errorf("%s: %+v", l.Name(), l)
				}
			}
			if rep, err := Repair(context.Background(), d.o, true); err != nil || rep.After != nil || len(rep.Actions) != 0 {
				t.Errorf("repaired a clean directory: %+v, %v", rep, err)
			}
			if fingerprint(t, d.o.Dir) != before {
				t.Error("looking changed the directory")
			}
		})
	}
}

func mustHeader(t *testing.T, b []byte) *batch.Header {
	t.Helper()
	h, err := batch.ParseHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	return &h
}

func TestCheckRefusesADirectoryInUse(t *testing.T) {
	o := testOptions(t)
	e := mustOpen(t, o)
	if _, err := Check(nil, o.Dir); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v", err)
	}
	if _, err := Repair(context.Background(), o, true); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v", err)
	}
	mustClose(t, e)
	if _, err := Check(nil, o.Dir); err != nil {
		t.Error(err)
	}
	if _, err := Check(nil, t.TempDir()); err == nil {
		t.Error("an empty folder passed for a data directory")
	}
}

// walCommits returns the newest used WAL file of shard 0, its commits, and where each row is.
func walCommits(t *testing.T, d *checkDir) (path string, commits []inspectedCommit) {
	t.Helper()
	x, err := inspect(nil, d.o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	files, err := x.openWAL(0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeWAL(files)
	for _, f := range files {
		if f.generation == 0 {
			continue
		}
		path, commits = f.path, nil
		if _, err := f.walk(0, 0, func(c *inspectedCommit) error {
			commits = append(commits, *c)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return path, commits
}

// oneFile returns the i-th file that matches.
func oneFile(t *testing.T, d *checkDir, i int, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(d.path(pattern))
	if err != nil || len(names) <= i {
		t.Fatalf("%s: %v, %v", pattern, names, err)
	}
	return names[i]
}

// damageKind is one way to hurt a directory.
type damageKind struct {
	name  string
	clean bool
	// hurt returns the file that check must name.
	hurt func(t *testing.T, d *checkDir) string
	// noLoss: everything is there after repair. Else the log named loses its end, or (all) any may.
	noLoss bool
	log    string
	note   bool // it is no problem, only a note
}

// middleCommit returns one after the checkpoint whose first row is a batch, and whose flush a later one declares.
func middleCommit(t *testing.T, d *checkDir) (string, inspectedCommit) {
	path, commits := walCommits(t, d)
	for i := len(commits) - 2; i > 0; i-- {
		if c := commits[i]; c.rows[0].kind == recAppend && commits[len(commits)-1].head.flushedLSN >= c.head.lsn {
			return path, c
		}
	}
	t.Fatal("no batch in the WAL")
	return "", inspectedCommit{}
}

func damageKinds() []damageKind {
	inWAL := func(pos func(c *inspectedCommit) int64) func(t *testing.T, d *checkDir) string {
		return func(t *testing.T, d *checkDir) string {
			path, c := middleCommit(t, d)
			flip(t, path, c.pos+pos(&c))
			return path
		}
	}
	return []damageKind{
		{name: "WAL file header", noLoss: true, hurt: func(t *testing.T, d *checkDir) string {
			path, _ := walCommits(t, d)
			flip(t, path, 30)
			return path
		}},
		{name: "second WAL file header", noLoss: true, hurt: func(t *testing.T, d *checkDir) string {
			path, _ := walCommits(t, d)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			flip(t, path, info.Size()-blockSize+70)
			return path
		}},
		{name: "commit header", noLoss: true, hurt: inWAL(func(*inspectedCommit) int64 { return 20 })},
		{name: "commit size", noLoss: true, hurt: inWAL(func(*inspectedCommit) int64 { return 57 })},
		{name: "row", noLoss: true, hurt: inWAL(func(*inspectedCommit) int64 { return commitHeaderSz + 9 })},
		{name: "trailer", noLoss: true, hurt: inWAL(func(c *inspectedCommit) int64 { return int64(c.head.size) - 40 })},
		{name: "repeated row", noLoss: true, hurt: inWAL(func(c *inspectedCommit) int64 { return int64(c.head.trailerPos) + 9 })},
		{name: "payload", log: "any", hurt: inWAL(func(c *inspectedCommit) int64 { return int64(c.rows[0].pos) + 80 })},
		{name: "batch base offset", log: "any", hurt: inWAL(func(c *inspectedCommit) int64 { return int64(c.rows[0].pos) + 7 })},
		{name: "both directories", log: "all", hurt: func(t *testing.T, d *checkDir) string {
			path, c := middleCommit(t, d)
			flip(t, path, c.pos+commitHeaderSz+9)
			flip(t, path, c.pos+int64(c.head.trailerPos)+9)
			return path
		}},
		{name: "WAL file of impossible size", noLoss: true, hurt: func(t *testing.T, d *checkDir) string {
			path := d.path("shard-000", "wal-000099")
			if err := os.WriteFile(path, make([]byte, 5000), 0o644); err != nil {
				t.Fatal(err)
			}
			return path
		}},
		{name: "checkpoint head", noLoss: true, hurt: func(t *testing.T, d *checkDir) string {
			path := oneFile(t, d, 0, "shard-000/checkpoint-*")
			flip(t, path, 30)
			return path
		}},
		{name: "first checkpoint frame", noLoss: true, hurt: func(t *testing.T, d *checkDir) string {
			path := oneFile(t, d, 0, "shard-000/checkpoint-*")
			flip(t, path, checkpointHeadSz+20)
			return path
		}},
		{name: "segment batch", clean: true, log: "long-0", hurt: func(t *testing.T, d *checkDir) string {
			path := oneFile(t, d, 2, "logs/long-0.*/*.log")
			flip(t, path, 9000)
			return path
		}},
		{name: "active segment", clean: true, log: "long-0", hurt: func(t *testing.T, d *checkDir) string {
			names, err := filepath.Glob(d.path("logs/long-0.*/*.log"))
			if err != nil {
				t.Fatal(err)
			}
			flip(t, names[len(names)-1], 3000)
			return names[len(names)-1]
		}},
		{name: "segment batch with the WAL going on", log: "long-0", hurt: func(t *testing.T, d *checkDir) string {
			path := oneFile(t, d, 1, "logs/long-0.*/*.log")
			flip(t, path, 70)
			return path
		}},
		{name: "missing segment", clean: true, log: "long-0", hurt: func(t *testing.T, d *checkDir) string {
			path := oneFile(t, d, 2, "logs/long-0.*/*.log")
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			return path
		}},
		{name: "missing first segment", clean: true, log: "long-0", hurt: func(t *testing.T, d *checkDir) string {
			path := oneFile(t, d, 0, "logs/long-0.*/*.log")
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			return path
		}},
		{name: "truncated segment", clean: true, log: "long-0", hurt: func(t *testing.T, d *checkDir) string {
			path := oneFile(t, d, 1, "logs/long-0.*/*.log")
			if err := os.Truncate(path, 8192); err != nil {
				t.Fatal(err)
			}
			return path
		}},
		{name: "index", clean: true, noLoss: true, hurt: func(t *testing.T, d *checkDir) string {
			path := oneFile(t, d, 1, "logs/long-0.*/*.index")
			flip(t, path, 60)
			return path
		}},
		{name: "foreign file in the WAL's folder", clean: true, noLoss: true, hurt: func(t *testing.T, d *checkDir) string {
			path := d.path("shard-000", "notes.txt")
			if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
			return path
		}},
		{name: "foreign file in a log's folder", clean: true, noLoss: true, hurt: func(t *testing.T, d *checkDir) string {
			path := filepath.Join(filepath.Dir(oneFile(t, d, 0, "logs/long-0.*/*.log")), "00000.log.bak")
			if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
			return path
		}},
		{name: "foreign folder", clean: true, noLoss: true, hurt: func(t *testing.T, d *checkDir) string {
			path := d.path("logs", "other-0.99")
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
			return path
		}},
		{name: "foreign file at the top", clean: true, noLoss: true, note: true, hurt: func(t *testing.T, d *checkDir) string {
			path := d.path("server.properties")
			if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
			return path
		}},
	}
}

// TestRepairServesEverythingBeforeTheDamage: for each kind of damage check names the file, and repair leaves a directory
// that opens, has everything that was not damaged, takes appends, and passes the check.
func TestRepairServesEverythingBeforeTheDamage(t *testing.T) {
	for _, k := range damageKinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			d := newCheckDir(t, k.clean)
			file := k.hurt(t, d)
			rel, err := filepath.Rel(d.o.Dir, file)
			if err != nil {
				t.Fatal(err)
			}
			before := fingerprint(t, d.o.Dir)
			r := mustCheck(t, d)
			list := r.Problems
			if k.note {
				list = r.Notes
			}
			found := false
			for _, p := range list {
				t.Logf("check: %v", p)
				found = found || p.File == rel
			}
			if !found {
				t.Fatalf("check does not name %s: %v, notes %v", rel, r.Problems, r.Notes)
			}
			if k.note {
				return
			}
			plan, err := Repair(context.Background(), d.o, false)
			if err != nil || plan.After != nil {
				t.Fatalf("plan: %+v, %v", plan, err)
			}
			if fingerprint(t, d.o.Dir) != before {
				t.Fatal("looking changed the directory")
			}
			rep, err := Repair(context.Background(), d.o, true)
			if rep != nil {
				for _, a := range rep.Actions {
					t.Logf("repair: %s", a)
				}
				for _, l := range rep.Lost {
					t.Logf("lost: %v (%s)", l, l.Reason)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if k.noLoss != (len(rep.Lost) == 0) {
				t.Errorf("lost %v", rep.Lost)
			}
			ends := make(map[string]int64)
			for _, l := range rep.Lost {
				ends[fmt.Sprintf("%s-%d", l.Topic, l.Partition)] = l.From
				if k.log != "any" && k.log != "all" && l.Topic+"-0" != k.log {
					t.Errorf("%s lost something", l.Topic)
				}
			}
			d.verify(t, ends)
		})
	}
}

// verify opens the directory: each log has its batches below the given end, or all of them, and takes more. Then the check passes.
func (d *checkDir) verify(t *testing.T, ends map[string]int64) {
	t.Helper()
	e := mustOpen(t, d.o)
	if r := e.Recovery(); len(r.Quarantined) > 0 || len(r.Damage) > 0 {
		t.Errorf("still damaged: %+v", r)
	}
	for name, batches := range d.content {
		topic, _, _ := cutLast(name, "-")
		var id TopicID
		copy(id[:], topic)
		l := e.Log(id, 0)
		if l == nil {
			t.Errorf("%s is gone", name)
			continue
		}
		end, cut := ends[name]
		var want [][]byte
		for _, b := range batches {
			if !cut || mustHeader(t, b).NextOffset() <= end {
				want = append(want, b)
			}
		}
		got := readAll(t, l, l.LogStartOffset())
		if len(got) != len(want) {
			t.Errorf("%s: %d batches of %d (of %d)", name, len(got), len(want), len(batches))
		}
		for i := range min(len(got), len(want)) {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("%s: batch %d differs", name, i)
			}
		}
		if cut && l.AppendedEnd() != end {
			t.Errorf("%s ends at %d, not at %d", name, l.AppendedEnd(), end)
		}
		raw, h := testBatch(1, "after the repair", 1)
		if _, err := l.Append(AppendRequest{Batch: raw, Header: h, LeaderEpoch: 9}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		awaitAck(t, l, l.AppendedEnd())
	}
	mustClose(t, e)
	for _, p := range mustCheck(t, d).Problems {
		t.Errorf("afterwards: %v", p)
	}
}
