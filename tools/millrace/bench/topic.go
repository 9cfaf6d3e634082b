package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Durability classes of an acknowledgement.
const (
	durabilityNone    = "D0" // nothing is acknowledged, or from memory
	durabilityHanded  = "D1" // handed to the kernel or the device
	durabilityFlushed = "D2" // flushed by the device
)

// topicWait bounds how long a new topic may take until it has leaders.
const topicWait = 15 * time.Second

// topicPoll is how often a new topic is looked at.
const topicPoll = 50 * time.Millisecond

// target is the topic of a run as the broker has it.
type target struct {
	partitions []int32
	leaders    map[int32]kadm.BrokerDetail
	id         kadm.TopicID
	durability string
}

// prepareTopic finds the topic, or creates it if create is set, and waits until every partition has a leader.
func prepareTopic(ctx context.Context, o *Options, create bool) (target, error) {
	// kadm believes a topic's metadata for as long as MetadataMinAge; a new topic changes faster than by default.
	client, err := kgo.NewClient(append(o.seedOpts(), kgo.MetadataMinAge(topicPoll))...)
	if err != nil {
		return target{}, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	ctx, cancel := context.WithTimeout(ctx, topicWait)
	defer cancel()
	if create {
		// Asked for before it is looked up: a broker that creates topics by itself would give it one partition.
		partitions, replicas := o.Partitions, o.Replicas
		if partitions == 0 {
			partitions = 1
		}
		if replicas == 0 {
			replicas = -1
		}
		_, err := admin.CreateTopic(ctx, partitions, replicas, nil, o.Topic)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return target{}, fmt.Errorf("create topic %s: %w", o.Topic, err)
		}
	}
	for {
		t, err := lookUp(ctx, admin, o.Topic)
		if err == nil && o.Partitions > 0 && len(t.partitions) != int(o.Partitions) {
			return target{}, fmt.Errorf("topic %s has %d partitions, not %d: name another topic or delete it", o.Topic, len(t.partitions), o.Partitions)
		}
		if err == nil && create {
			err = led(ctx, admin, o.Topic)
		}
		if err == nil {
			t.durability = durabilityOf(ctx, admin, o)
			return t, nil
		}
		if !create && errors.Is(err, kerr.UnknownTopicOrPartition) {
			return target{}, fmt.Errorf("topic %s: %w", o.Topic, err)
		}
		select {
		case <-ctx.Done():
			return target{}, fmt.Errorf("topic %s: %w", o.Topic, err)
		case <-time.After(topicPoll):
		}
	}
}

// led reports whether the brokers answer for the partitions that metadata says they lead; Kafka says so some time
// before it is true. A broker that cannot be asked is believed.
func led(ctx context.Context, admin *kadm.Client, topic string) error {
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if kerr.IsRetriable(err) {
		return err
	}
	return nil
}

func lookUp(ctx context.Context, admin *kadm.Client, topic string) (target, error) {
	meta, err := admin.Metadata(ctx, topic)
	if err != nil {
		return target{}, err
	}
	detail, ok := meta.Topics[topic]
	if !ok {
		return target{}, kerr.UnknownTopicOrPartition
	}
	if detail.Err != nil {
		return target{}, detail.Err
	}
	brokers := map[int32]kadm.BrokerDetail{}
	for _, b := range meta.Brokers {
		brokers[b.NodeID] = b
	}
	t := target{leaders: map[int32]kadm.BrokerDetail{}, id: detail.ID}
	for _, p := range detail.Partitions.Sorted() {
		leader, ok := brokers[p.Leader]
		if p.Err != nil || !ok {
			return target{}, fmt.Errorf("partition %d has no leader: %w", p.Partition, errors.Join(p.Err, kerr.LeaderNotAvailable))
		}
		t.partitions = append(t.partitions, p.Partition)
		t.leaders[p.Partition] = leader
	}
	if len(t.partitions) == 0 {
		return target{}, kerr.LeaderNotAvailable
	}
	return t, nil
}

// durabilityOf is the class of the run's acknowledgements, from acks and the topic's flush.messages.
func durabilityOf(ctx context.Context, admin *kadm.Client, o *Options) string {
	if o.Acks == 0 {
		return durabilityNone
	}
	configs, err := admin.DescribeTopicConfigs(ctx, o.Topic)
	if err != nil {
		return ""
	}
	for _, resource := range configs {
		for _, c := range resource.Configs {
			if c.Key == "flush.messages" {
				if c.MaybeValue() == "1" {
					return durabilityFlushed
				}
				return durabilityHanded
			}
		}
	}
	return ""
}

// ends lists the end offsets of the topic's partitions, and the starts.
func listOffsets(ctx context.Context, o *Options) (starts, ends map[int32]int64, err error) {
	client, err := kgo.NewClient(o.seedOpts()...)
	if err != nil {
		return nil, nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	first, err := admin.ListStartOffsets(ctx, o.Topic)
	if err != nil {
		return nil, nil, err
	}
	last, err := admin.ListEndOffsets(ctx, o.Topic)
	if err != nil {
		return nil, nil, err
	}
	starts, ends = map[int32]int64{}, map[int32]int64{}
	for _, e := range []struct {
		from kadm.ListedOffsets
		to   map[int32]int64
	}{{first, starts}, {last, ends}} {
		if err := e.from.Error(); err != nil {
			return nil, nil, err
		}
		for _, p := range e.from[o.Topic] {
			e.to[p.Partition] = p.Offset
		}
	}
	return starts, ends, nil
}
