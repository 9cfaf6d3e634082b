package group

import (
	"fmt"
	"slices"
	"time"
)

// group is one group: its members, its generation and its offsets.
type group struct {
	id    string
	state State
	// previous is the state before this one: the first rebalance of an empty group
	// is told from later ones by it.
	previous       State
	stateTimestamp int64 // when the state began, Unix milliseconds; -1: not known (old records)

	generation   int32
	protocolType string // "": none yet, a group of offsets only ("simple")
	protocol     *string
	leader       string // member id; "": none

	members []*member // in the order of joining
	byID    map[string]*member
	static  map[string]*member // by instance id
	// offered counts, by name, the members that offer a protocol.
	offered map[string]int
	joining int // members with a join waiting

	pending     map[string]*timer   // ids given out and not used yet (KIP-394), with their session
	pendingSync map[string]struct{} // members that owe a SyncGroup in this generation

	// subscribed are the topics that the members subscribe to; known is false if
	// the group is no consumer group or a subscription cannot be read.
	subscribed      map[string]struct{}
	subscribedKnown bool

	newMemberAdded bool  // during the initial rebalance delay
	initialLeftMs  int32 // by how much the initial delay may still be extended
	joinTimer      *timer
	syncTimer      *timer

	offsets map[string]map[int32]offset // by topic and partition
}

func newGroup(id string, now time.Time) *group {
	return &group{
		id:             id,
		state:          Empty,
		previous:       Dead,
		stateTimestamp: now.UnixMilli(),
		byID:           map[string]*member{},
		static:         map[string]*member{},
		offered:        map[string]int{},
		pending:        map[string]*timer{},
		pendingSync:    map[string]struct{}{},
	}
}

func (g *group) moveTo(next State, now time.Time) {
	if !slices.Contains(mayFollow[next], g.state) {
		panic(fmt.Sprintf("BUG: group %q went from %v to %v", g.id, g.state, next))
	}
	g.previous, g.state = g.state, next
	g.stateTimestamp = now.UnixMilli()
}

func (g *group) add(m *member) {
	if m.static() {
		if g.static[*m.instanceID] != nil {
			panic(fmt.Sprintf("BUG: static member %q added twice to group %q", *m.instanceID, g.id))
		}
		g.static[*m.instanceID] = m
	}
	if g.leader == "" {
		g.leader = m.id
	}
	g.members = append(g.members, m)
	g.byID[m.id] = m
	g.countOffered(m, +1)
	if m.join != nil {
		g.joining++
	}
}

// remove forgets a member. Its waiting requests must have been answered.
func (g *group) remove(s *Shard, m *member) {
	if g.byID[m.id] != m {
		panic(fmt.Sprintf("BUG: member %q is not in group %q", m.id, g.id))
	}
	s.timers.disarm(m.session)
	if m.join != nil {
		g.joining--
	}
	delete(g.byID, m.id)
	if m.static() {
		delete(g.static, *m.instanceID)
	}
	delete(g.pendingSync, m.id)
	g.countOffered(m, -1)
	g.members = slices.DeleteFunc(g.members, func(o *member) bool { return o == m })
	if g.leader == m.id {
		g.leader = ""
		if len(g.members) > 0 {
			g.leader = g.members[0].id
		}
	}
}

func (g *group) removePending(s *Shard, id string) {
	if t := g.pending[id]; t != nil {
		s.timers.disarm(t)
		delete(g.pending, id)
	}
}

func (g *group) countOffered(m *member, by int) {
	for i := range m.protocols {
		name := m.protocols[i].name
		if g.offered[name] += by; g.offered[name] == 0 {
			delete(g.offered, name)
		}
	}
}

// setJoin sets or clears the join that a member waits with.
func (g *group) setJoin(m *member, w *waiting) {
	switch {
	case w != nil && m.join == nil:
		g.joining++
	case w == nil && m.join != nil:
		g.joining--
	}
	m.join = w
}

// supports says whether a member with these protocols could be in the group.
func (g *group) supports(protocolType string, protocols []protocol) bool {
	if g.state == Empty {
		return protocolType != "" && len(protocols) > 0
	}
	return g.protocolType == protocolType && slices.ContainsFunc(protocols, func(p protocol) bool {
		return g.offered[p.name] == len(g.members)
	})
}

