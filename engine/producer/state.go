package producer

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"

	"millrace/engine/batch"
	"millrace/engine/index"
)

// Why a batch is refused. Each has the Kafka error code of its name.
var (
	ErrOutOfOrderSequence = errors.New("producer: out of order sequence number")
	ErrInvalidEpoch       = errors.New("producer: epoch is older than the producer's current one")
	ErrInvalidTxnState    = errors.New("producer: non-transactional batch inside an open transaction")
	ErrCoordinatorFenced  = errors.New("producer: marker of an older transaction coordinator")
)

// batchesKept of each producer are remembered: as many as a client may have in
// flight.
const batchesKept = 5

const noEpoch int16 = -1

// State is the producer state of one log.
type State struct {
	entries map[int64]*entry
	open    []openTxn // by first offset
}

// openTxn is a transaction without its marker.
type openTxn struct {
	firstOffset int64
	producerID  int64
}

// entry is what the log knows about one producer.
type entry struct {
	producerID       int64
	lastTimestamp    int64                  // of the newest batch or marker
	seenMillis       int64                  // when Expire first saw the entry after its last change; 0: not yet
	txnFirstOffset   int64                  // -1: no open transaction
	coordinatorEpoch int32                  // of the newest marker, -1: none
	epoch            int16                  // noEpoch: only a marker was seen
	count            uint8                  // of batches
	batches          [batchesKept]sentBatch // oldest first; all of them of epoch
}

// sentBatch is one batch of a producer.
type sentBatch struct {
	lastOffset  int64
	timestamp   int64
	lastSeq     int32
	offsetDelta int32 // last offset - base offset
}

func (b *sentBatch) firstOffset() int64 { return b.lastOffset - int64(b.offsetDelta) }

// firstSeq goes back over the wrap. Kafka gets the same by its DefaultRecordBatch.decrementSequence.
func (b *sentBatch) firstSeq() int32 { return batch.AddSequence(b.lastSeq, -b.offsetDelta) }

func (e *entry) lastSeq() int32 {
	if e.count == 0 {
		return batch.NoSequence
	}
	return e.batches[e.count-1].lastSeq
}

// Verdict is what Check found.
type Verdict struct {
	// Duplicate: the batch is in the log already, at these offsets, with this maximum timestamp.
	Duplicate              bool
	BaseOffset, LastOffset int64
	AppendTime             int64
}

// New returns the state of a log without producers.
func New() *State { return &State{entries: make(map[int64]*entry)} }

// Check tells whether a data batch from a client may be appended. It changes
// nothing. Batches without a producer id are always fine.
func (s *State) Check(h batch.Header) (Verdict, error) {
	if !h.HasProducer() {
		return Verdict{}, nil
	}
	e := s.entries[h.ProducerID]
	if e == nil {
		return Verdict{}, nil
	}
	if h.ProducerEpoch == e.epoch {
		lastSeq := h.LastSequence()
		for i := range e.batches[:e.count] {
			if b := &e.batches[i]; b.lastSeq == lastSeq && b.firstSeq() == h.BaseSequence {
				return Verdict{Duplicate: true, BaseOffset: b.firstOffset(), LastOffset: b.lastOffset, AppendTime: b.timestamp}, nil
			}
		}
	}
	switch {
	case e.epoch == noEpoch:
	case h.ProducerEpoch < e.epoch:
		return Verdict{}, epochError(h, e.epoch)
	case h.ProducerEpoch > e.epoch:
		if h.BaseSequence != 0 {
			return Verdict{}, sequenceError(h, e)
		}
	case h.BaseSequence != nextSeq(e.lastSeq()):
		return Verdict{}, sequenceError(h, e)
	}
	if e.txnFirstOffset >= 0 && !h.IsTransactional() {
		return Verdict{}, fmt.Errorf("%w: producer %d", ErrInvalidTxnState, h.ProducerID)
	}
	return Verdict{}, nil
}

// CheckControl tells whether a marker may be appended.
func (s *State) CheckControl(h batch.Header, coordinatorEpoch int32) error {
	e := s.entries[h.ProducerID]
	switch {
	case e == nil:
		return nil
	case h.ProducerEpoch < e.epoch:
		return epochError(h, e.epoch)
	case coordinatorEpoch < e.coordinatorEpoch:
		return fmt.Errorf("%w: producer %d, marker of coordinator epoch %d, newest is %d", ErrCoordinatorFenced, h.ProducerID, coordinatorEpoch, e.coordinatorEpoch)
	}
	return nil
}

