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
	return b.createTopicNow(ctx, raft.NewTopic{Name: name}, b.conf.NumPartitions())
}

// createOffsetsTopic creates __consumer_offsets, when the first group asks.
func (b *Broker) createOffsetsTopic(ctx context.Context) error {
	return b.createTopicNow(ctx, raft.NewTopic{
		Name: offsetsTopic, Internal: true, Configs: b.conf.OffsetsTopicConfigs(),
	}, b.conf.OffsetsTopicPartitions())
}

// createTopicNow proposes a topic whose replicas are all here, and waits until
// its logs exist. That somebody else was first is a success.
func (b *Broker) createTopicNow(ctx context.Context, t raft.NewTopic, partitions int32) error {
	t.ID = raft.NewUUID()
	for range partitions {
		t.Assignments = append(t.Assignments, []int32{b.nodeID})
	}
	res, err := b.meta.Propose(ctx, raft.CreateTopics{Topics: []raft.NewTopic{t}})
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
