package engine

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/engine/batch"
	"millrace/engine/disk"
	"millrace/engine/disk/simdisk"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "run only this seed of the crash simulation")
	simSeeds = flag.Int("sim.seeds", 2000, "seeds of the crash simulation")
)

// sim runs one engine on a simulated disk through appends, truncations, drops, crashes
// and recoveries, beside a model of what must be there.
//
// The oracle: after a recovery each log is what some prefix of its history made of it, and the
// prefix holds everything that had been acknowledged.
type sim struct {
	t      testing.TB
	seed   uint64
	rng    *rand.Rand
	disk   *simdisk.Disk
	o      Options
	e      *Engine
	clock  time.Time
	logs   []*modelLog
	nextID int

	window  window
	aim     window // where the power is to go out, winIdle: anywhere
	aimSkip int    // visits until then
	opening bool
	cuts    *[windowCount]int
	holes   *int   // recoveries that found a whole group behind a torn one
	second  uint64 // first LSN of the second group in flight when the engine ended, 0: there was none
	trace   []string
	soft    bool

	maxBatch int
	d1       bool
	eio      bool // a fault was injected: the directory may fail
	tight    bool // the disk runs full now and then
	forger   bool // some producers forge commits
}

// stepFS writes segments and checkpoints block by block, so that a full disk shows as what
// it is: a real file's WriteAt goes on after a short count and meets ENOSPC.
type stepFS struct{ *simdisk.Disk }

type stepFile struct{ disk.File }

func (d stepFS) OpenFile(name string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := d.Disk.OpenFile(name, flag, perm)
	if err != nil || strings.Contains(name, "/wal-") {
		return f, err // a queue wants its own files
	}
	return stepFile{f}, nil
}

func (f stepFile) WriteAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n := min(len(p)-done, blockSize-int((off+int64(done))%blockSize))
		if _, err := f.File.WriteAt(p[done:done+n], off+int64(done)); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// modelLog is the history of one log.
type modelLog struct {
	id        TopicID
	partition int32
	name      string
	state     modelState // what is known to be durable
	pending   []modelOp  // what may or may not survive, oldest first
	epoch     int32
	producer  modelProducer
	cfg       LogConfig
	kept      int // pending operations that a kill must not take; a power cut may
}

type modelProducer struct {
	id   int64
	next int32
	last []byte // newest acknowledged or pending batch, to send again
	at   int64
}

type modelState struct {
	exists     bool
	start, end int64
	batches    []modelBatch
}

type modelBatch struct {
	base, next int64
	raw        []byte // as stored
}

type modelOp struct {
	kind   recordType
	base   int64 // truncate to, log start, reset to
	batch  modelBatch
	ackAt  int64 // append: durable when AckEnd is here
	record bool  // durable by other means
}

func (st modelState) apply(op modelOp) modelState {
	switch op.kind {
	case recCreate:
		return modelState{exists: true}
	case recDrop:
		return modelState{}
	case recAppend:
		st.batches = append(st.batches[:len(st.batches):len(st.batches)], op.batch)
		st.end = op.batch.next
	case recTruncate:
		n := len(st.batches)
		for n > 0 && st.batches[n-1].next > op.base {
			n--
		}
		st.batches = st.batches[:n]
		st.end = op.base
	case recReset:
		st.batches = nil
		st.start, st.end = op.base, op.base
	case recStartOffset:
		st.start = max(st.start, op.base)
		n := 0
		for n < len(st.batches) && st.batches[n].next <= st.start {
			n++
		}
		st.batches = st.batches[n:]
	default: // changes no record
	}
	return st
}

func (m *modelLog) latest() modelState {
	st := m.state
	for _, op := range m.pending {
		st = st.apply(op)
	}
	return st
}

// settle makes the first n pending operations durable.
func (m *modelLog) settle(n int) {
	for _, op := range m.pending[:n] {
		m.state = m.state.apply(op)
	}
	m.pending = append([]modelOp(nil), m.pending[n:]...)
}

