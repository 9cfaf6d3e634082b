package engine

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/engine/batch"
	"millrace/engine/disk"
	"millrace/engine/disk/simdisk"
	"millrace/engine/epoch"
	"millrace/engine/index"
	"millrace/engine/producer"

	"pgregory.net/rapid"
)

var dbg bool

var compactionSeed = flag.Uint64("compaction.seed", 0, "run only this seed of the compaction test")

// compactionSim is one compacted log on a simulated disk, with the history of every record.
type compactionSim struct {
	t     testing.TB
	seed  uint64
	rng   *rand.Rand
	disk  *simdisk.Disk
	clock time.Time
	e     *Engine
	l     *Log
	c     *compactor
	cfg   LogConfig
	o     Options

	all    map[int64]*compactionRecord
	byKey  map[string][]*compactionRecord // in offset order
	nextID int
	seqs   map[int64]int32
	open   map[int64][]*compactionRecord // by producer: records of its open transaction
	window window
	aim    int // the power goes out in one of the next visits to the compaction window; 0: no
	cuts   *[windowCount]int
	gone   int // records that compaction has removed, in all
	swaps  int
}

type txnState uint8

const (
	txnNone txnState = iota
	txnOpen
	txnCommitted
	txnAborted
)

type compactionRecord struct {
	offset, timestamp int64
	key, value        []byte
	codec             batch.Codec
	txn               txnState
	marker            bool
	appended          time.Time
}

func (r *compactionRecord) visible() bool {
	return !r.marker && (r.txn == txnNone || r.txn == txnCommitted)
}

func newCompactionSim(t testing.TB, seed uint64) *compactionSim {
	s := &compactionSim{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0x636f6d70)), disk: simdisk.New(seed),
		clock: time.Unix(1_700_000_000, 0),
		all:   make(map[int64]*compactionRecord), byKey: make(map[string][]*compactionRecord),
		seqs: make(map[int64]int32), open: make(map[int64][]*compactionRecord),
	}
	s.cfg = LogConfig{
		SegmentBytes: int64(4+s.rng.IntN(20)) << 10, IndexIntervalBytes: 1 + s.rng.IntN(2000), Compact: true,
		DeleteRetentionMillis: int64(s.rng.IntN(3)) * 60_000, RetentionBytes: -1, RetentionMillis: -1,
	}
	s.o = Options{
		Dir: "/data", FS: s.disk,
		NewQueue:       func(disk.Mode, int) (disk.Queue, string, error) { return s.disk.NewQueue(queueDepth), "", nil },
		CommitBytesMax: 64 << 10, RingBytes: 1 << 20, WALFileBytes: 512 << 10, WALBytes: 4 << 20,
		DiskReserveBytes: 1, OpenFilesMax: 4,
		Now:  func() time.Time { return s.clock },
		Warn: func(f string, a ...any) { t.Logf("warn: "+f, a...) },
		OnFailed: func(err error) {
			if !s.disk.PowerIsOut() {
				s.fatal("directory failed: %v", err)
			}
		},
		onWindow: s.enter,
		salt: func(b []byte) {
			for i := range b {
				b[i] = byte(s.rng.Uint32())
			}
		},
		syncWorkers: 1, manual: true,
	}
	s.start()
	logs, err := s.e.CreateLogs([]LogSpec{{Topic: "compacted", Config: s.cfg}})
	if err != nil {
		s.fatal("create: %v", err)
	}
	s.l = logs[0]
	return s
}

func (s *compactionSim) fatal(format string, a ...any) {
	s.t.Helper()
	s.t.Fatalf("seed %d (repeat: go test ./engine -ldflags=-checklinkname=0 -run '%s' -compaction.seed=%d): %s",
		s.seed, s.t.Name(), s.seed, fmt.Sprintf(format, a...))
}

func (s *compactionSim) start() {
	e, err := Open(s.o)
	if err != nil {
		s.fatal("open: %v", err)
	}
	s.e = e
	s.c = newCompactor(e, e.quit)
	if logs := e.Logs(); len(logs) > 0 {
		s.l = logs[0]
		s.l.SetConfig(s.cfg)
		if s.rng.IntN(2) == 0 {
			e.deleteStrays(func() bool { return true })
			s.verifyFiles()
		}
	}
}

// enter is told what the engine is about to do.
func (s *compactionSim) enter(w window) {
	s.window = w
	if w != winCompaction || s.aim == 0 {
		return
	}
	if s.aim--; s.aim == 0 {
		s.armCut(1)
	}
}

