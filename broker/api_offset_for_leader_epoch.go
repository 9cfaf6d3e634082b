package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// OffsetForLeaderEpoch, versions 2-4 (KIP-101, KIP-279, KIP-320): where the
// largest epoch at or below the one asked for ends.
func (b *Broker) offsetForLeaderEpoch(_ context.Context, _ *requestContext, req *kmsg.OffsetForLeaderEpochRequest) *kmsg.OffsetForLeaderEpochResponse {
	resp := kmsg.NewPtrOffsetForLeaderEpochResponse()
	for i := range req.Topics {
		qt := &req.Topics[i]
		rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
		rt.Topic = qt.Topic
		for j := range qt.Partitions {
			q := &qt.Partitions[j]
			r := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			r.Partition, r.LeaderEpoch, r.EndOffset = q.Partition, -1, -1
			p := b.partitions.Get(qt.Topic, q.Partition)
			if p == nil {
				r.ErrorCode = b.absent(qt.Topic, [16]byte{}, false, q.Partition)
			} else if err := p.CheckEpoch(q.CurrentLeaderEpoch); err != nil {
				r.ErrorCode = codeOf(err)
			} else {
				// The log's own end, also above the high watermark: a new leader's may still be below what its predecessor
				// showed, and a consumer that is told of an end below its position believes that its records are lost.
				r.LeaderEpoch, r.EndOffset = p.Log().EndOffsetForEpoch(q.LeaderEpoch)
			}
			rt.Partitions = append(rt.Partitions, r)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}
