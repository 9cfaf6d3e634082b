package group

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// groupType is the one type of group that there is here.
const groupType = "classic"

// DescribeGroups answers versions 0-6 (3: authorized operations, which the broker fills in; 4:
// static members; 6: GROUP_ID_NOT_FOUND instead of a group that seems to be Dead).
func (s *Shard) DescribeGroups(now time.Time, token any, _ Client, version int16, req *kmsg.DescribeGroupsRequest) Effects {
	s.begin(now)
	r := kmsg.NewPtrDescribeGroupsResponse()
	for _, id := range req.Groups {
		r.Groups = append(r.Groups, s.describe(id, version))
	}
	s.reply(token, version, r)
	return s.take()
}

func (s *Shard) describe(id string, version int16) kmsg.DescribeGroupsResponseGroup {
	r := kmsg.NewDescribeGroupsResponseGroup()
	r.Group = id
	g := s.group(id)
	if g == nil {
		r.State = Dead.String()
		if version >= 6 {
			r.ErrorCode = errGroupIDNotFound
			r.ErrorMessage = kmsg.StringPtr(fmt.Sprintf("Group %s not found.", id))
		}
		return r
	}
	r.State, r.ProtocolType = g.state.String(), g.protocolType
	if g.state == Stable && g.protocol != nil {
		r.Protocol = *g.protocol
	}
	for _, m := range g.members {
		rm := kmsg.NewDescribeGroupsResponseGroupMember()
		rm.MemberID, rm.InstanceID = m.id, m.instanceID
		rm.ClientID, rm.ClientHost = m.client.ID, m.client.Host
		rm.MemberAssignment = m.assignment
		if g.state == Stable { // between generations there is no one protocol
			rm.ProtocolMetadata, _ = m.metadata(r.Protocol)
		}
		r.Members = append(r.Members, rm)
	}
	return r
}

// ListGroups answers versions 0-5 (4: filter by state, KIP-518; 5: by type, KIP-848). The
// broker puts the answers of its shards together.
func (s *Shard) ListGroups(now time.Time, token any, _ Client, version int16, req *kmsg.ListGroupsRequest) Effects {
	s.begin(now)
	r := kmsg.NewPtrListGroupsResponse()
	if len(req.TypesFilter) > 0 && !slices.ContainsFunc(req.TypesFilter, func(t string) bool { return strings.EqualFold(t, groupType) }) {
		s.reply(token, version, r)
		return s.take()
	}
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		g := s.groups[id]
		if len(req.StatesFilter) > 0 && !slices.ContainsFunc(req.StatesFilter, func(f string) bool {
			return strings.EqualFold(strings.TrimSpace(f), g.state.String())
		}) {
			continue
		}
		rg := kmsg.NewListGroupsResponseGroup()
		rg.Group, rg.ProtocolType, rg.GroupState, rg.GroupType = g.id, g.protocolType, g.state.String(), groupType
		r.Groups = append(r.Groups, rg)
	}
	s.reply(token, version, r)
	return s.take()
}

// DeleteGroups answers versions 0-2 (KIP-229). Only a group without members can be deleted;
// its offsets go with it.
func (s *Shard) DeleteGroups(now time.Time, token any, _ Client, version int16, req *kmsg.DeleteGroupsRequest) Effects {
	s.begin(now)
	r := kmsg.NewPtrDeleteGroupsResponse()
	for _, id := range req.Groups {
		rg := kmsg.NewDeleteGroupsResponseGroup()
		rg.Group = id
		switch g := s.group(id); {
		case g == nil:
			rg.ErrorCode = errGroupIDNotFound
		case g.state != Empty:
			rg.ErrorCode = errNonEmptyGroup
		default:
			var undo []offsetUndo
			for _, t := range g.allOffsets() {
				for _, p := range t.Partitions {
					undo = s.tombstone(g, t.Topic, p, undo)
				}
			}
			s.undoOffsets(undo)
			s.deleteGroup(g)
		}
		r.Groups = append(r.Groups, rg)
	}
	s.reply(token, version, r)
	return s.take()
}