// selectProtocol lets every member vote for the first of its protocols that all
// members offer. Of equally many votes the one that was voted for first wins.
func (g *group) selectProtocol() string {
	votes := map[string]int{}
	best := ""
	for _, m := range g.members {
		for i := range m.protocols {
			name := m.protocols[i].name
			if g.offered[name] == len(g.members) {
				votes[name]++
				break
			}
		}
	}
	for _, m := range g.members {
		for i := range m.protocols {
			if name := m.protocols[i].name; votes[name] > votes[best] {
				best = name
			}
		}
	}
	return best
}

// validateMember checks who speaks: KIP-345 fences an instance id whose member was
// replaced.
func (g *group) validateMember(memberID string, instanceID *string) int16 {
	if instanceID != nil {
		switch m := g.static[*instanceID]; {
		case m == nil:
			return errUnknownMemberID
		case m.id != memberID:
			return errFencedInstanceID
		}
	}
	if g.byID[memberID] == nil {
		return errUnknownMemberID
	}
	return errNone
}

func (g *group) allJoined() bool {
	return g.joining == len(g.members) && len(g.pending) == 0
}

// electJoinedLeader makes sure that the leader is among those who have rejoined.
func (g *group) electJoinedLeader() bool {
	if m := g.byID[g.leader]; m != nil && m.join != nil {
		return true
	}
	for _, m := range g.members {
		if m.join != nil {
			g.leader = m.id
			return true
		}
	}
	return false
}

// rebalanceTimeout is the longest of the members'.
func (g *group) rebalanceTimeout() time.Duration {
	var longest int32
	for _, m := range g.members {
		longest = max(longest, m.rebalanceTimeoutMs)
	}
	return millis(longest)
}

// beginGeneration is the end of the join phase.
func (g *group) beginGeneration(now time.Time) {
	g.generation++
	if g.generation < 0 {
		g.generation = 1 // after 2^31 generations; -1 has a meaning of its own
	}
	clear(g.pendingSync)
	if len(g.members) == 0 {
		g.protocol = nil
		g.updateSubscribed()
		g.moveTo(Empty, now)
		return
	}
	selected := g.selectProtocol()
	g.protocol = &selected
	g.updateSubscribed()
	g.moveTo(CompletingRebalance, now)
}

// simple says whether the group only keeps offsets.
func (g *group) simple() bool {
	return g.protocolType == "" && g.state == Empty && len(g.pending) == 0
}

func (g *group) usesConsumerProtocol() bool { return g.protocolType == consumerProtocolType }

// subscribedTo says whether a topic's offsets are in use. Of a consumer group whose
// subscriptions cannot be read everything must be taken to be.
func (g *group) subscribedTo(topic string) bool {
	if !g.subscribedKnown {
		return g.usesConsumerProtocol()
	}
	_, ok := g.subscribed[topic]
	return ok
}

func (g *group) updateSubscribed() {
	g.subscribed, g.subscribedKnown = nil, false
	if !g.usesConsumerProtocol() {
		return
	}
	if len(g.members) == 0 {
		g.subscribedKnown = true
		return
	}
	if g.protocol == nil {
		return
	}
	topics := map[string]struct{}{}
	for _, m := range g.members {
		metadata, _ := m.metadata(*g.protocol)
		if !subscriptionTopics(metadata, topics) {
			return
		}
	}
	g.subscribed, g.subscribedKnown = topics, true
}

func (g *group) leaderOrNull() *string {
	if g.leader == "" {
		return nil
	}
	return &g.leader
}

// record is the group as it is written to the log.
func (g *group) record() Record {
	r := groupRecord{
		protocolType:          g.protocolType,
		generation:            g.generation,
		protocol:              g.protocol,
		leader:                g.leaderOrNull(),
		currentStateTimestamp: g.stateTimestamp,
	}
	for _, m := range g.members {
		if g.protocol == nil {
			panic(fmt.Sprintf("BUG: group %q with members and no protocol", g.id))
		}
		subscription, ok := m.metadata(*g.protocol)
		if !ok {
			panic(fmt.Sprintf("BUG: member %q of group %q does not offer %q", m.id, g.id, *g.protocol))
		}
		r.members = append(r.members, memberRecord{
			memberID:         m.id,
			instanceID:       m.instanceID,
			clientID:         m.client.ID,
			clientHost:       m.client.Host,
			rebalanceTimeout: m.rebalanceTimeoutMs,
			sessionTimeout:   m.sessionTimeoutMs,
			subscription:     subscription,
			assignment:       m.assignment,
		})
	}
	return Record{appendGroupKey(nil, g.id), appendGroupValue(nil, r)}
}