// armCut lets the power go out in one of the next operations of the disk.
func (s *compactionSim) armCut(within int) {
	s.disk.CutAfter(uint64(1+s.rng.IntN(within)), func(simdisk.Op) { s.cuts[s.window]++ })
}

// verifyFiles: after the strays are gone, the folder holds what the log names, and what waits for the
// next checkpoint.
func (s *compactionSim) verifyFiles() {
	known := make(map[string]bool)
	for _, list := range [][]*segment{s.l.stable.segments, s.l.stable.obsolete} {
		for _, g := range list {
			known[g.path()], known[g.indexPath()] = true, true
		}
	}
	names, err := s.disk.ReadDir(s.l.dir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.fatal("%v", err)
	}
	for _, name := range names {
		if !known[filepath.Join(s.l.dir(), name)] {
			s.fatal("%s is still there", name)
		}
	}
}

// put appends a batch and remembers its records.
func (s *compactionSim) put(raw []byte, txn txnState) []*compactionRecord {
	h, err := batch.Validate(raw)
	if err != nil {
		s.fatal("test batch: %v", err)
	}
	res, err := s.l.Append(AppendRequest{Batch: raw, Header: h})
	for range 100 {
		if !errors.Is(err, ErrBusy) {
			break
		}
		if err := s.e.waitRoom(s.e.shards[0]); err != nil {
			s.fatal("room: %v", err)
		}
		res, err = s.l.Append(AppendRequest{Batch: raw, Header: h})
	}
	if err != nil {
		s.fatal("append: %v", err)
	}
	var list []*compactionRecord
	var r batch.Reader
	if err := r.Reset(raw, 1<<20); err != nil {
		s.fatal("%v", err)
	}
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			s.fatal("%v", err)
		}
		m := &compactionRecord{
			offset: res.BaseOffset + int64(rec.OffsetDelta), timestamp: r.Timestamp(&rec), key: bytes.Clone(rec.Key), value: bytes.Clone(rec.Value),
			codec: h.Codec(), txn: txn, marker: h.IsControl(), appended: s.clock,
		}
		s.all[m.offset] = m
		if !m.marker && m.key != nil {
			s.byKey[string(m.key)] = append(s.byKey[string(m.key)], m)
		}
		list = append(list, m)
	}
	return list
}

func (s *compactionSim) append() {
	b := batch.NewBuilder(0, 0)
	b.SetCodec([]batch.Codec{batch.None, batch.Gzip, batch.Snappy, batch.LZ4, batch.Zstd}[s.rng.IntN(5)])
	kind := s.rng.IntN(4)
	var id int64
	switch kind {
	case 1: // idempotent
		id = 1 + s.rng.Int64N(3)
		b.SetProducer(id, 0, s.seqs[id])
	case 2, 3: // transactional
		id = 10 + s.rng.Int64N(3)
		b.SetProducer(id, 0, s.seqs[id])
		b.SetTransactional()
	}
	n := 1 + s.rng.IntN(6)
	for range n {
		var key, value []byte
		if s.rng.IntN(40) > 0 {
			key = fmt.Appendf(nil, "key-%d", s.rng.IntN(40))
		}
		if s.rng.IntN(6) > 0 {
			s.nextID++
			value = append(fmt.Appendf(nil, "value %d ", s.nextID), make([]byte, s.rng.IntN(200))...)
		}
		b.Append(s.clock.UnixMilli()+s.rng.Int64N(1000), key, value, []batch.RecordHeader{{Key: "h", Value: []byte{byte(n)}}})
	}
	if id > 0 {
		s.seqs[id] += int32(n)
	}
	if kind < 2 {
		s.put(b.Build(), txnNone)
		return
	}
	s.open[id] = append(s.open[id], s.put(b.Build(), txnOpen)...)
	if s.rng.IntN(3) == 0 {
		s.endTxn(id)
	}
}

func (s *compactionSim) endTxn(id int64) {
	marker, state := batch.Commit, txnCommitted
	if s.rng.IntN(2) == 0 {
		marker, state = batch.Abort, txnAborted
	}
	for _, r := range s.open[id] {
		r.txn = state
	}
	delete(s.open, id)
	s.put(batch.BuildMarker(0, 0, id, 0, s.clock.UnixMilli(), marker, 0), txnNone)
}

