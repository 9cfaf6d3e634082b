package broker

import (
	"context"
	"slices"

	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// describePartitionsMax bounds the partitions of one answer (Kafka:
// max.request.partition.size.limit).
const describePartitionsMax = 2000

// DescribeTopicPartitions, version 0 (KIP-966): topics by name, sorted, all if
// none is named, with a cursor where an answer was cut.
func (b *Broker) describeTopicPartitions(_ context.Context, _ *requestContext, req *kmsg.DescribeTopicPartitionsRequest) *kmsg.DescribeTopicPartitionsResponse {
	resp := kmsg.NewPtrDescribeTopicPartitionsResponse()
	img := b.meta.Image()
	names := make([]string, 0, len(req.Topics))
	for i := range req.Topics {
		names = append(names, req.Topics[i].Topic)
	}
	all := len(names) == 0
	if all {
		img.EachTopic(func(t *raft.Topic) bool { names = append(names, t.Name); return true })
	}
	slices.Sort(names)
	names = slices.Compact(names)
	first := 0
	if c := req.Cursor; c != nil {
		at, found := slices.BinarySearch(names, c.Topic)
		if names = names[at:]; found {
			first = int(c.Partition)
		}
		if c.Partition < 0 {
			// The message has no error of its own: the topics get it.
			return refuseDescription(resp, names)
		}
	}
	left := int(req.ResponsePartitionLimit)
	if left <= 0 || left > describePartitionsMax {
		left = describePartitionsMax
	}
	for i, name := range names {
		from := 0
		if i == 0 {
			from = first
		}
		if left == 0 {
			setCursor(resp, name, from)
			return resp
		}
		t := img.Topic(name)
		r := kmsg.NewDescribeTopicPartitionsResponseTopic()
		r.Topic = kmsg.StringPtr(name)
		if t == nil {
			r.ErrorCode = errUnknownTopicOrPartition
			if !validTopicName(name) {
				r.ErrorCode = errInvalidTopic
			}
			resp.Topics = append(resp.Topics, r)
			continue
		}
		r.TopicID, r.IsInternal, r.AuthorizedOperations = t.ID, t.Internal, topicAuthorizedOperations
		from = min(from, len(t.Partitions))
		until := min(from+left, len(t.Partitions))
		for p := from; p < until; p++ {
			r.Partitions = append(r.Partitions, describedPartition(img, int32(p), t.Partitions[p]))
		}
		left -= until - from
		resp.Topics = append(resp.Topics, r)
		if until < len(t.Partitions) {
			setCursor(resp, name, until)
			return resp
		}
	}
	return resp
}

func refuseDescription(resp *kmsg.DescribeTopicPartitionsResponse, names []string) *kmsg.DescribeTopicPartitionsResponse {
	for _, name := range names {
		r := kmsg.NewDescribeTopicPartitionsResponseTopic()
		r.Topic, r.ErrorCode = kmsg.StringPtr(name), errInvalidRequest
		resp.Topics = append(resp.Topics, r)
	}
	return resp
}

func setCursor(resp *kmsg.DescribeTopicPartitionsResponse, topic string, partition int) {
	c := kmsg.NewDescribeTopicPartitionsResponseNextCursor()
	c.Topic, c.Partition = topic, int32(partition)
	resp.NextCursor = &c
}

func describedPartition(img *raft.Image, index int32, p *raft.Partition) kmsg.DescribeTopicPartitionsResponseTopicPartition {
	r := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
	r.Partition, r.LeaderID, r.LeaderEpoch = index, p.Leader, p.LeaderEpoch
	r.Replicas, r.ISR = p.Replicas, p.ISR
	r.EligibleLeaderReplicas = append([]int32{}, p.ELR...)
	r.LastKnownELR = []int32{}
	if p.Leader == raft.NoLeader && len(p.ISR)+len(p.ELR) == 0 && p.LastLeader != raft.NoLeader {
		r.LastKnownELR = append(r.LastKnownELR, p.LastLeader)
	}
	for _, id := range p.Replicas {
		if n := img.Broker(id); n == nil || n.Fenced {
			r.OfflineReplicas = append(r.OfflineReplicas, id)
		}
	}
	if p.Leader == raft.NoLeader {
		r.ErrorCode = errLeaderNotAvailable
	}
	return r
}
