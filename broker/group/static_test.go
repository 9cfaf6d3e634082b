package group

import (
	"testing"
	"time"
)

// staticGroup is a stable group of a static leader "i" and a static follower "j".
func (w *world) staticGroup(options ...joinOption) (leader, follower string) {
	w.t.Helper()
	i := w.join("g", append(options, instance("i"))...)
	j := w.join("g", append(options, instance("j"))...)
	w.sleep(10 * time.Second)
	w.settle("g", []int{i, j})
	return w.joined(i).MemberID, w.joined(j).MemberID
}

func TestStaticMemberComesBackWithoutRebalance(t *testing.T) {
	w := newWorld(t)
	leader, old := w.staticGroup()
	records := len(w.log)
	r := w.wantJoin(w.join("g", instance("j")), errNone)
	if r.MemberID == old {
		t.Fatal("kept its member id")
	}
	equal(t, "generation", r.Generation, 1)
	equal(t, "leader", r.LeaderID, leader)
	equal(t, "skip assignment", r.SkipAssignment, false)
	equal(t, "records", len(w.log)-records, 1)
	w.wantState("g", Stable)
	w.wantSync(w.sync("g", r.MemberID, 1, syncInstance("j")), errNone, "a1")

	// Its former self is fenced everywhere.
	equal(t, "heartbeat", w.heartbeat("g", old, 1, "j"), errFencedInstanceID)
	w.wantSync(w.sync("g", old, 1, syncInstance("j")), errFencedInstanceID, "")
	w.wantJoin(w.join("g", memberID(old), instance("j")), errFencedInstanceID)
	equal(t, "commit", w.commit("g", "t", 0, 1, by(old, 1), byInstance("j")), errFencedInstanceID)
	equal(t, "leave", w.leave("g", [2]string{old, "j"}).Members[0].ErrorCode, errFencedInstanceID)
	// One that does not say its instance id is just unknown.
	equal(t, "heartbeat", w.heartbeat("g", old, 1), errUnknownMemberID)
}

func TestStaticLeaderComesBack(t *testing.T) {
	w := newWorld(t)
	old, _ := w.staticGroup()
	r := w.wantJoin(w.join("g", instance("i"), version(9)), errNone)
	equal(t, "skip assignment", r.SkipAssignment, true)
	equal(t, "leader", r.LeaderID, r.MemberID)
	equal(t, "members", len(r.Members), 2)

	// A client that cannot skip is told that its former self leads.
	second := w.wantJoin(w.join("g", instance("i"), version(8)), errNone)
	equal(t, "skip assignment", second.SkipAssignment, false)
	equal(t, "leader", second.LeaderID, r.MemberID)
	equal(t, "members", len(second.Members), 0)
	if second.MemberID == old || second.MemberID == r.MemberID {
		t.Fatal("kept a member id")
	}
	w.wantState("g", Stable)
	// It is the leader all the same: it can force a rebalance.
	if !w.waits(w.join("g", memberID(second.MemberID), instance("i"))) {
		t.Fatal("no rebalance")
	}
}

func TestStaticMemberWithOtherProtocolsRebalances(t *testing.T) {
	w := newWorld(t)
	both := protocols("range", subscribe("t"), "sticky", subscribe("t"))
	w.staticGroup(both)
	token := w.join("g", instance("j"), protocols("sticky", subscribe("t")))
	if !w.waits(token) {
		t.Fatal("answered though the protocol changes")
	}
	w.wantState("g", PreparingRebalance)
}

func TestStaticMemberThatComesBackFencesItsWaitingRequests(t *testing.T) {
	w := newWorld(t)
	leader, _ := w.staticGroup()
	w.join("g", memberID(leader), instance("i")) // forces a rebalance
	old := w.join("g", instance("j"))
	_ = old
	// The other one is waiting; a third copy of j takes its place.
	w2 := newWorld(t)
	w2.staticGroup()
	w2.join("g") // somebody is pending: nothing completes
	first := w2.join("g", instance("i"), protocols("range", subscribe("u")))
	w2.wantJoin(first, errNone) // same protocol: no rebalance, in spite of a new subscription

	w3 := newWorld(t)
	a := w3.join("g", instance("i"))
	b := w3.join("g", instance("i"))
	w3.wantJoin(a, errFencedInstanceID)
	w3.sleep(10 * time.Second)
	w3.wantJoin(b, errNone)
	sync := w3.sync("g", w3.joined(b).MemberID, 1, syncInstance("i"))
	w3.wantSync(sync, errNone, "")
}

func TestStaticMemberThatComesBackWhileCompletingRebalances(t *testing.T) {
	w := newWorld(t)
	i := w.join("g", instance("i"))
	j := w.join("g", instance("j"))
	w.sleep(10 * time.Second)
	w.wantState("g", CompletingRebalance)
	sync := w.sync("g", w.joined(j).MemberID, 1, syncInstance("j"))
	again := w.join("g", instance("j"))
	w.wantSync(sync, errFencedInstanceID, "")
	if !w.waits(again) {
		t.Fatal("answered")
	}
	w.wantState("g", PreparingRebalance)
	tokens := []int{w.join("g", memberID(w.joined(i).MemberID), instance("i")), again}
	w.settle("g", tokens)
}

func TestStaticMemberKeepsItsPlaceForItsSession(t *testing.T) {
	w := newWorld(t)
	leader, follower := w.staticGroup(session(time.Minute))
	w.sleep(50 * time.Second)
	equal(t, "heartbeat", w.heartbeat("g", leader, 1, "i"), errNone)
	w.wantState("g", Stable)
	w.sleep(10 * time.Second)
	w.wantState("g", PreparingRebalance)
	equal(t, "heartbeat", w.heartbeat("g", follower, 1, "j"), errUnknownMemberID)
}

func TestReplacedStaticMemberIsReplayed(t *testing.T) {
	w := newWorld(t)
	w.staticGroup()
	r := w.wantJoin(w.join("g", instance("j")), errNone)
	n := w.reloaded()
	equal(t, "heartbeat", n.heartbeat("g", r.MemberID, 1, "j"), errNone)
	n.wantSync(n.sync("g", r.MemberID, 1, syncInstance("j")), errNone, "a1")
}