// pump makes everything durable and moves it to segments that a checkpoint names.
func (s *compactionSim) pump() {
	for range 10_000 {
		if s.l.AckEnd() == s.l.AppendedEnd() {
			break
		}
		s.e.shards[0].Poll()
	}
	if err := s.e.shards[0].writer.mover.moveLog(s.l); err != nil {
		s.fatal("move: %v", err)
	}
	s.round()
}

// evict lets the ring forget the log, so that reads see the segments.
func (s *compactionSim) evict() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.l.tail.dropFront(s.l.tail.moved - s.l.tail.head)
}

// ringStart is the first offset that reads may still get from the ring.
func (s *compactionSim) ringStart() int64 {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if live := s.l.tail.live(); len(live) > 0 {
		return live[0].base
	}
	return s.l.end
}

func (s *compactionSim) round() {
	s.l.checkpointDue.Store(true)
	if _, err := s.e.shards[0].writer.round(^uint64(0)); err != nil {
		s.fatal("round: %v", err)
	}
}

func (s *compactionSim) compact() {
	before := s.l.Segments()
	if dbg {
		p := s.c.cleaned[s.l.id]
		s.t.Logf("compact: start %d ring %d end %d cleaned %+v lso %d", s.l.LogStartOffset(), s.ringStart(), s.l.AppendedEnd(), p, s.l.LastStableOffset(s.l.DurableEnd()))
		for _, g := range before {
			s.t.Logf("   %d..%d gen %d %d bytes", g.BaseOffset, g.NextOffset, g.Generation, g.Bytes)
		}
	}
	s.c.keys.bytesMax = []int{compactionMapBytes, keySlotBytes * 16, keySlotBytes * 40}[s.rng.IntN(3)]
	for range 100 {
		if !s.c.step() {
			break
		}
	}
	if after := s.l.Segments(); !slices.Equal(before, after) {
		s.swaps++
	}
}

// compactAndCut lets the power go out somewhere in a compaction or in the round behind it.
func (s *compactionSim) compactAndCut() {
	if s.rng.IntN(3) == 0 {
		s.armCut(60)
	} else {
		s.aim = 1 + s.rng.IntN(3)
	}
	s.compact()
	s.aim = 0
	for range 3 {
		if !s.disk.PowerIsOut() {
			s.l.checkpointDue.Store(true)
			_, _ = s.e.shards[0].writer.round(^uint64(0))
		}
	}
	s.disk.CutAfter(0, nil)
	s.disk.Crash(s.disk.RandomPolicy())
	s.e.release()
	s.start()
}

func (s *compactionSim) reopen() {
	switch s.rng.IntN(3) {
	case 0:
		s.disk.Kill()
	case 1:
		s.disk.Crash(s.disk.RandomPolicy())
	default:
		s.round()
		s.disk.Kill()
	}
	s.e.release()
	s.start()
}

// present reads the whole log.
func (s *compactionSim) present() [][]byte {
	var out [][]byte
	for at := s.l.LogStartOffset(); at < s.l.AppendedEnd(); {
		spans, info, err := s.l.Read(ReadRequest{Offset: at, UpTo: s.l.AppendedEnd(), MaxBytes: 1 + s.rng.IntN(20_000), MinOne: true, MayBlock: true}, nil)
		if err != nil {
			s.fatal("read at %d: %v", at, err)
		}
		if info.NextOffset <= at {
			s.fatal("read at %d of %d made no progress", at, s.l.AppendedEnd())
		}
		b := spanBytes(s.t, spans)
		for len(b) > 0 {
			n, err := batch.PeekSize(b)
			if err != nil || n > len(b) {
				s.fatal("read at %d: torn batch", at)
			}
			if _, err := batch.Validate(b[:n]); err != nil {
				s.fatal("read at %d: %v", at, err)
			}
			out = append(out, b[:n:n])
			b = b[n:]
		}
		at = info.NextOffset
	}
	return out
}

// verify compares what is there with what may and must be.
func (s *compactionSim) verify() {
	batches := s.present()
	seen := make(map[int64]bool)
	last := int64(-1)
	lastSeq := make(map[int64]int32)
	var rebuilt *producer.State
	var epochs epoch.Cache
	var aborted index.Aborted
	for _, b := range batches {
		h, _ := batch.ParseHeader(b)
		if h.BaseOffset <= last {
			s.fatal("batch %d after offset %d", h.BaseOffset, last)
		}
		last = h.LastOffset()
		rebuilt = applyBatch(b, &h, rebuilt, &epochs, &aborted)
		if h.HasProducer() && !h.IsControl() {
			lastSeq[h.ProducerID] = h.LastSequence()
		}
		s.verifyRecords(b, seen)
	}
	if last+1 != s.l.AppendedEnd() {
		s.fatal("the last batch ends at %d, the log at %d", last+1, s.l.AppendedEnd())
	}
	start := s.l.LogStartOffset()
	for id, next := range s.seqs {
		if start == 0 && next > 0 && lastSeq[id] != next-1 {
			s.fatal("the newest batch of producer %d is gone: sequence %d, want %d", id, lastSeq[id], next-1)
		}
	}
	s.verifyNewest(seen, start)
	s.verifyCommittedRead(batches, start)
	s.gone = len(s.all) - len(seen)
}

