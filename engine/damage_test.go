package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/engine/disk"
	"millrace/engine/disk/simdisk"
)

// quietly makes openings of damaged directories silent, and collects what they say.
func (d *checkDir) quietly() *[]string {
	warnings := new([]string)
	d.o.Warn = func(format string, args ...any) { *warnings = append(*warnings, fmt.Sprintf(format, args...)) }
	return warnings
}

// stop ends the engine as if it had been killed: without a last checkpoint.
func stop(t *testing.T, e *Engine) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// loseEntry takes the entry of a log out of the checkpoint, as if a defect had never written it.
func (d *checkDir) loseEntry(t *testing.T, topic string) {
	t.Helper()
	x, err := inspect(nil, d.o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	cp, err := x.readCheckpoint(0)
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for i := range cp.frames {
		kept := cp.frames[i].entries[:0]
		for _, e := range cp.frames[i].entries {
			if e.log.topic == topic {
				lost++
				continue
			}
			kept = append(kept, e)
		}
		cp.frames[i].entries = kept
	}
	if lost == 0 {
		t.Fatalf("no entry of %s", topic)
	}
	r := &repair{o: d.o.withDefaults(), x: x, report: &RepairReport{}}
	if err := r.replaceCheckpoint(0, cp, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.remove(cp.path); err != nil {
		t.Fatal(err)
	}
}

func TestFolderOfAnUnknownLogIsKept(t *testing.T) {
	d := newCheckDir(t, true)
	warnings := d.quietly()
	dir := filepath.Dir(oneFile(t, d, 0, "logs/long-0.*/*.log"))
	before := fingerprint(t, dir)
	d.loseEntry(t, "long")
	named := func() bool { return strings.Contains(strings.Join(*warnings, "\n"), dir) }
	for range 2 {
		*warnings = nil
		e, err := Open(d.o)
		if err != nil {
			t.Fatal(err)
		}
		e.deleteStrays(func() bool { return true })
		if r := e.Recovery(); len(r.Unknown) != 1 || r.Unknown[0] != dir || !named() {
			t.Errorf("unknown folders %v, said %q", r.Unknown, *warnings)
		}
		if fingerprint(t, dir) != before {
			t.Fatal("the folder was touched although nothing says that the log was dropped")
		}
		mustClose(t, e)
	}
	r := mustCheck(t, d)
	found := false
	for _, n := range r.Notes {
		found = found || n.File == filepath.Join(logsName, filepath.Base(dir))
	}
	if !found || len(r.Problems) > 0 {
		t.Errorf("check says %v, notes %v", r.Problems, r.Notes)
	}
}

// TestIDOfAnUnknownFolderIsNotGivenOut: its log would take the folder's files for its own leftovers.
func TestIDOfAnUnknownFolderIsNotGivenOut(t *testing.T) {
	d := newCheckDir(t, true)
	d.quietly()
	if err := os.Mkdir(d.path("logs", "next-0.4"), 0o755); err != nil {
		t.Fatal(err)
	}
	e := mustOpen(t, d.o)
	if l := mustCreate(t, e, "next", 1)[0]; l.ID() != 5 {
		t.Errorf("log id %d, the folder of another log 4 is there", l.ID())
	}
	mustClose(t, e)
}

// TestDropIsRememberedUntilTheFolderIsGone: over any number of openings, and no longer.
func TestDropIsRememberedUntilTheFolderIsGone(t *testing.T) {
	s := newCompactionSim(t, 1)
	s.fill([][]byte{one(0, "a", "1")}, [][]byte{one(0, "b", "1")})
	dir, id := s.l.dir(), s.l.ID()
	if _, err := s.e.CreateLogs([]LogSpec{{TopicID: TopicID{1}, Topic: "kept"}}); err != nil {
		t.Fatal(err)
	}
	if err := s.e.DropLogs([]*Log{s.l}); err != nil {
		t.Fatal(err)
	}
	w := s.e.shards[0].writer
	if err := w.cover([]*Log{s.l}); err != nil {
		t.Fatal(err)
	}
	w.doomed = nil // the power goes out before the unlinks
	open := func() *Engine {
		s.disk.Kill()
		s.e.release()
		e, err := Open(s.o)
		if err != nil {
			t.Fatal(err)
		}
		s.e = e
		return e
	}
	for range 4 {
		e := open()
		if _, err := e.shards[0].writer.round(^uint64(0)); err != nil {
			t.Fatal(err)
		}
		if p, ok := e.shards[0].writer.checkpoint.at[id]; !ok || !p.dropped {
			t.Fatal("nobody knows any more that the log was dropped")
		}
		if len(e.strays.dirs) != 1 || e.strays.dirs[0] != dir {
			t.Fatalf("to be deleted: %v", e.strays.dirs)
		}
	}
	s.e.deleteStrays(func() bool { return true })
	if _, err := s.disk.Stat(dir); !isMissing(err) {
		t.Fatalf("the folder is still there: %v", err)
	}
	// A power cut may bring the folder back.
	s.disk.Crash(simdisk.Policy{})
	s.e.release()
	e, err := Open(s.o)
	if err != nil {
		t.Fatal(err)
	}
	s.e = e
	if len(e.Recovery().Unknown) > 0 {
		t.Fatalf("nobody knows any more that the log was dropped: %v", e.Recovery().Unknown)
	}
	e.deleteStrays(func() bool { return true })
	e = open()
	if _, ok := e.shards[0].writer.checkpoint.at[id]; ok {
		t.Error("the entry outlives the folder")
	}
}

// hurtPayload flips a bit in the payload of a record in the WAL.
func hurtPayload(t *testing.T, d *checkDir, kind recordType) (file string, logID uint64) {
	t.Helper()
	path, commits := walCommits(t, d)
	for _, c := range commits {
		for i := range c.rows {
			if r := &c.rows[i]; r.kind == kind && commits[len(commits)-1].head.flushedLSN >= c.head.lsn {
				flip(t, path, c.pos+int64(r.pos)+int64(r.length)-3)
				return path, r.logID
			}
		}
	}
	t.Fatalf("no %v in the WAL", kind)
	return "", 0
}

// TestDamagedWALFileStaysUntilRepair: with all that is in it, over restarts and whatever is written meanwhile, and each start says so.
func TestDamagedWALFileStaysUntilRepair(t *testing.T) {
	for _, kind := range []recordType{recCreate, recAppend} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			t.Parallel()
			d := &checkDir{o: testOptions(t)}
			d.quietly()
			e := mustOpen(t, d.o)
			hurt := mustCreate(t, e, "hurt", 1)[0]
			other := mustCreate(t, e, "other", 1)[0]
			for i := range 5 {
				raw, h := testBatch(2, "v", int64(i))
				appendOne(t, hurt, raw, h)
				appendOne(t, other, raw, h)
				awaitAck(t, hurt, hurt.AppendedEnd())
			}
			stop(t, e)
			path, id := hurtPayload(t, d, kind)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			kept := path + walDamagedSuffix
			for start := range 3 {
				e = mustOpen(t, d.o)
				said := false
				for _, c := range e.Recovery().Damage {
					said = said || c.File == kept
				}
				if !said {
					t.Fatalf("start %d says nothing of %s: %+v", start, kept, e.Recovery().Damage)
				}
				if n := mustCreate(t, e, fmt.Sprint("new", start), 1)[0].ID(); n <= id {
					t.Fatalf("log id %d was given out again", n)
				}
				// More than the WAL holds.
				l := e.Log(other.TopicID(), 0)
				raw, h := testBatch(1, strings.Repeat("x", 200<<10), 1)
				for range 60 {
					appendOne(t, l, raw, h)
				}
				awaitAck(t, l, l.AppendedEnd())
				if start == 1 {
					stop(t, e)
				} else {
					mustClose(t, e)
				}
				now, err := os.ReadFile(kept)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(now[:64<<10], before[:64<<10]) {
					t.Fatal("the damaged file was used again")
				}
			}
			if r := mustCheck(t, d); len(r.Problems) == 0 {
				t.Error("check finds nothing")
			}
			rep, err := Repair(context.Background(), d.o, true)
			if err != nil {
				t.Fatalf("%v: %+v", err, rep)
			}
			e = mustOpen(t, d.o)
			if r := e.Recovery(); len(r.Damage)+len(r.Quarantined) > 0 {
				t.Errorf("after the repair: %+v", r)
			}
			mustClose(t, e)
		})
	}
}

