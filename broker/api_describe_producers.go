package broker

import (
	"context"

	"millrace/engine/producer"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeProducers, version 0 (KIP-664): the idempotent producers that a
// partition's leader remembers.
func (b *Broker) describeProducers(_ context.Context, _ *requestContext, req *kmsg.DescribeProducersRequest) *kmsg.DescribeProducersResponse {
	resp := kmsg.NewPtrDescribeProducersResponse()
	img := b.meta.Image()
	for i := range req.Topics {
		q := &req.Topics[i]
		r := kmsg.NewDescribeProducersResponseTopic()
		r.Topic = q.Topic
		for _, index := range q.Partitions {
			rp := kmsg.NewDescribeProducersResponseTopicPartition()
			rp.Partition = index
			p, code := b.ledPartition(img, q.Topic, index)
			if code != errNone {
				rp.ErrorCode = code
				r.Partitions = append(r.Partitions, rp)
				continue
			}
			for _, e := range p.Log().Producers() {
				rp.ActiveProducers = append(rp.ActiveProducers, activeProducer(&e))
			}
			r.Partitions = append(r.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, r)
	}
	return resp
}

func activeProducer(e *producer.Entry) kmsg.DescribeProducersResponseTopicPartitionActiveProducer {
	r := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
	r.ProducerID, r.ProducerEpoch = e.ProducerID, int32(e.ProducerEpoch)
	r.LastSequence, r.LastTimestamp = e.LastSequence, e.LastTimestamp
	r.CoordinatorEpoch, r.CurrentTxnStartOffset = e.CoordinatorEpoch, e.TxnStartOffset
	return r
}
