package broker

import (
	"context"

	"millrace/broker/replica"
	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteRecords, versions 0-2: moves the log start offset forward. The answer
// is sent when that is durable: what was deleted does not come back.
func (b *Broker) deleteRecords(ctx context.Context, rc *requestContext, req *kmsg.DeleteRecordsRequest) *kmsg.DeleteRecordsResponse {
	ctx, cancel := adminDeadline(ctx, req.TimeoutMillis)
	defer cancel()
	resp := kmsg.NewPtrDeleteRecordsResponse()
	img := b.meta.Image()
	for i := range req.Topics {
		q := &req.Topics[i]
		r := kmsg.NewDeleteRecordsResponseTopic()
		r.Topic = q.Topic
		for j := range q.Partitions {
			p := kmsg.NewDeleteRecordsResponseTopicPartition()
			p.Partition = q.Partitions[j].Partition
			low, err := b.deleteRecordsOf(ctx, img, q.Topic, q.Partitions[j])
			p.LowWatermark, p.ErrorCode = low, adminCodeOrNone(err)
			r.Partitions = append(r.Partitions, p)
		}
		resp.Topics = append(resp.Topics, r)
	}
	b.log.Debug("records deleted", "client", rc.ClientID, "topics", len(req.Topics))
	return resp
}

func adminCodeOrNone(err error) int16 {
	if err == nil {
		return errNone
	}
	return adminCode(err)
}

// deleteRecordsOf does it for one partition and returns its new log start.
func (b *Broker) deleteRecordsOf(ctx context.Context, img *raft.Image, topic string, q kmsg.DeleteRecordsRequestTopicPartition) (int64, error) {
	if err := ctx.Err(); err != nil {
		return noSuchOffset, err
	}
	if isInternalTopic(topic) {
		return noSuchOffset, faultf(errInvalidTopic, "Cannot delete records of internal topic %s", topic)
	}
	p, code := b.ledPartition(img, topic, q.Partition)
	if code != errNone {
		return noSuchOffset, faultf(code, "%s-%d is not led here", topic, q.Partition)
	}
	if t := b.conf.Topic(img.TopicConfig(topic)); t.Compact && !t.Delete {
		return noSuchOffset, faultf(errPolicyViolation, "Records of partition %s-%d can not be deleted due to the configured policy", topic, q.Partition)
	}
	offset, hw := q.Offset, p.HighWatermark()
	if offset == -1 {
		offset = hw
	}
	if offset < 0 || offset > hw {
		return noSuchOffset, faultf(errOffsetOutOfRange, "offset %d is not between 0 and the high watermark %d", offset, hw)
	}
	if offset > p.Log().LogStartOffset() {
		if err := p.Log().SetLogStart(offset); err != nil {
			return noSuchOffset, err
		}
	}
	return p.Log().LogStartOffset(), nil
}

// ledPartition finds a partition that this broker leads, or says why not.
func (b *Broker) ledPartition(img *raft.Image, topic string, index int32) (*replica.Partition, int16) {
	if img.Partition(topic, index) == nil {
		return nil, errUnknownTopicOrPartition
	}
	p := b.partitions.Get(topic, index)
	if p == nil {
		return nil, errNotLeaderOrFollower
	}
	if _, leading := p.LeaderEpoch(); !leading {
		return nil, errNotLeaderOrFollower
	}
	return p, errNone
}
