package broker

import (
	"context"
	"errors"

	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteTopics, versions 1-6 (6: by id too). A topic is gone when the answer is
// sent: its name can be used again at once, for another topic with another id.
func (b *Broker) deleteTopics(ctx context.Context, rc *requestContext, req *kmsg.DeleteTopicsRequest) *kmsg.DeleteTopicsResponse {
	ctx, cancel := adminDeadline(ctx, req.TimeoutMillis)
	defer cancel()
	asked := req.Topics
	if rc.Version < 6 {
		asked = nil
		for _, name := range req.TopicNames {
			t := kmsg.NewDeleteTopicsRequestTopic()
			t.Topic = kmsg.StringPtr(name)
			asked = append(asked, t)
		}
	}
	resp := kmsg.NewPtrDeleteTopicsResponse()
	img := b.meta.Image()
	named, numbered := map[string]int{}, map[raft.UUID]int{}
	for i := range asked {
		switch {
		case asked[i].Topic != nil:
			named[*asked[i].Topic]++
		default:
			numbered[raft.UUID(asked[i].TopicID)]++
		}
	}
	var ids []raft.UUID
	var at []int
	chosen := map[raft.UUID]bool{}
	for i := range asked {
		q := &asked[i]
		r := kmsg.NewDeleteTopicsResponseTopic()
		r.Topic, r.TopicID = q.Topic, q.TopicID
		t, err := b.topicToDelete(img, rc, q)
		switch {
		case q.Topic != nil && named[*q.Topic] == 0, q.Topic == nil && numbered[raft.UUID(q.TopicID)] == 0:
			continue // a repetition that is answered already
		case q.Topic != nil && named[*q.Topic] > 1:
			named[*q.Topic] = 0
			err = faultf(errInvalidRequest, "Duplicate topic name.")
		case q.Topic == nil && numbered[raft.UUID(q.TopicID)] > 1 && !raft.UUID(q.TopicID).IsZero():
			numbered[raft.UUID(q.TopicID)] = 0
			err = faultf(errInvalidRequest, "Duplicate topic id.")
		case err == nil && chosen[t.ID]:
			err = faultf(errInvalidRequest, "The provided topic name maps to an ID that was already supplied.")
		}
		if err != nil {
			r.ErrorCode, r.ErrorMessage = answer(err)
		} else {
			chosen[t.ID] = true
			r.Topic, r.TopicID = kmsg.StringPtr(t.Name), t.ID
			ids, at = append(ids, t.ID), append(at, len(resp.Topics))
		}
		resp.Topics = append(resp.Topics, r)
	}
	for len(ids) > 0 {
		n := min(len(ids), proposalItemsMax)
		items, err := b.propose(ctx, raft.DeleteTopics{IDs: ids[:n], NowMillis: b.now().UnixMilli()}, n)
		for i := range n {
			e := err
			if e == nil {
				e = items[i].Err()
			}
			if errors.Is(e, raft.UnknownTopic) && b.meta.Image().Deleted(ids[i]) != nil {
				e = nil // the first proposal's answer was lost, or somebody else was faster
			}
			r := &resp.Topics[at[i]]
			if r.ErrorCode, r.ErrorMessage = answer(e); e == nil {
				b.log.Info("topic deleted", "topic", *r.Topic, "topic_id", ids[i], "client", rc.ClientID, "host", rc.ClientHost)
			}
		}
		ids, at = ids[n:], at[n:]
	}
	return resp
}

// topicToDelete finds the topic of one element of a request.
func (b *Broker) topicToDelete(img *raft.Image, rc *requestContext, q *kmsg.DeleteTopicsRequestTopic) (*raft.Topic, error) {
	id := raft.UUID(q.TopicID)
	switch {
	case !b.conf.DeleteTopics() && rc.Version < 3:
		return nil, faultf(errInvalidRequest, "Topic deletion is disabled.")
	case !b.conf.DeleteTopics():
		return nil, faultf(errTopicDeletionDisabled, "Topic deletion is disabled.")
	case q.Topic != nil && !id.IsZero():
		return nil, faultf(errInvalidRequest, "You may not specify both topic name and topic id.")
	case q.Topic == nil && id.IsZero():
		return nil, faultf(errInvalidRequest, "Neither topic name nor id were specified.")
	case q.Topic != nil:
		if t := img.Topic(*q.Topic); t != nil {
			return t, nil
		}
		return nil, faultf(errUnknownTopicOrPartition, "This server does not host this topic-partition.")
	default:
		if t := img.TopicByID(id); t != nil {
			return t, nil
		}
		return nil, faultf(errUnknownTopicID, "This server does not host this topic ID.")
	}
}
