package replica

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"millrace/engine"
	"millrace/raft"
)

// Settings are the topic settings that are looked at for each batch, resolved
// from the topic's and the broker's configuration.
type Settings struct {
	MaxMessageBytes          int
	LogAppendTime            bool
	RequireKeys              bool // the topic is compacted
	TimestampBeforeMaxMillis int64
	TimestampAfterMaxMillis  int64
	Engine                   engine.LogConfig
}

// Topic is a topic of which this broker has replicas.
type Topic struct {
	Name     string
	ID       [16]byte
	Internal bool

	settings atomic.Pointer[Settings]
	parts    atomic.Pointer[[]*Partition] // by partition index; nil where the replica is elsewhere
}

// Settings returns the topic's settings of this moment.
func (t *Topic) Settings() *Settings { return t.settings.Load() }

// Partition returns one partition, or nil when this broker has no replica.
func (t *Topic) Partition(index int32) *Partition {
	parts := *t.parts.Load()
	if index < 0 || int(index) >= len(parts) {
		return nil
	}
	return parts[index]
}

// Partitions returns the topic's partitions by index; entries may be nil.
func (t *Topic) Partitions() []*Partition { return *t.parts.Load() }

// Set is every partition that this broker has a replica of.
type Set struct {
	engine   *engine.Engine
	nodeID   int32
	settings func(img *raft.Image, topic string) *Settings
	// onLead is told of each partition that this broker began to lead, and
	// onDrop of each that it lost. They run in Apply.
	onLead, onDrop func(*Partition)

	mu     sync.RWMutex // guards the two maps
	byName map[string]*Topic
	byID   map[[16]byte]*Topic

	applying sync.Mutex // one Apply at a time
	last     *raft.Image
	stray    []*engine.Log
}

// NewSet makes an empty set; Apply fills it.
func NewSet(e *engine.Engine, nodeID int32, settings func(*raft.Image, string) *Settings, onLead, onDrop func(*Partition)) *Set {
	return &Set{
		engine: e, nodeID: nodeID, settings: settings, onLead: onLead, onDrop: onDrop,
		byName: map[string]*Topic{}, byID: map[[16]byte]*Topic{},
	}
}

// TopicByName finds a topic without allocating.
func (s *Set) TopicByName(name []byte) *Topic {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byName[string(name)]
}

// Topic finds a topic by name.
func (s *Set) Topic(name string) *Topic {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byName[name]
}

// TopicByID finds a topic by id.
func (s *Set) TopicByID(id [16]byte) *Topic {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byID[id]
}

// Get finds a partition; nil when this broker has no replica of it.
func (s *Set) Get(topic string, index int32) *Partition {
	if t := s.Topic(topic); t != nil {
		return t.Partition(index)
	}
	return nil
}

// Topics returns all topics, in no order.
func (s *Set) Topics() []*Topic {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*Topic, 0, len(s.byName))
	for _, t := range s.byName {
		all = append(all, t)
	}
	return all
}

// Stray returns the logs on disk that the metadata does not know. They are
// kept, offline, until an operator removes them.
func (s *Set) Stray() []*engine.Log {
	s.applying.Lock()
	defer s.applying.Unlock()
	return s.stray
}

// Apply makes the set follow an image: logs of new partitions are created,
// deleted topics' logs are dropped, roles and settings follow. It blocks on
// the device and is never called on an event loop.
func (s *Set) Apply(img *raft.Image) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	old := s.last
	first := old == nil
	if first {
		old = &raft.Image{}
	}
	changes := raft.TopicChanges(old, img)
	var create []engine.LogSpec
	for _, c := range changes {
		if c.New == nil {
			continue
		}
		for i, p := range c.New.Partitions {
			if s.mine(p) && s.engine.Log(c.New.ID, int32(i)) == nil {
				create = append(create, engine.LogSpec{
					TopicID: c.New.ID, Topic: c.New.Name, Partition: int32(i), Config: s.settings(img, c.New.Name).Engine,
				})
			}
		}
	}
	if len(create) > 0 {
		if _, err := s.engine.CreateLogs(create); err != nil {
			return fmt.Errorf("create %d logs: %w", len(create), err)
		}
	}
	if err := s.drop(changes); err != nil {
		return err
	}
	for _, c := range changes {
		if c.New == nil {
			continue
		}
		if err := s.update(img, c.New); err != nil {
			return err
		}
	}
	if first || len(raft.ConfigChanges(old, img)) > 0 {
		s.reconfigure(img)
	}
	if first {
		if err := s.findStray(img); err != nil {
			return err
		}
	}
	s.last = img
	return nil
}

