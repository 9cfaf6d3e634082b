package replica

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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

// Options of a Set. Engine, NodeID, Settings and Now are needed.
type Options struct {
	Engine   *engine.Engine
	NodeID   int32
	Settings func(img *raft.Image, topic string) *Settings
	Now      func() time.Time
	// OnLead is told of each partition that this broker began to lead, OnResign of each that it leads no more, before
	// or after it was dropped. Both run in Apply; OnResign also where a partition was stopped.
	OnLead, OnResign func(*Partition)
	// Replicator moves batches between brokers; nil for a broker alone.
	Replicator Replicator
	// Lease reports whether this broker may still believe that it is not fenced; nil: it is alone.
	Lease func() bool
	// Lag says when followers leave the ISR; nil is Kafka's default.
	Lag func() Lag
	// Stopped is told of a partition that this broker serves no more, and why.
	Stopped func(p *Partition, err error)
}

func (o Options) withDefaults() Options {
	if o.OnLead == nil {
		o.OnLead = func(*Partition) {}
	}
	if o.OnResign == nil {
		o.OnResign = func(*Partition) {}
	}
	if o.Replicator == nil {
		o.Replicator = nobody{}
	}
	if o.Lease == nil {
		o.Lease = func() bool { return true }
	}
	if o.Lag == nil {
		o.Lag = func() Lag { return Lag{Time: 30 * time.Second} }
	}
	if o.Stopped == nil {
		o.Stopped = func(*Partition, error) {}
	}
	return o
}

// nobody is the Replicator of a broker alone.
type nobody struct{}

func (nobody) Lead(*Partition, []int32)  {}
func (nobody) Resign(*Partition)         {}
func (nobody) Appended(*Partition, bool) {}
func (nobody) Moved(*Partition)          {}
func (nobody) Stored(*Partition)         {}

// NoLeader is the leader of a partition that has none.
const NoLeader = raft.NoLeader

// Set is every partition that this broker has a replica of.
type Set struct {
	engine      *engine.Engine
	nodeID      int32
	settings    func(img *raft.Image, topic string) *Settings
	now         func() time.Time
	onLead      func(*Partition)
	onResign    func(*Partition)
	replicator  Replicator
	leaseValid  func() bool
	lag         func() Lag
	stopped     func(*Partition, error)
	brokerEpoch atomic.Int64

	generations atomic.Uint64 // of stints
	isrPoke     chan struct{}
	lastLook    time.Time   // of ISRChanges
	dirtyStarts atomic.Bool // some partition is to take over its leader's log start
	shrinks     atomic.Int64
	expands     atomic.Int64

	mu     sync.RWMutex // guards what follows
	byName map[string]*Topic
	byID   map[[16]byte]*Topic
	sorted []*Topic // by name; nil: to be made again

	applying sync.Mutex // one Apply at a time
	last     *raft.Image
	stray    []*engine.Log
}

