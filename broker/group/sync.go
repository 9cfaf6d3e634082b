package group

import (
	"bytes"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// SyncGroup answers versions 0-5 (3: static members, 5: protocol type and name are checked).
//
// The leader brings everybody's assignment, which is what makes the generation durable;
// the others wait for it.
func (s *Shard) SyncGroup(now time.Time, token any, _ Client, version int16, req *kmsg.SyncGroupRequest) Effects {
	s.begin(now)
	refuse := func(code int16) Effects {
		s.reply(token, version, syncError(code))
		return s.take()
	}
	if req.Group == "" {
		return refuse(errInvalidGroupID)
	}
	if version >= 5 && (req.ProtocolType == nil || req.Protocol == nil) {
		return refuse(errInconsistentGroupProtocol)
	}
	g := s.group(req.Group)
	if g == nil || g.state == Empty {
		return refuse(errUnknownMemberID)
	}
	if code := g.validateMember(req.MemberID, req.InstanceID); code != errNone {
		return refuse(code)
	}
	switch {
	case req.Generation != g.generation:
		return refuse(errIllegalGeneration)
	case req.ProtocolType != nil && *req.ProtocolType != g.protocolType,
		req.Protocol != nil && g.protocol != nil && *req.Protocol != *g.protocol:
		return refuse(errInconsistentGroupProtocol)
	}

	m := g.byID[req.MemberID]
	switch g.state {
	case PreparingRebalance:
		return refuse(errRebalanceInProgress)
	case CompletingRebalance:
		// As with joins: an older sync of this member was given up, but wants an answer.
		s.completeSync(m, syncError(errRebalanceInProgress))
		m.sync = s.wait(token, version)
		s.synced(g, m)
		if g.leader == m.id {
			s.assign(g, req)
		}
	case Stable:
		s.synced(g, m)
		s.reply(token, version, g.syncResponse(m))
	default:
		return refuse(errUnknownMemberID)
	}
	return s.take()
}

// assign takes the leader's assignment: the generation is complete.
func (s *Shard) assign(g *group, req *kmsg.SyncGroupRequest) {
	assignments := make(map[string][]byte, len(req.GroupAssignment))
	for i := range req.GroupAssignment {
		assignments[req.GroupAssignment[i].MemberID] = req.GroupAssignment[i].MemberAssignment
	}
	for _, m := range g.members {
		m.assignment = bytes.Clone(assignments[m.id])
	}
	generation := g.generation
	// As in Kafka the record is made while the group is still completing: its timestamp
	// says since when.
	s.write(g.record())
	s.onReject(func(s *Shard) {
		if g.state != Stable || g.generation != generation {
			return
		}
		// The members were just given an error; now they shall join again.
		for _, m := range g.members {
			m.assignment = nil
		}
		s.prepareRebalance(g)
	})
	g.moveTo(Stable, s.now)
	s.answerSyncs(g, errNone)
}

// answerSyncs answers everybody who waits for an assignment.
func (s *Shard) answerSyncs(g *group, code int16) {
	for _, m := range g.members {
		if m.sync == nil {
			continue
		}
		r := syncError(code)
		if code == errNone {
			r = g.syncResponse(m)
		}
		s.completeSync(m, r)
		// A session that ran out while we made the member wait was ignored: it needs
		// a new deadline.
		s.touch(m)
	}
}

// synced notes that a member has asked for its assignment.
func (s *Shard) synced(g *group, m *member) {
	delete(g.pendingSync, m.id)
	if len(g.pendingSync) == 0 && g.syncTimer != nil {
		s.timers.disarm(g.syncTimer)
	}
}

func (g *group) syncResponse(m *member) *kmsg.SyncGroupResponse {
	r := kmsg.NewPtrSyncGroupResponse()
	r.Protocol = g.protocol
	if g.protocolType != "" {
		r.ProtocolType = kmsg.StringPtr(g.protocolType)
	}
	r.MemberAssignment = m.assignment
	return r
}

func syncError(code int16) *kmsg.SyncGroupResponse {
	r := kmsg.NewPtrSyncGroupResponse()
	r.ErrorCode = code
	return r
}

// completeSync answers a sync that waits, if there is one.
func (s *Shard) completeSync(m *member, r *kmsg.SyncGroupResponse) {
	if w := m.sync; w != nil {
		m.sync = nil
		s.complete(w, r)
	}
}