func newSim(t testing.TB, seed uint64) *sim {
	s := &sim{
		t:     t,
		seed:  seed,
		rng:   rand.New(rand.NewPCG(seed, 0x656e67696e65)),
		disk:  simdisk.New(seed),
		clock: time.Unix(1_700_000_000, 0),
	}
	s.cuts, s.holes = new([windowCount]int), new(int)
	s.maxBatch = []int{300, 3000, 12000}[s.rng.IntN(3)]
	s.d1 = s.rng.IntN(5) == 0
	s.tight = s.rng.IntN(6) == 0
	s.forger = s.rng.IntN(4) == 0
	s.o = Options{
		Dir: "/data", FS: stepFS{s.disk},
		NewQueue:       func(disk.Mode, int) (disk.Queue, string, error) { return s.disk.NewQueue(queueDepth), "", nil },
		CommitBytesMax: 16 << 10, RingBytes: int64(4+s.rng.IntN(12)) * 16 << 10,
		WALFileBytes: 64 << 10, WALBytes: int64(3+s.rng.IntN(3)) * 64 << 10,
		DiskReserveBytes: 1, OpenFilesMax: 4,
		Now:      func() time.Time { return s.clock },
		Warn:     func(f string, a ...any) { s.log("warn: "+f, a...) },
		OnFailed: func(err error) { s.log("failed: %v", err) },
		onWindow: s.enter,
		salt:     s.random,
		stalled: func() {
			s.log("stalled: the disk gets room")
			s.disk.SetCapacity(1 << 40)
			s.clock = s.clock.Add(time.Second)
		},
		syncWorkers: 1, chunkBytes: 16 << 10, manual: true,
	}
	return s
}

func (s *sim) random(b []byte) {
	for i := range b {
		b[i] = byte(s.rng.Uint32())
	}
}

func (s *sim) log(format string, a ...any) {
	s.trace = append(s.trace, fmt.Sprintf(format, a...))
	if len(s.trace) > 400 {
		s.trace = append(s.trace[:0], s.trace[200:]...)
	}
}

type simFailure string

func (s *sim) fatal(format string, a ...any) {
	msg := fmt.Sprintf(format, a...)
	if s.soft {
		panic(simFailure(msg))
	}
	n := len(s.trace)
	s.t.Fatalf("seed %d: %s\n(repeat: go test ./engine -ldflags=-checklinkname=0 -run '%s' -sim.seed=%d)\n%s",
		s.seed, msg, s.t.Name(), s.seed, strings.Join(s.trace[max(0, n-120):], "\n"))
}

// open opens the engine, through as many crashes in recovery as it takes.
func (s *sim) open() {
	for {
		s.opening = true
		e, err := Open(s.o)
		s.opening = false
		if err == nil {
			s.e = e
			// Either way of making commits durable, whatever the tuner thinks of simulated time.
			e.shards[0].tuner.useFlush = s.rng.IntN(2) == 0
			return
		}
		if !s.disk.PowerIsOut() && !s.eio {
			s.fatal("open: %v", err)
		}
		s.disk.SetFaults(nil)
		s.log("crash while opening: %v", err)
		s.powerCut()
	}
}

func (s *sim) powerCut() {
	if s.rng.IntN(3) == 0 {
		s.log("-- process killed")
		s.disk.Kill()
		return
	}
	s.cutPower()
}

func (s *sim) cutPower() {
	p := s.disk.RandomPolicy()
	s.log("-- power cut %+v", p)
	s.disk.Crash(p)
	for _, m := range s.logs {
		m.kept = 0
	}
}

// crash ends the engine where it stands.
func (s *sim) crash() (killed bool) {
	killed = s.rng.IntN(3) == 0
	if killed {
		s.log("-- process killed")
		if !s.disk.PowerIsOut() {
			// Completed writes survive the process: D1 keeps what it acknowledged, too.
			for _, m := range s.logs {
				if l := s.e.Log(m.id, m.partition); l != nil {
					m.kept = m.acknowledged(l.AckEnd())
				}
			}
		}
		s.disk.Kill()
	} else {
		s.cutPower()
	}
	sh := s.e.shards[0]
	if len(sh.groups) > 1 && len(sh.groups[1].commits) > 0 {
		s.second = sh.groups[1].commits[0].lsn
	}
	s.log("-- durable LSN %d, written %d, marked %d, d1 %v", sh.durableLSN.Load(), sh.writtenLSN.Load(), sh.markedLSN.Load(), s.d1)
	for _, w := range append(append(append([]*walFile(nil), sh.fullFiles...), sh.freeFiles...), sh.cur) {
		if w != nil {
			s.log("-- %s: generation %d, commits %d to %d", w.name, w.generation, w.firstLSN, w.lastLSN)
		}
	}
	s.e.release()
	s.e = nil
	return killed
}

// armCut lets the power go out in one of the next operations of the disk.
func (s *sim) armCut(within int) {
	s.disk.CutAfter(uint64(1+s.rng.IntN(within)), func(op simdisk.Op) {
		ws := s.windows(op)
		for _, w := range ws {
			s.cuts[w]++
		}
		s.log("** power out in %v (%v)", ws, op)
	})
}

