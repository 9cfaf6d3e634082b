package logdb

import (
	"bytes"
	"errors"
	"testing"

	pb "github.com/lni/dragonboat/v4/raftpb"

	"millrace/engine/disk"
	"millrace/engine/disk/simdisk"
)

const journalPath = "/raft/log/journal"

func fileBytes(t testing.TB, fs disk.FS) []byte {
	t.Helper()
	b, err := disk.ReadFile(fs, journalPath, 1<<30)
	must(t, err)
	return b
}

// smallJournal returns a journal as a kill leaves it, of ten acknowledged entries, frames of one to
// three sectors, one deferred commit index, and nothing torn.
func smallJournal(t testing.TB) []byte {
	d := simdisk.New(1)
	db := mustOpen(t, testOptions(d))
	must(t, db.SaveBootstrapInfo(testShard, testReplica, pb.Bootstrap{Addresses: map[uint64]string{7: "replica-7"}}))
	for i := uint64(1); i <= 10; i++ {
		must(t, save(db, 1, i-1, testEntry(i, 1, int(i%3)*500+20)))
	}
	must(t, commitOnly(db, 1, 10))
	return fileBytes(t, d)
}

// checkAllOrRefused fails if a damaged journal opens with anything less than what was acknowledged.
func checkAllOrRefused(t *testing.T, b []byte, want uint64, what string, args ...any) (opened bool) {
	t.Helper()
	r, err := replayJournal("journal", b)
	if err != nil {
		if !errors.Is(err, ErrDamaged) {
			t.Fatalf(what+": refused, but not as damaged: %v", append(args, err)...)
		}
		return false
	}
	n := r.state.nodes[testID]
	if n == nil || n.bootstrap == nil || n.lastIndex() < want || uint64(len(n.entries)) < want {
		t.Fatalf(what+": opened without an error and without everything acknowledged", args...)
	}
	for i, e := range n.entries {
		if w := testEntry(uint64(i)+1, 1, (i+1)%3*500+20); e.Index != w.Index || !bytes.Equal(e.Cmd, w.Cmd) {
			t.Fatalf(what+": entry %d differs", append(args, w.Index)...)
		}
	}
	return true
}

func TestEveryBitFlipIsRefusedOrHarmless(t *testing.T) {
	whole := smallJournal(t)
	refused := 0
	for at := range whole {
		for bit := range 8 {
			whole[at] ^= 1 << bit
			if !checkAllOrRefused(t, whole, 10, "byte %d bit %d", at, bit) {
				refused++
			}
			whole[at] ^= 1 << bit
		}
	}
	// Padding and the older mark may flip unnoticed; the last frame, above all, must not.
	t.Logf("%d bytes: %d of %d flips refused", len(whole), refused, 8*len(whole))
	if refused < 3*len(whole) {
		t.Fatal("hardly any flip was noticed")
	}
}

func TestEveryTearOfFlushedSectorsIsRefusedOrHarmless(t *testing.T) {
	whole := smallJournal(t)
	garbage := bytes.Repeat([]byte{0x5a}, sectorSize)
	for from := 0; from < len(whole); from += sectorSize {
		for _, fill := range [][]byte{make([]byte, sectorSize), garbage, whole[frameOffset : frameOffset+sectorSize]} {
			torn := bytes.Clone(whole)
			copy(torn[from:from+sectorSize], fill)
			if bytes.Equal(torn, whole) {
				continue
			}
			checkAllOrRefused(t, torn, 10, "sector at %d", from)
		}
		checkAllOrRefused(t, whole[:from], 10, "cut at %d", from)
		// Everything from here on lost, length kept.
		torn := bytes.Clone(whole)
		clear(torn[from:])
		checkAllOrRefused(t, torn, 10, "zeros from %d", from)
	}
	for n := range whole {
		checkAllOrRefused(t, whole[:n], 10, "cut at %d", n)
	}
}

// TestEverySubsetOfATornLastFrameIsCut writes an eleventh frame of five sectors of which any subset
// arrives: the ten before are there, the store starts, and the torn one is all there or all gone.
func TestEverySubsetOfATornLastFrameIsCut(t *testing.T) {
	d := simdisk.New(1)
	o := testOptions(d)
	db := mustOpen(t, o)
	must(t, db.SaveBootstrapInfo(testShard, testReplica, pb.Bootstrap{}))
	for i := uint64(1); i <= 10; i++ {
		must(t, save(db, 1, i-1, testEntry(i, 1, int(i%3)*500+20)))
	}
	before := fileBytes(t, d)
	must(t, save(db, 1, 10, testEntry(11, 1, 11%3*500+20), testEntry(12, 1, 20), testEntry(13, 1, 520)))
	whole := fileBytes(t, d)
	// The mark of the last frame was never flushed.
	copy(whole[:frameOffset], before[:frameOffset])
	sectors := (len(whole) - len(before)) / sectorSize
	if sectors < 3 {
		t.Fatalf("the last frame has %d sectors", sectors)
	}
	for subset := range 1 << sectors {
		torn := bytes.Clone(whole)
		for s := range sectors {
			if subset&(1<<s) == 0 {
				clear(torn[len(before)+s*sectorSize:][:sectorSize])
			}
		}
		want := uint64(10)
		complete := subset == 1<<sectors-1
		if complete {
			want = 13
		}
		if !checkAllOrRefused(t, torn, want, "subset %b", subset) {
			t.Fatalf("subset %b of an unacknowledged frame keeps the store from starting", subset)
		}
		r, _ := replayJournal("journal", torn)
		if got := r.state.nodes[testID].lastIndex(); got != want {
			t.Fatalf("subset %b: last index %d, want %d", subset, got, want)
		}
	}
}

