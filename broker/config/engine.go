package config

import "millrace/engine"

// EngineConfig is what a topic's settings mean to its logs.
func EngineConfig(t Topic) engine.LogConfig {
	return engine.LogConfig{
		SegmentBytes:             t.SegmentBytes,
		SegmentMillis:            t.SegmentMs,
		RetentionBytes:           t.RetentionBytes,
		RetentionMillis:          t.RetentionMs,
		FlushMessages:            t.FlushMessages,
		FlushMillis:              t.FlushMs,
		DeleteRetentionMillis:    t.DeleteRetentionMs,
		MinCompactionLagMillis:   t.MinCompactionLagMs,
		MaxCompactionLagMillis:   t.MaxCompactionLagMs,
		Compact:                  t.Compact,
		Delete:                   t.Delete,
		MinCleanableRatio:        t.MinCleanableDirtyRatio,
		IndexIntervalBytes:       t.IndexIntervalBytes,
		ProducerExpirationMillis: t.ProducerIDExpirationMillis,
		TimestampLogAppend:       t.LogAppendTime,
	}
}