// aimed are the windows in which the disk does little: chance alone would hardly ever hit them.
var aimed = [...]window{winWALFlush, winDirSync, winRecycle, winWALCreate, winWALCreate, winWALCreate, winSegmentSync}

// aimCut lets the power go out in one of the next few visits to a window.
func (s *sim) aimCut(w window) {
	s.aim, s.aimSkip = w, 1+s.rng.IntN(4)
}

// enter is told what the engine is about to do.
func (s *sim) enter(w window) {
	s.window = w
	if w == winWALWrite && s.e != nil && s.e.shards[0].cur != nil && s.e.shards[0].cur.fresh {
		w = winRecycle
	}
	if s.opening || s.aim == winIdle || s.aim != w {
		return
	}
	if s.aimSkip--; s.aimSkip == 0 {
		s.aim = winIdle
		s.armCut(2)
	}
}

// windows are the crash windows that are open when the power goes out in op.
func (s *sim) windows(op simdisk.Op) []window {
	if s.opening {
		return []window{winRecovery}
	}
	ws := []window{s.window}
	if strings.Contains(op.Path, "/wal-") && s.window != winWALCreate {
		switch {
		case op.Kind == simdisk.Fsync:
			ws[0] = winWALFlush
		case op.Kind == simdisk.Write:
			ws[0] = winWALWrite
			if op.Off == 0 {
				ws = append(ws, winRecycle) // the first use of a file after its last
			}
		}
	}
	// What is under way in the logs: no locks, everything runs on this goroutine.
	open := make(map[window]bool)
	for _, l := range s.e.byID {
		for i := range l.ops {
			switch l.ops[i].kind {
			case recTruncate:
				open[winTruncate] = true
			case recDrop:
				open[winDrop] = true
			default: // no window
			}
		}
		open[winDrop] = open[winDrop] || l.dropped
		for _, g := range l.stable.segments {
			open[winSeal] = open[winSeal] || g.sealed && (g.unsynced || g.dirDirty)
		}
	}
	open[winOverlap] = len(s.e.shards[0].groups) > 1
	for _, w := range []window{winTruncate, winDrop, winSeal, winOverlap} {
		if open[w] && ws[0] != w {
			ws = append(ws, w)
		}
	}
	return ws
}

// armFault lets one of the next operations on the disk fail.
func (s *sim) armFault(within int) {
	left := 1 + s.rng.IntN(within)
	short := s.rng.IntN(3) == 0
	s.disk.SetFaults(func(op simdisk.Op) simdisk.Fault {
		if op.Kind == simdisk.Read {
			return simdisk.Fault{}
		}
		if left--; left != 0 {
			return simdisk.Fault{}
		}
		s.eio = true
		s.log("** fault in %v", op)
		if short && op.Kind == simdisk.Write && op.Len > 512 {
			return simdisk.Fault{Short: 512}
		}
		return simdisk.Fault{Err: syscall.EIO}
	})
}

// disarm makes the disk healthy and roomy.
func (s *sim) disarm() {
	s.aim = winIdle
	s.disk.CutAfter(0, nil)
	s.disk.SetFaults(nil)
	s.disk.SetCapacity(1 << 40)
	s.eio = false
}

func (s *sim) run(cycles, steps int) {
	s.open()
	for range cycles {
		switch s.rng.IntN(6) {
		case 0:
		case 1:
			s.armFault(steps * 2)
		case 2, 3:
			s.aimCut(aimed[s.rng.IntN(len(aimed))])
		default:
			s.armCut(steps * 3)
		}
		for range steps {
			s.step()
			if s.disk.PowerIsOut() || s.e.Failed() != nil {
				break
			}
			s.checkCoverage()
			s.observe()
		}
		if !s.disk.PowerIsOut() && s.e.Failed() == nil {
			s.observe()
			if s.rng.IntN(4) == 0 {
				s.close()
			}
		}
		if s.e != nil {
			if err := s.e.Failed(); err != nil && !s.disk.PowerIsOut() && !s.eio {
				s.fatal("directory failed without a fault: %v", err)
			}
			s.crash()
		}
		s.disarm()
		if s.rng.IntN(4) == 0 {
			s.armCut(40)
		}
		s.open()
		s.disarm()
		if r := s.e.Recovery(); s.second > r.torn && r.torn > 0 && r.behind >= s.second {
			*s.holes++
		}
		s.second = 0
		s.verify()
	}
	s.e.release()
	s.disk.Kill()
}

