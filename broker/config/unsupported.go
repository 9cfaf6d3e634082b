package config

import (
	"strings"
)

// verdict is what becomes of a Kafka setting that is known and not honoured.
type verdict int8

const (
	// ignore: it tunes something that Millrace does in another way; its absence
	// changes no promise. A warning at start.
	ignore verdict = iota
	// refuse: to run without it would break what its user relies on, such as
	// access control. An error.
	refuse
)

type unsupported struct {
	name    string // a prefix if it ends in a dot
	verdict verdict
	why     string
}

const (
	noAuth     = "authentication, authorization and TLS are not there yet; starting without them would leave open what you meant to protect"
	noTx       = "transactions are not there yet"
	noNewGroup = "only classic groups are there so far"
	noShare    = "share groups are not there"
	noStreams  = "streams groups are not there"
	noKRaft    = "Millrace keeps its metadata with its own replicated log, standalone included"
	noZK       = "there is no ZooKeeper here"
	noDelay    = "requests that wait have no purgatory to tune"
	noCleaner  = "compaction schedules itself"
	noQuota    = "quotas are not there yet"
	noFetcher  = "followers do not fetch here: leaders push"
	noReason   = "it has no counterpart here"
	ownMetrics = "metrics are served at /metrics of the admin address"
)

// unsupportedSettings is sorted by kind; exact names win over prefixes, longer
// prefixes over shorter ones.
var unsupportedSettings = []unsupported{
	{"allow.everyone.if.no.acl.found", refuse, noAuth},
	{"authorizer.class.name", refuse, noAuth},
	{"authorizer.", refuse, noAuth},
	{"connection.failed.authentication.delay.ms", ignore, noAuth},
	{"connections.max.reauth.ms", refuse, noAuth},
	{"delegation.token.", refuse, noAuth},
	{"early.start.listeners", ignore, noKRaft},
	{"listener.name.", refuse, noAuth},
	{"password.encoder.", ignore, noZK},
	{"principal.builder.class", refuse, noAuth},
	{"sasl.", refuse, noAuth},
	{"security.inter.broker.protocol", ignore, "nodes talk on the cluster port; see millrace.cluster.tls.certificate.file"},
	{"security.providers", refuse, noAuth},
	{"ssl.", refuse, noAuth},
	{"super.users", refuse, noAuth},

	{"controlled.shutdown.enable", ignore, "a stop is always orderly"},
	{"controlled.shutdown.", ignore, "a stop is always orderly"},
	{"controller.listener.names", ignore, noKRaft},
	{"controller.quorum.", ignore, "the quorum's members are in millrace.cluster.peers"},
	{"controller.", ignore, noKRaft},
	{"broker.heartbeat.interval.ms", ignore, noKRaft},
	{"broker.session.timeout.ms", ignore, noKRaft},
	{"eligible.leader.replicas.enable", ignore, "eligible leader replicas are always kept"},
	{"initial.broker.registration.timeout.ms", ignore, noKRaft},
	{"inter.broker.listener.name", ignore, "nodes talk on the cluster port, see millrace.cluster.address"},
	{"inter.broker.protocol.version", ignore, noKRaft},
	{"listener.security.protocol.map", ignore, "every listener is PLAINTEXT"},
	{"metadata.", ignore, noKRaft},
	{"process.roles", ignore, noKRaft},
	{"server.max.startup.time.ms", ignore, noReason},
	{"unstable.", ignore, noReason},
	{"zookeeper.", ignore, noZK},
	{"broker.id.generation.enable", ignore, noZK},
	{"reserved.broker.max.id", ignore, noZK},

	{"alter.config.policy.class.name", refuse, "policies are Java classes: they cannot be loaded"},
	{"create.topic.policy.class.name", refuse, "policies are Java classes: they cannot be loaded"},
	{"alter.log.dirs.replication.quota.", ignore, noQuota},
	{"client.quota.callback.class", refuse, noQuota},
	{"quota.", ignore, noQuota},
	{"controller.quota.window.", ignore, noQuota},
	{"replication.quota.window.", ignore, noQuota},

	{"leader.imbalance.", ignore, "preferred leaders come back by themselves"},
	{"num.replica.fetchers", ignore, noFetcher},
	{"replica.", ignore, noFetcher},

	{"background.threads", ignore, noReason},
	{"num.io.threads", ignore, "the event loops of num.network.threads do this work"},
	{"num.recovery.threads.per.data.dir", ignore, "a restart reads the write-ahead log, not the segments"},
	{"num.replica.alter.log.dirs.threads", ignore, "there is one data directory"},
	{"queued.max.requests", ignore, "what is under way is bounded for each connection and by queued.max.request.bytes"},
	{"request.timeout.ms", ignore, noReason},
	{"socket.listen.backlog.size", ignore, "the kernel's limit (net.core.somaxconn) is used"},
	{"max.connection.creation.rate", refuse, "connection rates are not limited yet; see max.connections and max.connections.per.ip"},
	{"max.connections.per.ip.overrides", refuse, "limits for single addresses are not there yet; see max.connections.per.ip"},
	{"max.request.partition.size.limit", ignore, noReason},
	{"delete.records.purgatory.purge.interval.requests", ignore, noDelay},
	{"fetch.purgatory.purge.interval.requests", ignore, noDelay},
	{"producer.purgatory.purge.interval.requests", ignore, noDelay},
	{"producer.id.expiration.check.interval.ms", ignore, noReason},
	{"compression.", ignore, noRecode},

	{"log.cleaner.", ignore, noCleaner},
	{"log.dir.failure.timeout.ms", ignore, "a failed data directory ends the process at once"},
	{"cordoned.log.dirs", refuse, "there is one data directory"},
	{"log.flush.offset.checkpoint.interval.ms", ignore, "checkpoints are written as the write-ahead log fills"},
	{"log.flush.start.offset.checkpoint.interval.ms", ignore, "log start offsets are in the write-ahead log"},
	{"log.initial.task.delay.ms", ignore, noReason},
	{"log.message.downconversion.enable", ignore, "old message formats are gone since Kafka 4"},
	{"log.message.format.version", ignore, "old message formats are gone since Kafka 4"},
	{"log.message.timestamp.difference.max.ms", refuse, "gone since Kafka 4: use log.message.timestamp.before.max.ms and log.message.timestamp.after.max.ms"},

	{"remote.", ignore, noTiers},
	{"remote.log.storage.system.enable", refuse, noTiers},
	{"offsets.commit.", ignore, "an offset commit is answered when its record is durable on every in-sync replica"},
	{"offsets.load.buffer.size", ignore, noReason},
	{"offsets.topic.compression.codec", ignore, "the records of __consumer_offsets are not compressed"},
	{"transaction.", ignore, noTx},
	{"transactional.id.expiration.ms", ignore, noTx},
	{"group.consumer.", ignore, noNewGroup},
	{"group.coordinator.", ignore, noReason},
	{"group.share.", ignore, noShare},
	{"share.", ignore, noShare},
	{"group.streams.", ignore, noStreams},

	{"auto.include.jmx.reporter", ignore, ownMetrics},
	{"kafka.metrics.", ignore, ownMetrics},
	{"metric.reporters", ignore, ownMetrics},
	{"metrics.", ignore, ownMetrics},
	{"telemetry.", ignore, "client telemetry (KIP-714) is not there"},
	{"confluent.", ignore, "it belongs to another product"},
	{"config.providers", refuse, "configuration providers are Java classes: they cannot be loaded"},
	{"config.providers.", refuse, "configuration providers are Java classes: they cannot be loaded"},
}

