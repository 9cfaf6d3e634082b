package raft

import (
	"cmp"
	"maps"
	"slices"
)

// NoLeader is the Leader of a partition that has none, and NoBroker the absence of a broker.
const (
	NoLeader int32 = -1
	NoBroker int32 = -1
)

// Image is the agreed metadata at one index of the raft log. It is immutable: apply makes a new one
// that shares everything that did not change. All slices and maps reached from it are read-only.
type Image struct {
	// Index is the raft index of the last command in this image; 0 before the first one.
	Index uint64
	// Level is the finalised feature level: commands above it are rejected by every replica.
	Level uint16
	// ClusterID is empty until FormCluster.
	ClusterID string
	// Controller is the broker that elects, fences and balances; commands of an older epoch are refused.
	Controller Controller
	// Brokers holds every registered broker, fenced ones included.
	Brokers map[int32]*Broker
	// Replicas binds raft replica ids to data directories: a replica that comes back with another
	// directory has forgotten its votes and must not vote.
	Replicas map[uint64]*Replica
	// NextProducerID is the first producer id that no block has been cut from yet.
	NextProducerID int64

	topics     trie[string, *Topic]
	topicsByID trie[UUID, *Topic]
	configs    trie[ConfigResource, map[string]string]
	deleted    trie[UUID, *DeletedTopic]
	partitions int   // of all topics
	prunedAt   int64 // when deleted was last swept, by the commands' own time
}

// Controller is who leads the metadata shard, as it committed itself.
type Controller struct {
	NodeID int32 // NoBroker before the first
	Epoch  uint64
	Term   uint64 // the raft term it was elected in
}

// Replica is one raft replica's permanent identity.
type Replica struct {
	ID          uint64
	NodeID      int32
	DirectoryID UUID
	Addr        string // of its cluster port, as its node last said
	Removed     bool   // for good: the id is never used again
}

// Broker is one registered broker.
type Broker struct {
	ID            int32
	Epoch         int64 // raft index of its registration; -1 while it was only announced by FormCluster
	DirectoryID   UUID
	IncarnationID UUID
	Host          string
	Port          int32
	Rack          string // "" = none
	Fenced        bool
	MaxLevel      uint16 // the highest level that it can apply
	// ShuttingDown is a broker on its way out: it has left leaderships and ISRs and comes back by registering.
	ShuttingDown bool
	// Draining is an operator's wish that the broker lead nothing and hold nothing.
	Draining  bool
	Listeners []Listener // every advertised address; Host and Port are the first one's
}

// Listener is one advertised address of a broker.
type Listener struct {
	Name string
	Host string
	Port int32
}

// Topic is one topic. Partitions are indexed by partition number.
type Topic struct {
	Name       string
	ID         UUID
	Internal   bool
	Partitions []*Partition
}

// Partition is who holds a partition and who leads it (KIP-497, KIP-966).
type Partition struct {
	Replicas []int32 // in order of preference
	ISR      []int32 // in sync; every acknowledged record is on all of them
	ELR      []int32 // left the ISR while it was below min.insync.replicas, but hold all that was acknowledged
	Leader   int32   // NoLeader while nobody may lead
	// LeaderEpoch rises with every change of leader and with every start of the leading broker.
	LeaderEpoch int32
	// PartitionEpoch rises with every change of this struct; AlterPartitions compares and sets with it.
	PartitionEpoch int32
	// LastLeader is who led last when nobody does: the first choice of a recovery.
	LastLeader int32
	// Adding and Removing are the difference that a reassignment is to make; Replicas holds both meanwhile, the
	// target first.
	Adding, Removing []int32
	// UncleanEpoch is the last leader epoch that an unclean election began: a cut below a high watermark is
	// explained by it and by nothing else. 0 is none.
	UncleanEpoch int32
	// Recovering: elected uncleanly, and alone in the ISR until the leader has said that it is done.
	Recovering bool
}

// Reassigning reports whether a reassignment is under way.
func (p *Partition) Reassigning() bool { return len(p.Adding)+len(p.Removing) > 0 }

