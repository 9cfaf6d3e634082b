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
				epoch, end := p.Log().EndOffsetForEpoch(q.LeaderEpoch)
				// Consumers are told of nothing above the high watermark.
				r.LeaderEpoch, r.EndOffset = epoch, min(end, p.HighWatermark())
			}
			rt.Partitions = append(rt.Partitions, r)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}