// close stops cleanly.
func (s *sim) close() {
	s.log("-- clean close")
	ctx := context.Background()
	if err := s.e.Close(ctx); err != nil {
		if !s.disk.PowerIsOut() && !s.eio {
			s.fatal("close: %v", err)
		}
		s.powerCut()
		s.e = nil
		return
	}
	for _, m := range s.logs {
		m.settle(len(m.pending)) // everything is durable
	}
	s.e = nil
	if s.rng.IntN(2) == 0 {
		s.powerCut()
	}
}

// step does one random thing.
func (s *sim) step() {
	if s.tight && s.rng.IntN(30) == 0 {
		capacity := int64(1 << 40)
		if s.rng.IntN(2) == 0 {
			free, total, _ := s.disk.Statfs("/")
			capacity = total - free + s.rng.Int64N(100<<10)
		}
		s.log("capacity %d", capacity)
		s.disk.SetCapacity(capacity)
		s.clock = s.clock.Add(time.Second)
		s.e.checkSpace()
	}
	switch n := s.rng.IntN(100); {
	case n < 45:
		s.append()
	case n < 75:
		s.e.shards[0].Poll()
	case n < 83:
		s.e.shards[0].writer.step()
	case n < 88:
		s.e.shards[0].writer.stepRound()
	case n < 90:
		s.clock = s.clock.Add(time.Duration(s.rng.IntN(300)) * time.Millisecond)
		s.e.shards[0].housekeep(s.clock)
	case n < 91:
		if _, err := s.e.shards[0].writer.round(s.e.shards[0].durableLSN.Load()); err != nil && !noSpace(err) {
			s.e.fail(err) // as stepRound does
		}
	case n < 93:
		s.truncate()
	case n < 95:
		s.setStart()
	case n < 96:
		s.create()
	case n < 97:
		s.drop()
	case n < 98:
		s.reset()
	case n < 99:
		for _, l := range s.e.Logs() {
			l.SetHighWatermarkHint(l.AckEnd()) // as the only replica's owner does
		}
		s.e.ApplyRetention()
		s.afterRetention()
	default:
		s.beginEpoch()
	}
}

// failed accepts an error only when the power is out.
func (s *sim) failed(what string, err error) {
	if !s.disk.PowerIsOut() && s.e.Failed() == nil {
		s.fatal("%s: %v", what, err)
	}
	if !s.disk.PowerIsOut() && !s.eio {
		s.fatal("%s: %v, without a fault", what, err)
	}
	s.log("%s: %v", what, err)
}

func (s *sim) pick() (*modelLog, *Log) {
	if len(s.logs) == 0 {
		s.create()
		return nil, nil
	}
	m := s.logs[s.rng.IntN(len(s.logs))]
	l := s.e.Log(m.id, m.partition)
	if l == nil {
		return nil, nil // its drop or create is not decided yet
	}
	return m, l
}

func (s *sim) create() {
	if len(s.logs) >= 6 {
		return
	}
	s.nextID++
	m := &modelLog{name: fmt.Sprintf("t%d", s.nextID), partition: int32(s.rng.IntN(3))}
	copy(m.id[:], m.name)
	m.cfg = LogConfig{SegmentBytes: int64(8+s.rng.IntN(40)) << 10, IndexIntervalBytes: 1 + s.rng.IntN(4096), Delete: true, RetentionBytes: -1, RetentionMillis: -1}
	if s.rng.IntN(3) == 0 {
		m.cfg.RetentionBytes = int64(s.rng.IntN(60)) << 10
	}
	if s.d1 {
		m.cfg.FlushMessages, m.cfg.FlushMillis = 50, 200
	}
	m.producer.id = int64(s.nextID)
	m.pending = []modelOp{{kind: recCreate, record: true}}
	s.logs = append(s.logs, m)
	s.log("create %s", m.name)
	_, err := s.e.CreateLogs([]LogSpec{{TopicID: m.id, Topic: m.name, Partition: m.partition, Config: m.cfg}})
	if err != nil {
		s.failed("create", err)
		return
	}
	m.settle(1)
}

func (s *sim) drop() {
	if len(s.logs) < 2 {
		return
	}
	m, l := s.pick()
	if m == nil {
		return
	}
	s.log("drop %s", m.name)
	m.pending = append(m.pending, modelOp{kind: recDrop, record: true})
	if err := s.e.DropLogs([]*Log{l}); err != nil {
		s.failed("drop", err)
		return
	}
	m.settle(len(m.pending))
	s.forget(m)
}

func (s *sim) forget(m *modelLog) {
	for i := range s.logs {
		if s.logs[i] == m {
			s.logs = append(s.logs[:i], s.logs[i+1:]...)
			return
		}
	}
}