func (s *compactionSim) verifyRecords(b []byte, seen map[int64]bool) {
	var r batch.Reader
	if err := r.Reset(b, 1<<20); err != nil {
		s.fatal("%v", err)
	}
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			s.fatal("%v", err)
		}
		offset := r.Offset(&rec)
		want := s.all[offset]
		if want == nil || seen[offset] {
			s.fatal("record at %d was never written, or is there twice", offset)
		}
		if !bytes.Equal(rec.Key, want.key) || !bytes.Equal(rec.Value, want.value) || (rec.Value == nil) != (want.value == nil) || r.Timestamp(&rec) != want.timestamp || r.Header().Codec() != want.codec {
			s.fatal("record at %d is %q=%q at %d, was %q=%q at %d", offset, rec.Key, rec.Value, r.Timestamp(&rec), want.key, want.value, want.timestamp)
		}
		seen[offset] = true
	}
}

// verifyNewest: of each key the newest record that counts is there, and what lies in the cleaned part is
// nothing else.
func (s *compactionSim) verifyNewest(seen map[int64]bool, start int64) {
	cleaned := int64(0)
	if p, ok := s.c.cleaned[s.l.id]; ok {
		cleaned = min(p.offset, s.ringStart())
	}
	for key, list := range s.byKey {
		var newest *compactionRecord
		newestBelow := int64(-1)
		for _, r := range list {
			if r.visible() {
				newest = r
				if r.offset < cleaned {
					newestBelow = r.offset
				}
			}
			if r.txn == txnOpen && r.offset >= start && !seen[r.offset] {
				s.fatal("%q at %d of an open transaction is gone", key, r.offset)
			}
		}
		if newest != nil && newest.offset >= start && !seen[newest.offset] {
			if newest.value != nil || s.clock.Before(newest.appended.Add(time.Duration(s.cfg.DeleteRetentionMillis)*time.Millisecond)) {
				s.fatal("the newest record of %q, at %d, is gone", key, newest.offset)
			}
		}
		for _, r := range list {
			if r.offset < cleaned && r.offset >= start && seen[r.offset] && r.offset != newestBelow {
				s.fatal("%q at %d (%v) is still there below %d, the newest is at %d", key, r.offset, r.txn, cleaned, newestBelow)
			}
		}
	}
}

// verifyCommittedRead does what a read_committed consumer does with the aborted transactions that it is told.
func (s *compactionSim) verifyCommittedRead(batches [][]byte, start int64) {
	lso := s.l.LastStableOffset(s.l.AppendedEnd())
	from := start
	if lso > start && s.rng.IntN(2) == 0 {
		from = start + s.rng.Int64N(lso-start)
	}
	told := s.l.AbortedTxns(from, lso)
	inAborted := make(map[int64]bool)
	for _, b := range batches {
		h, _ := batch.ParseHeader(b)
		if h.NextOffset() <= from {
			continue
		}
		if h.NextOffset() > lso {
			break
		}
		for len(told) > 0 && told[0].FirstOffset <= h.LastOffset() {
			inAborted[told[0].ProducerID] = true
			told = told[1:]
		}
		if h.IsControl() {
			if marker, _, err := batch.ParseMarker(b); err == nil && marker == batch.Abort {
				delete(inAborted, h.ProducerID)
			}
			continue
		}
		hidden := h.IsTransactional() && inAborted[h.ProducerID]
		var r batch.Reader
		if err := r.Reset(b, 1<<20); err != nil {
			s.fatal("%v", err)
		}
		for {
			rec, err := r.Next()
			if err != nil {
				break
			}
			if m := s.all[r.Offset(&rec)]; m.visible() == hidden {
				s.fatal("reading from %d: record at %d (%v) is hidden: %v", from, m.offset, m.txn, hidden)
			}
		}
	}
}

