package broker

import (
	"context"
	"errors"
	"slices"

	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// CreatePartitions, versions 0-3. Each topic stands or fails by itself.
func (b *Broker) createPartitions(ctx context.Context, rc *requestContext, req *kmsg.CreatePartitionsRequest) *kmsg.CreatePartitionsResponse {
	ctx, cancel := adminDeadline(ctx, req.TimeoutMillis)
	defer cancel()
	resp := kmsg.NewPtrCreatePartitionsResponse()
	img := b.meta.Image()
	seen := map[string]int{}
	for i := range req.Topics {
		seen[req.Topics[i].Topic]++
	}
	places := placer{img: img}
	for i := range req.Topics {
		q := &req.Topics[i]
		count := seen[q.Topic]
		if count == 0 {
			continue // answered already
		}
		seen[q.Topic] = 0
		r := kmsg.NewCreatePartitionsResponseTopic()
		r.Topic = q.Topic
		more, err := morePartitions(&places, q)
		if count > 1 {
			err = faultf(errInvalidRequest, "Duplicate topic name.")
		}
		if err == nil && !req.ValidateOnly {
			// One command a topic: requests for many topics at once are rare, and
			// a large one must not crowd out the others.
			var items []raft.ItemResult
			if items, err = b.propose(ctx, raft.CreatePartitions{Topics: []raft.MorePartitions{more}}, 1); err == nil {
				err = items[0].Err()
			}
			if errors.Is(err, raft.InvalidPartitions) && added(b.meta.Image().TopicByID(more.ID), &more) {
				err = nil // the first proposal's answer was lost
			}
			if err == nil {
				b.log.Info("partitions added", "topic", q.Topic, "partitions", q.Count, "client", rc.ClientID, "host", rc.ClientHost)
			}
		}
		r.ErrorCode, r.ErrorMessage = answer(err)
		resp.Topics = append(resp.Topics, r)
	}
	return resp
}

// added tells whether a topic has exactly the partitions that were to be added.
func added(t *raft.Topic, more *raft.MorePartitions) bool {
	if t == nil || len(t.Partitions) != int(more.Count)+len(more.Assignments) {
		return false
	}
	for i, replicas := range more.Assignments {
		if !slices.Equal(t.Partitions[int(more.Count)+i].Replicas, replicas) {
			return false
		}
	}
	return true
}

// morePartitions checks one topic of a request and works out what to propose.
func morePartitions(places *placer, q *kmsg.CreatePartitionsRequestTopic) (more raft.MorePartitions, err error) {
	img := places.img
	t := img.Topic(q.Topic)
	if t == nil {
		return raft.MorePartitions{}, faultf(errUnknownTopicOrPartition, "This server does not host this topic-partition.")
	}
	have := len(t.Partitions)
	more = raft.MorePartitions{ID: t.ID, Count: int32(have)}
	add := int(q.Count) - have
	switch {
	case add == 0:
		return more, faultf(errInvalidPartitions, "Topic already has %d partition(s).", have)
	case add < 0:
		return more, faultf(errInvalidPartitions, "The topic %s currently has %d partition(s); %d would not be an increase.", q.Topic, have, q.Count)
	case add > proposalPartitionsMax:
		return more, faultf(errInvalidPartitions, "%d additional partitions are above the limit of %d for one request.", add, proposalPartitionsMax)
	case q.Assignment != nil && len(q.Assignment) != add:
		return more, faultf(errInvalidReplicaAssignment, "Attempted to add %d additional partition(s), but only %d assignment(s) were specified.", add, len(q.Assignment))
	}
	rf := len(t.Partitions[0].Replicas) - len(t.Partitions[0].Removing) // what it will be
	if q.Assignment == nil {
		more.Assignments, err = places.place(q.Topic, have, add, rf)
		return more, err
	}
	for i := range q.Assignment {
		replicas := q.Assignment[i].Replicas
		if f := replicasFault(img, replicas); f != nil {
			return more, f
		}
		if len(replicas) != rf {
			return more, faultf(errInvalidReplicaAssignment, "The manual partition assignment includes a partition with %d replica(s), but this is not consistent with previous partitions, which have %d replica(s).", len(replicas), rf)
		}
		more.Assignments = append(more.Assignments, replicas)
	}
	return more, nil
}
