package logdb

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"

	"millrace/engine/disk"
	"millrace/engine/disk/simdisk"
)

const testShard, testReplica = 1, 7

var testID = nodeID{testShard, testReplica}

func testOptions(fs disk.FS) Options {
	n := byte(0)
	return Options{
		Dir: "/raft/log", FS: fs, MarkDelay: -1,
		Salt: func() (s [16]byte) { n++; s[0] = n; return s },
	}
}

func mustOpen(t testing.TB, o Options) *DB {
	t.Helper()
	db, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testEntry(index, term uint64, size int) pb.Entry {
	cmd := bytes.Repeat([]byte{byte(index), byte(term), 'x'}, size/3+1)[:size]
	return pb.Entry{Index: index, Term: term, Type: pb.ApplicationEntry, Cmd: cmd}
}

// save is what dragonboat does for one proposal: entries and a vote together.
func save(db *DB, term, commit uint64, entries ...pb.Entry) error {
	return db.SaveRaftState([]pb.Update{{
		ShardID: testShard, ReplicaID: testReplica,
		State: pb.State{Term: term, Vote: testReplica, Commit: commit}, EntriesToSave: entries,
	}}, 1)
}

func commitOnly(db *DB, term, commit uint64) error { return save(db, term, commit) }

func takeSnapshot(db *DB, index, term uint64) error {
	return db.SaveSnapshots([]pb.Update{{
		ShardID: testShard, ReplicaID: testReplica, Snapshot: pb.Snapshot{Index: index, Term: term, Filepath: "x"},
	}})
}

func entriesOf(t testing.TB, db *DB, low, high uint64) []pb.Entry {
	t.Helper()
	ents, _, err := db.IterateEntries(nil, 0, testShard, testReplica, low, high, 0)
	must(t, err)
	return ents
}

func lastIndexOf(t testing.TB, db *DB) uint64 {
	t.Helper()
	s, err := db.GetSnapshot(testShard, testReplica)
	must(t, err)
	rs, err := db.ReadRaftState(testShard, testReplica, s.Index)
	if errors.Is(err, raftio.ErrNoSavedLog) {
		return 0
	}
	must(t, err)
	return rs.FirstIndex + rs.EntryCount - 1
}

// reopen closes (or, with kill, drops) the store and opens it again.
func reopen(t testing.TB, db *DB, kill bool) *DB {
	t.Helper()
	if !kill {
		must(t, db.Close())
	}
	return mustOpen(t, db.o)
}

func TestStoreKeepsEverythingAcrossReopen(t *testing.T) {
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprintf("kill=%v", kill), func(t *testing.T) {
			d := simdisk.New(1)
			db := mustOpen(t, testOptions(d))
			_, err := db.GetBootstrapInfo(testShard, testReplica)
			if !errors.Is(err, raftio.ErrNoBootstrapInfo) {
				t.Fatalf("bootstrap of an empty store: %v", err)
			}
			boot := pb.Bootstrap{Addresses: map[uint64]string{7: "replica-7"}, Type: pb.ConcurrentStateMachine}
			must(t, db.SaveBootstrapInfo(testShard, testReplica, boot))
			for i := uint64(1); i <= 50; i++ {
				must(t, save(db, 2, i-1, testEntry(i, 2, int(i)*40)))
			}
			must(t, takeSnapshot(db, 30, 2))
			must(t, db.RemoveEntriesTo(testShard, testReplica, 20))
			must(t, commitOnly(db, 2, 50))
			db = reopen(t, db, kill)
			info, err := db.ListNodeInfo()
			if err != nil || len(info) != 1 || info[0].ReplicaID != testReplica {
				t.Fatalf("replicas %v, %v", info, err)
			}
			got, err := db.GetBootstrapInfo(testShard, testReplica)
			if err != nil || got.Addresses[7] != "replica-7" || got.Type != pb.ConcurrentStateMachine {
				t.Fatalf("bootstrap %+v, %v", got, err)
			}
			s, err := db.GetSnapshot(testShard, testReplica)
			if err != nil || s.Index != 30 {
				t.Fatalf("snapshot %+v, %v", s, err)
			}
			rs, err := db.ReadRaftState(testShard, testReplica, 30)
			must(t, err)
			if rs.FirstIndex != 31 || rs.EntryCount != 20 || rs.State.Term != 2 || rs.State.Vote != testReplica {
				t.Fatalf("raft state %+v", rs)
			}
			if !kill && rs.State.Commit != 50 {
				t.Fatalf("a clean stop lost the commit index: %d", rs.State.Commit)
			}
			for _, e := range entriesOf(t, db, 21, 51) {
				if want := testEntry(e.Index, 2, int(e.Index)*40); !bytes.Equal(e.Cmd, want.Cmd) {
					t.Fatalf("entry %d differs", e.Index)
				}
			}
			if n := len(entriesOf(t, db, 21, 51)); n != 30 {
				t.Fatalf("%d entries, want 30", n)
			}
			must(t, db.Close())
		})
	}
}

