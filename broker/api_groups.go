package broker

import (
	"context"
	"slices"
	"sync"
	"time"

	"millrace/broker/group"
	"millrace/broker/replica"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The group APIs: each finds the coordinator's shard, hands the request to its
// state machine and lets the answer come when it is durable. Versions and
// semantics are in package group.

type inGroup func(now time.Time, s *group.Shard, token *groupCall) group.Effects

// onGroup runs f on the shard of a group, or answers with refusal when there is
// none.
func (b *Broker) onGroup(c *call, id string, refusal kmsg.Response, f inGroup) {
	b.onGroupToken(&groupCall{call: c}, id, refusal, f)
}

// onGroupToken is onGroup for a part of a request.
func (b *Broker) onGroupToken(token *groupCall, id string, refusal kmsg.Response, f inGroup) {
	s, code := b.groups.shardFor(id)
	if code == 0 {
		code = s.run(func(now time.Time, st *group.Shard) group.Effects { return f(now, st, token) })
	}
	if code != 0 {
		group.Fail(refusal, code)
		token.reply(refusal)
	}
}

func clientOf(rc *requestContext) group.Client {
	return group.Client{ID: rc.ClientID, Host: rc.ClientHost}
}

func (b *Broker) joinGroup(rc *requestContext, c *call, req *kmsg.JoinGroupRequest) {
	b.onGroup(c, req.Group, kmsg.NewPtrJoinGroupResponse(), func(now time.Time, s *group.Shard, t *groupCall) group.Effects {
		return s.JoinGroup(now, t, clientOf(rc), rc.Version, req)
	})
}

func (b *Broker) syncGroup(rc *requestContext, c *call, req *kmsg.SyncGroupRequest) {
	b.onGroup(c, req.Group, kmsg.NewPtrSyncGroupResponse(), func(now time.Time, s *group.Shard, t *groupCall) group.Effects {
		return s.SyncGroup(now, t, clientOf(rc), rc.Version, req)
	})
}

func (b *Broker) heartbeat(rc *requestContext, c *call, req *kmsg.HeartbeatRequest) {
	b.onGroup(c, req.Group, kmsg.NewPtrHeartbeatResponse(), func(now time.Time, s *group.Shard, t *groupCall) group.Effects {
		return s.Heartbeat(now, t, clientOf(rc), rc.Version, req)
	})
}

func (b *Broker) leaveGroup(rc *requestContext, c *call, req *kmsg.LeaveGroupRequest) {
	b.onGroup(c, req.Group, kmsg.NewPtrLeaveGroupResponse(), func(now time.Time, s *group.Shard, t *groupCall) group.Effects {
		return s.LeaveGroup(now, t, clientOf(rc), rc.Version, req)
	})
}

// offsetCommit refuses topics that do not exist; the others go to the
// state machine, and the answers are put together again.
func (b *Broker) offsetCommit(rc *requestContext, c *call, req *kmsg.OffsetCommitRequest) {
	refusal := kmsg.NewPtrOffsetCommitResponse()
	var unknown []kmsg.OffsetCommitResponseTopic
	kept := req.Topics[:0]
	for _, t := range req.Topics {
		topic, code := b.topicOfOffsets(rc.Version, &t.Topic, t.TopicID)
		bad := kmsg.NewOffsetCommitResponseTopic()
		bad.Topic, bad.TopicID = t.Topic, t.TopicID
		parts := t.Partitions[:0]
		for _, p := range t.Partitions {
			if topic == nil || p.Partition < 0 || int(p.Partition) >= len(topic.Partitions()) {
				bp := kmsg.NewOffsetCommitResponseTopicPartition()
				bp.Partition, bp.ErrorCode = p.Partition, code
				bad.Partitions = append(bad.Partitions, bp)
				continue
			}
			parts = append(parts, p)
		}
		if len(bad.Partitions) > 0 {
			unknown = append(unknown, bad)
		}
		if t.Partitions = parts; len(parts) > 0 {
			kept = append(kept, t)
		}
	}
	req.Topics = kept
	for _, t := range req.Topics {
		rt := kmsg.NewOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetCommitResponseTopicPartition()
			rp.Partition = p.Partition
			rt.Partitions = append(rt.Partitions, rp)
		}
		refusal.Topics = append(refusal.Topics, rt)
	}
	refusal.Topics = append(refusal.Topics, unknown...)
	token := &groupCall{call: c, finish: func(r kmsg.Response) {
		if oc := r.(*kmsg.OffsetCommitResponse); oc != refusal {
			oc.Topics = append(oc.Topics, unknown...)
		}
		c.respond(r)
	}}
	b.onGroupToken(token, req.Group, refusal, func(now time.Time, s *group.Shard, t *groupCall) group.Effects {
		return s.OffsetCommit(now, t, clientOf(rc), rc.Version, req)
	})
}

// offsetsByID is the version of OffsetCommit and OffsetFetch that names topics by
// id only (KIP-848).
const offsetsByID = 10