// NewSet makes an empty set; Apply fills it.
func NewSet(o Options) *Set {
	o = o.withDefaults()
	return &Set{
		engine: o.Engine, nodeID: o.NodeID, settings: o.Settings, now: o.Now, onLead: o.OnLead, onResign: o.OnResign,
		replicator: o.Replicator, leaseValid: o.Lease, lag: o.Lag, stopped: o.Stopped, isrPoke: make(chan struct{}, 1),
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

// Topics returns all topics by name. The slice is read-only.
func (s *Set) Topics() []*Topic {
	s.mu.RLock()
	all := s.sorted
	s.mu.RUnlock()
	if all != nil {
		return all
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all = make([]*Topic, 0, len(s.byName))
	for _, t := range s.byName {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *Topic) int { return strings.Compare(a.Name, b.Name) })
	s.sorted = all
	return all
}

// Stray returns the logs on disk that the metadata does not know. They are
// kept, offline, until an operator removes them.
func (s *Set) Stray() []*engine.Log {
	s.applying.Lock()
	defer s.applying.Unlock()
	return s.stray
}

// Apply makes the set follow an image, which holds this broker's own registration: logs of new partitions are created,
// those of deleted topics and of replicas that moved elsewhere are dropped, roles, in-sync replicas and settings follow.
// It blocks on the device and is never called on an event loop.
func (s *Set) Apply(img *raft.Image) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	old := s.last
	first := old == nil
	if first {
		old = &raft.Image{}
	}
	if b := img.Broker(s.nodeID); b != nil {
		s.brokerEpoch.Store(b.Epoch)
	}
	changes := raft.TopicChanges(old, img)
	if err := s.create(img, changes); err != nil {
		return err
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
	configs := len(raft.ConfigChanges(old, img)) > 0
	if first || configs {
		s.reconfigure(img)
	}
	if configs || !sameBrokers(old, img) {
		s.refreshAll(img)
	}
	if first {
		if err := s.findStray(img); err != nil {
			return err
		}
	}
	s.last = img
	return nil
}

// create makes the logs of new replicas.
func (s *Set) create(img *raft.Image, changes []raft.TopicChange) error {
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
	if len(create) == 0 {
		return nil
	}
	if _, err := s.engine.CreateLogs(create); err != nil {
		return fmt.Errorf("create %d logs: %w", len(create), err)
	}
	return nil
}

func sameBrokers(a, b *raft.Image) bool {
	if len(a.Brokers) != len(b.Brokers) {
		return false
	}
	for id, x := range b.Brokers {
		if a.Brokers[id] != x {
			return false
		}
	}
	return true
}

func (s *Set) mine(p *raft.Partition) bool { return slices.Contains(p.Replicas, s.nodeID) }

// drop removes the partitions of deleted topics.
func (s *Set) drop(changes []raft.TopicChange) error {
	var gone []*Partition
	for _, c := range changes {
		if c.New != nil {
			continue
		}
		t := s.TopicByID(c.Old.ID)
		if t == nil {
			continue
		}
		s.mu.Lock()
		s.sorted = nil
		delete(s.byID, t.ID)
		if s.byName[t.Name] == t {
			delete(s.byName, t.Name)
		}
		s.mu.Unlock()
		for _, p := range t.Partitions() {
			if p != nil {
				gone = append(gone, p)
			}
		}
	}
	return s.remove(gone)
}

// remove ends partitions and drops their logs.
func (s *Set) remove(gone []*Partition) error {
	var logs []*engine.Log
	for _, p := range gone {
		p.resign(ErrPartitionGone, true)
		s.onResign(p)
		logs = append(logs, p.log)
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
	var leads, resigned, gone []*Partition
	for i, rp := range rt.Partitions {
		p := parts[i]
		if !s.mine(rp) {
			if p != nil {
				gone, parts[i] = append(gone, p), nil
			}
			continue
		}
		if p == nil {
			var err error
			if p, err = s.adopt(t, int32(i)); err != nil {
				return err
			}
			parts[i] = p
		}
		began, ended, err := s.assume(p, rp)
		if err != nil {
			return fmt.Errorf("%s-%d: begin leader epoch %d: %w", rt.Name, i, rp.LeaderEpoch, err)
		}
		if began {
			leads = append(leads, p)
		}
		if ended {
			resigned = append(resigned, p)
		}
	}
	t.parts.Store(&parts)
	s.mu.Lock()
	s.byName[t.Name], s.byID[t.ID], s.sorted = t, t, nil
	s.mu.Unlock()
	for _, p := range resigned {
		s.onResign(p)
	}
	now := s.now()
	for i, p := range parts {
		if p != nil {
			p.refresh(img, rt, rt.Partitions[i], now)
		}
	}
	for _, p := range leads {
		s.onLead(p)
	}
	return s.remove(gone)
}

// adopt makes the partition of a log.
func (s *Set) adopt(t *Topic, index int32) (*Partition, error) {
	log := s.engine.Log(t.ID, index)
	if log == nil {
		return nil, fmt.Errorf("%s-%d: the log could not be found after it was created", t.Name, index)
	}
	p := &Partition{Topic: t.Name, TopicID: t.ID, Index: index, set: s, log: log, epoch: NoEpoch}
	// What was known to be committed is a lower bound; the leader, or its followers, will say more.
	p.hw.Store(min(max(log.HighWatermarkHint(), log.LogStartOffset()), log.AppendedEnd()))
	log.SetConfig(t.Settings().Engine)
	log.SetObserver(p)
	return p, nil
}

// assume takes the role that an image gives.
func (s *Set) assume(p *Partition, rp *raft.Partition) (began, ended bool, err error) {
	p.mu.Lock()
	p.unclean = rp.UncleanEpoch
	leads, epoch, failed := p.role == leader, p.epoch, p.failed
	p.mu.Unlock()
	switch {
	case failed != nil:
	case rp.Leader == s.nodeID && (!leads || rp.LeaderEpoch > epoch):
		return true, leads, p.begin(rp.LeaderEpoch)
	case rp.Leader != s.nodeID:
		p.follow(rp.Leader, rp.LeaderEpoch)
		return false, leads, nil
	}
	return false, false, nil
}

// refreshAll lets every partition see what changed beside its topic: brokers and min.insync.replicas.
func (s *Set) refreshAll(img *raft.Image) {
	now := s.now()
	s.eachPartition(func(p *Partition) bool {
		if rt := img.TopicByID(p.TopicID); rt.Partition(p.Index) != nil {
			p.refresh(img, rt, rt.Partition(p.Index), now)
		}
		return true
	})
}

// eachPartition calls f for every partition until it says false.
func (s *Set) eachPartition(f func(*Partition) bool) {
	for _, t := range s.Topics() {
		for _, p := range t.Partitions() {
			if p != nil && !f(p) {
				return
			}
		}
	}
}

// Expire ends the waits of producers whose time is over; now is a reading of the clock that Acks.Deadline was made from.
func (s *Set) Expire(now int64) {
	s.eachPartition(func(p *Partition) bool { p.expire(now); return true })
}

// Housekeep does what followers owe to their leaders and cannot do on a stream: it removes what was removed there. It
// blocks on the device.
func (s *Set) Housekeep() error {
	if !s.dirtyStarts.Swap(false) {
		return nil
	}
	var errs []error
	s.eachPartition(func(p *Partition) bool {
		done, err := p.takeLogStart()
		if err != nil && !errors.Is(err, engine.ErrDropped) {
			errs = append(errs, fmt.Errorf("%s-%d: %w", p.Topic, p.Index, err))
		}
		if !done {
			s.dirtyStarts.Store(true)
		}
		return true
	})
	return errors.Join(errs...)
}

// reportStopped tells the broker that a partition was given up.
func (s *Set) reportStopped(p *Partition, err error) {
	s.onResign(p)
	s.stopped(p, err)
}

// Stats counts partitions as this broker sees them.
type Stats struct {
	Replicas, Leaders          int
	Stopped                    int
	ISRShrinks, ISRExpands     int64
	FollowerLagMax, HWDistance int64 // records: of the worst follower; appended and not committed
}

// Stats looks at every partition.
func (s *Set) Stats() Stats {
	st := Stats{ISRShrinks: s.shrinks.Load(), ISRExpands: s.expands.Load()}
	s.eachPartition(func(p *Partition) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		st.Replicas++
		if p.failed != nil {
			st.Stopped++
		}
		if p.role != leader {
			return true
		}
		st.Leaders++
		end := p.log.AppendedEnd()
		st.HWDistance = max(st.HWDistance, end-p.hw.Load())
		for i := range p.lead.followers {
			st.FollowerLagMax = max(st.FollowerLagMax, end-max(p.lead.followers[i].stored, p.log.LogStartOffset()))
		}
		return true
	})
	return st
}

// beginEpoch writes the start of an epoch into the log, when a busy log has room for it.
func beginEpoch(l *engine.Log, epoch int32) error {
	for {
		err := l.BeginEpoch(epoch)
		if !errors.Is(err, engine.ErrBusy) {
			return err
		}
		if err := l.WaitRoom(); err != nil {
			return err
		}
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
		case t.Partition(l.Partition()) != nil && s.mine(t.Partition(l.Partition())):
		case t.Partition(l.Partition()) != nil:
			deleted = append(deleted, l) // the cluster agreed that the replica is elsewhere
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
