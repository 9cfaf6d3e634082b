package config

// brokerSettings are Kafka's broker settings that have no topic setting above
// them. The others are made from the topic settings (see tables.go).
var brokerSettings = []Setting{
	{
		Name: "advertised.listeners", Type: List, Unset: true,
		Doc: "Where clients are told to connect, as PLAINTEXT://host:port. Default: the first of listeners, with the host name for a wildcard address.",
	},
	{
		Name: "auto.create.topics.enable", Type: Boolean, Default: "true", Update: ClusterWide,
		Doc: "Whether a topic is created when a client first asks for its metadata.",
	},
	{
		Name: "auto.leader.rebalance.enable", Type: Boolean, Default: "true", Update: ClusterWide,
		Doc: "Whether leaderships return to the first replica once that has been back for a while. " + agreedOn,
	},
	{
		Name: "broker.id", Type: Int, Unset: true, Valid: atLeast(0), Synonyms: nodeIDFamily,
		Doc: "The old name of node.id.",
	},
	{
		Name: "broker.rack", Type: String, Unset: true,
		Doc: "The rack or zone that this broker is in; told to clients.",
	},
	{
		Name: "connections.max.idle.ms", Type: Long, Default: "600000", Valid: atLeast(1),
		Doc: "A connection on which nothing was asked for this long is closed.",
	},
	{
		Name: "default.replication.factor", Type: Int, Default: "3", Valid: between(1, 32767), Update: ClusterWide,
		Doc: "Replicas of a partition when the request does not say. While nobody set it, a cluster of fewer brokers uses one replica a broker.",
	},
	{
		Name: "delete.topic.enable", Type: Boolean, Default: "true", Update: ClusterWide,
		Doc: "Whether topics can be deleted.",
	},
	{
		Name: "fetch.max.bytes", Type: Int, Default: "57671680", Valid: atLeast(1024),
		Doc: "The most bytes of records in one fetch answer, whatever the client asks for. One batch is returned even if it is larger.",
	},
	{
		Name: "follower.replication.throttled.rate", Type: Long, Default: maxLong, Valid: atLeast(0), Update: ClusterWide,
		Doc: "Bytes a second that a follower takes while it catches up.", Inert: "the leader's rate counts",
	},
	{
		Name: "group.initial.rebalance.delay.ms", Type: Int, Default: "3000", Valid: atLeast(0),
		Doc: "How long the first members of a new group wait for others before their first assignment.",
	},
	{
		Name: "group.max.session.timeout.ms", Type: Int, Default: "1800000", Valid: atLeast(1),
		Doc: "The longest session timeout that a group member may ask for.",
	},
	{
		Name: "group.max.size", Type: Int, Default: "2147483647", Valid: atLeast(1),
		Doc: "The most members of one group.",
	},
	{
		Name: "group.min.session.timeout.ms", Type: Int, Default: "6000", Valid: atLeast(1),
		Doc: "The shortest session timeout that a group member may ask for.",
	},
	{
		Name: "leader.replication.throttled.rate", Type: Long, Default: maxLong, Valid: atLeast(0), Update: ClusterWide,
		Doc: "Bytes a second that a leader sends to one follower that catches up: after a restart, or as a new replica. What a follower in sync gets is not bounded.",
	},
	{
		Name: "listeners", Type: List, Default: "PLAINTEXT://127.0.0.1:9092",
		Doc: "Addresses to listen on, as PLAINTEXT://host:port; IPv6 in brackets; an empty host is every address. There is no authentication and no TLS yet: the default is this machine only.",
	},
	{
		Name: "log.dir", Type: String, Default: "./data", Synonyms: logDirFamily,
		Doc: "The data directory, if log.dirs is not set.",
	},
	{
		Name: "log.dirs", Type: List, Unset: true, Valid: oneDirectory(), Synonyms: logDirFamily,
		Doc: "The data directory. One only.",
	},
	{
		Name: "log.retention.check.interval.ms", Type: Long, Default: "300000", Valid: atLeast(1),
		Doc: "How often is looked for segments past their retention.",
	},
	{
		Name: "max.connections", Type: Int, Default: "20000", Valid: atLeast(1),
		Doc: "The most client connections at a time. Kafka has no limit by default; this one is to be raised together with the limit of open files.",
	},
	{
		Name: "max.connections.per.ip", Type: Int, Default: "2147483647", Valid: atLeast(1),
		Doc: "The most client connections of one address at a time.",
	},
	{
		Name: "max.incremental.fetch.session.cache.slots", Type: Int, Default: "1000", Valid: atLeast(0),
		Doc: "The most fetch sessions (KIP-227) that the broker remembers.",
	},
	{
		Name: "node.id", Type: Int, Default: "1", Valid: atLeast(0), Synonyms: nodeIDFamily,
		Doc: "The number of this node; fixed once the data directory exists.",
	},
	{
		Name: "num.network.threads", Type: Int, Unset: true, Valid: between(1, 1024),
		Doc: "Event loops for client connections. Default: by the number of cores. They also do what Kafka gives to num.io.threads.",
	},
	{
		Name: "num.partitions", Type: Int, Default: "1", Valid: between(1, maxPartitions), Update: ClusterWide,
		Doc: "Partitions of a topic when the request does not say.",
	},
	{
		Name: "offset.metadata.max.bytes", Type: Int, Default: "4096", Valid: atLeast(0),
		Doc: "The longest metadata text that a member may store with an offset.",
	},
	{
		Name: "offsets.retention.check.interval.ms", Type: Long, Default: "600000", Valid: atLeast(1),
		Doc: "How often is looked for committed offsets past their retention.",
	},
	{
		Name: "offsets.retention.minutes", Type: Int, Default: "10080", Valid: atLeast(1),
		Doc: "How long a group's committed offsets are kept after it lost its last member.",
	},
	{
		Name: "offsets.topic.num.partitions", Type: Int, Default: "50", Valid: between(1, maxPartitions),
		Doc: "Partitions of __consumer_offsets, when it is created.",
	},
	{
		Name: "offsets.topic.replication.factor", Type: Short, Default: "3", Valid: between(1, 32767),
		Doc: "Replicas of a partition of __consumer_offsets. While nobody set it, a cluster of fewer brokers uses one replica a broker.",
	},
	{
		Name: "offsets.topic.segment.bytes", Type: Int, Default: "104857600", Valid: atLeast(1),
		Doc: "segment.bytes of __consumer_offsets, when it is created.",
	},
	{
		Name: "producer.id.expiration.ms", Type: Int, Default: "86400000", Valid: atLeast(1),
		Doc: "How long a partition remembers an idempotent producer that does not write.",
	},
	{
		Name: "queued.max.request.bytes", Type: Long, Default: "-1", Valid: atLeast(-1),
		Doc: "Memory for requests under way, over all connections; above it nothing more is read. -1: see millrace.network.memory.bytes, which this overrides.",
	},
	{
		Name: "replica.lag.max.messages", Type: Long, Default: "0", Valid: atLeast(0), Update: ClusterWide,
		Doc: "A follower that is more than this many records behind for a second leaves the in-sync replicas. 0: no such bound.",
	},
	{
		Name: "replica.lag.time.max.ms", Type: Long, Default: "30000", Valid: atLeast(100), Update: ClusterWide,
		Doc: "A follower that has not had everything for this long leaves the in-sync replicas.",
	},
	{
		Name: "replica.selector.class", Type: String, Default: leaderSelector, Valid: oneOf(leaderSelector, rackSelector),
		Doc: "Whether consumers that name their rack (client.rack) are sent to an in-sync follower in it: " + rackSelector + " does that.",
	},
	{
		Name: "socket.receive.buffer.bytes", Type: Int, Default: "-1", Valid: atLeast(-1),
		Doc: "SO_RCVBUF of client connections. -1 (the default; Kafka's is 102400): the kernel's own sizing.",
	},
	{
		Name: "socket.request.max.bytes", Type: Int, Default: "104857600", Valid: between(1024, 1<<31-1),
		Doc: "The largest request. A connection that announces a larger one is closed; memory is taken as the bytes arrive.",
	},
	{
		Name: "socket.send.buffer.bytes", Type: Int, Default: "-1", Valid: atLeast(-1),
		Doc: "SO_SNDBUF of client connections. -1 (the default; Kafka's is 102400): the kernel's own sizing.",
	},
}

// agreedOn is said of settings that the metadata acts on.
const agreedOn = "In a cluster the value for all brokers counts, which a node's file gives only to a cluster that has none yet."

// maxPartitions bounds the partitions of a topic created in one request.
const maxPartitions = 100_000

var (
	nodeIDFamily = under("node.id", "broker.id")
	logDirFamily = under("log.dirs", "log.dir")
)