func TestCompactionKeepsTheNewestOfEachKey(t *testing.T) {
	first, count := uint64(1), uint64(compactionSeeds)
	if *compactionSeed != 0 {
		first, count = *compactionSeed, 1
	}
	var gone, swaps, total int
	var cuts [windowCount]int
	for seed := first; seed < first+count; seed++ {
		s := newCompactionSim(t, seed)
		s.cuts = &cuts
		for range 60 {
			switch s.rng.IntN(12) {
			case 0, 1:
				s.compact()
				s.verify()
			case 2:
				s.pump()
				if s.rng.IntN(2) == 0 {
					s.evict()
				}
			case 3:
				s.clock = s.clock.Add(time.Duration(s.rng.IntN(50)) * time.Second)
			case 4:
				if s.rng.IntN(3) == 0 {
					s.pump()
					s.reopen()
					s.verify()
					break
				}
				for range 2 {
					for range 10 {
						s.append()
					}
					s.pump()
					s.compactAndCut()
					s.verify()
				}
			case 5:
				for id := range s.open {
					s.endTxn(id)
					break // one of them is enough
				}
			case 6:
				if s.rng.IntN(6) == 0 && s.l.AppendedEnd() > 0 {
					s.pump()
					if err := s.l.SetLogStart(s.rng.Int64N(s.l.LastStableOffset(s.l.AppendedEnd()) + 1)); err != nil {
						s.fatal("log start: %v", err)
					}
				}
			default:
				for range 1 + s.rng.IntN(20) {
					s.append()
				}
			}
		}
		for _, id := range []int64{10, 11, 12} {
			if s.open[id] != nil {
				s.endTxn(id)
			}
		}
		s.pump()
		s.evict()
		s.compact()
		s.verify()
		gone, swaps, total = gone+s.gone, swaps+s.swaps, total+len(s.all)
		s.e.release()
		s.disk.Kill()
	}
	t.Logf("%d of %d records removed in %d compactions; power cuts by window %v", gone, total, swaps, cuts)
	if count > 1 && (gone < total/4 || swaps < int(count)) {
		t.Fatalf("only %d of %d records removed in %d compactions: the test tests too little", gone, total, swaps)
	}
	if count >= 80 && cuts[winCompaction] < cutsWanted {
		t.Errorf("only %d crashes in %v", cuts[winCompaction], winCompaction)
	}
}

// fill makes a segment of each list of batches; the last one stays active.
func (s *compactionSim) fill(segments ...[][]byte) {
	s.cfg.SegmentBytes = 1 << 20
	s.l.SetConfig(s.cfg)
	for i, batches := range segments {
		for _, b := range batches {
			s.put(b, txnNone)
		}
		s.pump()
		if i+1 < len(segments) {
			s.seal()
		}
		s.round()
		s.evict()
	}
}

func (s *compactionSim) seal() {
	m := s.e.shards[0].writer.mover
	s.l.stable.writeMu.Lock()
	err := m.sealActive(s.l)
	s.l.stable.writeMu.Unlock()
	if err != nil {
		s.fatal("seal: %v", err)
	}
}

func one(timestamp int64, key, value string) []byte {
	b := batch.NewBuilder(0, 0)
	var v []byte
	if value != "" {
		v = []byte(value)
	}
	b.Append(timestamp, []byte(key), v, nil)
	return b.Build()
}

func (s *compactionSim) offsets() []int64 {
	seen := make(map[int64]bool)
	for _, b := range s.present() {
		s.verifyRecords(b, seen)
	}
	var list []int64
	for offset := range seen {
		list = append(list, offset)
	}
	slices.Sort(list)
	return list
}

func TestTombstonesStayForDeleteRetention(t *testing.T) {
	s := newCompactionSim(t, 1)
	s.cfg.DeleteRetentionMillis = 60_000
	tail := [][]byte{one(0, "z", "end")}
	s.fill([][]byte{one(0, "a", "1"), one(0, "b", "1"), one(0, "a", "")}, [][]byte{one(0, "c", "1")}, tail)
	s.c.step()
	if got := s.offsets(); !slices.Equal(got, []int64{1, 2, 3, 4}) {
		t.Fatalf("after the first compaction: %v", got)
	}
	s.round()
	s.clock = s.clock.Add(59 * time.Second)
	s.fill([][]byte{one(0, "d", "1")}, tail) // something dirty, so that the log is due
	s.c.step()
	if got := s.offsets(); !slices.Contains(got, 2) {
		t.Fatalf("the tombstone went too early: %v", got)
	}
	s.round()
	s.clock = s.clock.Add(2 * time.Second)
	s.fill([][]byte{one(0, "e", "1")}, tail)
	s.c.step()
	if got := s.offsets(); slices.Contains(got, 2) || !slices.Contains(got, 1) {
		t.Fatalf("after the delete horizon: %v", got)
	}
}

