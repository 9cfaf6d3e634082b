package config

import (
	"fmt"
	"maps"
	"slices"
)

// Topic is the resolved settings of one topic.
type Topic struct {
	Compact, Delete            bool // cleanup.policy
	CompressionType            string
	DeleteRetentionMs          int64
	FlushMessages              int64
	FlushMs                    int64
	IndexIntervalBytes         int
	MaxCompactionLagMs         int64
	MaxMessageBytes            int
	LogAppendTime              bool
	MessageTimestampAfterMs    int64
	MessageTimestampBeforeMs   int64
	MinCleanableDirtyRatio     float64
	MinCompactionLagMs         int64
	MinInsyncReplicas          int
	RetentionBytes             int64
	RetentionMs                int64
	SegmentBytes               int64
	SegmentMs                  int64
	UncleanLeaderElection      bool
	ProducerIDExpirationMillis int64
}

// Topic resolves a topic's settings from its overrides. An override that is
// not valid any more (written by another version) counts as not there.
func (b *Broker) Topic(overrides map[string]string) Topic {
	sn := b.current.Load()
	get := func(name string) value { return b.topicValue(sn, topicByName[name], overrides) }
	t := Topic{
		CompressionType:            get(CompressionType).text,
		DeleteRetentionMs:          get(DeleteRetentionMs).n,
		FlushMessages:              get(FlushMessages).n,
		FlushMs:                    get(FlushMs).n,
		IndexIntervalBytes:         int(get(IndexIntervalBytes).n),
		MaxCompactionLagMs:         get(MaxCompactionLagMs).n,
		MaxMessageBytes:            int(get(MaxMessageBytes).n),
		LogAppendTime:              get(MessageTimestampType).text == "LogAppendTime",
		MessageTimestampAfterMs:    get(MessageTimestampAfterMs).n,
		MessageTimestampBeforeMs:   get(MessageTimestampBeforeMs).n,
		MinCleanableDirtyRatio:     get(MinCleanableDirtyRatio).f,
		MinCompactionLagMs:         get(MinCompactionLagMs).n,
		MinInsyncReplicas:          int(get(MinInsyncReplicas).n),
		RetentionBytes:             get(RetentionBytes).n,
		RetentionMs:                get(RetentionMs).n,
		SegmentBytes:               get(SegmentBytes).n,
		SegmentMs:                  get(SegmentMs).n,
		UncleanLeaderElection:      get("unclean.leader.election.enable").n == 1,
		ProducerIDExpirationMillis: sn.values["producer.id.expiration.ms"].n,
	}
	policy := get(CleanupPolicy).list
	t.Compact, t.Delete = slices.Contains(policy, "compact"), slices.Contains(policy, "delete")
	return t
}

// topicValue resolves one setting of a topic: see the package documentation
// for the order.
func (b *Broker) topicValue(sn *snapshot, s *Setting, overrides map[string]string) value {
	if text, ok := overrides[s.Name]; ok {
		if v, err := s.parse(text); err == nil {
			return v
		}
	}
	for _, syn := range s.Synonyms {
		if v := sn.values[syn.Name]; v.set {
			if syn.Scale != 1 {
				v.n = saturate(v.n, syn.Scale)
				v.text = fmt.Sprint(v.n)
			}
			return v
		}
	}
	return mustParse(s, s.Default)
}

// ValidateTopic checks a topic's overrides, each by itself and together with
// what they leave to the broker. The error is for the client.
func (b *Broker) ValidateTopic(overrides map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		s := topicByName[name]
		if s == nil {
			return unknownTopic(name)
		}
		if _, err := s.parse(overrides[name]); err != nil {
			return err
		}
	}
	return b.checkTopic(b.Topic(overrides))
}

// checkTopic looks at settings that must fit together.
func (b *Broker) checkTopic(t Topic) error {
	if t.MinCompactionLagMs > t.MaxCompactionLagMs {
		return invalid(MinCompactionLagMs, "conflict topic config setting %s (%d) > %s (%d)",
			MinCompactionLagMs, t.MinCompactionLagMs, MaxCompactionLagMs, t.MaxCompactionLagMs)
	}
	if most := b.CommitBytesMax() - commitOverhead; t.MaxMessageBytes > most {
		return invalid(MaxMessageBytes, "Invalid value %d for configuration %s: a batch must fit into one commit, which takes %d bytes: raise millrace.commit.max.bytes of the broker first",
			t.MaxMessageBytes, MaxMessageBytes, most)
	}
	return nil
}

// ValidateBroker checks dynamic broker settings, for one broker or for all:
// each must be known, valid and changeable while the broker runs.
func (b *Broker) ValidateBroker(values map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		s := brokerByName[name]
		if s == nil {
			return unknownBroker(name)
		}
		if s.Update == ReadOnly {
			return invalid(name, "Cannot update these configs dynamically: %s is read when the broker starts: set it in its configuration file", name)
		}
		if _, err := s.parse(values[name]); err != nil {
			return err
		}
	}
	// What the new defaults do to a topic without overrides.
	trial := &Broker{static: b.static}
	sn := b.current.Load()
	merged := maps.Clone(sn.cluster)
	maps.Copy(merged, sn.perBroker)
	maps.Copy(merged, values)
	trial.current.Store(trial.resolve(nil, merged))
	return trial.checkTopic(trial.Topic(nil))
}
