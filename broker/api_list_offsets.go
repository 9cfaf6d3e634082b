package broker

import (
	"context"

	"millrace/broker/replica"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Special timestamps of ListOffsets (ListOffsetsRequest.java).
const (
	tsLatest        = -1
	tsEarliest      = -2
	tsMaxTimestamp  = -3 // KIP-734, version 7
	tsEarliestLocal = -4 // KIP-405, version 8
	tsLatestTiered  = -5 // KIP-1005, version 9
	tsPendingUpload = -6 // KIP-1023, version 11
)

// ListOffsets, versions 1-11 (4: leader epochs; 10: timeout, unused: nothing
// here is remote). "Latest" is the high watermark, or the last stable offset for
// read_committed.
func (b *Broker) listOffsets(_ context.Context, rc *requestContext, req *kmsg.ListOffsetsRequest) *kmsg.ListOffsetsResponse {
	resp := kmsg.NewPtrListOffsetsResponse()
	for i := range req.Topics {
		qt := &req.Topics[i]
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = qt.Topic
		for j := range qt.Partitions {
			rt.Partitions = append(rt.Partitions, b.listOffset(rc, qt.Topic, &qt.Partitions[j], req.IsolationLevel))
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func (b *Broker) listOffset(rc *requestContext, topic string, q *kmsg.ListOffsetsRequestTopicPartition, isolation int8) kmsg.ListOffsetsResponseTopicPartition {
	r := kmsg.NewListOffsetsResponseTopicPartition()
	r.Partition, r.Offset, r.Timestamp, r.LeaderEpoch = q.Partition, -1, -1, -1
	p := b.partitions.Get(topic, q.Partition)
	if p == nil {
		r.ErrorCode = b.absent(topic, [16]byte{}, false, q.Partition)
		return r
	}
	epoch := replica.NoEpoch
	if rc.Version >= 4 {
		epoch = q.CurrentLeaderEpoch
	}
	if err := p.CheckEpoch(epoch); err != nil {
		r.ErrorCode = codeOf(err)
		return r
	}
	if q.Timestamp != tsEarliest && q.Timestamp != tsEarliestLocal {
		if err := p.CheckLatest(); err != nil {
			if r.ErrorCode = codeOf(err); rc.Version < 5 {
				r.ErrorCode = errLeaderNotAvailable // OFFSET_NOT_AVAILABLE is not known to older clients
			}
			return r
		}
	}
	log := p.Log()
	end := p.HighWatermark()
	if isolation == 1 {
		end = log.LastStableOffset(end)
	}
	switch {
	case q.Timestamp == tsLatest:
		r.Offset = end
		r.LeaderEpoch, _ = p.LeaderEpoch()
	case q.Timestamp == tsEarliest, q.Timestamp == tsEarliestLocal && rc.Version >= 8:
		r.Offset = log.LogStartOffset()
		r.LeaderEpoch = log.EpochAt(r.Offset)
	case q.Timestamp == tsLatestTiered && rc.Version >= 9, q.Timestamp == tsPendingUpload && rc.Version >= 11:
		// Nothing is tiered: no offset.
	case q.Timestamp == tsMaxTimestamp && rc.Version >= 7:
		if ts, off := log.MaxTimestampOffset(); off >= 0 && off < end {
			r.Timestamp, r.Offset = ts, off
			r.LeaderEpoch = log.EpochAt(off)
		}
	case q.Timestamp < 0:
		r.ErrorCode = errUnsupportedVersion
	default:
		off, ts, e, ok, err := log.OffsetForTimestamp(q.Timestamp)
		switch {
		case err != nil:
			r.ErrorCode = codeOf(err)
		case ok && off < end:
			r.Offset, r.Timestamp, r.LeaderEpoch = off, ts, e
		}
	}
	return r
}