func TestCompactionLeavesCleanSegmentsAlone(t *testing.T) {
	s := newCompactionSim(t, 1)
	s.cfg.SegmentBytes = 1
	big := string(bytes.Repeat([]byte("x"), 40_000))
	s.fill([][]byte{one(0, "a", big)}, [][]byte{one(0, "b", big)}, [][]byte{one(0, "c", big)}, [][]byte{one(0, "d", "")})
	s.cfg.SegmentBytes = 50_000 // so that no two of them fit into one
	s.l.SetConfig(s.cfg)
	before := s.l.Segments()
	if !s.c.step() {
		t.Fatal("not due")
	}
	if after := s.l.Segments(); !slices.Equal(before, after) {
		t.Fatalf("segments that lose nothing were rewritten:\n%v\n%v", before, after)
	}
	if s.c.step() {
		t.Fatal("due again without news")
	}
}

func TestCompactionJoinsSmallSegments(t *testing.T) {
	s := newCompactionSim(t, 1)
	s.fill([][]byte{one(0, "a", "1")}, [][]byte{one(0, "a", "2")}, [][]byte{one(0, "b", "1")}, [][]byte{one(0, "a", "3")})
	s.c.step()
	after := s.l.Segments()
	if len(after) != 2 || after[0].BaseOffset != 0 || after[0].NextOffset != 3 {
		t.Fatalf("%+v", after)
	}
	// Everything reads as before over the holes, and the old files are gone after the checkpoint.
	if got := s.offsets(); !slices.Equal(got, []int64{1, 2, 3}) {
		t.Fatalf("%v", got)
	}
	s.round()
	s.round()
	names, err := s.disk.ReadDir(s.l.dir())
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, name := range names {
		if len(name) > 4 && name[len(name)-4:] == ".log" {
			files++
		}
	}
	if files != 1 { // the active one has not filled a block
		t.Fatalf("files: %v", names)
	}
}

func TestIdleLogIsCleanedWithinMaxCompactionLag(t *testing.T) {
	s := newCompactionSim(t, 1)
	s.cfg.MaxCompactionLagMillis, s.cfg.MinCleanableRatio = 60_000, 0.99
	s.fill([][]byte{one(0, "a", "1"), one(0, "a", "2"), one(0, "b", "1"), one(0, "b", "2")})
	s.clock = s.clock.Add(59 * time.Second)
	if s.c.step() {
		t.Fatal("too early")
	}
	s.clock = s.clock.Add(2 * time.Second)
	for range 3 {
		s.c.step()
		s.round()
		s.clock = s.clock.Add(compactionTick)
	}
	if got := s.offsets(); !slices.Equal(got, []int64{1, 3}) {
		t.Fatalf("%v", got)
	}
	if s.l.AppendedEnd() != 4 || s.l.Segments()[0].NextOffset != 4 {
		t.Fatalf("the log's end moved: %+v", s.l.Segments())
	}
	// The next batch goes on where the log ended.
	s.fill([][]byte{one(0, "a", "3")})
	s.verify()
	if got := s.offsets(); !slices.Equal(got, []int64{1, 3, 4}) {
		t.Fatalf("%v", got)
	}
}

func TestCompactionStopsAtDamage(t *testing.T) {
	s := newCompactionSim(t, 1)
	warned := 0
	s.e.o.Warn = func(string, ...any) { warned++ }
	s.fill([][]byte{one(0, "a", "1"), one(0, "a", "2")}, [][]byte{one(0, "b", "1")})
	g := s.l.Segments()[0]
	if err := s.disk.Rot(g.Path, 70, 3); err != nil {
		t.Fatal(err)
	}
	if !s.c.step() || warned != 1 {
		t.Fatalf("%d warnings", warned)
	}
	if after := s.l.Segments()[0]; after != g {
		t.Fatalf("a damaged segment was replaced: %+v", after)
	}
	if s.c.step() {
		t.Fatal("tried again at once")
	}
}

