package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// JoinGroup answers versions 0-9.
//
//	1  rebalance timeout beside the session timeout (KIP-62)
//	4  MEMBER_ID_REQUIRED: come back with the id that you are given (KIP-394)
//	5  static members (KIP-345)
//	7  protocol type in the response
//	8  reason (KIP-800)
//	9  skipAssignment: a static leader that came back must not assign (KIP-814)
//
// The reply comes when the generation begins: all members have joined, or the
// rebalance timeout has removed those who have not.
func (s *Shard) JoinGroup(now time.Time, token any, rc Client, version int16, req *kmsg.JoinGroupRequest) Effects {
	s.begin(now)
	refuse := func(memberID string, code int16) Effects {
		s.reply(token, version, joinError(memberID, code))
		return s.take()
	}
	switch {
	case req.Group == "" || len(req.Group) > stringBytesMax:
		return refuse(req.MemberID, errInvalidGroupID)
	case !joinFitsRecord(rc, req):
		return refuse(req.MemberID, errInvalidRequest)
	case millis(req.SessionTimeoutMillis) < s.cfg.MinSessionTimeout || millis(req.SessionTimeoutMillis) > s.cfg.MaxSessionTimeout:
		return refuse(req.MemberID, errInvalidSessionTimeout)
	}
	j := joinCall{token: token, version: version, client: rc, req: req, rebalanceTimeoutMs: req.RebalanceTimeoutMillis}
	if version < 1 {
		j.rebalanceTimeoutMs = req.SessionTimeoutMillis
	}

	g := s.group(req.Group)
	isNew := g == nil
	if isNew {
		if req.MemberID != "" {
			return refuse(req.MemberID, errUnknownMemberID)
		}
		g = newGroup(req.Group, now)
	}
	j.g, j.protocols = g, protocolsOf(req)

	switch {
	case !s.acceptsMember(g, req.MemberID):
		if m := g.byID[req.MemberID]; m != nil {
			g.remove(s, m)
		}
		g.removePending(s, req.MemberID)
		s.completeJoinPhase(g) // nobody need wait for it any more
		return refuse("", errGroupMaxSizeReached)
	case !g.supports(req.ProtocolType, j.protocols):
		return refuse(req.MemberID, errInconsistentGroupProtocol)
	case isNew:
		s.found(g)
	}
	if req.MemberID == "" {
		s.joinNew(j)
	} else {
		s.joinKnown(j)
	}
	return s.take()
}

// joinCall is a JoinGroup on its way through the rules.
type joinCall struct {
	token              any
	version            int16
	client             Client
	req                *kmsg.JoinGroupRequest
	g                  *group
	protocols          []protocol
	rebalanceTimeoutMs int32
}

func (j *joinCall) reply(s *Shard, r *kmsg.JoinGroupResponse) { s.reply(j.token, j.version, r) }

// joinFitsRecord refuses what a group record could not hold: its strings have 16 bit
// lengths, a flexible request's do not.
func joinFitsRecord(rc Client, req *kmsg.JoinGroupRequest) bool {
	const uuidBytes = 40 // what is added to an id, and more
	longest := max(len(rc.ID)+uuidBytes, len(rc.Host), len(req.MemberID), len(req.ProtocolType))
	if req.InstanceID != nil {
		longest = max(longest, len(*req.InstanceID)+uuidBytes)
	}
	for i := range req.Protocols {
		longest = max(longest, len(req.Protocols[i].Name))
	}
	return longest <= stringBytesMax
}

// found puts a new group into the shard, and into the log: without members yet.
func (s *Shard) found(g *group) {
	s.groups[g.id] = g
	s.write(g.record())
	s.onReject(func(s *Shard) {
		if s.groups[g.id] != g {
			return
		}
		for _, m := range g.members {
			s.completeJoin(g, m, joinError("", s.rejectCode))
		}
		s.drop(g)
	})
}

