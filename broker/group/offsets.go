package group

import (
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func (g *group) offset(topic string, partition int32) (offset, bool) {
	o, ok := g.offsets[topic][partition]
	return o, ok
}

func (g *group) putOffset(topic string, partition int32, o offset) {
	if g.offsets == nil {
		g.offsets = map[string]map[int32]offset{}
	}
	partitions := g.offsets[topic]
	if partitions == nil {
		partitions = map[int32]offset{}
		// The key outlives the request: not a part of some longer string.
		g.offsets[strings.Clone(topic)] = partitions
	}
	partitions[partition] = o
}

func (g *group) dropOffset(topic string, partition int32) {
	partitions := g.offsets[topic]
	delete(partitions, partition)
	if partitions != nil && len(partitions) == 0 {
		delete(g.offsets, topic)
	}
}

// of says whether an offset was committed for this topic. An id that one side does not
// know proves nothing.
func (o offset) of(topicID [16]byte) bool {
	var unknown [16]byte
	return o.topicID == topicID || o.topicID == unknown || topicID == unknown
}

// topicID is the id of a request's topic, or that of the name.
func (s *Shard) topicID(topic string, id [16]byte) [16]byte {
	if id == [16]byte{} {
		return s.cfg.TopicID(topic)
	}
	return id
}

// unstable says whether a transaction that is still open has an offset for this
// partition. There are no transactional commits yet: this is where they plug in.
func (g *group) unstable(string, int32) bool { return false }

// offsetUndo is what an offset was before a call changed it.
type offsetUndo struct {
	g         *group
	topic     string
	partition int32
	was       offset
	had       bool
}

func (s *Shard) undoOffsets(undo []offsetUndo) {
	if len(undo) == 0 {
		return
	}
	s.onReject(func(*Shard) {
		for _, u := range slices.Backward(undo) {
			if u.had {
				u.g.putOffset(u.topic, u.partition, u.was)
			} else {
				u.g.dropOffset(u.topic, u.partition)
			}
		}
	})
}

// tombstone forgets an offset.
func (s *Shard) tombstone(g *group, topic string, partition int32, undo []offsetUndo) []offsetUndo {
	was, had := g.offset(topic, partition)
	g.dropOffset(topic, partition)
	s.write(Record{Key: appendOffsetKey(nil, offsetKey{g.id, topic, partition})})
	return append(undo, offsetUndo{g, topic, partition, was, had})
}

// OffsetCommit answers versions 2-10.
//
//	2-4  with a retention time of the commit's own
//	5    retention is the broker's
//	6    leader epoch (KIP-320)
//	7    static members
//	9    GROUP_ID_NOT_FOUND
//	10   topic ids, which the broker resolves: it sets Topic
//
// A commit of generation -1 comes from a consumer that only keeps its offsets here; it
// is taken while the group has no members.
func (s *Shard) OffsetCommit(now time.Time, token any, _ Client, version int16, req *kmsg.OffsetCommitRequest) Effects {
	s.begin(now)
	r := kmsg.NewPtrOffsetCommitResponse()
	r.Topics = make([]kmsg.OffsetCommitResponseTopic, 0, len(req.Topics))

	g := s.group(req.Group)
	code := s.validateCommit(g, version, req)
	isNew := g == nil
	if isNew {
		g = newGroup(req.Group, now)
	}
	if m := g.byID[req.MemberID]; m != nil && code == errNone && (g.state == Stable || g.state == PreparingRebalance) {
		s.touch(m) // a commit is as good as a heartbeat
	}
	expire := expireTimestamp(now, version, req.RetentionTimeMillis)
	var undo []offsetUndo
	for i := range req.Topics {
		t := &req.Topics[i]
		rt := kmsg.NewOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		rt.Partitions = make([]kmsg.OffsetCommitResponseTopicPartition, 0, len(t.Partitions))
		topicID := s.topicID(t.Topic, t.TopicID)
		for j := range t.Partitions {
			p := &t.Partitions[j]
			rp := kmsg.NewOffsetCommitResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, code
			if code == errNone {
				rp.ErrorCode = s.commitFits(t.Topic, p.Metadata)
			}
			rt.Partitions = append(rt.Partitions, rp)
			if rp.ErrorCode != errNone {
				continue
			}
			o := offset{
				offset:            p.Offset,
				leaderEpoch:       max(p.LeaderEpoch, -1),
				commitTimestampMs: now.UnixMilli(),
				expireTimestampMs: expire,
				topicID:           topicID,
			}
			if version < 6 {
				o.leaderEpoch = -1
			}
			if p.Metadata != nil {
				o.metadata = strings.Clone(*p.Metadata)
			}
			was, had := g.offset(t.Topic, p.Partition)
			undo = append(undo, offsetUndo{g, t.Topic, p.Partition, was, had})
			g.putOffset(t.Topic, p.Partition, o)
			s.write(Record{
				appendOffsetKey(nil, offsetKey{g.id, t.Topic, p.Partition}),
				appendOffsetValue(nil, o),
			})
		}
		r.Topics = append(r.Topics, rt)
	}
	if isNew && len(undo) > 0 {
		g.id = strings.Clone(g.id)
		s.groups[g.id] = g
		s.onReject(func(s *Shard) { delete(s.groups, g.id) })
	}
	s.undoOffsets(undo)
	s.reply(token, version, r)
	return s.take()
}

func (s *Shard) validateCommit(g *group, version int16, req *kmsg.OffsetCommitRequest) int16 {
	if len(req.Group) > stringBytesMax {
		return errInvalidGroupID
	}
	if g == nil {
		switch {
		case req.Generation < 0:
			return errNone
		case version >= 9:
			return errGroupIDNotFound
		default:
			return errIllegalGeneration
		}
	}
	if req.Generation < 0 && g.state == Empty {
		return errNone
	}
	if req.Generation < 0 && req.MemberID == "" && req.InstanceID == nil {
		return errUnknownMemberID // the group has members, and this is none of them
	}
	if code := g.validateMember(req.MemberID, req.InstanceID); code != errNone {
		return code
	}
	if req.Generation != g.generation {
		return errIllegalGeneration
	}
	if g.state == CompletingRebalance {
		// It has joined this generation and has nothing of it to commit yet.
		return errRebalanceInProgress
	}
	return errNone
}

// commitFits checks what a record can hold and the broker wants to.
func (s *Shard) commitFits(topic string, metadata *string) int16 {
	if len(topic) > stringBytesMax {
		return errUnknownTopicOrPartition
	}
	if metadata != nil && (len(*metadata) > stringBytesMax || utf16Len(*metadata) > s.cfg.MetadataBytesMax) {
		return errOffsetMetadataTooLarge
	}
	return errNone
}

// expireTimestamp is when a commit that brings its own retention is over; -1: none.
func expireTimestamp(now time.Time, version int16, retentionMillis int64) int64 {
	if version < 2 || version > 4 || retentionMillis == -1 {
		return -1
	}
	at := now.UnixMilli() + retentionMillis
	if retentionMillis > 0 && at < 0 {
		return math.MaxInt64
	}
	return max(at, 0)
}

// OffsetFetch answers versions 1-10, for one group: the group and topics of a v0-7 request, or
// the one entry of Groups in later ones. Null topics ask for everything. From version
// 10 on the broker sets Topic from the id.
func (s *Shard) OffsetFetch(now time.Time, token any, _ Client, version int16, req *kmsg.OffsetFetchRequest) Effects {
	s.begin(now)
	r := kmsg.NewPtrOffsetFetchResponse()
	if version < 8 {
		s.fetchOld(r, req)
	} else {
		for i := range req.Groups {
			r.Groups = append(r.Groups, s.fetchGroup(&req.Groups[i], req.RequireStable))
		}
	}
	s.reply(token, version, r)
	return s.take()
}

func (s *Shard) fetchGroup(req *kmsg.OffsetFetchRequestGroup, requireStable bool) kmsg.OffsetFetchResponseGroup {
	r := kmsg.NewOffsetFetchResponseGroup()
	r.Group = req.Group
	g := s.group(req.Group)
	topics := req.Topics
	all := topics == nil
	if all {
		topics = g.allOffsets()
	}
	r.Topics = make([]kmsg.OffsetFetchResponseGroupTopic, 0, len(topics))
	for i := range topics {
		t := &topics[i]
		rt := kmsg.NewOffsetFetchResponseGroupTopic()
		rt.Topic, rt.TopicID = t.Topic, s.topicID(t.Topic, t.TopicID)
		rt.Partitions = make([]kmsg.OffsetFetchResponseGroupTopicPartition, 0, len(t.Partitions))
		for _, p := range t.Partitions {
			o, code := g.fetch(t.Topic, rt.TopicID, p, requireStable)
			if all && o.offset == -1 && code == errNone {
				continue // of a topic that is gone
			}
			rp := kmsg.NewOffsetFetchResponseGroupTopicPartition()
			rp.Partition, rp.ErrorCode = p, code
			rp.Offset, rp.LeaderEpoch, rp.Metadata = o.offset, o.leaderEpoch, &o.metadata
			rt.Partitions = append(rt.Partitions, rp)
		}
		if !all || len(rt.Partitions) > 0 {
			r.Topics = append(r.Topics, rt)
		}
	}
	return r
}

// fetchOld is the form of versions 0-7.
func (s *Shard) fetchOld(r *kmsg.OffsetFetchResponse, req *kmsg.OffsetFetchRequest) {
	group := kmsg.NewOffsetFetchRequestGroup()
	group.Group = req.Group
	if req.Topics != nil {
		group.Topics = make([]kmsg.OffsetFetchRequestGroupTopic, 0, len(req.Topics))
	}
	for i := range req.Topics {
		t := kmsg.NewOffsetFetchRequestGroupTopic()
		t.Topic, t.Partitions = req.Topics[i].Topic, req.Topics[i].Partitions
		group.Topics = append(group.Topics, t)
	}
	fetched := s.fetchGroup(&group, req.RequireStable)
	for i := range fetched.Topics {
		t := kmsg.NewOffsetFetchResponseTopic()
		t.Topic = fetched.Topics[i].Topic
		for _, p := range fetched.Topics[i].Partitions {
			rp := kmsg.NewOffsetFetchResponseTopicPartition()
			rp.Partition, rp.Offset, rp.LeaderEpoch = p.Partition, p.Offset, p.LeaderEpoch
			rp.Metadata, rp.ErrorCode = p.Metadata, p.ErrorCode
			t.Partitions = append(t.Partitions, rp)
		}
		r.Topics = append(r.Topics, t)
	}
}

// fetch is one committed offset; offset -1 if there is none. A nil group has none.
func (g *group) fetch(topic string, topicID [16]byte, partition int32, requireStable bool) (offset, int16) {
	none := offset{offset: -1, leaderEpoch: -1}
	if g == nil {
		return none, errNone
	}
	if requireStable && g.unstable(topic, partition) {
		return none, errUnstableOffsetCommit
	}
	if o, ok := g.offset(topic, partition); ok && o.of(topicID) {
		return o, errNone
	}
	return none, errNone
}

// allOffsets lists what a group has committed, in order.
func (g *group) allOffsets() []kmsg.OffsetFetchRequestGroupTopic {
	if g == nil {
		return nil
	}
	all := make([]kmsg.OffsetFetchRequestGroupTopic, 0, len(g.offsets))
	for _, topic := range slices.Sorted(maps.Keys(g.offsets)) {
		t := kmsg.NewOffsetFetchRequestGroupTopic()
		t.Topic, t.Partitions = topic, slices.Sorted(maps.Keys(g.offsets[topic]))
		all = append(all, t)
	}
	return all
}

// OffsetDelete answers version 0 (KIP-496). A topic that the group is subscribed to keeps its
// offsets.
func (s *Shard) OffsetDelete(now time.Time, token any, _ Client, version int16, req *kmsg.OffsetDeleteRequest) Effects {
	s.begin(now)
	r := kmsg.NewPtrOffsetDeleteResponse()
	g := s.group(req.Group)
	switch {
	case req.Group == "":
		r.ErrorCode = errInvalidGroupID
	case g == nil:
		r.ErrorCode = errGroupIDNotFound
	case g.state != Empty && !g.usesConsumerProtocol():
		r.ErrorCode = errNonEmptyGroup
	}
	if r.ErrorCode != errNone {
		s.reply(token, version, r)
		return s.take()
	}
	var undo []offsetUndo
	for i := range req.Topics {
		t := &req.Topics[i]
		rt := kmsg.NewOffsetDeleteResponseTopic()
		rt.Topic = t.Topic
		subscribed := g.subscribedTo(t.Topic)
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetDeleteResponseTopicPartition()
			rp.Partition = p.Partition
			if subscribed {
				rp.ErrorCode = errGroupSubscribedToTopic
			} else if _, ok := g.offset(t.Topic, p.Partition); ok {
				undo = s.tombstone(g, t.Topic, p.Partition, undo)
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		r.Topics = append(r.Topics, rt)
	}
	s.undoOffsets(undo)
	s.reply(token, version, r)
	return s.take()
}

// TopicDeleted forgets the offsets of topics that are gone, so that a new topic of the
// same name does not begin somewhere in its middle.
func (s *Shard) TopicDeleted(topics []string) Effects {
	var undo []offsetUndo
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		g := s.groups[id]
		for _, topic := range topics {
			for _, p := range slices.Sorted(maps.Keys(g.offsets[topic])) {
				undo = s.tombstone(g, topic, p, undo)
			}
		}
	}
	s.undoOffsets(undo)
	return s.take()
}
