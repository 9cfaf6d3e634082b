package group

import "fmt"

// checkGroup holds what must be true of a group between calls.
func checkGroup(t fataler, s *Shard, g *group) {
	t.Helper()
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("group %q, %v: %s", g.id, g.state, fmt.Sprintf(format, args...))
	}
	if s.groups[g.id] != g || g.state == Dead {
		fail("not in its shard, or dead")
	}
	joining, static := 0, 0
	offered := map[string]int{}
	for _, m := range g.members {
		if g.byID[m.id] != m {
			fail("member %q is not found by id", m.id)
		}
		if m.join != nil {
			joining++
		}
		if m.static() {
			static++
			if g.static[*m.instanceID] != m {
				fail("member %q is not found by instance", m.id)
			}
		}
		for _, p := range m.protocols {
			offered[p.name]++
		}
		if m.sync != nil && g.state != CompletingRebalance {
			fail("member %q waits for a sync", m.id)
		}
		if m.join != nil && g.state != PreparingRebalance {
			fail("member %q waits for a join", m.id)
		}
		if m.session.index < 0 && !m.alive() {
			fail("member %q has no session deadline", m.id)
		}
		if g.pending[m.id] != nil {
			fail("member %q is pending too", m.id)
		}
		if g.protocol != nil && g.state != PreparingRebalance {
			if _, ok := m.metadata(*g.protocol); !ok {
				fail("member %q does not offer %q", m.id, *g.protocol)
			}
		}
	}
	if len(g.byID) != len(g.members) || len(g.static) != static || g.joining != joining {
		fail("%d by id, %d static, %d joining", len(g.byID), len(g.static), g.joining)
	}
	if len(offered) != len(g.offered) {
		fail("offered protocols %v, counted %v", offered, g.offered)
	}
	for name, n := range offered {
		if g.offered[name] != n {
			fail("offered protocols %v, counted %v", offered, g.offered)
		}
	}
	if (g.state == Empty) != (len(g.members) == 0) && g.state != PreparingRebalance {
		fail("%d members", len(g.members))
	}
	if (g.leader == "") != (len(g.members) == 0) || g.leader != "" && g.byID[g.leader] == nil {
		fail("leader %q", g.leader)
	}
	for id := range g.pendingSync {
		if g.byID[id] == nil || g.state != CompletingRebalance && g.state != Stable {
			fail("a sync of %q is owed", id)
		}
	}
	if g.state == PreparingRebalance && (g.joinTimer == nil || g.joinTimer.index < 0) {
		fail("no deadline for the join phase")
	}
	if g.state != PreparingRebalance && g.joinTimer != nil && g.joinTimer.index >= 0 {
		fail("a deadline for a join phase that is over")
	}
	if len(g.pendingSync) > 0 && g.syncTimer.index < 0 {
		fail("no deadline for the syncs that are owed")
	}
	for topic, partitions := range g.offsets {
		if len(partitions) == 0 {
			fail("no offsets for %q", topic)
		}
	}
}

// checkShard also holds that every open request has somebody who waits with it.
func (w *world) checkShard() {
	w.t.Helper()
	n := 0
	for _, g := range w.s.groups {
		checkGroup(w.t, w.s, g)
		for _, m := range g.members {
			for _, x := range []*waiting{m.join, m.sync} {
				if x == nil || x.gone {
					continue
				}
				n++
				if w.s.waits[x.token] != x {
					w.t.Fatalf("group %q: a request that waits is not known", g.id)
				}
			}
		}
	}
	if len(w.s.waits) != n {
		w.t.Fatalf("%d requests known, %d wait", len(w.s.waits), n)
	}
	for i, x := range w.s.timers.armed {
		if x.index != i {
			w.t.Fatalf("timer %d thinks it is %d", i, x.index)
		}
	}
}