// acceptsMember holds group.max.size (KIP-389).
func (s *Shard) acceptsMember(g *group, memberID string) bool {
	m := g.byID[memberID]
	switch g.state {
	case PreparingRebalance:
		// Those who wait are counted, not the members: this also gets a group below a
		// limit that was lowered, by refusing whoever rejoins last.
		return m != nil && m.join != nil || g.joining < s.cfg.MaxSize
	case CompletingRebalance, Stable:
		return m != nil || len(g.members) < s.cfg.MaxSize
	default:
		return true
	}
}

// joinNew is a join without a member id.
func (s *Shard) joinNew(j joinCall) {
	g, instanceID := j.g, j.req.InstanceID
	if instanceID != nil {
		id := *instanceID + "-" + s.cfg.NewMemberUUID()
		if old := g.static[*instanceID]; old != nil {
			s.replaceStatic(j, old, id)
			return
		}
		s.addMember(j, id)
		return
	}
	id := j.client.ID + "-" + s.cfg.NewMemberUUID()
	if j.version < 4 {
		s.addMember(j, id)
		return
	}
	if len(g.pending) >= s.cfg.PendingMembersMax {
		j.reply(s, joinError("", errGroupMaxSizeReached))
		return
	}
	// A client that never comes back with this id must not hold the group up for
	// longer than its session.
	t := newTimer(func(s *Shard) {
		delete(g.pending, id)
		s.pendingLeft(g)
	})
	g.pending[id] = t
	s.timers.arm(t, s.now.Add(millis(j.req.SessionTimeoutMillis)))
	j.reply(s, joinError(id, errMemberIDRequired))
}

// joinKnown is a join with a member id.
func (s *Shard) joinKnown(j joinCall) {
	g, id := j.g, j.req.MemberID
	if g.pending[id] != nil {
		if j.req.InstanceID != nil { // ids are only given out to dynamic members
			j.reply(s, joinError(id, errUnknownServerError))
			return
		}
		s.addMember(j, id)
		return
	}
	if code := g.validateMember(id, j.req.InstanceID); code != errNone {
		j.reply(s, joinError(id, code))
		return
	}
	m := g.byID[id]
	switch g.state {
	case PreparingRebalance:
		s.updateMember(j, m)
		s.rebalanceOrComplete(g)
	case CompletingRebalance:
		if !m.offers(j.protocols) {
			s.updateMember(j, m)
			s.rebalanceOrComplete(g)
			return
		}
		// Its join response may have been lost: this is the same answer again.
		j.reply(s, g.joinResponse(m, g.leader == id))
	case Stable:
		// The leader may force a rebalance: only it sees that partitions were added.
		if g.leader == id || !m.offers(j.protocols) {
			s.updateMember(j, m)
			s.rebalanceOrComplete(g)
			return
		}
		j.reply(s, g.joinResponse(m, false))
	default:
		j.reply(s, joinError(id, errUnknownMemberID))
	}
}

// addMember takes a member in, waiting for its first generation.
func (s *Shard) addMember(j joinCall, id string) {
	g := j.g
	m := &member{
		id:                 id,
		instanceID:         j.req.InstanceID,
		client:             j.client,
		rebalanceTimeoutMs: j.rebalanceTimeoutMs,
		sessionTimeoutMs:   j.req.SessionTimeoutMillis,
		protocols:          j.protocols,
		fresh:              true,
		join:               s.wait(j.token, j.version),
	}
	s.giveSession(g, m)
	if g.state == PreparingRebalance && g.previous == Empty {
		g.newMemberAdded = true
	}
	g.removePending(s, id)
	if len(g.members) == 0 {
		g.protocolType = j.req.ProtocolType
	}
	g.add(m)
	// Its session cannot run out, since it has no id to heartbeat with, and neither do
	// we see it hang up. So its join gets a time limit of its own.
	s.timers.arm(m.session, s.now.Add(s.cfg.NewMemberJoinTimeout))
	s.rebalanceOrComplete(g)
}