func TestOverruledEntriesAreGone(t *testing.T) {
	db := mustOpen(t, testOptions(simdisk.New(1)))
	must(t, save(db, 1, 0, testEntry(1, 1, 10), testEntry(2, 1, 10), testEntry(3, 1, 10)))
	must(t, save(db, 2, 0, testEntry(2, 2, 10)))
	for range 2 {
		got := entriesOf(t, db, 1, 10)
		if len(got) != 2 || got[1].Index != 2 || got[1].Term != 2 {
			t.Fatalf("entries %+v", got)
		}
		db = reopen(t, db, true)
	}
}

func TestInstalledSnapshotVoidsTheLog(t *testing.T) {
	db := mustOpen(t, testOptions(simdisk.New(1)))
	must(t, save(db, 1, 0, testEntry(1, 1, 10), testEntry(2, 1, 10)))
	must(t, db.SaveRaftState([]pb.Update{{
		ShardID: testShard, ReplicaID: testReplica, State: pb.State{Term: 3, Commit: 100},
		Snapshot: pb.Snapshot{Index: 100, Term: 3}, EntriesToSave: []pb.Entry{testEntry(101, 3, 10)},
	}}, 1))
	for range 2 {
		rs, err := db.ReadRaftState(testShard, testReplica, 100)
		if err != nil || rs.FirstIndex != 101 || rs.EntryCount != 1 || len(entriesOf(t, db, 1, 3)) != 0 {
			t.Fatalf("%+v, %v", rs, err)
		}
		db = reopen(t, db, true)
	}
}

func TestIterateEntriesStopsBehindTheLimit(t *testing.T) {
	db := mustOpen(t, testOptions(simdisk.New(1)))
	must(t, save(db, 1, 0, testEntry(1, 1, 1000), testEntry(2, 1, 1000), testEntry(3, 1, 1000)))
	ents, size, err := db.IterateEntries(nil, 0, testShard, testReplica, 1, 4, 1500)
	if err != nil || len(ents) != 2 || size < 2000 {
		t.Fatalf("%d entries of %d bytes, %v", len(ents), size, err)
	}
}

func TestSnapshotAheadOfTheCommitIndexIsCommitted(t *testing.T) {
	// Entries are applied, and may be in a snapshot, before the commit index is worth a frame.
	db := mustOpen(t, testOptions(simdisk.New(1)))
	must(t, save(db, 1, 0, testEntry(1, 1, 10), testEntry(2, 1, 10)))
	must(t, takeSnapshot(db, 2, 1))
	rs, err := db.ReadRaftState(testShard, testReplica, 2)
	if err != nil || rs.State.Commit != 2 || rs.EntryCount != 0 {
		t.Fatalf("%+v, %v", rs, err)
	}
}

func TestRemovedReplicaIsForgotten(t *testing.T) {
	db := mustOpen(t, testOptions(simdisk.New(1)))
	must(t, db.SaveBootstrapInfo(testShard, testReplica, pb.Bootstrap{}))
	must(t, save(db, 1, 0, testEntry(1, 1, 10), testEntry(2, 1, 10)))
	must(t, db.RemoveEntriesTo(testShard, testReplica, 1))
	must(t, db.RemoveNodeData(testShard, testReplica))
	for range 2 {
		if info, _ := db.ListNodeInfo(); len(info) != 0 || lastIndexOf(t, db) != 0 {
			t.Fatalf("still there: %v", info)
		}
		db = reopen(t, db, false)
	}
}

