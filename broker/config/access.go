package config

import (
	"maps"
	"math"
	"time"
)

// NodeID is node.id, or broker.id if only that is set.
func (b *Broker) NodeID() int32 {
	if !b.isGiven("node.id") && b.isGiven("broker.id") {
		return int32(b.long("broker.id"))
	}
	return int32(b.long("node.id"))
}

// DataDir is log.dirs, or log.dir if that is not set.
func (b *Broker) DataDir() string {
	if v, ok := b.given("log.dirs"); ok {
		return v.list[0]
	}
	return b.get("log.dir").text
}

// AdminAddress is where the admin HTTP server listens; "" for nowhere.
func (b *Broker) AdminAddress() string {
	if a := b.get("millrace.admin.address").text; a != "off" {
		return a
	}
	return ""
}

// IO is millrace.io.
func (b *Broker) IO() string { return b.get("millrace.io").text }

// ClusterAddress is where a node of a cluster listens for the others.
func (b *Broker) ClusterAddress() string { return b.get("millrace.cluster.address").text }

// ClusterAdvertisedAddress is where the others reach it; "" if nobody said.
func (b *Broker) ClusterAdvertisedAddress() string {
	return b.get("millrace.cluster.advertised.address").text
}

// ClusterPeers are the other nodes, as ID@HOST:PORT with commas between.
func (b *Broker) ClusterPeers() string { return b.get("millrace.cluster.peers").text }

// ClusterSecretFile is the file with the nodes' secret; "" for none.
func (b *Broker) ClusterSecretFile() string { return b.get("millrace.cluster.secret.file").text }

// ClusterTLSFiles are the PEM files of mutual TLS on the cluster port; all are
// empty without it.
func (b *Broker) ClusterTLSFiles() (certificate, key, ca string) {
	return b.get("millrace.cluster.tls.certificate.file").text, b.get("millrace.cluster.tls.key.file").text, b.get("millrace.cluster.tls.ca.file").text
}

// LogLevel and LogFormat are for the process's own log lines.
func (b *Broker) LogLevel() string { return b.get("millrace.log.level").text }

// LogFormat is text or json.
func (b *Broker) LogFormat() string { return b.get("millrace.log.format").text }

// ShutdownTimeout is how long an orderly end may take.
func (b *Broker) ShutdownTimeout() time.Duration { return b.millis("millrace.shutdown.timeout.ms") }

// Static is what file or command line say of a setting.
func (b *Broker) Static(name string) (text string, given bool) {
	text, given = b.static[name]
	return text, given
}

// Without returns the settings as if file and command line did not have these: a cluster agrees on them.
func (b *Broker) Without(names ...string) *Broker {
	static := maps.Clone(b.static)
	for _, n := range names {
		delete(static, n)
	}
	c := &Broker{static: static}
	sn := b.current.Load()
	c.current.Store(c.resolve(sn.perBroker, sn.cluster))
	return c
}

// Rack is broker.rack; "" for none.
func (b *Broker) Rack() string { return b.get("broker.rack").text }

// Shards is millrace.shards; 0: see Sizes.
func (b *Broker) Shards() int { return int(b.long("millrace.shards")) }

// WALBytes is millrace.wal.bytes; 0: see Sizes.
func (b *Broker) WALBytes() int64 { return b.long("millrace.wal.bytes") }

// WALFileBytes is millrace.wal.file.bytes; 0: see Sizes.
func (b *Broker) WALFileBytes() int64 { return b.long("millrace.wal.file.bytes") }

// RingBytes is millrace.tail.ring.bytes; 0: see Sizes.
func (b *Broker) RingBytes() int64 { return b.long("millrace.tail.ring.bytes") }

// CommitBytesMax is the most bytes of one commit.
func (b *Broker) CommitBytesMax() int { return int(b.long("millrace.commit.max.bytes")) }

// NetworkThreads is num.network.threads; 0: by the number of cores.
func (b *Broker) NetworkThreads() int { return int(b.long("num.network.threads")) }

// SocketRequestMaxBytes is the largest request.
func (b *Broker) SocketRequestMaxBytes() int { return int(b.long("socket.request.max.bytes")) }