// topicOfOffsets finds the topic that an offset belongs to, and fills in its name;
// without one, or for a partition that it has not, there is an error code.
func (b *Broker) topicOfOffsets(version int16, name *string, id [16]byte) (*replica.Topic, int16) {
	if version < offsetsByID {
		return b.partitions.Topic(*name), errUnknownTopicOrPartition
	}
	t := b.partitions.TopicByID(id)
	if t == nil {
		return nil, errUnknownTopicID
	}
	*name = t.Name
	return t, errUnknownTopicOrPartition
}

func (b *Broker) offsetDelete(rc *requestContext, c *call, req *kmsg.OffsetDeleteRequest) {
	b.onGroup(c, req.Group, kmsg.NewPtrOffsetDeleteResponse(), func(now time.Time, s *group.Shard, t *groupCall) group.Effects {
		return s.OffsetDelete(now, t, clientOf(rc), rc.Version, req)
	})
}

// merger collects the answers of several shards to one request.
type merger struct {
	mu   sync.Mutex
	left int
	done func()
}

// newMerger calls done after part was called n times.
func newMerger(n int, done func()) *merger { return &merger{left: n, done: done} }

func (g *merger) part(add func()) {
	g.mu.Lock()
	add()
	g.left--
	last := g.left == 0
	g.mu.Unlock()
	if last {
		g.done()
	}
}

// offsetFetch of version 8 and later may name many groups: each is answered by
// its own shard.
func (b *Broker) offsetFetch(rc *requestContext, c *call, req *kmsg.OffsetFetchRequest) {
	if rc.Version < 8 {
		refusal := kmsg.NewPtrOffsetFetchResponse()
		b.onGroup(c, req.Group, refusal, func(now time.Time, s *group.Shard, t *groupCall) group.Effects {
			return s.OffsetFetch(now, t, clientOf(rc), rc.Version, req)
		})
		return
	}
	resp := kmsg.NewPtrOffsetFetchResponse()
	if len(req.Groups) == 0 {
		c.respond(resp)
		return
	}
	all := newMerger(len(req.Groups), func() { c.respond(resp) })
	for i := range req.Groups {
		one := kmsg.NewPtrOffsetFetchRequest()
		one.Version, one.RequireStable = req.Version, req.RequireStable
		one.Groups = req.Groups[i : i+1]
		id := req.Groups[i].Group
		refusal := kmsg.NewPtrOffsetFetchResponse()
		rg := kmsg.NewOffsetFetchResponseGroup()
		rg.Group = id
		refusal.Groups = append(refusal.Groups, rg)
		unknown := b.nameOffsetTopics(rc.Version, &one.Groups[0])
		token := &groupCall{call: c, finish: func(r kmsg.Response) {
			g := &r.(*kmsg.OffsetFetchResponse).Groups[0]
			if rc.Version >= offsetsByID {
				g.Topics = slices.DeleteFunc(g.Topics, func(t kmsg.OffsetFetchResponseGroupTopic) bool { return t.TopicID == [16]byte{} })
			}
			if g.ErrorCode == 0 {
				g.Topics = append(g.Topics, unknown...)
			}
			all.part(func() { resp.Groups = append(resp.Groups, *g) })
		}}
		b.onGroupToken(token, id, refusal, func(now time.Time, s *group.Shard, t *groupCall) group.Effects {
			return s.OffsetFetch(now, t, clientOf(rc), rc.Version, one)
		})
	}
}

// nameOffsetTopics fills in the names of topics that were asked for by id. What
// has no name is taken out of the request and returned as its own answer. A topic
// that is gone has offsets, perhaps, but no id: they are not shown.
func (b *Broker) nameOffsetTopics(version int16, g *kmsg.OffsetFetchRequestGroup) (unknown []kmsg.OffsetFetchResponseGroupTopic) {
	if version < offsetsByID || g.Topics == nil {
		return nil
	}
	kept := g.Topics[:0]
	for _, t := range g.Topics {
		topic, code := b.topicOfOffsets(version, &t.Topic, t.TopicID)
		if topic != nil {
			kept = append(kept, t)
			continue
		}
		rt := kmsg.NewOffsetFetchResponseGroupTopic()
		rt.TopicID = t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetFetchResponseGroupTopicPartition()
			rp.Partition, rp.Offset, rp.LeaderEpoch, rp.ErrorCode = p, -1, -1, code
			rt.Partitions = append(rt.Partitions, rp)
		}
		unknown = append(unknown, rt)
	}
	g.Topics = kept
	return unknown
}

func (b *Broker) describeGroups(rc *requestContext, c *call, req *kmsg.DescribeGroupsRequest) {
	resp := kmsg.NewPtrDescribeGroupsResponse()
	if len(req.Groups) == 0 {
		c.respond(resp)
		return
	}
	all := newMerger(len(req.Groups), func() { c.respond(resp) })
	for _, id := range req.Groups {
		one := kmsg.NewPtrDescribeGroupsRequest()
		one.Version, one.IncludeAuthorizedOperations, one.Groups = req.Version, req.IncludeAuthorizedOperations, []string{id}
		refusal := kmsg.NewPtrDescribeGroupsResponse()
		rg := kmsg.NewDescribeGroupsResponseGroup()
		rg.Group = id
		refusal.Groups = append(refusal.Groups, rg)
		token := &groupCall{call: c, finish: func(r kmsg.Response) {
			all.part(func() { resp.Groups = append(resp.Groups, r.(*kmsg.DescribeGroupsResponse).Groups...) })
		}}
		b.onGroupToken(token, id, refusal, func(now time.Time, s *group.Shard, t *groupCall) group.Effects {
			return s.DescribeGroups(now, t, clientOf(rc), rc.Version, one)
		})
	}
}

