package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// LeaveGroup answers versions 0-5 (3: several members, by instance id too; 5: reason).
func (s *Shard) LeaveGroup(now time.Time, token any, _ Client, version int16, req *kmsg.LeaveGroupRequest) Effects {
	s.begin(now)
	r := kmsg.NewPtrLeaveGroupResponse()
	if req.Group == "" {
		r.ErrorCode = errInvalidGroupID
		s.reply(token, version, r)
		return s.take()
	}
	leaving := req.Members
	if version < 3 {
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID = req.MemberID
		leaving = []kmsg.LeaveGroupRequestMember{m}
	}

	g := s.group(req.Group)
	left := false
	for i := range leaving {
		l := &leaving[i]
		m := kmsg.NewLeaveGroupResponseMember()
		m.MemberID, m.InstanceID = l.MemberID, l.InstanceID
		m.ErrorCode = s.leave(g, l)
		left = left || m.ErrorCode == errNone
		r.Members = append(r.Members, m)
	}
	if version < 3 {
		r.ErrorCode, r.Members = r.Members[0].ErrorCode, nil
	}
	s.reply(token, version, r)
	if left {
		switch g.state {
		case Stable, CompletingRebalance:
			s.prepareRebalance(g)
		case PreparingRebalance:
			s.completeJoinPhase(g)
		default:
		}
	}
	return s.take()
}

// leave takes one member out. An administrator names static members by instance id
// alone.
func (s *Shard) leave(g *group, l *kmsg.LeaveGroupRequestMember) int16 {
	switch {
	case g == nil:
		return errUnknownMemberID
	case l.MemberID == "":
		if l.InstanceID == nil || g.static[*l.InstanceID] == nil {
			return errUnknownMemberID
		}
		s.removeMember(g, g.static[*l.InstanceID])
		return errNone
	case g.pending[l.MemberID] != nil:
		g.removePending(s, l.MemberID)
		return errNone
	}
	if code := g.validateMember(l.MemberID, l.InstanceID); code != errNone {
		return code
	}
	s.removeMember(g, g.byID[l.MemberID])
	return errNone
}