func (s *sim) append() {
	m, l := s.pick()
	if m == nil {
		return
	}
	idempotent := s.rng.IntN(3) == 0
	b := batch.NewBuilder(0, m.epoch)
	if idempotent {
		b.SetProducer(m.producer.id, 0, m.producer.next)
	}
	count := 1 + s.rng.IntN(3)
	forged := s.forger && s.rng.IntN(3) == 0
	if forged {
		count = 1
		b.Append(s.clock.UnixMilli(), nil, s.forgery(), nil)
	}
	for i := range count {
		if forged {
			break
		}
		value := make([]byte, s.rng.IntN(s.maxBatch/count))
		s.random(value[:min(len(value), 64)])
		b.Append(s.clock.UnixMilli()+int64(i), []byte("k"), value, nil)
	}
	raw := b.Build()
	h, _ := batch.ParseHeader(raw)
	r, err := l.Append(AppendRequest{Batch: raw, Header: h, LeaderEpoch: m.epoch, NoKick: s.rng.IntN(2) == 0})
	if errors.Is(err, ErrBusy) || errors.Is(err, ErrDiskFull) {
		return
	}
	if err != nil {
		s.failed("append", err)
		return
	}
	if r.Duplicate {
		s.fatal("%s: new batch called a duplicate of %d", m.name, r.BaseOffset)
	}
	stored := append([]byte(nil), raw...)
	batch.SetBaseOffset(stored, r.BaseOffset)
	batch.SetLeaderEpoch(stored, m.epoch)
	want := m.latest().end
	if r.BaseOffset != want || r.LastOffset != want+int64(count)-1 {
		s.fatal("%s: append went to %d-%d, the log's end was %d", m.name, r.BaseOffset, r.LastOffset, want)
	}
	m.pending = append(m.pending, modelOp{kind: recAppend, batch: modelBatch{r.BaseOffset, r.LastOffset + 1, stored}, ackAt: r.LastOffset + 1})
	if idempotent {
		m.producer.next += int32(count)
		m.producer.last, m.producer.at = raw, r.BaseOffset
	}
	s.log("append %s %d-%d", m.name, r.BaseOffset, r.LastOffset)
}

// forgery is a value that holds a commit: by somebody who knows where it will lie and all that the header says, but not the
// salt. It claims that the commit that carries it was flushed: if a power cut tears that one, recovery must not believe it.
func (s *sim) forgery() []byte {
	value := make([]byte, 3*blockSize)
	b := batch.NewBuilder(0, 0)
	b.Append(s.clock.UnixMilli(), nil, value, nil)
	size := len(b.Build())
	at := size - 1 - len(value) // of the value in the batch; behind it is the number of headers
	sh := s.e.shards[0]
	if sh.cur == nil {
		return value
	}
	pos, lsn := sh.cur.pos, sh.nextLSN
	for _, c := range sh.closed {
		pos += int64(c.size)
	}
	switch c := sh.open; {
	case c == nil:
		at += rowRoomBytes(rowClasses[sh.rowClass])
	case c.fits(size):
		at, lsn = at+c.fill, c.lsn
	default:
		return value // the open one is closed first
	}
	from := disk.AlignUp(at) - at
	h := commitHeader{
		generation: sh.cur.generation, lsn: lsn + 1, flushedLSN: lsn, filePos: pos + int64(at+from),
		size: blockSize, payloadPos: commitHeaderSz, trailerPos: commitHeaderSz,
	}
	h.seal(value[from:from+blockSize], new([saltSz]byte))
	return value
}

func (s *sim) truncate() {
	m, l := s.pick()
	if m == nil {
		return
	}
	st := m.latest()
	if len(st.batches) == 0 {
		return
	}
	end := st.batches[s.rng.IntN(len(st.batches))].base
	if s.rng.IntN(3) == 0 {
		end = st.batches[max(0, len(st.batches)-1-s.rng.IntN(3))].base
	}
	if end < l.LogStartOffset() {
		return
	}
	s.log("truncate %s to %d (end %d)", m.name, end, st.end)
	m.pending = append(m.pending, modelOp{kind: recTruncate, base: end, record: true})
	m.producer = modelProducer{id: m.producer.id + 100}
	if err := l.Truncate(end, m.epoch); err != nil {
		s.failed("truncate", err)
		return
	}
	m.settle(len(m.pending))
}

func (s *sim) setStart() {
	m, l := s.pick()
	if m == nil {
		return
	}
	st := m.latest()
	if st.end <= st.start {
		return
	}
	off := st.start + 1 + s.rng.Int64N(st.end-st.start)
	s.log("log start %s to %d", m.name, off)
	m.pending = append(m.pending, modelOp{kind: recStartOffset, base: off, record: true})
	if err := l.SetLogStart(off); err != nil {
		s.failed("set log start", err)
		return
	}
	m.settle(len(m.pending))
}