//go:noinline
func epochError(h batch.Header, current int16) error {
	return fmt.Errorf("%w: producer %d sent epoch %d, current is %d", ErrInvalidEpoch, h.ProducerID, h.ProducerEpoch, current)
}

//go:noinline
func sequenceError(h batch.Header, e *entry) error {
	return fmt.Errorf("%w: producer %d sent epoch %d sequence %d, newest is epoch %d sequence %d",
		ErrOutOfOrderSequence, h.ProducerID, h.ProducerEpoch, h.BaseSequence, e.epoch, e.lastSeq())
}

// nextSeq is the sequence that follows last; NoSequence is followed by 0.
func nextSeq(last int32) int32 {
	if last == math.MaxInt32 {
		return 0
	}
	return last + 1
}

// Apply remembers a data batch that is part of the log: after Check on a leader,
// without it on a follower and at recovery. h.BaseOffset is its final offset. For
// control batches call ApplyControl.
func (s *State) Apply(h batch.Header) {
	if !h.HasProducer() {
		return
	}
	e := s.entry(h.ProducerID)
	e.begin(h.ProducerEpoch)
	if e.count == batchesKept {
		copy(e.batches[:], e.batches[1:])
		e.count--
	}
	e.batches[e.count] = sentBatch{
		lastOffset:  h.LastOffset(),
		timestamp:   h.MaxTimestamp,
		lastSeq:     h.LastSequence(),
		offsetDelta: h.LastOffsetDelta,
	}
	e.count++
	e.lastTimestamp, e.seenMillis = h.MaxTimestamp, 0
	if h.IsTransactional() && e.txnFirstOffset < 0 {
		e.txnFirstOffset = h.BaseOffset
		s.insertOpen(openTxn{h.BaseOffset, h.ProducerID})
	}
}

// ApplyControl remembers a marker that is part of the log at h.BaseOffset, which ends
// the producer's open transaction. If that was aborted and had records, ok
// is true and aborted its entry for the aborted-transaction index. A marker of another
// kind than commit and abort changes nothing.
func (s *State) ApplyControl(h batch.Header, marker batch.Marker, coordinatorEpoch int32) (aborted index.AbortedTxn, ok bool) {
	if !h.HasProducer() || (marker != batch.Abort && marker != batch.Commit) {
		return index.AbortedTxn{}, false
	}
	e := s.entry(h.ProducerID)
	e.begin(h.ProducerEpoch)
	e.coordinatorEpoch = coordinatorEpoch
	e.lastTimestamp, e.seenMillis = h.MaxTimestamp, 0
	first := e.txnFirstOffset
	if first < 0 {
		return index.AbortedTxn{}, false // nothing was written here
	}
	e.txnFirstOffset = -1
	s.removeOpen(openTxn{first, h.ProducerID})
	if marker == batch.Commit {
		return index.AbortedTxn{}, false
	}
	stable, unstable := s.FirstUnstable()
	if !unstable {
		stable = h.NextOffset()
	}
	return index.AbortedTxn{ProducerID: h.ProducerID, FirstOffset: first, LastOffset: h.BaseOffset, LastStableOffset: stable}, true
}

func (s *State) entry(producerID int64) *entry {
	e := s.entries[producerID]
	if e == nil {
		e = &entry{producerID: producerID, epoch: noEpoch, coordinatorEpoch: -1, txnFirstOffset: -1}
		s.entries[producerID] = e
	}
	return e
}

// begin forgets the batches of another epoch.
func (e *entry) begin(epoch int16) {
	if e.epoch != epoch {
		e.epoch, e.count = epoch, 0
	}
}

func (s *State) insertOpen(t openTxn) {
	// Offsets grow, so this is an append, except for damaged input.
	i := sort.Search(len(s.open), func(i int) bool { return s.open[i].firstOffset > t.firstOffset })
	s.open = slices.Insert(s.open, i, t)
}

func (s *State) removeOpen(t openTxn) {
	if i := slices.Index(s.open, t); i >= 0 {
		s.open = slices.Delete(s.open, i, i+1)
	}
}

