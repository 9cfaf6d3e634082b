package broker

import (
	"context"
	"errors"

	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Metadata, versions 0-13 (10: topic ids; 12: topics by id; 13: top-level error
// code). A topic that does not exist is created when the request and
// auto.create.topics.enable both allow it, and the answer then already names
// its partitions: no LEADER_NOT_AVAILABLE round.
func (b *Broker) metadata(ctx context.Context, rc *requestContext, req *kmsg.MetadataRequest) *kmsg.MetadataResponse {
	resp := kmsg.NewPtrMetadataResponse()
	// Version 0 has no null: an empty list means all topics there.
	all := req.Topics == nil || rc.Version == 0 && len(req.Topics) == 0
	if !all {
		b.autoCreate(ctx, rc, req)
	}
	img := b.meta.Image()
	resp.ClusterID = kmsg.StringPtr(img.ClusterID)
	resp.ControllerID = b.controllerID(img)
	for _, n := range img.SortedBrokers() {
		if n.Fenced {
			continue
		}
		m := kmsg.NewMetadataResponseBroker()
		m.NodeID, m.Host, m.Port = n.ID, n.Host, n.Port
		if n.Rack != "" {
			m.Rack = kmsg.StringPtr(n.Rack)
		}
		resp.Brokers = append(resp.Brokers, m)
	}
	if all {
		img.EachTopic(func(t *raft.Topic) bool {
			resp.Topics = append(resp.Topics, b.metadataTopic(img, t))
			return true
		})
		return resp
	}
	for i := range req.Topics {
		resp.Topics = append(resp.Topics, b.metadataFor(img, &req.Topics[i]))
	}
	return resp
}

// metadataFor answers for one topic that was asked for by name or by id.
func (b *Broker) metadataFor(img *raft.Image, q *kmsg.MetadataRequestTopic) kmsg.MetadataResponseTopic {
	missing := kmsg.NewMetadataResponseTopic()
	missing.Topic, missing.TopicID = q.Topic, q.TopicID
	if q.Topic == nil {
		if t := img.TopicByID(q.TopicID); t != nil {
			return b.metadataTopic(img, t)
		}
		missing.ErrorCode = errUnknownTopicID
		return missing
	}
	if t := img.Topic(*q.Topic); t != nil {
		return b.metadataTopic(img, t)
	}
	missing.ErrorCode = errUnknownTopicOrPartition
	if !validTopicName(*q.Topic) {
		missing.ErrorCode = errInvalidTopic
	}
	return missing
}

func (b *Broker) metadataTopic(img *raft.Image, t *raft.Topic) kmsg.MetadataResponseTopic {
	m := kmsg.NewMetadataResponseTopic()
	m.Topic, m.TopicID, m.IsInternal = kmsg.StringPtr(t.Name), t.ID, t.Internal
	m.Partitions = make([]kmsg.MetadataResponseTopicPartition, len(t.Partitions))
	for i, p := range t.Partitions {
		mp := kmsg.NewMetadataResponseTopicPartition()
		mp.Partition, mp.Leader, mp.LeaderEpoch = int32(i), p.Leader, p.LeaderEpoch
		mp.Replicas, mp.ISR = p.Replicas, p.ISR
		mp.OfflineReplicas = []int32{}
		for _, id := range p.Replicas {
			if n := img.Broker(id); n == nil || n.Fenced {
				mp.OfflineReplicas = append(mp.OfflineReplicas, id)
			}
		}
		if p.Leader < 0 {
			mp.ErrorCode = errLeaderNotAvailable
		}
		m.Partitions[i] = mp
	}
	return m
}

// autoCreate creates the topics of a request that do not exist, where that is
// allowed. Errors show in the answer: the topic is still unknown.
func (b *Broker) autoCreate(ctx context.Context, rc *requestContext, req *kmsg.MetadataRequest) {
	if rc.Version >= 4 && !req.AllowAutoTopicCreation || !b.conf.AutoCreateTopics() {
		return
	}
	img := b.meta.Image()
	for i := range req.Topics {
		name := req.Topics[i].Topic
		if name == nil || img.Topic(*name) != nil || !validTopicName(*name) {
			continue
		}
		if err := b.createTopicAuto(ctx, *name); err != nil && !errors.Is(err, context.Canceled) {
			b.log.Warn("a topic could not be created on first use", "topic", *name, "error", err)
			if errors.Is(err, raft.ErrNotReady) || errors.Is(err, context.DeadlineExceeded) {
				return // nor would the others be
			}
		}
	}
}

// validTopicName is Kafka's rule: 1 to 249 of [a-zA-Z0-9._-], not "." or "..".
func validTopicName(s string) bool {
	if s == "" || len(s) > 249 || s == "." || s == ".." {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}