// walOf are the commits in the WAL files of a simulated directory, and their files.
func walOf(t *testing.T, fsys disk.FS, visit func(path string, c *inspectedCommit)) {
	t.Helper()
	x, err := inspect(fsys, "/data")
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
		if _, err := f.walk(0, 0, func(c *inspectedCommit) error {
			visit(f.path, c)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDropOfAQuarantinedLogLasts(t *testing.T) {
	s := newCompactionSim(t, 1)
	s.o.Warn = func(string, ...any) {}
	s.e.o.Warn = s.o.Warn
	for i := range 5 {
		s.put(one(int64(i), "a", "v"), txnNone)
		for s.l.AckEnd() < s.l.AppendedEnd() {
			s.e.shards[0].Poll()
		}
	}
	hurt := false
	s.disk.Kill()
	s.e.release()
	walOf(t, s.disk, func(path string, c *inspectedCommit) {
		if r := &c.rows[0]; !hurt && r.kind == recAppend && r.base == 2 {
			hurt = true
			if err := s.disk.Rot(path, c.pos+int64(r.pos)+int64(r.length)-2, 1); err != nil {
				t.Fatal(err)
			}
		}
	})
	e, err := Open(s.o)
	if err != nil {
		t.Fatal(err)
	}
	l := e.Logs()[0]
	if !hurt || l.Quarantined() == "" {
		t.Fatalf("hurt %v, not quarantined: %+v", hurt, e.Recovery())
	}
	if err := l.Truncate(1, 0); !errors.Is(err, ErrQuarantined) {
		t.Errorf("a quarantined log was truncated: %v", err)
	}
	if err := e.DropLogs([]*Log{l}); err != nil {
		t.Fatal(err)
	}
	if e.shards[0].writer.rounds.Load() > 0 {
		t.Fatal("the Drop is in the checkpoint: this tests nothing")
	}
	s.disk.Kill()
	e.release()
	r, err := Check(s.disk, "/data")
	if err != nil || len(r.Logs) > 0 {
		t.Errorf("check sees %+v, %v", r.Logs, err)
	}
	if e, err = Open(s.o); err != nil {
		t.Fatal(err)
	}
	defer e.release()
	if logs := e.Logs(); len(logs) > 0 || len(e.Recovery().Quarantined) > 0 {
		t.Fatalf("back from the dead: %v, %+v", logs, e.Recovery().Quarantined)
	}
	if _, err := e.CreateLogs([]LogSpec{{Topic: "compacted"}}); err != nil {
		t.Error(err)
	}
}

// TestMissingSegmentIsNoticedAtOpening: a file that is gone or too short takes its log out of service, with everything
// around it readable.
func TestMissingSegmentIsNoticedAtOpening(t *testing.T) {
	kinds := map[string]func(path string) error{
		"missing": os.Remove,
		"short":   func(path string) error { return os.Truncate(path, 8192) },
	}
	for name, hurt := range kinds {
		for _, clean := range []bool{true, false} {
			for _, which := range []string{"first", "middle", "last"} {
				t.Run(fmt.Sprintf("%s %s, clean %v", name, which, clean), func(t *testing.T) {
					t.Parallel()
					d := newCheckDir(t, clean)
					d.quietly()
					testMissingSegment(t, d, which, hurt, name == "short")
				})
			}
		}
	}
}

func testMissingSegment(t *testing.T, d *checkDir, which string, hurt func(string) error, short bool) {
	d.o.RingBytes = int64(4 * d.o.CommitBytesMax)
	e, err := Open(d.o)
	if err != nil {
		t.Fatal(err)
	}
	l := e.Log(TopicID([]byte("long\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")), 0)
	segments := l.Segments()
	e.release()
	last := len(segments) - 1
	for segments[last].Bytes < 4*blockSize {
		last-- // the newest one with blocks in its file
	}
	g := map[string]SegmentInfo{"first": segments[0], "middle": segments[1], "last": segments[last]}[which]
	if err := hurt(g.Path); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		e = mustOpen(t, d.o)
		r := e.Recovery()
		if len(r.Quarantined) != 1 || r.Quarantined[0].Topic != "long" || !strings.Contains(r.Quarantined[0].Reason, filepath.Base(g.Path)) {
			t.Fatalf("quarantined: %+v", r.Quarantined)
		}
		for name, batches := range d.content {
			topic, _, _ := cutLast(name, "-")
			var id TopicID
			copy(id[:], topic)
			l := e.Log(id, 0)
			if topic != "long" {
				if got := readAll(t, l, 0); len(got) != len(batches) {
					t.Errorf("%s has %d batches of %d", name, len(got), len(batches))
				}
				continue
			}
			raw, h := testBatch(1, "v", 1)
			if _, err := l.Append(AppendRequest{Batch: raw, Header: h, LeaderEpoch: 9}); !errors.Is(err, ErrQuarantined) {
				t.Errorf("append: %v", err)
			}
			readAround(t, l, batches, g, short)
		}
		mustClose(t, e)
	}
	if _, err := Repair(context.Background(), d.o, true); err != nil {
		t.Fatal(err)
	}
	e = mustOpen(t, d.o)
	if r := e.Recovery(); len(r.Damage)+len(r.Quarantined) > 0 {
		t.Errorf("after the repair: %+v", r)
	}
	mustClose(t, e)
}

// readAround reads every batch by itself: what is not in the damaged part of g must come.
func readAround(t *testing.T, l *Log, batches [][]byte, g SegmentInfo, short bool) {
	t.Helper()
	pos, served, refused := 0, 0, 0
	for _, want := range batches {
		h := mustHeader(t, want)
		if h.NextOffset() > l.AppendedEnd() {
			break
		}
		gone := false
		if h.BaseOffset >= g.BaseOffset && h.BaseOffset < g.NextOffset {
			pos += len(want)
			gone = !short || pos > 8192
		}
		spans, info, err := l.Read(ReadRequest{Offset: h.BaseOffset, UpTo: l.AppendedEnd(), MaxBytes: 1 << 20, MinOne: true, MayBlock: true}, nil)
		var damage *CorruptionError
		switch {
		case gone && errors.As(err, &damage) && damage.File == g.Path:
			refused++
		case gone:
			t.Errorf("offset %d: %d bytes, %v", h.BaseOffset, info.Bytes, err)
		case err != nil || !bytes.HasPrefix(spanBytes(t, spans), want):
			t.Errorf("offset %d is not readable: %v", h.BaseOffset, err)
		default:
			served++
		}
	}
	if served == 0 || refused == 0 {
		t.Errorf("%d batches served, %d refused", served, refused)
	}
}

// BenchmarkOpenManyLogs opens a directory of 10,000 logs, each with a file in its folder.
func BenchmarkOpenManyLogs(b *testing.B) {
	o := Options{
		Dir: b.TempDir(), IO: disk.ModeAuto, DiskReserveBytes: 1, RingBytes: 64 << 20, WALFileBytes: 16 << 20, WALBytes: 64 << 20,
		Warn: b.Logf, OnFailed: func(err error) { b.Error(err) }, sabotage: sabotage{noSegmentSync: true, noDirSync: true},
	}
	e := mustOpen(b, o)
	raw, h := testBatch(1, strings.Repeat("x", 5000), 1)
	for _, l := range mustCreate(b, e, "many", 10_000) {
		appendOne(b, l, raw, h)
	}
	mustClose(b, e)
	for b.Loop() {
		e, err := Open(o)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(e.Recovery().Duration.Seconds(), "recovery-s")
		e.release()
	}
}
