package broker

import (
	"context"
	"errors"

	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// AlterPartitionReassignments, versions 0-1 (1: whether the number of replicas may change). Each partition stands or
// fails by itself. A reassignment goes on after the answer: the new replicas catch up, join the ISR, and then the old
// ones go.
func (b *Broker) alterPartitionReassignments(ctx context.Context, rc *requestContext, req *kmsg.AlterPartitionAssignmentsRequest) *kmsg.AlterPartitionAssignmentsResponse {
	ctx, cancel := adminDeadline(ctx, req.TimeoutMillis)
	defer cancel()
	resp := kmsg.NewPtrAlterPartitionAssignmentsResponse()
	resp.AllowReplicationFactorChange = req.AllowReplicationFactorChange
	img := b.meta.Image()
	var list []raft.Reassignment
	type place struct{ topic, partition int }
	var at []place
	seen := map[logPlace]bool{}
	for i := range req.Topics {
		q := &req.Topics[i]
		rt := kmsg.NewAlterPartitionAssignmentsResponseTopic()
		rt.Topic = q.Topic
		for j := range q.Partitions {
			rp := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
			rp.Partition = q.Partitions[j].Partition
			c, err := reassignment(img, q.Topic, &q.Partitions[j], rc.Version == 0 || req.AllowReplicationFactorChange)
			if id := (logPlace{c.TopicID, c.Partition}); err == nil {
				if seen[id] {
					err = faultf(errInvalidRequest, "The partition is named twice.")
				}
				seen[id] = true
			}
			if err != nil {
				rp.ErrorCode, rp.ErrorMessage = answer(err)
			} else {
				list, at = append(list, c), append(at, place{i, j})
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	for len(list) > 0 {
		n := min(len(list), proposalItemsMax)
		items, err := b.propose(ctx, raft.ReassignPartitions{Partitions: list[:n]}, n)
		for i := range n {
			e := err
			if e == nil {
				e = items[i].Err()
			}
			if errors.Is(e, raft.NoReassignment) {
				e = faultf(errNoReassignmentInProgress, "No partition reassignment is in progress.")
			}
			rp := &resp.Topics[at[i].topic].Partitions[at[i].partition]
			rp.ErrorCode, rp.ErrorMessage = answer(e)
		}
		list, at = list[n:], at[n:]
	}
	b.log.Info("replicas reassigned", "client", rc.ClientID, "host", rc.ClientHost, "topics", len(req.Topics), "partitions", len(seen))
	return resp
}

// reassignment checks one partition of a request and works out what to propose.
func reassignment(img *raft.Image, topic string, q *kmsg.AlterPartitionAssignmentsRequestTopicPartition, anyFactor bool) (c raft.Reassignment, err error) {
	t := img.Topic(topic)
	p := t.Partition(q.Partition)
	if p == nil {
		return c, faultf(errUnknownTopicOrPartition, "This server does not host this topic-partition.")
	}
	c = raft.Reassignment{TopicID: t.ID, Partition: q.Partition, Replicas: q.Replicas, PartitionEpoch: -1}
	if q.Replicas == nil {
		if !p.Reassigning() {
			return c, faultf(errNoReassignmentInProgress, "No partition reassignment is in progress.")
		}
		return c, nil
	}
	if f := replicasFault(img, q.Replicas); f != nil {
		return c, f
	}
	if has := len(p.Replicas) - len(p.Removing); !anyFactor && len(q.Replicas) != has {
		return c, faultf(errInvalidReplicationFactor, "The replication factor is changed from %d to %d", has, len(q.Replicas))
	}
	return c, nil
}