func (s *Set) mine(p *raft.Partition) bool {
	for _, id := range p.Replicas {
		if id == s.nodeID {
			return true
		}
	}
	return false
}

// drop removes the deleted topics.
func (s *Set) drop(changes []raft.TopicChange) error {
	var gone []*Topic
	for _, c := range changes {
		if c.New != nil {
			continue
		}
		if mine := s.TopicByID(c.Old.ID); mine != nil {
			gone = append(gone, mine)
		}
	}
	var logs []*engine.Log
	for _, t := range gone {
		s.mu.Lock()
		delete(s.byID, t.ID)
		if s.byName[t.Name] == t {
			delete(s.byName, t.Name)
		}
		s.mu.Unlock()
		for _, p := range t.Partitions() {
			if p == nil {
				continue
			}
			p.resign(ErrPartitionGone)
			s.onDrop(p)
			logs = append(logs, p.log)
		}
	}
	if len(logs) == 0 {
		return nil
	}
	if err := s.engine.DropLogs(logs); err != nil {
		return fmt.Errorf("drop %d logs: %w", len(logs), err)
	}
	return nil
}

// update brings one topic's partitions and roles up to date.
func (s *Set) update(img *raft.Image, rt *raft.Topic) error {
	t := s.TopicByID(rt.ID)
	if t == nil {
		t = &Topic{Name: rt.Name, ID: rt.ID, Internal: rt.Internal}
		t.settings.Store(s.settings(img, rt.Name))
		t.parts.Store(&[]*Partition{})
	}
	parts := make([]*Partition, len(rt.Partitions))
	copy(parts, *t.parts.Load())
	var lead []*Partition
	for i, rp := range rt.Partitions {
		if !s.mine(rp) {
			continue
		}
		p := parts[i]
		if p == nil {
			log := s.engine.Log(rt.ID, int32(i))
			if log == nil {
				return fmt.Errorf("%s-%d: the log could not be found after it was created", rt.Name, i)
			}
			p = &Partition{Topic: rt.Name, TopicID: rt.ID, Index: int32(i), log: log, epoch: NoEpoch}
			log.SetConfig(t.Settings().Engine)
			log.SetObserver(p)
			p.raiseHighWatermark()
			parts[i] = p
		}
		epoch, leading := p.LeaderEpoch()
		if rp.Leader == s.nodeID && (!leading || rp.LeaderEpoch > epoch) {
			if err := beginEpoch(p.log, rp.LeaderEpoch); err != nil {
				return fmt.Errorf("%s-%d: begin leader epoch %d: %w", rt.Name, i, rp.LeaderEpoch, err)
			}
			p.lead(rp.LeaderEpoch)
			lead = append(lead, p)
		}
	}
	t.parts.Store(&parts)
	s.mu.Lock()
	s.byName[t.Name], s.byID[t.ID] = t, t
	s.mu.Unlock()
	for _, p := range lead {
		s.onLead(p)
	}
	return nil
}

// beginEpoch writes the start of an epoch into the log, when a busy log has room for it.
func beginEpoch(l *engine.Log, epoch int32) error {
	for {
		err := l.BeginEpoch(epoch)
		if !errors.Is(err, engine.ErrBusy) {
			return err
		}
		room := make(chan struct{})
		l.Shard().OnRoom(func() { close(room) })
		<-room
	}
}

// reconfigure resolves every topic's settings again.
func (s *Set) reconfigure(img *raft.Image) {
	for _, t := range s.Topics() {
		next := s.settings(img, t.Name)
		if *next == *t.Settings() {
			continue
		}
		t.settings.Store(next)
		for _, p := range t.Partitions() {
			if p != nil {
				p.log.SetConfig(next.Engine)
			}
		}
	}
}

// findStray looks at the logs of topics that the metadata does not have. Those
// whose deletion it remembers are dropped (the process ended between the
// deletion and its own part in it); the others are kept, and reported.
func (s *Set) findStray(img *raft.Image) error {
	var deleted []*engine.Log
	for _, l := range s.engine.Logs() {
		t := img.TopicByID(l.TopicID())
		switch {
		case t != nil && int(l.Partition()) < len(t.Partitions):
		case t == nil && img.Deleted(l.TopicID()) != nil:
			deleted = append(deleted, l)
		default:
			s.stray = append(s.stray, l)
		}
	}
	if len(deleted) == 0 {
		return nil
	}
	if err := s.engine.DropLogs(deleted); err != nil {
		return fmt.Errorf("drop %d logs of deleted topics: %w", len(deleted), err)
	}
	return nil
}
