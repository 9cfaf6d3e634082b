package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"millrace/engine/disk"
	"millrace/engine/producer"
)

// Recovery of a shard: checkpoint, then the WAL forward from the replay LSN, then a flush of
// everything that was trusted. It runs on one goroutine before anybody else knows
// the shard.
type recovery struct {
	s       *Shard
	logs    map[uint64]*Log
	dropped map[uint64]uint64 // log id -> seq of the newest record of a log that the checkpoint calls dropped
	// suspects may have lost records in a gap; a record with the next sequence number clears them.
	suspects map[uint64]string
	used     []*walFile // in order of generation
	floor    uint64     // highest LSN known to have been flushed
	next     uint64     // LSN expected next
	reading  *walFile   // the file that is being replayed
	orphans  map[orphan]bool
	met      map[*walFile]bool // files in which this opening met damage
	replay   uint64
	maxLogID uint64
	// tail are the commits above floor, in order: nobody has said that they were flushed. They are
	// written again.
	tail   []tailCommit
	movers []*mover // for when the ring is full
}

// orphan is a log whose Create record is lost, in a WAL file that has a record of it: said once each.
type orphan struct {
	logID uint64
	file  *walFile
}

// recover brings the shard to the state of its last durable commit (or a later one).
func (s *Shard) recover() error {
	e := s.e
	if err := disk.MkdirAllDurable(e.fs, s.dir, 0o755); err != nil {
		return err
	}
	entries, head, err := s.loadCheckpoint()
	if err != nil {
		return err
	}
	r := &recovery{
		s:        s,
		logs:     make(map[uint64]*Log),
		dropped:  make(map[uint64]uint64),
		suspects: make(map[uint64]string),
		orphans:  make(map[orphan]bool),
		met:      make(map[*walFile]bool),
		floor:    head.lsnFloor,
		next:     head.replayLSN,
		replay:   head.replayLSN,
		maxLogID: head.nextLogID,
	}
	s.generation = head.generation
	if err := r.loadLogs(entries); err != nil {
		return err
	}
	if err := r.verifyFiles(); err != nil {
		return err
	}
	if err := r.readWAL(); err != nil {
		for _, w := range r.used {
			_ = w.f.Close() // no list of the shard has them yet
		}
		return err
	}
	if err := r.finish(); err != nil {
		return err
	}
	return r.rewriteTail()
}

// readWAL opens the WAL and applies what it has. Afterwards all that was read is durable.
func (r *recovery) readWAL() error {
	if err := r.openFiles(); err != nil {
		return err
	}
	if err := r.replayAll(); err != nil {
		return err
	}
	r.quarantineSuspects()
	if err := r.flush(); err != nil {
		return err
	}
	return r.keepDamaged()
}

// loadLogs makes the logs that the checkpoint holds.
func (r *recovery) loadLogs(entries map[uint64][]byte) error {
	ids := make([]uint64, 0, len(entries))
	for id := range entries {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		c, err := decodeLogEntry(entries[id])
		if err != nil {
			return fmt.Errorf("engine: checkpoint entry of log %d: %w", id, err)
		}
		r.maxLogID = max(r.maxLogID, id)
		if c.dropped {
			r.dropped[id] = c.seq
			continue
		}
		if err := r.adopt(c); err != nil {
			return err
		}
	}
	return nil
}