func TestCompactionKeepsRecordsThatCannotBeRead(t *testing.T) {
	s := newCompactionSim(t, 1)
	good := one(0, "a", "1")
	b := batch.NewBuilder(0, 0)
	b.Append(0, []byte("a"), []byte("v"), nil)
	bad := b.Build()
	bad[61] = 0x7f // the record's length; the CRC is made right again
	batch.SetMaxTimestamp(bad, 5)
	h, err := batch.Validate(bad)
	if err != nil {
		t.Fatal(err)
	}
	s.fill([][]byte{good})
	if _, err := s.l.Append(AppendRequest{Batch: bad, Header: h}); err != nil {
		t.Fatal(err)
	}
	s.fill([][]byte{one(0, "a", "2")}, [][]byte{one(0, "z", "")})
	if !s.c.step() {
		t.Fatal("not due")
	}
	var bases []int64
	for _, b := range s.present() {
		h, _ := batch.ParseHeader(b)
		bases = append(bases, h.BaseOffset)
	}
	if !slices.Equal(bases, []int64{1, 2, 3}) {
		t.Fatalf("batches %v", bases)
	}
}

func TestTruncationUnderCompactionIsNoticed(t *testing.T) {
	s := newCompactionSim(t, 1)
	s.fill([][]byte{one(0, "a", "old")}, [][]byte{one(0, "a", "new")}, [][]byte{one(0, "b", "1")})
	j := s.c.prepare(s.l, s.clock)
	if err := j.takeState(); err != nil {
		t.Fatal(err)
	}
	if err := j.buildMap(); err != nil {
		t.Fatal(err)
	}
	if err := s.l.Truncate(1, 0); err != nil { // the newer record goes away
		t.Fatal(err)
	}
	j.txns, j.gone = newCleanTxns(nil), make(map[int64]bool)
	if _, err := j.cleanGroup(0, 1); !errors.Is(err, errCompactionConflict) {
		t.Fatalf("got %v", err)
	}
	if got := s.offsets(); !slices.Equal(got, []int64{0}) {
		t.Fatalf("%v", got)
	}
}

func TestPlanTakesOnlyWhatMayBeCleaned(t *testing.T) {
	seg := func(base, size, maxTime int64) planSegment {
		return planSegment{base: base, next: base + 10, size: size, maxTime: maxTime, created: maxTime, settled: true}
	}
	all := []planSegment{seg(0, 100, 1), seg(10, 100, 2), seg(20, 100, 3), seg(30, 100, 4)}
	all[3].settled = false // the active one
	unsettled := slices.Clone(all)
	unsettled[1].settled = false
	for _, tc := range []struct {
		name     string
		segments []planSegment
		limits   planLimits
		count    int
		due      bool
	}{
		{"all but the active one", all, planLimits{stable: 100, dirtyRatio: 0.5}, 3, true},
		{"nothing at all", nil, planLimits{stable: 100}, 0, false},
		{"the active one alone", all[3:], planLimits{stable: 100}, 0, false},
		{"all of an idle log", all[:3], planLimits{stable: 100}, 3, true},
		{"below the stable offset", all, planLimits{stable: 20}, 2, true},
		{"stable offset inside a segment", all, planLimits{stable: 19}, 1, true},
		{"not flushed yet", unsettled, planLimits{stable: 100}, 1, true},
		{"ratio not reached", all, planLimits{stable: 100, dirty: 20, dirtyRatio: 0.5}, 3, false},
		{"ratio reached", all, planLimits{stable: 100, dirty: 10, dirtyRatio: 0.5}, 3, true},
		{"nothing dirty", all, planLimits{stable: 100, dirty: 30}, 3, false},
		{"too young", all, planLimits{stable: 100, nowMillis: 10, minLag: 8}, 2, true},
		{"young but clean", all, planLimits{stable: 100, nowMillis: 10, minLag: 9, dirty: 20}, 2, false},
		{"overdue", all, planLimits{stable: 100, dirty: 20, dirtyRatio: 0.9, nowMillis: 10, maxLag: 6}, 3, true},
		{"not overdue", all, planLimits{stable: 100, dirty: 20, dirtyRatio: 0.9, nowMillis: 10, maxLag: 7}, 3, false},
	} {
		if p := planClean(tc.segments, tc.limits); p.count != tc.count || p.due != tc.due {
			t.Errorf("%s: %+v, want %d segments, due %v", tc.name, p, tc.count, tc.due)
		}
	}
}

