package config

// Names of topic settings that the code asks for.
const (
	CleanupPolicy            = "cleanup.policy"
	CompressionType          = "compression.type"
	DeleteRetentionMs        = "delete.retention.ms"
	FlushMessages            = "flush.messages"
	FlushMs                  = "flush.ms"
	IndexIntervalBytes       = "index.interval.bytes"
	MaxCompactionLagMs       = "max.compaction.lag.ms"
	MaxMessageBytes          = "max.message.bytes"
	MessageTimestampAfterMs  = "message.timestamp.after.max.ms"
	MessageTimestampBeforeMs = "message.timestamp.before.max.ms"
	MessageTimestampType     = "message.timestamp.type"
	MinCleanableDirtyRatio   = "min.cleanable.dirty.ratio"
	MinCompactionLagMs       = "min.compaction.lag.ms"
	MinInsyncReplicas        = "min.insync.replicas"
	RetentionBytes           = "retention.bytes"
	RetentionMs              = "retention.ms"
	SegmentBytes             = "segment.bytes"
	SegmentMs                = "segment.ms"
)

const (
	maxLong = "9223372036854775807"
	week    = "604800000"

	noTiers    = "there is no tiered storage in Millrace"
	noThrottle = "leader.replication.throttled.rate holds for every follower that catches up, listed or not"
	noRecode   = "batches are stored and served exactly as their producer compressed them"
)

func under(names ...string) []Synonym {
	s := make([]Synonym, len(names))
	for i, n := range names {
		s[i] = Synonym{n, 1}
	}
	return s
}

var (
	segmentMsFamily   = []Synonym{{"log.roll.ms", 1}, {"log.roll.hours", hourMillis}}
	retentionMsFamily = []Synonym{{"log.retention.ms", 1}, {"log.retention.minutes", minuteMillis}, {"log.retention.hours", hourMillis}}
)

const (
	minuteMillis = 60 * 1000
	hourMillis   = 60 * minuteMillis
)

