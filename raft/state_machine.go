package raft

import (
	"io"
	"sync"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/statemachine"
)

// stateMachine feeds the replicated log to apply and publishes the newest image. Dragonboat calls
// Update, PrepareSnapshot and RecoverFromSnapshot one at a time; SaveSnapshot may run beside Update,
// which is free here because images are immutable. It never waits on a consumer.
type stateMachine struct {
	image    atomic.Pointer[Image] // written by Update and RecoverFromSnapshot only
	halted   atomic.Bool           // nothing is applied any more
	onHalt   func(error)           // called once, from Update
	mayWrite func(int64) error     // asked before a snapshot of that size is written

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when image moves
}

var _ statemachine.IConcurrentStateMachine = (*stateMachine)(nil)

func newStateMachine(onHalt func(error), mayWrite func(int64) error) *stateMachine {
	s := &stateMachine{onHalt: onHalt, mayWrite: mayWrite, changed: make(chan struct{})}
	s.image.Store(newImage())
	return s
}

// publish makes m the newest image and wakes everybody who waits for one.
func (s *stateMachine) publish(m *Image) {
	s.mu.Lock()
	s.image.Store(m)
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
}

// newest returns the image and a channel that is closed once a newer one is there.
func (s *stateMachine) newest() (*Image, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.image.Load(), s.changed
}

// stop makes the last image final. A log that was aborted under a failed disk lets entries through that
// are not durable; nobody may see them.
func (s *stateMachine) stop() { s.halted.Store(true) }

// Update applies committed commands. It returns no error: dragonboat would end the process. A
// command that must be applied and cannot be halts this replica instead, its last image intact.
func (s *stateMachine) Update(entries []statemachine.Entry) ([]statemachine.Entry, error) {
	m := s.image.Load()
	for i := range entries {
		if s.halted.Load() {
			entries[i].Result = wireResult(Result{Index: entries[i].Index, Code: Halted})
			continue
		}
		now, r, err := applyBytes(m, entries[i].Index, entries[i].Cmd)
		entries[i].Result = wireResult(r)
		if err != nil {
			s.halted.Store(true)
			s.onHalt(err)
			continue
		}
		m = now
	}
	s.publish(m)
	return entries, nil
}

func wireResult(r Result) statemachine.Result {
	return statemachine.Result{Value: uint64(r.Code), Data: encodeResult(r)}
}

// Lookup hands out the image; after a ReadIndex round it is linearizable.
func (s *stateMachine) Lookup(any) (any, error) { return s.image.Load(), nil }

// PrepareSnapshot pins the image that SaveSnapshot is to write.
func (s *stateMachine) PrepareSnapshot() (any, error) { return s.image.Load(), nil }

// SaveSnapshot writes the image pinned by PrepareSnapshot.
func (s *stateMachine) SaveSnapshot(pinned any, w io.Writer, _ statemachine.ISnapshotFileCollection, stop <-chan struct{}) error {
	if s.halted.Load() {
		// Its index would claim commands that are not in it.
		return statemachine.ErrSnapshotAborted
	}
	b := encodeSnapshot(pinned.(*Image))
	select {
	case <-stop:
		return statemachine.ErrSnapshotStopped
	default:
	}
	if err := s.mayWrite(int64(len(b))); err != nil {
		return statemachine.ErrSnapshotAborted // tried again after the next commands
	}
	_, err := w.Write(b)
	return err
}

// RecoverFromSnapshot replaces the image, or halts the replica.
func (s *stateMachine) RecoverFromSnapshot(r io.Reader, _ []statemachine.SnapshotFile, _ <-chan struct{}) error {
	m, err := readSnapshot(r)
	if err != nil {
		s.halted.Store(true) // what follows would be applied to the wrong image
		s.onHalt(err)
		return nil
	}
	s.publish(m)
	return nil
}

// Close keeps the last image readable.
func (s *stateMachine) Close() error { return nil }
