package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Heartbeat answers versions 0-4 (3: static members). It keeps the session alive, and tells
// the member of a rebalance.
func (s *Shard) Heartbeat(now time.Time, token any, _ Client, version int16, req *kmsg.HeartbeatRequest) Effects {
	s.begin(now)
	r := kmsg.NewPtrHeartbeatResponse()
	r.ErrorCode = s.heartbeat(req)
	s.reply(token, version, r)
	return s.take()
}

func (s *Shard) heartbeat(req *kmsg.HeartbeatRequest) int16 {
	if req.Group == "" {
		return errInvalidGroupID
	}
	g := s.group(req.Group)
	if g == nil {
		return errUnknownMemberID
	}
	if code := g.validateMember(req.MemberID, req.InstanceID); code != errNone {
		return code
	}
	if req.Generation != g.generation {
		return errIllegalGeneration
	}
	s.touch(g.byID[req.MemberID])
	if g.state == PreparingRebalance {
		return errRebalanceInProgress
	}
	return errNone
}