func TestImportedSnapshotReplacesTheReplica(t *testing.T) {
	db := mustOpen(t, testOptions(simdisk.New(1)))
	must(t, save(db, 1, 0, testEntry(1, 1, 10), testEntry(2, 1, 10)))
	must(t, db.RemoveEntriesTo(testShard, testReplica, 1))
	must(t, db.ImportSnapshot(pb.Snapshot{ShardID: testShard, Index: 50, Term: 4, Type: pb.ConcurrentStateMachine}, testReplica))
	for range 2 {
		rs, err := db.ReadRaftState(testShard, testReplica, 50)
		if err != nil || rs.State.Term != 4 || rs.State.Commit != 50 || rs.EntryCount != 0 {
			t.Fatalf("%+v, %v", rs, err)
		}
		if b, err := db.GetBootstrapInfo(testShard, testReplica); err != nil || !b.Join {
			t.Fatalf("%+v, %v", b, err)
		}
		db = reopen(t, db, true)
	}
}

func TestCompactionBoundsTheJournal(t *testing.T) {
	o := testOptions(simdisk.New(1))
	o.RewriteBytes = 64 << 10
	db := mustOpen(t, o)
	largest := int64(0)
	for i := uint64(1); i <= 2000; i++ {
		must(t, save(db, 1, i-1, testEntry(i, 1, 300)))
		if i%100 == 0 {
			must(t, takeSnapshot(db, i, 1))
			must(t, db.RemoveEntriesTo(testShard, testReplica, i-10))
			done, err := db.CompactEntriesTo(testShard, testReplica, i-10)
			must(t, err)
			<-done
		}
		largest = max(largest, db.Size())
	}
	if largest > 256<<10 {
		t.Fatalf("journal grew to %d bytes", largest)
	}
	db = reopen(t, db, true)
	if got := lastIndexOf(t, db); got != 2000 {
		t.Fatalf("last index %d", got)
	}
	if n := len(entriesOf(t, db, 1991, 2001)); n != 10 {
		t.Fatalf("%d entries behind the removed ones", n)
	}
}

func TestDamagedSnapshotFileIsNoticed(t *testing.T) {
	o := testOptions(simdisk.New(1))
	sum := FileSum{Size: 5, CRC: 99}
	o.SumFile = func(pb.Snapshot) (FileSum, error) { return sum, nil }
	db := mustOpen(t, o)
	must(t, save(db, 1, 0, testEntry(1, 1, 10)))
	must(t, takeSnapshot(db, 1, 1))
	db = reopen(t, db, true)
	must(t, db.VerifySnapshot(testShard, testReplica))
	sum.CRC++
	if err := db.VerifySnapshot(testShard, testReplica); !errors.Is(err, ErrDamaged) {
		t.Fatalf("a changed file passed: %v", err)
	}
}

// TestRealFiles runs over the machine's own file system, with the timer that flushes marks.
func TestRealFiles(t *testing.T) {
	o := Options{Dir: filepath.Join(t.TempDir(), "log"), FS: disk.OS()}
	db := mustOpen(t, o)
	for i := uint64(1); i <= 20; i++ {
		must(t, save(db, 1, i-1, testEntry(i, 1, 100)))
	}
	must(t, save(db, 1, 20, testEntry(21, 1, 3<<20))) // larger than any reservation
	must(t, db.Close())
	must(t, db.Close())
	if err := save(db, 1, 21, testEntry(22, 1, 1)); !errors.Is(err, ErrClosed) {
		t.Fatalf("save after close: %v", err)
	}
	db = mustOpen(t, o)
	if got := lastIndexOf(t, db); got != 21 {
		t.Fatalf("last index %d", got)
	}
	must(t, db.Close())
}