// knownUnsupported finds what we know of a Kafka setting that is not honoured.
func knownUnsupported(name string) *unsupported {
	var best *unsupported
	for i := range unsupportedSettings {
		u := &unsupportedSettings[i]
		switch {
		case u.name == name:
			return u
		case strings.HasSuffix(u.name, ".") && strings.HasPrefix(name, u.name) && (best == nil || len(u.name) > len(best.name)):
			best = u
		}
	}
	return best
}

// unknownBroker is the error of a broker setting that is not in the tables.
func unknownBroker(name string) error {
	if u := knownUnsupported(name); u != nil {
		return invalid(name, "%s is a setting of Kafka that Millrace does not honour: %s", name, u.why)
	}
	text := "Unknown setting " + shorten(name)
	if topicByName[name] != nil {
		text += ": it is a setting of topics"
		if syn := topicByName[name].Synonyms; len(syn) > 0 {
			text += "; their default for the broker is called " + syn[0].Name
		}
	} else if near := Nearest(name, BrokerNames()); near != "" {
		text += ": did you mean " + near + "?"
	}
	return &Invalid{Name: name, Reason: text}
}

// unknownTopic is the error of a topic setting that is not in the table.
func unknownTopic(name string) error {
	text := "Unknown topic config name: " + shorten(name)
	if near := Nearest(name, TopicNames()); near != "" {
		text += " (did you mean " + near + "?)"
	}
	return &Invalid{Name: name, Reason: text}
}