// adopt makes a log from its checkpoint entry: head and stable state are the same.
func (r *recovery) adopt(c *logEntry) error {
	l := newLog(r.s.e, r.s, c.logID, createPayload{topicID: c.topicID, partition: c.partition, topic: c.topic})
	st := &l.stable
	st.seq, st.start, st.end, st.hw, st.epoch = c.seq, c.start, c.end, c.hw, c.epoch
	st.written, st.tail = c.written, c.tail
	st.epochs, st.aborted = c.epochs, c.aborted
	st.quarantine = c.quarantine
	if c.producers != nil {
		p, err := producer.Decode(c.producers)
		if err != nil {
			return fmt.Errorf("engine: producers of log %d: %w", c.logID, err)
		}
		st.producers = p
		l.producers = p.Clone()
	}
	for i := range c.segments {
		e := &c.segments[i]
		g := &segment{
			log: l, base: e.base, generation: e.generation, size: e.size, next: e.next, sealed: e.sealed,
			maxTime: e.maxTime, maxBase: e.maxBase, created: e.created, hasFile: e.hasFile, indexed: -1,
		}
		if !g.sealed {
			g.index, g.indexed = c.active, c.indexed
		}
		st.dirMade = st.dirMade || g.hasFile
		st.size += g.size
		st.segments = append(st.segments, g)
	}
	l.seq = c.seq
	l.end = c.end
	l.epochs = c.epochs.Clone()
	l.aborted = c.aborted.Clone()
	l.quarantine = c.quarantine
	l.logStart.Store(c.start)
	l.highWater.Store(c.hw)
	l.leaderEpoch.Store(c.epoch)
	r.register(l)
	return nil
}

func (r *recovery) register(l *Log) {
	r.logs[l.id] = l
	r.maxLogID = max(r.maxLogID, l.id)
	e := r.s.e
	e.mu.Lock()
	e.byID[l.id] = l
	e.logs[logKey{l.topicID, l.partition}] = l
	e.mu.Unlock()
}

// flush makes durable what was read and believed: data that a killed process had
// written could otherwise be served now and vanish in a power cut.
func (r *recovery) flush() error {
	if r.s.e.o.sabotage.noRecoveryFlush {
		return nil
	}
	for _, w := range r.used {
		if err := w.f.Fdatasync(); err != nil {
			return err
		}
	}
	return nil
}

// finish sets the ends and sorts the WAL files. A new one is begun with the next commit:
// nothing is ever written behind a torn tail.
func (r *recovery) finish() error {
	s := r.s
	e := s.e
	for _, w := range r.used {
		// A file that holds some of the tail ends at or above the replay LSN: it is kept until the tail is elsewhere.
		switch {
		case w.lastLSN >= r.replay:
			s.fullFiles = append(s.fullFiles, w)
		case w.damaged:
			s.keptFiles = append(s.keptFiles, w)
		default:
			s.freeFiles = append(s.freeFiles, w)
		}
	}
	if err := s.removeSmallFiles(); err != nil {
		return err
	}
	if len(s.freeFiles) < walFilesReady {
		size := min(e.o.WALFileBytes, int64(4*s.slabBytes))
		for len(s.freeFiles) < walFilesReady {
			w, err := s.createWALFile(size)
			if err != nil {
				if noSpace(err) && len(s.freeFiles) > 0 {
					break
				}
				return err
			}
			s.freeFiles = append(s.freeFiles, w)
		}
	}
	if err := r.makeTailRoom(); err != nil {
		return err
	}
	if len(r.tail) > 0 {
		for _, w := range r.used {
			w.lastLSN = min(w.lastLSN, r.tail[0].head.lsn-1)
		}
	}
	if s.filling != nil {
		s.filling.used = disk.AlignUp(s.filling.used) // commits begin at whole blocks
	}
	s.durableLSN.Store(s.nextLSN - 1)
	s.writtenLSN.Store(s.nextLSN - 1)
	s.markedLSN.Store(r.floor)
	if e.nextLogID.Load() < r.maxLogID {
		e.nextLogID.Store(r.maxLogID)
	}
	for _, l := range e.logsOf(s) {
		for _, v := range []interface{ Store(int64) }{&l.appendedEnd, &l.writtenEnd, &l.durableEnd, &l.ackEnd} {
			v.Store(l.end)
		}
		if l.quarantine != "" && !l.dropped {
			e.report.Quarantined = append(e.report.Quarantined, QuarantinedLog{
				LogID: l.id, Topic: l.topic, TopicID: l.topicID, Partition: l.partition, Offset: l.end, Reason: l.quarantine,
			})
		}
	}
	return nil
}

// isMissing reports that a file is not there.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
