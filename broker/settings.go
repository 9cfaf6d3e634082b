package broker

import (
	"millrace/broker/config"
	"millrace/broker/group"
	"millrace/broker/replica"
	"millrace/raft"
)

// settingsOf is what the data path needs to know of a topic, from the topic's
// overrides in an image and the broker's own settings.
func settingsOf(conf *config.Broker, img *raft.Image, topic string) *replica.Settings {
	t := conf.Topic(img.TopicConfig(topic))
	return &replica.Settings{
		MaxMessageBytes:          t.MaxMessageBytes,
		LogAppendTime:            t.LogAppendTime,
		RequireKeys:              t.Compact,
		TimestampBeforeMaxMillis: t.MessageTimestampBeforeMs,
		TimestampAfterMaxMillis:  t.MessageTimestampAfterMs,
		Engine:                   config.EngineConfig(t),
	}
}

// groupConfigOf is what the group coordinator needs to know.
func groupConfigOf(conf *config.Broker) group.Config {
	g := group.DefaultConfig()
	g.MinSessionTimeout = conf.GroupMinSessionTimeout()
	g.MaxSessionTimeout = conf.GroupMaxSessionTimeout()
	g.InitialRebalanceDelay = conf.GroupInitialRebalanceDelay()
	g.MaxSize = conf.GroupMaxSize()
	g.OffsetsRetention = conf.OffsetsRetention()
	g.OffsetsCheckInterval = conf.OffsetsRetentionCheckInterval()
	g.MetadataBytesMax = conf.OffsetMetadataMaxBytes()
	return g
}