// SocketReceiveBufferBytes is SO_RCVBUF; -1: the kernel's own.
func (b *Broker) SocketReceiveBufferBytes() int { return int(b.long("socket.receive.buffer.bytes")) }

// SocketSendBufferBytes is SO_SNDBUF; -1: the kernel's own.
func (b *Broker) SocketSendBufferBytes() int { return int(b.long("socket.send.buffer.bytes")) }

// MaxConnections is the most client connections.
func (b *Broker) MaxConnections() int { return int(b.long("max.connections")) }

// MaxConnectionsPerIP is the most client connections of one address.
func (b *Broker) MaxConnectionsPerIP() int { return int(b.long("max.connections.per.ip")) }

// MaxInflightRequests is how many requests of a connection are under way; 0:
// the network layer's choice.
func (b *Broker) MaxInflightRequests() int {
	return int(b.long("millrace.max.inflight.requests.per.connection"))
}

// ConnectionsMaxIdle is when a silent connection is closed.
func (b *Broker) ConnectionsMaxIdle() time.Duration { return b.millis("connections.max.idle.ms") }

// FrameTimeout is when a connection that stops inside a request is closed.
func (b *Broker) FrameTimeout() time.Duration { return b.millis("millrace.frame.timeout.ms") }

// ConnectionMemoryBytes bounds what one connection may hold; 0: the network
// layer's choice.
func (b *Broker) ConnectionMemoryBytes() int64 { return b.long("millrace.connection.memory.bytes") }

// NetworkMemoryBytes bounds what all connections may hold; 0: see Sizes.
func (b *Broker) NetworkMemoryBytes() int64 {
	if n := b.long("queued.max.request.bytes"); n > 0 {
		return n
	}
	return b.long("millrace.network.memory.bytes")
}

// FetchMaxBytes bounds one fetch answer.
func (b *Broker) FetchMaxBytes() int { return int(b.long("fetch.max.bytes")) }

// FetchSessionSlots is how many fetch sessions are remembered.
func (b *Broker) FetchSessionSlots() int {
	return int(b.long("max.incremental.fetch.session.cache.slots"))
}

// AutoCreateTopics tells whether asking for a topic creates it.
func (b *Broker) AutoCreateTopics() bool { return b.long("auto.create.topics.enable") == 1 }

// DeleteTopics tells whether topics can be deleted.
func (b *Broker) DeleteTopics() bool { return b.long("delete.topic.enable") == 1 }

// NumPartitions is the number of partitions of a topic that does not say.
func (b *Broker) NumPartitions() int32 { return int32(b.long("num.partitions")) }

// DefaultReplicationFactor is the number of replicas of a topic that does not
// say: what was set, else at most one for each of the known brokers.
func (b *Broker) DefaultReplicationFactor(brokers int) int {
	return b.factor("default.replication.factor", brokers)
}

// OffsetsTopicPartitions is the number of partitions of __consumer_offsets.
func (b *Broker) OffsetsTopicPartitions() int32 {
	return int32(b.long("offsets.topic.num.partitions"))
}

// OffsetsTopicReplicationFactor is like DefaultReplicationFactor, for
// __consumer_offsets.
func (b *Broker) OffsetsTopicReplicationFactor(brokers int) int {
	return b.factor("offsets.topic.replication.factor", brokers)
}

func (b *Broker) factor(name string, brokers int) int {
	n := int(b.long(name))
	if !b.isGiven(name) {
		n = max(1, min(n, brokers))
	}
	return n
}

// ReplicaLagTime is how long a follower may lack something and stay in sync.
func (b *Broker) ReplicaLagTime() time.Duration {
	return time.Duration(b.long("replica.lag.time.max.ms")) * time.Millisecond
}

// ReplicaLagMessages is how many records a follower may lack; 0: any number.
func (b *Broker) ReplicaLagMessages() int64 { return b.long("replica.lag.max.messages") }

// CatchUpBytesPerSecond bounds what a leader sends to one follower that catches up; 0: nothing does.
func (b *Broker) CatchUpBytesPerSecond() int64 {
	if rate := b.long("leader.replication.throttled.rate"); rate < math.MaxInt64 {
		return max(rate, 1)
	}
	return 0
}