// updateMember is a member that joins again.
func (s *Shard) updateMember(j joinCall, m *member) {
	g := j.g
	g.countOffered(m, -1)
	m.protocols = j.protocols
	g.countOffered(m, +1)
	m.rebalanceTimeoutMs = j.rebalanceTimeoutMs
	m.sessionTimeoutMs = j.req.SessionTimeoutMillis
	// An older join of the same member still waits: its client has given it up, but its
	// connection must not be left without an answer.
	s.completeJoin(g, m, joinError(m.id, errRebalanceInProgress))
	g.setJoin(m, s.wait(j.token, j.version))
}

// replaceStatic is a static member that came back without its member id, after a
// restart: it takes its old place under a new id, and nobody else need notice.
func (s *Shard) replaceStatic(j joinCall, m *member, newID string) {
	g := j.g
	old := *m
	oldLeader := g.leader
	// Whoever still waits under this instance id is a duplicate, and fenced.
	s.completeJoin(g, m, joinError(m.id, errFencedInstanceID))
	s.completeSync(m, syncError(errFencedInstanceID))
	s.renameMember(g, m, newID)
	m.fresh = false
	s.touch(m)
	s.updateMember(j, m)

	switch g.state {
	case Stable:
		if selected := g.selectProtocol(); g.protocol == nil || selected != *g.protocol {
			s.rebalanceOrComplete(g)
			return
		}
		s.write(g.record())
		s.onReject(func(s *Shard) {
			g.countOffered(m, -1)
			m.protocols, m.rebalanceTimeoutMs, m.sessionTimeoutMs, m.fresh = old.protocols, old.rebalanceTimeoutMs, old.sessionTimeoutMs, old.fresh
			g.countOffered(m, +1)
			s.renameMember(g, m, old.id)
			s.touch(m)
		})
		r := g.joinResponse(m, false)
		if isLeader := g.leader == newID; j.version >= 9 {
			r = g.joinResponse(m, isLeader)
			r.SkipAssignment = isLeader
		} else {
			// It is told its old id as the leader's, so that it does not assign: the
			// others would not sync for that.
			r.LeaderID = oldLeader
		}
		s.completeJoin(g, m, r)
	case CompletingRebalance:
		// The leader may be assigning for the old id right now.
		s.prepareRebalance(g)
	default:
		s.completeJoinPhase(g)
	}
}

func (s *Shard) renameMember(g *group, m *member, id string) {
	delete(g.byID, m.id)
	// The new id has not been told of this generation: it owes no sync for it.
	delete(g.pendingSync, m.id)
	if g.leader == m.id {
		g.leader = id
	}
	m.id = id
	g.byID[id] = m
}

// joinResponse tells a member of the current generation; the leader also who is in it.
func (g *group) joinResponse(m *member, withMembers bool) *kmsg.JoinGroupResponse {
	r := kmsg.NewPtrJoinGroupResponse()
	r.Generation = g.generation
	if g.protocolType != "" {
		r.ProtocolType = kmsg.StringPtr(g.protocolType)
	}
	r.Protocol = g.protocol
	r.LeaderID = g.leader
	r.MemberID = m.id
	if !withMembers {
		return r
	}
	r.Members = make([]kmsg.JoinGroupResponseMember, 0, len(g.members))
	for _, o := range g.members {
		rm := kmsg.NewJoinGroupResponseMember()
		rm.MemberID = o.id
		rm.InstanceID = o.instanceID
		rm.ProtocolMetadata, _ = o.metadata(*g.protocol)
		r.Members = append(r.Members, rm)
	}
	return r
}

func joinError(memberID string, code int16) *kmsg.JoinGroupResponse {
	r := kmsg.NewPtrJoinGroupResponse()
	r.MemberID, r.ErrorCode, r.Protocol = memberID, code, kmsg.StringPtr("")
	return r
}

// completeJoin answers a join that waits, if there is one.
func (s *Shard) completeJoin(g *group, m *member, r *kmsg.JoinGroupResponse) {
	if w := m.join; w != nil {
		g.setJoin(m, nil)
		s.complete(w, r)
	}
}