// afterRetention takes over log starts that retention has moved.
func (s *sim) afterRetention() {
	for _, m := range s.logs {
		l := s.e.Log(m.id, m.partition)
		if l == nil {
			continue
		}
		if start := l.LogStartOffset(); start > m.latest().start {
			s.log("retention moved the start of %s to %d", m.name, start)
			m.pending = append(m.pending, modelOp{kind: recStartOffset, base: start, record: true})
			if s.e.Failed() == nil && !s.disk.PowerIsOut() {
				m.settle(len(m.pending))
			}
		}
	}
}

func (s *sim) reset() {
	m, l := s.pick()
	if m == nil || s.rng.IntN(3) > 0 {
		return
	}
	start := m.latest().end + s.rng.Int64N(50)
	s.log("reset %s to %d", m.name, start)
	m.pending = append(m.pending, modelOp{kind: recReset, base: start, record: true})
	m.producer = modelProducer{id: m.producer.id + 100}
	if err := l.Reset(start); err != nil {
		s.failed("reset", err)
		return
	}
	m.settle(len(m.pending))
}

func (s *sim) beginEpoch() {
	m, l := s.pick()
	if m == nil {
		return
	}
	if err := l.BeginEpoch(m.epoch + 1); err != nil {
		if !errors.Is(err, ErrBusy) {
			s.failed("begin epoch", err)
		}
		return
	}
	m.epoch++
}

// checkCoverage verifies that no record below the replay LSN is missing from the checkpoint.
func (s *sim) checkCoverage() {
	w := s.e.shards[0].writer
	for _, l := range s.e.logsOf(s.e.shards[0]) {
		l.mu.Lock()
		if u := l.tail.unmoved(); len(u) > 0 && (u[0].lsn < w.checkpoint.replayLSN || l.dirtyLSN == 0 || l.dirtyLSN > u[0].lsn) {
			s.fatal("%s: LSN %d is not moved, replay LSN is %d, dirty LSN %d", l, u[0].lsn, w.checkpoint.replayLSN, l.dirtyLSN)
		}
		if l.dirtyLSN != 0 && l.dirtyLSN < w.checkpoint.replayLSN {
			s.fatal("%s: dirty LSN %d, replay LSN is %d", l, l.dirtyLSN, w.checkpoint.replayLSN)
		}
		l.mu.Unlock()
	}
}

// observe settles what has been acknowledged, and reads a little.
func (s *sim) observe() {
	for _, m := range s.logs {
		l := s.e.Log(m.id, m.partition)
		if l == nil {
			continue
		}
		end := l.AckEnd()
		if m.cfg.FlushMessages > 1 {
			end = l.DurableEnd() // what a power cut must not take
		}
		m.settle(m.acknowledged(end))
	}
	if s.rng.IntN(20) == 0 {
		m, l := s.pick()
		if m != nil {
			s.readSome(m, l)
		}
		if m != nil && m.producer.last != nil {
			s.sendAgain(m, l)
		}
	}
}

// sendAgain repeats the producer's newest batch: it must be found.
func (s *sim) sendAgain(m *modelLog, l *Log) {
	h, _ := batch.ParseHeader(m.producer.last)
	r, err := l.Append(AppendRequest{Batch: m.producer.last, Header: h, LeaderEpoch: m.epoch})
	if err != nil || !r.Duplicate || r.BaseOffset != m.producer.at {
		if errors.Is(err, ErrFailed) || errors.Is(err, ErrDiskFull) {
			return
		}
		s.fatal("%s: batch sent again: %+v, %v; it was at %d", m.name, r, err, m.producer.at)
	}
}

// acknowledged counts the pending operations that an end offset covers.
func (m *modelLog) acknowledged(end int64) int {
	n := 0
	for i, op := range m.pending {
		if op.record {
			break
		}
		if op.ackAt <= end {
			n = i + 1
		}
	}
	return n
}