// The values of replica.selector.class, by the names that Kafka's users know.
const (
	leaderSelector = "org.apache.kafka.common.replica.LeaderSelector"
	rackSelector   = "org.apache.kafka.common.replica.RackAwareReplicaSelector"
)

// RackAwareReads tells whether consumers are sent to followers in their rack (KIP-392).
func (b *Broker) RackAwareReads() bool { return b.get("replica.selector.class").text == rackSelector }

// OffsetsTopicConfigs are the overrides that __consumer_offsets is created
// with.
func (b *Broker) OffsetsTopicConfigs() map[string]string {
	return map[string]string{
		CleanupPolicy: "compact",
		SegmentBytes:  b.get("offsets.topic.segment.bytes").text,
	}
}

// OffsetMetadataMaxBytes is the longest metadata of a committed offset.
func (b *Broker) OffsetMetadataMaxBytes() int { return int(b.long("offset.metadata.max.bytes")) }

// OffsetsRetention is how long the offsets of an empty group are kept.
func (b *Broker) OffsetsRetention() time.Duration {
	return time.Duration(b.long("offsets.retention.minutes")) * time.Minute
}

// OffsetsRetentionCheckInterval is how often offsets past it are looked for.
func (b *Broker) OffsetsRetentionCheckInterval() time.Duration {
	return b.millis("offsets.retention.check.interval.ms")
}

// GroupMinSessionTimeout is the shortest session timeout of a member.
func (b *Broker) GroupMinSessionTimeout() time.Duration {
	return b.millis("group.min.session.timeout.ms")
}

// GroupMaxSessionTimeout is the longest session timeout of a member.
func (b *Broker) GroupMaxSessionTimeout() time.Duration {
	return b.millis("group.max.session.timeout.ms")
}

// GroupInitialRebalanceDelay is how long a new group waits for its first
// members.
func (b *Broker) GroupInitialRebalanceDelay() time.Duration {
	return b.millis("group.initial.rebalance.delay.ms")
}

// GroupMaxSize is the most members of a group.
func (b *Broker) GroupMaxSize() int { return int(b.long("group.max.size")) }

// RetentionCheckInterval is how often segments past retention are looked for.
func (b *Broker) RetentionCheckInterval() time.Duration {
	return b.millis("log.retention.check.interval.ms")
}

// Machine is what the sizes that nobody set depend on.
type Machine struct {
	Cores       int
	MemoryBytes int64
	DiskBytes   int64 // of the data directory's file system, used or not
}

// Sizes are the settings that grow with the machine, as the engine and the
// network layer take them: those of the log are for each shard.
type Sizes struct {
	Shards             int
	WALBytes           int64
	WALFileBytes       int64
	RingBytes          int64
	CommitBytesMax     int
	NetworkMemoryBytes int64
}

// Sizes fills in what nobody set, by the rules in the settings' documentation.
func (b *Broker) Sizes(m Machine) Sizes {
	share := min(max(m.MemoryBytes/32, 64<<20), 8<<30)
	s := Sizes{Shards: b.Shards(), CommitBytesMax: b.CommitBytesMax(), NetworkMemoryBytes: b.NetworkMemoryBytes()}
	if s.Shards == 0 {
		s.Shards = min(max(m.Cores/4, 1), 16)
	}
	wal, ring := b.WALBytes(), b.RingBytes()
	if wal == 0 {
		wal = max(min(1<<30, m.DiskBytes/16), 64<<20)
	}
	if ring == 0 {
		ring = share
	}
	s.WALBytes, s.RingBytes = wal/int64(s.Shards), ring/int64(s.Shards)
	if s.WALFileBytes = b.WALFileBytes(); s.WALFileBytes == 0 {
		s.WALFileBytes = max(min(64<<20, s.WALBytes/4), int64(4*s.CommitBytesMax))
	}
	const block = 4096
	s.WALFileBytes -= s.WALFileBytes % block
	if s.NetworkMemoryBytes == 0 {
		// It does not grow with the machine: whatever it is, strangers can fill it.
		frame := int64(b.SocketRequestMaxBytes())
		s.NetworkMemoryBytes = max(frame+frame/8, 64<<20)
	}
	return s
}