// targetSize is the smaller one of the replication factors before and after a reassignment.
func (p *Partition) targetSize() int { return len(p.Replicas) - max(len(p.Adding), len(p.Removing)) }

// DeletedTopic is the tombstone of a topic: a directory of its id may be removed.
type DeletedTopic struct {
	ID       UUID
	Name     string
	AtMillis int64
}

// ConfigType says what a ConfigResource names; the values are Kafka's.
type ConfigType int8

// Kafka's resource types that carry configs here.
const (
	ConfigTopic       ConfigType = 2
	ConfigBroker      ConfigType = 4 // Name "" is the cluster-wide default
	ConfigClientQuota ConfigType = 8
	ConfigClient      ConfigType = 16 // client metrics
	ConfigGroup       ConfigType = 32
)

// ConfigResource names something that has dynamic configs.
type ConfigResource struct {
	Type ConfigType
	Name string
}

// newImage returns the image before the first command.
func newImage() *Image {
	return &Image{
		Level:      0,
		Controller: Controller{NodeID: NoBroker},
		Brokers:    map[int32]*Broker{},
		Replicas:   map[uint64]*Replica{},
		topics:     newTrie[string, *Topic](hashString),
		topicsByID: newTrie[UUID, *Topic](hashUUID),
		configs:    newTrie[ConfigResource, map[string]string](hashResource),
		deleted:    newTrie[UUID, *DeletedTopic](hashUUID),
	}
}

// Broker returns a registered broker or nil.
func (m *Image) Broker(id int32) *Broker { return m.Brokers[id] }