func (b *Broker) deleteGroups(rc *requestContext, c *call, req *kmsg.DeleteGroupsRequest) {
	resp := kmsg.NewPtrDeleteGroupsResponse()
	if len(req.Groups) == 0 {
		c.respond(resp)
		return
	}
	all := newMerger(len(req.Groups), func() { c.respond(resp) })
	for _, id := range req.Groups {
		one := kmsg.NewPtrDeleteGroupsRequest()
		one.Version, one.Groups = req.Version, []string{id}
		refusal := kmsg.NewPtrDeleteGroupsResponse()
		rg := kmsg.NewDeleteGroupsResponseGroup()
		rg.Group = id
		refusal.Groups = append(refusal.Groups, rg)
		token := &groupCall{call: c, finish: func(r kmsg.Response) {
			all.part(func() { resp.Groups = append(resp.Groups, r.(*kmsg.DeleteGroupsResponse).Groups...) })
		}}
		b.onGroupToken(token, id, refusal, func(now time.Time, s *group.Shard, t *groupCall) group.Effects {
			return s.DeleteGroups(now, t, clientOf(rc), rc.Version, one)
		})
	}
}

// listGroups asks every shard that this broker coordinates.
func (b *Broker) listGroups(rc *requestContext, c *call, req *kmsg.ListGroupsRequest) {
	resp := kmsg.NewPtrListGroupsResponse()
	shards := b.groups.all()
	if len(shards) == 0 {
		c.respond(resp)
		return
	}
	all := newMerger(len(shards), func() { c.respond(resp) })
	for _, s := range shards {
		token := &groupCall{call: c, finish: func(r kmsg.Response) {
			all.part(func() {
				part := r.(*kmsg.ListGroupsResponse)
				resp.Groups = append(resp.Groups, part.Groups...)
				if part.ErrorCode != 0 {
					resp.ErrorCode = part.ErrorCode
				}
			})
		}}
		if code := s.run(func(now time.Time, st *group.Shard) group.Effects {
			return st.ListGroups(now, token, clientOf(rc), rc.Version, req)
		}); code != 0 {
			refusal := kmsg.NewPtrListGroupsResponse()
			refusal.ErrorCode = code
			token.reply(refusal)
		}
	}
}

// FindCoordinator, versions 0-6 (1: transactions, refused; 4: many keys). The
// offsets topic is created when the first group asks.
func (b *Broker) findCoordinator(ctx context.Context, rc *requestContext, req *kmsg.FindCoordinatorRequest) *kmsg.FindCoordinatorResponse {
	resp := kmsg.NewPtrFindCoordinatorResponse()
	if rc.Version < 4 {
		one := b.findOne(ctx, req.CoordinatorType, req.CoordinatorKey)
		resp.ErrorCode, resp.ErrorMessage, resp.NodeID, resp.Host, resp.Port = one.ErrorCode, one.ErrorMessage, one.NodeID, one.Host, one.Port
		return resp
	}
	for _, key := range req.CoordinatorKeys {
		resp.Coordinators = append(resp.Coordinators, b.findOne(ctx, req.CoordinatorType, key))
	}
	return resp
}

func (b *Broker) findOne(ctx context.Context, kind int8, key string) kmsg.FindCoordinatorResponseCoordinator {
	r := kmsg.NewFindCoordinatorResponseCoordinator()
	r.Key, r.NodeID, r.Port = key, -1, -1
	refuse := func(code int16, msg string) kmsg.FindCoordinatorResponseCoordinator {
		r.ErrorCode, r.ErrorMessage = code, kmsg.StringPtr(msg)
		return r
	}
	switch kind {
	case 0:
	case 1:
		return refuse(errUnsupportedVersion, "transactions are not supported yet")
	default:
		return refuse(errInvalidRequest, "this broker coordinates groups only")
	}
	img := b.meta.Image()
	t := img.Topic(offsetsTopic)
	if t == nil {
		if err := b.createOffsetsTopic(ctx); err != nil {
			b.log.Warn("the offsets topic could not be created", "error", err)
			return refuse(errCoordinatorNotAvailable, "the offsets topic could not be created")
		}
		img = b.meta.Image()
		if t = img.Topic(offsetsTopic); t == nil {
			return refuse(errCoordinatorNotAvailable, "the offsets topic is being created")
		}
	}
	leader := img.Broker(t.Partitions[group.PartitionFor(key, int32(len(t.Partitions)))].Leader)
	if leader == nil || leader.Fenced {
		return refuse(errCoordinatorNotAvailable, "the group's partition has no leader")
	}
	r.ErrorMessage = nil
	r.NodeID, r.Host, r.Port = leader.ID, leader.Host, leader.Port
	return r
}