// FirstUnstable is the first offset of the oldest open transaction.
func (s *State) FirstUnstable() (int64, bool) {
	if len(s.open) == 0 {
		return 0, false
	}
	return s.open[0].firstOffset, true
}

// TruncateTo forgets the batches at end and above; the log now ends there. What
// those batches had displaced does not come back: a producer of which nothing is left is
// unknown again (so it may go on with any sequence), and a transaction whose marker was
// cut stays closed. Where that matters the state is decoded from a checkpoint at
// or below end, and the batches from there to end are applied.
func (s *State) TruncateTo(end int64) {
	for id, e := range s.entries {
		n := int(e.count)
		for n > 0 && e.batches[n-1].lastOffset >= end {
			n--
		}
		if n == int(e.count) {
			continue
		}
		e.count = uint8(n)
		if n == 0 {
			delete(s.entries, id)
		} else {
			e.lastTimestamp = e.batches[n-1].timestamp
		}
	}
	n := sort.Search(len(s.open), func(i int) bool { return s.open[i].firstOffset >= end })
	for _, t := range s.open[n:] {
		if e := s.entries[t.producerID]; e != nil {
			e.txnFirstOffset = -1
		}
	}
	s.open = s.open[:n]
	// An entry without batches may still hold an open transaction that began below end.
	for _, t := range s.open {
		if s.entries[t.producerID] == nil {
			s.entry(t.producerID).txnFirstOffset = t.firstOffset
		}
	}
}

// Expire forgets producers that have appended nothing for expirationMillis, except
// those with an open transaction. It goes by the broker's clock: the time of an entry is the first
// call of Expire after its last batch. Kafka goes by the batch's timestamp, and so
// forgets at once whoever writes old data, in the middle of its retries.
func (s *State) Expire(nowMillis, expirationMillis int64) {
	for id, e := range s.entries {
		switch {
		case e.seenMillis == 0 || e.seenMillis > nowMillis:
			e.seenMillis = nowMillis
		case e.txnFirstOffset >= 0:
		case nowMillis-e.seenMillis >= expirationMillis:
			delete(s.entries, id)
		}
	}
}

// Shrink forgets the producers that have been silent for longest (by offset) until at most
// entriesMax are left, so that a client with ever new producer ids cannot grow the
// state without bounds. Open transactions are kept whatever the limit.
func (s *State) Shrink(entriesMax int) {
	if len(s.entries) <= entriesMax {
		return
	}
	idle := make([]*entry, 0, len(s.entries))
	for _, e := range s.entries {
		if e.txnFirstOffset < 0 {
			idle = append(idle, e)
		}
	}
	slices.SortFunc(idle, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.lastOffset(), b.lastOffset()), cmp.Compare(a.producerID, b.producerID))
	})
	for _, e := range idle[:min(len(idle), len(s.entries)-entriesMax)] {
		delete(s.entries, e.producerID)
	}
}

func (e *entry) lastOffset() int64 {
	if e.count == 0 {
		return -1
	}
	return e.batches[e.count-1].lastOffset
}

// Len is the number of producers.
func (s *State) Len() int { return len(s.entries) }

// Entry is one producer as DescribeProducers shows it.
type Entry struct {
	ProducerID       int64
	ProducerEpoch    int16
	LastSequence     int32 // -1: none
	LastTimestamp    int64
	LastOffset       int64 // of its newest batch, -1: none
	CoordinatorEpoch int32 // -1: none
	TxnStartOffset   int64 // -1: no open transaction
}

// Entries lists the producers by id.
func (s *State) Entries() []Entry {
	list := make([]Entry, 0, len(s.entries))
	for _, e := range s.entries {
		list = append(list, Entry{
			ProducerID:       e.producerID,
			ProducerEpoch:    e.epoch,
			LastSequence:     e.lastSeq(),
			LastTimestamp:    e.lastTimestamp,
			LastOffset:       e.lastOffset(),
			CoordinatorEpoch: e.coordinatorEpoch,
			TxnStartOffset:   e.txnFirstOffset,
		})
	}
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Compare(a.ProducerID, b.ProducerID) })
	return list
}

// Clone returns a state of its own with the same content.
func (s *State) Clone() *State {
	c := &State{entries: make(map[int64]*entry, len(s.entries)), open: slices.Clone(s.open)}
	for id, e := range s.entries {
		copied := *e
		c.entries[id] = &copied
	}
	return c
}
