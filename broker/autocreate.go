package broker

import (
	"context"
	"errors"

	"millrace/raft"
)

// createTopicAuto creates a topic with the broker's defaults, on its first use.
func (b *Broker) createTopicAuto(ctx context.Context, name string) error {
	if name == offsetsTopic {
		return b.createOffsetsTopic(ctx)
	}
	img := b.meta.Image()
	rf := b.conf.DefaultReplicationFactor(knownBrokers(img))
	if b.cluster == nil {
		rf = 1
	}
	return b.createTopicNow(ctx, img, raft.NewTopic{Name: name}, b.conf.NumPartitions(), rf)
}

// createOffsetsTopic creates __consumer_offsets, when the first group asks. Groups with fewer replicas than the file
// asks for are better than none.
func (b *Broker) createOffsetsTopic(ctx context.Context) error {
	img := b.meta.Image()
	known := knownBrokers(img)
	rf := b.conf.OffsetsTopicReplicationFactor(known)
	if rf > known && known > 0 {
		b.log.Warn("__consumer_offsets gets fewer replicas than offsets.topic.replication.factor: there are fewer brokers", "wanted", rf, "brokers", known)
		rf = known
	}
	return b.createTopicNow(ctx, img, raft.NewTopic{
		Name: offsetsTopic, Internal: true, Configs: b.conf.OffsetsTopicConfigs(),
	}, b.conf.OffsetsTopicPartitions(), rf)
}

// createTopicNow proposes a topic, and waits until this broker's logs of it exist. That somebody else was first is a
// success.
func (b *Broker) createTopicNow(ctx context.Context, img *raft.Image, t raft.NewTopic, partitions int32, rf int) (err error) {
	ctx, cancel := context.WithTimeout(ctx, firstUsePatience)
	defer cancel()
	t.ID = raft.NewUUID()
	places := placer{img: img}
	if t.Assignments, err = places.place(t.Name, 0, int(partitions), rf); err != nil {
		return err
	}
	res, err := b.proposeAgain(ctx, raft.CreateTopics{Topics: []raft.NewTopic{t}})
	if err == nil {
		err = res.Err()
	}
	if err == nil && len(res.Items) == 1 {
		err = res.Items[0].Err()
	}
	if err != nil && !errors.Is(err, raft.TopicExists) {
		return err
	}
	return b.awaitImage(ctx, res.Index)
}