// readSome compares a random range with the model.
func (s *sim) readSome(m *modelLog, l *Log) {
	st := m.latest()
	if st.end <= st.start {
		return
	}
	from := st.start + s.rng.Int64N(st.end-st.start)
	spans, info, err := l.Read(ReadRequest{Offset: from, UpTo: st.end, MaxBytes: 1 + s.rng.IntN(20000), MinOne: true, MayBlock: true}, nil)
	if err != nil {
		if s.disk.PowerIsOut() || s.eio {
			return
		}
		s.fatal("%s: read at %d: %v", m.name, from, err)
	}
	b := simSpanBytes(spans)
	i := 0
	for i < len(st.batches) && st.batches[i].next <= from {
		i++
	}
	for len(b) > 0 {
		if i >= len(st.batches) || !bytes.HasPrefix(b, st.batches[i].raw) {
			s.fatal("%s: read at %d returned something else than batch %d of the model", m.name, from, i)
		}
		b = b[len(st.batches[i].raw):]
		i++
	}
	if i > 0 && i < len(st.batches) && info.Bytes > 0 && info.NextOffset != st.batches[i-1].next {
		s.fatal("%s: read at %d: next offset %d, expected %d", m.name, from, info.NextOffset, st.batches[i-1].next)
	}
	if info.Bytes == 0 && i < len(st.batches) {
		s.fatal("%s: read at %d of %d returned nothing", m.name, from, st.end)
	}
}

func simSpanBytes(spans []Span) []byte {
	var b []byte
	for i := range spans {
		b = append(b, spans[i].Mem...)
		spans[i].Owner.Release()
	}
	return b
}

// verify compares every log with its history after a recovery.
func (s *sim) verify() {
	report := s.e.Recovery()
	if len(report.Quarantined) > 0 || len(report.Damage) > 0 || len(report.Unknown) > 0 {
		s.fatal("recovery found damage where there is none: %+v %+v %v", report.Quarantined, report.Damage, report.Unknown)
	}
	known := make(map[logKey]bool)
	for _, m := range append([]*modelLog(nil), s.logs...) {
		known[logKey{m.id, m.partition}] = true
		l := s.e.Log(m.id, m.partition)
		m.settle(m.kept)
		m.kept = 0
		k, st := s.match(m, l)
		if k < 0 {
			s.mismatch(m, l)
		}
		m.state, m.pending = st, nil
		if !st.exists {
			s.forget(m)
			continue
		}
		l.SetConfig(m.cfg)
		if l.LeaderEpoch() > m.epoch {
			s.fatal("%s: epoch %d, only %d was begun", m.name, l.LeaderEpoch(), m.epoch)
		}
		m.epoch++
		m.producer = modelProducer{id: m.producer.id + 100}
	}
	for _, l := range s.e.Logs() {
		if !known[logKey{l.TopicID(), l.Partition()}] {
			s.fatal("%s is back from the dead", l)
		}
	}
}

// match finds the prefix of the history that explains the log.
func (s *sim) match(m *modelLog, l *Log) (int, modelState) {
	var content []byte
	st := m.state
	for k := 0; ; k++ {
		if s.explains(st, l, &content) {
			return k, st
		}
		if k == len(m.pending) {
			return -1, st
		}
		st = st.apply(m.pending[k])
	}
}

func (s *sim) explains(st modelState, l *Log, content *[]byte) bool {
	if l == nil || !st.exists {
		return (l == nil) == !st.exists
	}
	if l.LogStartOffset() != st.start || l.AppendedEnd() != st.end {
		return false
	}
	if *content == nil {
		*content = s.content(l)
	}
	b := *content
	for _, mb := range st.batches {
		if !bytes.HasPrefix(b, mb.raw) {
			return false
		}
		b = b[len(mb.raw):]
	}
	return len(b) == 0
}

// content reads the whole log.
func (s *sim) content(l *Log) []byte {
	out := []byte{}
	for at := l.LogStartOffset(); at < l.AppendedEnd(); {
		spans, info, err := l.Read(ReadRequest{Offset: at, UpTo: l.AppendedEnd(), MaxBytes: 64 << 10, MinOne: true, MayBlock: true}, nil)
		if err != nil {
			s.fatal("%s: read at %d after recovery: %v", l, at, err)
		}
		out = append(out, simSpanBytes(spans)...)
		if info.NextOffset <= at {
			if info.Bytes == 0 {
				break // an offset hole at the end, after a truncation
			}
			s.fatal("%s: read at %d goes back to %d", l, at, info.NextOffset)
		}
		at = info.NextOffset
	}
	return out
}