// TestForgedFrameInAPayload: a client chose a config value that looks like a frame at a sector boundary. It
// must not turn a torn tail into damage, nor be replayed.
func TestForgedFrameInAPayload(t *testing.T) {
	d := simdisk.New(1)
	db := mustOpen(t, testOptions(d))
	must(t, save(db, 1, 0, testEntry(1, 1, 20)))
	before := len(fileBytes(t, d))
	forged := frame{seq: 3, synced: 2, payload: appendRecord(nil, recordRemoved, testID, nil)}.append(nil, 0)
	cmd := append(make([]byte, sectorSize), bytes.Repeat(forged, 4)...)
	must(t, save(db, 1, 1, pb.Entry{Index: 2, Term: 1, Cmd: cmd}))
	b := fileBytes(t, d)[:before+2*sectorSize]
	r, err := replayJournal("journal", append(b, bytes.Repeat(forged, 4)...))
	if err == nil {
		t.Fatalf("a frame cut under its mark was accepted: %+v", r.state)
	}
	old := bytes.Clone(b)
	m := mark{syncedSeq: db.journal.synced - 1, end: frameOffset}
	copy(old[m.slotOffset():], m.sector(db.journal.seed))
	m.syncedSeq--
	copy(old[m.slotOffset():], m.sector(db.journal.seed))
	r, err = replayJournal("journal", append(old, bytes.Repeat(forged, 4)...))
	if err != nil || r.state.nodes[testID].lastIndex() != 1 {
		t.Fatalf("forged frames behind a torn one: %v", err)
	}
}

func TestMissingOrForeignFilesAreRefused(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty": nil, "short": []byte("MRRAFTJ1"), "foreign": bytes.Repeat([]byte("hello "), 2000),
	} {
		d := simdisk.New(1)
		must(t, disk.MkdirAllDurable(d, "/raft/log", 0o755))
		must(t, disk.WriteFileAtomic(d, journalPath, b))
		if _, err := Open(testOptions(d)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	newer := fileHeader{firstSeq: 1}.append(nil)
	newer[8] = fileVersion + 1
	if _, err := parseFileHeader(newer); err == nil {
		t.Error("a header of another version passed")
	}
}

func TestRotInTheLastFrameIsNoticedAfterAPowerCut(t *testing.T) {
	// A clean stop, and 100 ms of idleness, flush the mark as well.
	d := simdisk.New(3)
	db := mustOpen(t, testOptions(d))
	must(t, save(db, 1, 0, testEntry(1, 1, 20)))
	must(t, save(db, 1, 1, testEntry(2, 1, 20)))
	at := db.journal.pos - sectorSize + 20
	db.flushMark()
	d.Crash(simdisk.LoseAll())
	must(t, d.Rot(journalPath, at, 3))
	if _, err := Open(testOptions(d)); !errors.Is(err, ErrDamaged) {
		t.Fatalf("rot in the last acknowledged frame: %v", err)
	}
}

// FuzzReplayJournal mutates the frames of a journal; header and marks are sound, as their checksums would
// only keep the fuzzer out.
func FuzzReplayJournal(f *testing.F) {
	h := fileHeader{generation: 1, firstSeq: 1}
	head := h.append(nil)
	head = append(head, mark{end: frameOffset}.sector(h.seed())...)
	head = append(head, make([]byte, frameOffset-len(head))...)
	e := testEntry(1, 1, 20)
	one := frame{seq: 1, payload: appendMessage(nil, recordEntry, testID, nil, &e)}.append(nil, h.seed())
	two := frame{seq: 2, synced: 1, payload: appendRecord(nil, recordRemoved, testID, nil)}.append(one, h.seed())
	f.Add(one)
	f.Add(two)
	f.Add(two[:700])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := replayJournal("journal", append(bytes.Clone(head), b...))
		if (err == nil) == (r == nil) {
			t.Fatal("neither state nor error, or both")
		}
		if err == nil && r.cut > int64(len(b)) {
			t.Fatalf("cut %d of %d bytes", r.cut, len(b))
		}
		_, _ = parseFileHeader(b)
		_, _ = parseMark(b, 0)
	})
}

func FuzzRecords(f *testing.F) {
	for _, p := range func() [][]byte {
		s := newState()
		n := s.node(testID)
		n.bootstrap = &pb.Bootstrap{Addresses: map[uint64]string{7: "replica-7"}}
		n.state = pb.State{Term: 3, Vote: 7, Commit: 9}
		n.snapshot = savedSnapshot{meta: pb.Snapshot{Index: 5, Term: 2, Filepath: "x"}, sum: FileSum{Size: 1, CRC: 2}}
		n.removedTo = 4
		n.entries = []pb.Entry{testEntry(5, 2, 10), testEntry(6, 3, 30)}
		return s.records(1 << 20)
	}() {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newState()
		if s.replay(b) != nil {
			return
		}
		// What was accepted survives a rewrite.
		again := newState()
		for _, p := range s.records(100) {
			if err := again.replay(p); err != nil {
				t.Fatalf("a rewritten state does not replay: %v", err)
			}
		}
		a, b2 := s.records(1<<30), again.records(1<<30)
		if !bytes.Equal(bytes.Join(a, nil), bytes.Join(b2, nil)) {
			t.Fatal("rewriting changed the state")
		}
	})
}
