package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func newTopicDescribe(o *clientOptions) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "describe TOPIC...", Short: "Show the partitions of topics: leader, replicas, offsets, size", Args: atLeast(1),
		Long: `Show the partitions of topics. ISR are the replicas that are in sync: a record is acknowledged with acks=all once all
of them have it. ELR are those that left the ISR when it was at its least and hold everything acknowledged all the same: one of
them may lead. OFFLINE replicas are on nodes that cannot be reached. EPOCH counts the leaders. A leader of -1 is none.`,
		RunE: func(cmd *cobra.Command, topics []string) error {
			return o.client(cmd.Context(), func(ctx context.Context, client *kgo.Client) error {
				admin := kadm.NewClient(client)
				details, err := admin.ListTopics(ctx, topics...)
				if err != nil {
					return err
				}
				// What the broker cannot say is left out; the rest is worth showing.
				starts, _ := admin.ListStartOffsets(ctx, topics...)
				ends, _ := admin.ListEndOffsets(ctx, topics...)
				set := kadm.TopicsSet{}
				set.Add("")
				delete(set, "")
				for _, d := range details {
					set.Add(d.Topic, d.Partitions.Numbers()...)
				}
				sizes, _ := admin.DescribeAllLogDirs(ctx, set)
				elr := eligibleReplicas(ctx, client, topics)
				t := newTable("TOPIC", "PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "ELR", "OFFLINE", "START", "END", "BYTES")
				err = each(topics, func(topic string) error {
					d, ok := details[topic]
					if !ok {
						return fmt.Errorf("%s: %w", topic, kerr.UnknownTopicOrPartition)
					}
					if d.Err != nil {
						return fmt.Errorf("%s: %w", topic, d.Err)
					}
					for _, p := range d.Partitions.Sorted() {
						t.row(topic, p.Partition, p.Leader, p.LeaderEpoch, p.Replicas, p.ISR, elr.of(topic, p.Partition), p.OfflineReplicas,
							offsetCell(starts, topic, p.Partition), offsetCell(ends, topic, p.Partition), sizeCell(sizes, p.Leader, topic, p.Partition))
					}
					return nil
				})
				return errors.Join(t.write(cmd.OutOrStdout(), asJSON), err)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func offsetCell(l kadm.ListedOffsets, topic string, partition int32) any {
	if o, ok := l.Lookup(topic, partition); ok && o.Err == nil {
		return o.Offset
	}
	return nil
}

func sizeCell(dirs kadm.DescribedAllLogDirs, broker int32, topic string, partition int32) any {
	if p, ok := dirs[broker].LookupPartition(topic, partition); ok {
		return p.Size
	}
	return nil
}

// eligible are the eligible leader replicas by topic and partition; nil if the broker does not tell them.
type eligible map[string]map[int32][]int32

func (e eligible) of(topic string, partition int32) any {
	if e == nil {
		return nil
	}
	return e[topic][partition]
}

// eligibleReplicas asks for the ELR of topics. Brokers before KIP-966 do not know the question.
func eligibleReplicas(ctx context.Context, client *kgo.Client, topics []string) eligible {
	found := eligible{}
	req := kmsg.NewPtrDescribeTopicPartitionsRequest()
	for _, name := range topics {
		topic := kmsg.NewDescribeTopicPartitionsRequestTopic()
		topic.Topic = name
		req.Topics = append(req.Topics, topic)
	}
	for {
		resp, err := req.RequestWith(ctx, client)
		if err != nil {
			return nil
		}
		for i := range resp.Topics {
			t := &resp.Topics[i]
			if t.Topic == nil || t.ErrorCode != 0 {
				continue
			}
			if found[*t.Topic] == nil {
				found[*t.Topic] = map[int32][]int32{}
			}
			for _, p := range t.Partitions {
				found[*t.Topic][p.Partition] = append([]int32{}, p.EligibleLeaderReplicas...)
			}
		}
		next := resp.NextCursor
		if next == nil || len(resp.Topics) == 0 {
			return found
		}
		req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: next.Topic, Partition: next.Partition}
	}
}
