package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestLogIDsAreNeverReused: also when the process dies between an opening, which writes a new checkpoint, and the
// next round.
func TestLogIDsAreNeverReused(t *testing.T) {
	o := testOptions(t)
	e := mustOpen(t, o)
	logs := mustCreate(t, e, "gone", 3)
	raw, h := testBatch(1, "v", 1)
	appendOne(t, logs[0], raw, h)
	last := logs[2].ID()
	if err := e.DropLogs(logs); err != nil {
		t.Fatal(err)
	}
	mustClose(t, e)
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for range 3 {
		e = mustOpen(t, o)
		_ = e.Close(canceled)
		r, err := Check(nil, o.Dir)
		if err != nil || len(r.Problems) > 0 {
			t.Fatal(r.Problems, err)
		}
	}
	x, err := inspect(nil, o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	cp, err := x.readCheckpoint(0)
	x.close()
	if err != nil {
		t.Fatal(err)
	}
	if head, ok := cp.last(); !ok || head.lsnFloor == 0 || head.generation == 0 || head.nextLogID != last {
		t.Errorf("the checkpoint forgot: %+v", head)
	}
	e = mustOpen(t, o)
	if id := mustCreate(t, e, "new", 1)[0].ID(); id <= last {
		t.Errorf("log id %d was given out again (%d were)", id, last)
	}
	mustClose(t, e)
}

// TestRepairReplaysAWALThatHasEverything: a lost checkpoint costs nothing while the WAL goes back to the first commit.
func TestRepairReplaysAWALThatHasEverything(t *testing.T) {
	d := newCheckDir(t, true)
	if err := os.Remove(oneFile(t, d, 0, "shard-000/checkpoint-*")); err != nil {
		t.Fatal(err)
	}
	if r := mustCheck(t, d); len(r.Problems) != 1 {
		t.Errorf("found %v", r.Problems)
	}
	if _, err := Repair(context.Background(), d.o, true); err != nil {
		t.Fatal(err)
	}
	d.verify(t, nil)
}

// TestRepairDeletesNothing: with checkpoint and WAL gone no log can be proved, and every segment is set aside.
func TestRepairDeletesNothing(t *testing.T) {
	d := newCheckDir(t, true)
	segments, err := filepath.Glob(d.path("logs/*/*.log"))
	if err != nil || len(segments) < 5 {
		t.Fatal(segments, err)
	}
	for _, name := range []string{"checkpoint-*", "wal-*"} {
		if err := os.Remove(oneFile(t, d, 0, "shard-000/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	// An opening that knows of no logs does not take their folders for those of dropped ones.
	e, err := Open(d.o)
	if err != nil {
		t.Fatal(err)
	}
	e.deleteStrays(func() bool { return true })
	mustClose(t, e)
	if now, err := filepath.Glob(d.path("logs/*/*.log")); err != nil || len(now) != len(segments) {
		t.Fatalf("%d segments are left of %d: %v", len(now), len(segments), err)
	}
	if r := mustCheck(t, d); len(r.Problems) < 2 {
		t.Errorf("found only %v", r.Problems)
	}
	rep, err := Repair(context.Background(), d.o, true)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := filepath.Glob(filepath.Join(rep.SetAside, "logs/*/*.log"))
	if err != nil || len(kept) != len(segments) {
		t.Errorf("%d segments set aside of %d: %v", len(kept), len(segments), err)
	}
	e = mustOpen(t, d.o)
	mustCreate(t, e, "long", 1)
	mustClose(t, e)
}

// TestOpenRefusesACheckpointWithADamagedFrame: going on from the frames before it would bring back states that are long gone.
func TestOpenRefusesACheckpointWithADamagedFrame(t *testing.T) {
	d := newCheckDir(t, false)
	path := oneFile(t, d, 0, "shard-000/checkpoint-*")
	flip(t, path, checkpointHeadSz+20)
	var damage *CorruptionError
	if _, err := Open(d.o); !errors.As(err, &damage) || damage.File != path || damage.Pos != checkpointHeadSz {
		t.Fatalf("got %v", err)
	}
	if _, err := Repair(context.Background(), d.o, true); err != nil {
		t.Fatal(err)
	}
	d.verify(t, nil)
}
