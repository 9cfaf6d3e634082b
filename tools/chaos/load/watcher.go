package load

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/tools/chaos/history"
)

// Watcher asks one node who leads.
type Watcher struct {
	Target *Target
	Node   int
	Kafka  string // the node's address
}

const (
	watchEvery   = 150 * time.Millisecond
	watchTimeout = time.Second
)

// Run asks until ctx ends, and records what is new.
func (w *Watcher) Run(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(w.Kafka), kgo.DisableClientMetrics(), kgo.DialTimeout(watchTimeout), kgo.RequestTimeoutOverhead(watchTimeout))
	if err != nil {
		return err
	}
	defer client.Close()
	type leader struct{ epoch, node int32 }
	told := map[history.Where]leader{}
	for ctx.Err() == nil {
		for _, p := range w.ask(ctx, client) {
			where := history.Where{Topic: p.topic, Partition: p.Partition}
			now := leader{p.LeaderEpoch, p.Leader}
			if was, ok := told[where]; !ok || was != now {
				told[where] = now
				w.Target.Recorder.Add(history.Event{Kind: history.Leader, Client: int32(FirstWatcher + w.Node), Where: where, Epoch: p.LeaderEpoch, Op: int64(p.Leader)})
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchEvery):
		}
	}
	return nil
}

type partitionOf struct {
	topic string
	kmsg.MetadataResponseTopicPartition
}

// ask returns nothing when the node does not answer.
func (w *Watcher) ask(ctx context.Context, client *kgo.Client) (partitions []partitionOf) {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	for _, name := range w.Target.Topics {
		topic := kmsg.NewMetadataRequestTopic()
		topic.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, topic)
	}
	answer, err := client.SeedBrokers()[0].Request(ctx, req)
	if err != nil {
		return nil
	}
	for _, t := range answer.(*kmsg.MetadataResponse).Topics { //nolint:errcheck // the client pairs them
		for _, p := range t.Partitions {
			if t.Topic != nil && p.LeaderEpoch >= 0 {
				partitions = append(partitions, partitionOf{*t.Topic, p})
			}
		}
	}
	return partitions
}

// Leader asks the node of a client who leads one partition; -1 is nobody.
func (w *Watcher) Leader(ctx context.Context, client *kgo.Client, topic string, partition int32) (leader int32, ok bool) {
	for _, p := range w.ask(ctx, client) {
		if p.topic == topic && p.Partition == partition {
			return p.Leader, true
		}
	}
	return 0, false
}