func TestGroupsFitIntoSegments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var list []planSegment
		base := int64(0)
		for range rapid.IntRange(0, 20).Draw(t, "segments") {
			g := planSegment{base: base, next: base + rapid.Int64Range(1, 1<<30).Draw(t, "offsets"), size: rapid.Int64Range(1, 200).Draw(t, "size")}
			list = append(list, g)
			base = g.next
		}
		at := 0
		for _, n := range groupSegments(list, 100) {
			size := int64(0)
			for _, g := range list[at : at+n] {
				size += g.size
			}
			if n < 1 || n > 1 && (size > 100 || list[at+n-1].next-list[at].base >= 1<<31) {
				t.Fatalf("group of %d at %d: %d bytes", n, at, size)
			}
			at += n
		}
		if at != len(list) {
			t.Fatalf("%d of %d segments are in groups", at, len(list))
		}
	})
}

func TestKeyMapAgreesWithAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := keyOffsets{bytesMax: 100 * keySlotBytes}
		twin := make(map[string]int64)
		n := rapid.IntRange(0, 5000).Draw(t, "keys")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		for i := range n {
			key := fmt.Appendf(nil, "%d", rng.IntN(4000))
			m.put(key, int64(i))
			twin[string(key)] = int64(i)
		}
		if m.count != len(twin) || m.full() != (len(twin) >= 75) {
			t.Fatalf("%d keys, want %d; full: %v", m.count, len(twin), m.full())
		}
		for i := range 4000 {
			key := fmt.Appendf(nil, "%d", i)
			want, ok := twin[string(key)]
			if !ok {
				want = -1
			}
			if got := m.get(key); got != want {
				t.Fatalf("key %s is at %d, want %d", key, got, want)
			}
		}
		m.reset()
		if m.get([]byte("1")) != -1 {
			t.Fatal("a forgotten key is still there")
		}
	})
}

// Appends, reads and compactions at the same time, on real threads and files.
func TestCompactionWhileTheLogIsInUse(t *testing.T) {
	o := testOptions(t)
	e := mustOpen(t, o)
	logs, err := e.CreateLogs([]LogSpec{{Topic: "compacted", Config: LogConfig{Compact: true, SegmentBytes: 64 << 10, RetentionBytes: -1, RetentionMillis: -1}}})
	if err != nil {
		t.Fatal(err)
	}
	l := logs[0]
	const keys, batches = 50, 3000
	done := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				e.Compact()
			}
		}
	})
	group.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				readNewest(t, l)
			}
		}
	})
	want := make(map[string]string)
	for i := range batches {
		b := batch.NewBuilder(0, 0)
		for k := range 3 {
			key := fmt.Sprintf("key-%d", (i*7+k)%keys)
			want[key] = fmt.Sprintf("%d-%d-%s", i, k, bytes.Repeat([]byte("."), i%300))
			b.Append(int64(i), []byte(key), []byte(want[key]), nil)
		}
		raw := b.Build()
		h, _ := batch.ParseHeader(raw)
		appendOne(t, l, raw, h)
	}
	awaitAck(t, l, l.AppendedEnd())
	close(done)
	group.Wait()
	for range 2 {
		if got := readNewest(t, l); !maps.Equal(got, want) {
			t.Fatalf("%d keys, want %d", len(got), len(want))
		}
		size := l.SizeBytes()
		e.Compact()
		t.Logf("%d bytes, %d after the last compaction", size, l.SizeBytes())
		mustClose(t, e)
		e = mustOpen(t, o)
		l = e.Logs()[0]
	}
	mustClose(t, e)
}

// readNewest reads the whole log and returns the last value of each key.
func readNewest(t *testing.T, l *Log) map[string]string {
	got := make(map[string]string)
	var r batch.Reader
	end := l.AppendedEnd()
	for at := l.LogStartOffset(); at < end; {
		spans, info, err := l.Read(ReadRequest{Offset: at, UpTo: end, MaxBytes: 256 << 10, MinOne: true, MayBlock: true}, nil)
		if err != nil || info.NextOffset <= at {
			t.Errorf("read at %d of %d: next %d, %v", at, end, info.NextOffset, err)
			return got
		}
		for b := spanBytes(t, spans); len(b) > 0; {
			n, err := batch.PeekSize(b)
			if err != nil || n > len(b) {
				t.Errorf("torn batch at %d", at)
				return got
			}
			if err := r.Reset(b[:n], 1<<20); err != nil {
				t.Error(err)
				return got
			}
			for {
				rec, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Error(err)
					return got
				}
				got[string(rec.Key)] = string(rec.Value)
			}
			b = b[n:]
		}
		at = info.NextOffset
	}
	return got
}