// SortedBrokers lists the brokers by id.
func (m *Image) SortedBrokers() []*Broker {
	out := slices.Collect(maps.Values(m.Brokers))
	slices.SortFunc(out, func(a, b *Broker) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Topic returns a topic by name or nil.
func (m *Image) Topic(name string) *Topic {
	t, _ := m.topics.get(name)
	return t
}

// TopicByID returns a topic by id or nil.
func (m *Image) TopicByID(id UUID) *Topic {
	t, _ := m.topicsByID.get(id)
	return t
}

// Partition returns one partition or nil.
func (m *Image) Partition(topic string, partition int32) *Partition {
	return m.Topic(topic).Partition(partition)
}

// Partition returns one partition or nil; a nil topic has none.
func (t *Topic) Partition(partition int32) *Partition {
	if t == nil || partition < 0 || int(partition) >= len(t.Partitions) {
		return nil
	}
	return t.Partitions[partition]
}

// TopicCount is the number of topics, PartitionCount that of all their partitions.
func (m *Image) TopicCount() int { return m.topics.len }

// PartitionCount is the number of partitions of all topics.
func (m *Image) PartitionCount() int { return m.partitions }

// EachTopic calls f for every topic until it returns false, in no useful order.
func (m *Image) EachTopic(f func(*Topic) bool) {
	m.topics.each(func(_ string, t *Topic) bool { return f(t) })
}

// SortedTopics lists the topics by name. It allocates; EachTopic does not.
func (m *Image) SortedTopics() []*Topic {
	out := make([]*Topic, 0, m.topics.len)
	m.EachTopic(func(t *Topic) bool { out = append(out, t); return true })
	slices.SortFunc(out, func(a, b *Topic) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Config returns the dynamic configs of a resource; nil if there are none.
func (m *Image) Config(r ConfigResource) map[string]string {
	c, _ := m.configs.get(r)
	return c
}

// TopicConfig returns the dynamic configs of a topic; nil if there are none.
func (m *Image) TopicConfig(name string) map[string]string {
	return m.Config(ConfigResource{Type: ConfigTopic, Name: name})
}

// BrokerConfig returns the dynamic configs of one broker; nil if there are none.
func (m *Image) BrokerConfig(id int32) map[string]string {
	return m.Config(ConfigResource{Type: ConfigBroker, Name: formatInt(int64(id))})
}

// ClusterConfig returns the dynamic configs that are every broker's default; nil if there are none.
func (m *Image) ClusterConfig() map[string]string {
	return m.Config(ConfigResource{Type: ConfigBroker})
}

// SortedConfigs lists the resources that have dynamic configs.
func (m *Image) SortedConfigs() []ConfigResource {
	out := make([]ConfigResource, 0, m.configs.len)
	m.configs.each(func(r ConfigResource, _ map[string]string) bool { out = append(out, r); return true })
	slices.SortFunc(out, compareResources)
	return out
}

func compareResources(a, b ConfigResource) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name))
}

// Deleted returns the tombstone of a topic id, or nil if it is unknown or older than seven days.
func (m *Image) Deleted(id UUID) *DeletedTopic {
	d, _ := m.deleted.get(id)
	return d
}

// TopicChange is one topic that two images show differently: Old is nil for a created, New for a
// deleted one. A topic deleted and created again under its name shows up twice, with its two ids.
type TopicChange struct{ Old, New *Topic }

// TopicChanges lists what happened to topics between two images, sorted by name and deletions first.
// Its cost follows the changes, not the number of topics.
func TopicChanges(old, now *Image) []TopicChange {
	var out []TopicChange
	trieDiff(old.topicsByID, now.topicsByID, func(_ UUID, o *Topic, _ bool, n *Topic, _ bool) {
		out = append(out, TopicChange{Old: o, New: n})
	})
	slices.SortFunc(out, func(a, b TopicChange) int {
		return cmp.Or(cmp.Compare(a.name(), b.name()), cmp.Compare(a.rank(), b.rank()))
	})
	return out
}

func (c TopicChange) name() string {
	if c.New != nil {
		return c.New.Name
	}
	return c.Old.Name
}

func (c TopicChange) rank() int {
	if c.New == nil {
		return 0
	}
	return 1
}

// ConfigChanges lists the resources whose dynamic configs differ between two images.
func ConfigChanges(old, now *Image) []ConfigResource {
	var out []ConfigResource
	trieDiff(old.configs, now.configs, func(r ConfigResource, _ map[string]string, _ bool, _ map[string]string, _ bool) {
		out = append(out, r)
	})
	slices.SortFunc(out, compareResources)
	return out
}

// minISRKey is looked for in a topic's configs, then in those for all brokers, and nowhere else: what single brokers
// have in their files cannot be agreed on.
const minISRKey = "min.insync.replicas"

// effectiveMinISR is min.insync.replicas as this image knows it, never above the replication factor
// (KIP-966), so that a topic with fewer replicas than the setting can make progress.
func (m *Image) effectiveMinISR(t *Topic, p *Partition) int {
	s, ok := m.TopicConfig(t.Name)[minISRKey]
	if !ok {
		s = m.ClusterConfig()[minISRKey]
	}
	n, ok := parseInt(s)
	if !ok || n < 1 {
		n = 1
	}
	return int(min(n, int64(p.targetSize())))
}

// MinISR is the effective min.insync.replicas of a partition: min(config, replication factor).
func (m *Image) MinISR(t *Topic, p *Partition) int { return m.effectiveMinISR(t, p) }

// clone copies the top of an image; apply then replaces what it changes.
func (m *Image) clone() *Image {
	c := *m
	return &c
}

func (m *Image) putBroker(b *Broker) {
	m.Brokers = maps.Clone(m.Brokers)
	m.Brokers[b.ID] = b
}

func (m *Image) putTopic(t *Topic) {
	if old := m.Topic(t.Name); old != nil {
		m.partitions -= len(old.Partitions)
	}
	m.partitions += len(t.Partitions)
	m.topics = m.topics.with(t.Name, t)
	m.topicsByID = m.topicsByID.with(t.ID, t)
}

func (m *Image) dropTopic(t *Topic) {
	m.partitions -= len(t.Partitions)
	m.topics = m.topics.without(t.Name)
	m.topicsByID = m.topicsByID.without(t.ID)
}

func (m *Image) putConfig(r ConfigResource, c map[string]string) {
	if len(c) == 0 {
		m.configs = m.configs.without(r)
		return
	}
	m.configs = m.configs.with(r, c)
}

// withPartitions returns a copy of t whose partition slice may be written.
func (t *Topic) withPartitions() *Topic {
	c := *t
	c.Partitions = slices.Clone(t.Partitions)
	return &c
}
