package group

import "time"

// rejoinPause is the least time before a rebalance that nobody joined is tried again:
// a rebalance timeout of nothing must not keep the clock busy.
const rejoinPause = 100 * time.Millisecond

// rebalanceOrComplete follows a change of members: it begins a rebalance, or sees
// whether the one under way is complete now.
func (s *Shard) rebalanceOrComplete(g *group) {
	switch g.state {
	case Empty, CompletingRebalance, Stable:
		s.prepareRebalance(g)
	default:
		s.completeJoinPhase(g)
	}
}

// completeJoinPhase begins the generation if everybody is there. The very first
// rebalance always waits for its delay, so that a group which starts together does not
// rebalance for each of its members.
func (s *Shard) completeJoinPhase(g *group) {
	if g.state == PreparingRebalance && g.previous != Empty && g.allJoined() {
		s.endJoinPhase(g)
	}
}

// prepareRebalance asks everybody to join again.
func (s *Shard) prepareRebalance(g *group) {
	if g.state == CompletingRebalance {
		for _, m := range g.members {
			m.assignment = nil
		}
		s.answerSyncs(g, errRebalanceInProgress)
	}
	s.cancelSync(g)
	initial := g.state == Empty
	g.moveTo(PreparingRebalance, s.now)
	switch {
	case initial:
		delay := s.cfg.InitialRebalanceDelay
		g.newMemberAdded = false
		g.initialLeftMs = int32(max(g.rebalanceTimeout()-delay, 0) / time.Millisecond)
		s.armInitialDelay(g, delay)
	case g.allJoined():
		s.endJoinPhase(g)
	default:
		s.armJoin(g, g.rebalanceTimeout())
	}
}

// armInitialDelay waits for further members of a new group; while some come, it waits
// again, until a rebalance timeout is used up.
func (s *Shard) armInitialDelay(g *group, delay time.Duration) {
	s.rearm(&g.joinTimer, s.now.Add(delay), func(s *Shard) {
		if !g.newMemberAdded || g.initialLeftMs == 0 {
			s.endJoinPhase(g)
			return
		}
		g.newMemberAdded = false
		next := min(s.cfg.InitialRebalanceDelay, millis(g.initialLeftMs))
		g.initialLeftMs = max(g.initialLeftMs-int32(delay/time.Millisecond), 0)
		s.armInitialDelay(g, next)
	})
}

func (s *Shard) armJoin(g *group, timeout time.Duration) {
	s.rearm(&g.joinTimer, s.now.Add(timeout), func(s *Shard) { s.endJoinPhase(g) })
}

// rearm gives a timer a new deadline and a new meaning.
func (s *Shard) rearm(t **timer, at time.Time, fire func(*Shard)) {
	if *t == nil {
		*t = newTimer(fire)
	}
	(*t).fire = fire
	s.timers.arm(*t, at)
}

// endJoinPhase is the end of the join phase, complete or by timeout: those who have not
// joined again are out, except static members, who keep their place for their session.
func (s *Shard) endJoinPhase(g *group) {
	if g.joinTimer != nil {
		s.timers.disarm(g.joinTimer)
	}
	for _, m := range append([]*member(nil), g.members...) {
		if m.join == nil && !m.static() {
			g.remove(s, m)
		}
	}
	if len(g.members) > 0 && !g.electJoinedLeader() {
		// Nobody came: wait on, until the sessions of those who are left run out.
		s.armJoin(g, max(g.rebalanceTimeout(), rejoinPause))
		return
	}
	g.beginGeneration(s.now)
	if g.state == Empty {
		// If this record is lost the old generation comes back and times out again.
		s.write(g.record())
		return
	}
	for _, m := range g.members {
		s.completeJoin(g, m, g.joinResponse(m, g.leader == m.id))
		s.touch(m)
		m.fresh = false
		g.pendingSync[m.id] = struct{}{}
	}
	// Whoever does not sync within a rebalance timeout is out as well.
	generation := g.generation
	s.rearm(&g.syncTimer, s.now.Add(g.rebalanceTimeout()), func(s *Shard) { s.expireSync(g, generation) })
}

// expireSync removes the members that joined and then never asked for their assignment.
func (s *Shard) expireSync(g *group, generation int32) {
	if generation != g.generation || g.state != CompletingRebalance && g.state != Stable || len(g.pendingSync) == 0 {
		return
	}
	for _, m := range append([]*member(nil), g.members...) {
		if _, owes := g.pendingSync[m.id]; owes {
			g.remove(s, m)
		}
	}
	s.prepareRebalance(g)
}

func (s *Shard) cancelSync(g *group) {
	clear(g.pendingSync)
	if g.syncTimer != nil {
		s.timers.disarm(g.syncTimer)
	}
}

// touch begins a member's session anew.
func (s *Shard) touch(m *member) { s.timers.arm(m.session, s.now.Add(m.sessionTimeout())) }

// giveSession makes a member's session timer.
func (s *Shard) giveSession(g *group, m *member) {
	m.session = newTimer(func(s *Shard) {
		if g.byID[m.id] == m && !m.alive() {
			s.removeMember(g, m)
			s.memberLeft(g)
		}
	})
}

// removeMember takes a member out. If it waits in a join, it is told to begin as a new
// member, should it still be there.
func (s *Shard) removeMember(g *group, m *member) {
	s.completeJoin(g, m, joinError("", errUnknownMemberID))
	s.completeSync(m, syncError(errUnknownMemberID))
	g.remove(s, m)
}

// memberLeft follows the removal of members by session timeout.
func (s *Shard) memberLeft(g *group) {
	switch g.state {
	case Stable, CompletingRebalance:
		s.prepareRebalance(g)
	case PreparingRebalance:
		if g.allJoined() {
			s.endJoinPhase(g)
		}
	default:
	}
}

// pendingLeft follows the removal of a member id that was never used.
func (s *Shard) pendingLeft(g *group) {
	if g.state == PreparingRebalance && g.allJoined() {
		s.endJoinPhase(g)
	}
}
