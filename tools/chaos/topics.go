package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// inSyncTimeout is how long replicas may take to be in sync when nothing is wrong any more.
const inSyncTimeout = 60 * time.Second

// createTopics creates the topics with three replicas, or one on a lone broker. It tries for as long as a new cluster
// may take to form.
func createTopics(ctx context.Context, seeds []string, o options) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.DisableClientMetrics())
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, inSyncTimeout)
	defer cancel()
	for _, t := range o.topics() {
		configs := map[string]*string{}
		for k, v := range t.configs {
			configs[k] = &v
		}
		replicas := min(3, o.nodes)
		if replicas < 3 {
			delete(configs, "min.insync.replicas")
		}
		for {
			_, err := kadm.NewClient(client).CreateTopic(ctx, int32(o.partitions), int16(replicas), configs, t.name)
			if err == nil || errors.Is(err, kerr.TopicAlreadyExists) {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("create %s: %w", t.name, err)
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}

// replicaSets waits until every partition has a leader and all its replicas in sync, and returns the nodes of each.
func replicaSets(ctx context.Context, seeds, topics []string) (map[string]map[int32][]int, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.DisableClientMetrics(), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, inSyncTimeout)
	defer cancel()
	for {
		sets, behind := askReplicaSets(ctx, client, topics)
		if behind == "" {
			return sets, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("after %v: %s", inSyncTimeout, behind)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func askReplicaSets(ctx context.Context, client *kgo.Client, topics []string) (sets map[string]map[int32][]int, behind string) {
	listed, err := kadm.NewClient(client).ListTopics(ctx, topics...)
	if err != nil {
		return nil, err.Error()
	}
	sets = map[string]map[int32][]int{}
	for _, t := range listed {
		if t.Err != nil {
			return nil, fmt.Sprintf("%s: %v", t.Topic, t.Err)
		}
		sets[t.Topic] = map[int32][]int{}
		for _, p := range t.Partitions {
			if p.Err != nil || p.Leader < 0 || len(p.ISR) < len(p.Replicas) {
				return nil, fmt.Sprintf("%s/%d: leader %d, replicas %v, in sync %v: %v", t.Topic, p.Partition, p.Leader, p.Replicas, p.ISR, p.Err)
			}
			for _, r := range p.Replicas {
				sets[t.Topic][p.Partition] = append(sets[t.Topic][p.Partition], int(r))
			}
			slices.Sort(sets[t.Topic][p.Partition])
		}
	}
	if len(sets) != len(topics) {
		return nil, "topics are missing"
	}
	return sets, ""
}