func (s *sim) mismatch(m *modelLog, l *Log) {
	state := "gone"
	if l != nil {
		state = fmt.Sprintf("[%d, %d) with %d bytes", l.LogStartOffset(), l.AppendedEnd(), len(s.content(l)))
	}
	st := m.latest()
	s.log("recovery: %+v", s.e.Recovery())
	for _, w := range append(append([]*walFile(nil), s.e.shards[0].fullFiles...), s.e.shards[0].freeFiles...) {
		s.log("%s: generation %d, commits %d to %d", w.name, w.generation, w.firstLSN, w.lastLSN)
	}
	if l != nil {
		s.log("in the log:")
		for b := s.content(l); len(b) > 0; {
			h, err := batch.ParseHeader(b)
			if err != nil {
				s.log("%v", err)
				break
			}
			s.log("  %d-%d epoch %d crc %x, %d bytes", h.BaseOffset, h.LastOffset(), h.LeaderEpoch, h.CRC, h.Size())
			b = b[h.Size():]
		}
		s.log("in the newest state:")
		for _, mb := range st.batches {
			h, _ := batch.ParseHeader(mb.raw)
			s.log("  %d-%d epoch %d crc %x, %d bytes", h.BaseOffset, h.LastOffset(), h.LeaderEpoch, h.CRC, h.Size())
		}
	}
	s.fatal("%s is %s; durable was exists=%v [%d, %d), the newest exists=%v [%d, %d) with %d operations between", m.name, state,
		m.state.exists, m.state.start, m.state.end, st.exists, st.start, st.end, len(m.pending))
}

// cutsWanted is how many crashes a full run must see in each window.
const cutsWanted = 100

func TestCrashesLoseNothingAcknowledged(t *testing.T) {
	if *simSeed != 0 {
		newSim(t, *simSeed).run(6, 150)
		return
	}
	var cuts [windowCount]int
	holes := 0
	n := *simSeeds
	if testing.Short() {
		n /= 10
	}
	for seed := uint64(1); seed <= uint64(n); seed++ {
		s := newSim(t, seed)
		s.cuts, s.holes = &cuts, &holes
		s.run(6, 150)
	}
	t.Logf("a whole group behind a torn one: %d recoveries", holes)
	for w, n := range cuts[:winCompaction] {
		t.Logf("crashes in %-14v %d", window(w), n)
	}
	if n < 1500 {
		return
	}
	if holes < cutsWanted {
		t.Errorf("only %d recoveries met a whole group behind a torn one: the simulation does not test it", holes)
	}
	// The last window has a simulation of its own with the same rule: TestCompactionKeepsTheNewestOfEachKey.
	for w := winWALWrite; w < winCompaction; w++ {
		if cuts[w] < cutsWanted {
			t.Errorf("only %d crashes in %v: the simulation does not test it", cuts[w], w)
		}
	}
}

// TestSimulationRepeatsItself runs seeds twice: the same calls must reach the disk, with the
// same bytes.
func TestSimulationRepeatsItself(t *testing.T) {
	for seed := uint64(1); seed <= 25; seed++ {
		var hashes [2]uint64
		for i := range hashes {
			s := newSim(t, seed)
			s.run(4, 120)
			hashes[i] = s.disk.EffectHash()
		}
		if hashes[0] != hashes[1] {
			t.Fatalf("seed %d had different effects in two runs", seed)
		}
	}
}

// TestSimulationNoticesMissingPromises runs engines that break one rule each.
func TestSimulationNoticesMissingPromises(t *testing.T) {
	controls := map[string]func(*sabotage){
		"flush removed":              func(s *sabotage) { s.noFlush = true },
		"CRC ignored":                func(s *sabotage) { s.ignoreCRC = true },
		"salt ignored":               func(s *sabotage) { s.ignoreSalt = true },
		"directory flush removed":    func(s *sabotage) { s.noDirSync = true },
		"recycled before checkpoint": func(s *sabotage) { s.recycleEarly = true },
		"Truncate not replayed":      func(s *sabotage) { s.skipTruncate = true },
		"Drop not replayed":          func(s *sabotage) { s.skipDrop = true },
		"tail block lost":            func(s *sabotage) { s.loseTail = true },
		"segments not flushed":       func(s *sabotage) { s.noSegmentSync = true },
		"no flush after recovery":    func(s *sabotage) { s.noRecoveryFlush = true },
		"acknowledged out of order":  func(s *sabotage) { s.ackOutOfOrder = true },
		"DSYNC taken for a flush":    func(s *sabotage) { s.dsyncIsFlush = true },
	}
	for name, set := range controls {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed <= 400; seed++ {
				s := newSim(t, seed)
				s.soft = true
				set(&s.o.sabotage)
				if what := s.runSoft(); what != "" {
					t.Logf("seed %d: %s", seed, what)
					return
				}
			}
			t.Fatal("nothing was noticed")
		})
	}
}

// runSoft runs until something is noticed and says what.
func (s *sim) runSoft() (noticed string) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case simFailure:
			noticed = string(r)
		default:
			noticed = fmt.Sprint("panic: ", r)
		}
		if noticed != "" && s.e != nil {
			s.e.release()
		}
	}()
	s.run(6, 150)
	return ""
}