// topicSettings are all settings of a topic, sorted by name.
var topicSettings = []Setting{
	{
		Name: CleanupPolicy, Type: List, Default: "delete", Valid: oneOf("compact", "delete"), Synonyms: under("log.cleanup.policy"),
		Doc: "What happens to old records. delete: segments past retention.ms or retention.bytes are removed. compact: of every key the newest record is kept. Both, separated by a comma: compacted, and removed once past retention. Empty: kept for ever.",
	},
	{
		Name: "compression.gzip.level", Type: Int, Default: "-1", Valid: Rule{"[1,...,9] or -1", gzipLevel}, Synonyms: under("compression.gzip.level"),
		Doc: "Level of gzip when the broker compresses.", Inert: noRecode,
	},
	{
		Name: "compression.lz4.level", Type: Int, Default: "9", Valid: between(1, 17), Synonyms: under("compression.lz4.level"),
		Doc: "Level of lz4 when the broker compresses.", Inert: noRecode,
	},
	{
		Name: CompressionType, Type: String, Default: "producer", Valid: only("producer", noRecode), Synonyms: under("compression.type"),
		Doc: "Codec of the stored batches: the producer's.",
	},
	{
		Name: "compression.zstd.level", Type: Int, Default: "3", Valid: between(-131072, 22), Synonyms: under("compression.zstd.level"),
		Doc: "Level of zstd when the broker compresses.", Inert: noRecode,
	},
	{
		Name: DeleteRetentionMs, Type: Long, Default: "86400000", Valid: atLeast(0), Synonyms: under("log.cleaner.delete.retention.ms"),
		Doc: "How long a compacted topic keeps tombstones, so that a consumer that reads it from the start within this time sees every deletion.",
	},
	{
		Name: "file.delete.delay.ms", Type: Long, Default: "60000", Valid: atLeast(0), Synonyms: under("log.segment.delete.delay.ms"),
		Doc: "How long a removed file stays on disk.", Inert: "a file is removed when its last reader is done with it",
	},
	{
		Name: FlushMessages, Type: Long, Default: "1", Valid: atLeast(1), Synonyms: under("log.flush.interval.messages"),
		Doc: "1 (the default): a record is acknowledged when it has been flushed to the device. More than 1: it is acknowledged when its direct write to the device has completed, and flushed later (see flush.ms): that survives the end of the process or of the kernel, not a device that loses its volatile cache. Kafka's default is never to flush; here nothing is acknowledged from memory.",
	},
	{
		Name: FlushMs, Type: Long, Default: "1000", Valid: atLeast(0), Synonyms: under("log.flush.interval.ms", "log.flush.scheduler.interval.ms"),
		Doc: "With flush.messages above 1: the longest time that an acknowledged record waits for its flush.",
	},
	{
		Name: "follower.replication.throttled.replicas", Type: List, Default: "", Valid: throttled(),
		Doc: "Replicas whose copying is throttled on the follower's side.", Inert: noThrottle,
	},
	{
		Name: IndexIntervalBytes, Type: Int, Default: "4096", Valid: atLeast(0), Synonyms: under("log.index.interval.bytes"),
		Doc: "About how many bytes of log lie between two entries of the offset index.",
	},
	{
		Name: "leader.replication.throttled.replicas", Type: List, Default: "", Valid: throttled(),
		Doc: "Replicas whose copying is throttled on the leader's side.", Inert: noThrottle,
	},
	{
		Name: "local.retention.bytes", Type: Long, Default: "-2", Valid: atLeast(-2), Synonyms: under("log.local.retention.bytes"),
		Doc: "With tiered storage: the bytes that stay on the broker.", Inert: noTiers,
	},
	{
		Name: "local.retention.ms", Type: Long, Default: "-2", Valid: atLeast(-2), Synonyms: under("log.local.retention.ms"),
		Doc: "With tiered storage: the time that records stay on the broker.", Inert: noTiers,
	},
	{
		Name: MaxCompactionLagMs, Type: Long, Default: maxLong, Valid: atLeast(1), Synonyms: under("log.cleaner.max.compaction.lag.ms"),
		Doc: "The longest time that a record of a compacted topic stays out of compaction.",
	},
	{
		Name: MaxMessageBytes, Type: Int, Default: "1048588", Valid: atLeast(0), Synonyms: under("message.max.bytes"),
		Doc: "The largest batch, as it arrives (compressed), that the topic takes. A batch must fit into one commit: see millrace.commit.max.bytes.",
	},
	{
		Name: MessageTimestampAfterMs, Type: Long, Default: "3600000", Valid: atLeast(0), Synonyms: under("log.message.timestamp.after.max.ms"),
		Doc: "How far a record's timestamp may lie ahead of the broker's clock, with message.timestamp.type=CreateTime. Records beyond are refused.",
	},
	{
		Name: MessageTimestampBeforeMs, Type: Long, Default: maxLong, Valid: atLeast(0), Synonyms: under("log.message.timestamp.before.max.ms"),
		Doc: "How far a record's timestamp may lie behind the broker's clock, with message.timestamp.type=CreateTime. Records beyond are refused.",
	},
	{
		Name: MessageTimestampType, Type: String, Default: "CreateTime", Valid: oneOf("CreateTime", "LogAppendTime"), Synonyms: under("log.message.timestamp.type"),
		Doc: "Whether a record keeps the producer's timestamp (CreateTime) or gets the broker's (LogAppendTime).",
	},
	{
		Name: MinCleanableDirtyRatio, Type: Double, Default: "0.5", Valid: ratio(), Synonyms: under("log.cleaner.min.cleanable.ratio"),
		Doc: "A compacted log is compacted when at least this share of it has not been compacted before.",
	},
	{
		Name: MinCompactionLagMs, Type: Long, Default: "0", Valid: atLeast(0), Synonyms: under("log.cleaner.min.compaction.lag.ms"),
		Doc: "The shortest time that a record stays out of compaction.",
	},
	{
		Name: MinInsyncReplicas, Type: Int, Default: "1", Valid: atLeast(1), Synonyms: under("min.insync.replicas"),
		Doc: "With acks=all, the least number of in-sync replicas that must have a record before it is acknowledged. Above the number of replicas it counts as that number. In a cluster it comes from the topic, then from the value for all brokers, and a cluster that three nodes or more formed begins with 2.",
	},
	{
		Name: "preallocate", Type: Boolean, Default: "false", Synonyms: under("log.preallocate"),
		Doc: "Whether the file of a new segment is allocated in full.", Inert: "records are written to a preallocated write-ahead log first",
	},
	{
		Name: "remote.log.copy.disable", Type: Boolean, Default: "false", Valid: only("false", noTiers),
		Doc: "With tiered storage: stop copying.", Inert: noTiers,
	},
	{
		Name: "remote.log.delete.on.disable", Type: Boolean, Default: "false", Valid: only("false", noTiers),
		Doc: "With tiered storage: remove what was copied when it is switched off.", Inert: noTiers,
	},
	{
		Name: "remote.storage.enable", Type: Boolean, Default: "false", Valid: only("false", noTiers),
		Doc: "Tiered storage.", Inert: noTiers,
	},
	{
		Name: RetentionBytes, Type: Long, Default: "-1", Valid: atLeast(-1), Synonyms: under("log.retention.bytes"),
		Doc: "With cleanup.policy=delete: the size of a partition above which its oldest segments are removed. -1: no limit.",
	},
	{
		Name: RetentionMs, Type: Long, Default: week, Valid: atLeast(-1), Synonyms: retentionMsFamily,
		Doc: "With cleanup.policy=delete: the age of a segment's newest record above which the segment is removed. -1: no limit.",
	},
	{
		Name: SegmentBytes, Type: Int, Default: "1073741824", Valid: atLeast(14), Synonyms: under("log.segment.bytes"),
		Doc: "The size at which a segment is closed and the next begins. Retention and compaction work on closed segments.",
	},
	{
		Name: "segment.index.bytes", Type: Int, Default: "10485760", Valid: atLeast(4), Synonyms: under("log.index.size.max.bytes"),
		Doc: "The largest size of a segment's index.", Inert: "indexes take the space they need",
	},
	{
		Name: "segment.jitter.ms", Type: Long, Default: "0", Valid: atLeast(0), Synonyms: []Synonym{{"log.roll.jitter.ms", 1}, {"log.roll.jitter.hours", hourMillis}},
		Doc: "A random time by which segments are closed earlier, so that they are not all closed at once.", Inert: "closing a segment costs no flush of its own here",
	},
	{
		Name: SegmentMs, Type: Long, Default: week, Valid: atLeast(1), Synonyms: segmentMsFamily,
		Doc: "The time after which a segment is closed even if it is not full.",
	},
	{
		Name: "unclean.leader.election.enable", Type: Boolean, Default: "false", Synonyms: under("unclean.leader.election.enable"),
		Doc: "Whether a replica that is not in sync may become leader, at the price of lost records: after ten seconds without anybody who is. In a cluster it comes from the topic, then from the value for all brokers.",
	},
}
