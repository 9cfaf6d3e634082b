package group

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestJoinRefusesBadRequests(t *testing.T) {
	long := strings.Repeat("x", math.MaxInt16+1)
	for _, c := range []struct {
		name string
		join func(w *world) int
		want int16
	}{
		{"no group id", func(w *world) int { return w.join("") }, errInvalidGroupID},
		{"group id longer than a record's string", func(w *world) int { return w.join(long) }, errInvalidGroupID},
		{"session too short", func(w *world) int { return w.join("g", session(5999*time.Millisecond)) }, errInvalidSessionTimeout},
		{"session too long", func(w *world) int { return w.join("g", session(30*time.Minute+time.Millisecond)) }, errInvalidSessionTimeout},
		{"member id in an unknown group", func(w *world) int { return w.join("g", memberID("m")) }, errUnknownMemberID},
		{"no protocol type", func(w *world) int { return w.join("g", protocolType("")) }, errInconsistentGroupProtocol},
		{"no protocols", func(w *world) int { return w.join("g", protocols()) }, errInconsistentGroupProtocol},
		{"instance id longer than a record's string", func(w *world) int { return w.join("g", instance(long)) }, errInvalidRequest},
		{"protocol name longer than a record's string", func(w *world) int { return w.join("g", protocols(long, "")) }, errInvalidRequest},
		{"another protocol type", func(w *world) int { w.stable("g", 1); return w.join("g", protocolType("connect")) }, errInconsistentGroupProtocol},
		{"no common protocol", func(w *world) int { w.stable("g", 1); return w.join("g", protocols("sticky", "")) }, errInconsistentGroupProtocol},
		{"known group, unknown member", func(w *world) int { w.stable("g", 1); return w.join("g", memberID("nobody")) }, errUnknownMemberID},
		{"unknown instance with a member id", func(w *world) int {
			ids := w.stable("g", 1)
			return w.join("g", memberID(ids[0]), instance("i"))
		}, errUnknownMemberID},
		{"fenced instance", func(w *world) int {
			w.settle("g", []int{w.staticJoin("g", "i")})
			return w.join("g", memberID("other"), instance("i"))
		}, errFencedInstanceID},
		{"pending member that turns static", func(w *world) int {
			id := w.wantJoin(w.join("g"), errMemberIDRequired).MemberID
			return w.join("g", memberID(id), instance("i"))
		}, errUnknownServerError},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.wantJoin(c.join(w), c.want)
		})
	}
}

// staticJoin lets a static member join a group that begins with it.
func (w *world) staticJoin(groupID, instanceID string, options ...joinOption) int {
	w.t.Helper()
	token := w.join(groupID, append(options, instance(instanceID))...)
	w.sleep(10 * time.Second)
	return token
}

func TestRefusedJoinLeavesNoGroup(t *testing.T) {
	w := newWorld(t)
	w.join("g", protocols())
	equal(t, "groups", len(w.s.groups), 0)
	equal(t, "records", len(w.log), 0)
}

func TestJoinGivesMemberIDFirst(t *testing.T) {
	w := newWorld(t)
	r := w.wantJoin(w.join("g"), errMemberIDRequired)
	equal(t, "member id", r.MemberID, "client-1")
	equal(t, "generation", r.Generation, -1)
	w.wantState("g", Empty)

	// The id is good for one session.
	w.sleep(30*time.Second + time.Millisecond)
	w.wantJoin(w.join("g", memberID(r.MemberID)), errUnknownMemberID)
}

func TestOldJoinNeedsNoMemberID(t *testing.T) {
	for v := int16(0); v < 4; v++ {
		w := newWorld(t)
		token := w.join("g", version(v), session(6*time.Second), rebalance(time.Hour))
		if !w.waits(token) {
			t.Fatalf("v%d: answered at once with %d", v, w.joined(token).ErrorCode)
		}
		// Version 0 has no rebalance timeout: the session timeout stands in for it.
		if want := map[bool]int32{true: 6000, false: 3_600_000}[v == 0]; w.s.groups["g"].members[0].rebalanceTimeoutMs != want {
			t.Fatalf("v%d: rebalance timeout %d", v, w.s.groups["g"].members[0].rebalanceTimeoutMs)
		}
		w.sleep(3 * time.Second)
		r := w.wantJoin(token, errNone)
		equal(t, "leader", r.LeaderID, r.MemberID)
		equal(t, "members", len(r.Members), 1)
		equal(t, "generation", r.Generation, 1)
	}
}

func TestInitialRebalanceWaitsForMoreMembers(t *testing.T) {
	w := newWorld(t)
	_, first := w.joinTwice("g", rebalance(8*time.Second))
	w.sleep(2 * time.Second)
	_, second := w.joinTwice("g", rebalance(8*time.Second))
	w.sleep(time.Second) // 3 s: somebody came, wait again
	if !w.waits(first) {
		t.Fatal("the delay was not extended")
	}
	w.sleep(2 * time.Second)
	_, third := w.joinTwice("g", rebalance(8*time.Second))
	w.sleep(time.Second) // 6 s: again, but only for what is left of 8 s
	_, fourth := w.joinTwice("g", rebalance(8*time.Second))
	w.sleep(2*time.Second - time.Millisecond)
	if !w.waits(first) {
		t.Fatal("ended before the rebalance timeout though somebody came")
	}
	w.sleep(time.Millisecond)
	for _, token := range []int{first, second, third, fourth} {
		equal(t, "generation", w.wantJoin(token, errNone).Generation, 1)
	}
	equal(t, "members told to the leader", len(w.joined(first).Members), 4)
	equal(t, "members told to others", len(w.joined(second).Members), 0)
}

func TestInitialRebalanceEndsWhenNobodyElseCame(t *testing.T) {
	w := newWorld(t)
	_, token := w.joinTwice("g")
	w.sleep(3*time.Second - time.Millisecond)
	if !w.waits(token) {
		t.Fatal("ended early")
	}
	w.sleep(time.Millisecond)
	w.wantJoin(token, errNone)
	w.wantState("g", CompletingRebalance)
}

func TestNoInitialDelay(t *testing.T) {
	cfg := DefaultConfig()
	cfg.InitialRebalanceDelay = 0
	w := newWorldWith(t, cfg)
	_, token := w.joinTwice("g")
	w.sleep(0)
	w.wantJoin(token, errNone)
}

func TestJoinOfNewMemberRebalancesGroup(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 2)
	newID, token := w.joinTwice("g")
	w.wantState("g", PreparingRebalance)
	equal(t, "heartbeat", w.heartbeat("g", ids[0], 1), errRebalanceInProgress)

	tokens := []int{w.join("g", memberID(ids[0])), token}
	if !w.waits(tokens[0]) || !w.waits(token) {
		t.Fatal("did not wait for the third member")
	}
	tokens = append(tokens, w.join("g", memberID(ids[1])))
	for _, token := range tokens {
		equal(t, "generation", w.wantJoin(token, errNone).Generation, 2)
		equal(t, "leader", w.joined(token).LeaderID, ids[0])
	}
	w.settle("g", tokens)
	equal(t, "new member", w.describe("g").Members[2].MemberID, newID)
}

func TestJoinPhaseWaitsForPendingMember(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 1)
	pending := w.wantJoin(w.join("g"), errMemberIDRequired).MemberID
	token := w.join("g", memberID(ids[0])) // the leader forces a rebalance
	if !w.waits(token) {
		t.Fatal("did not wait for the member that was just given an id")
	}
	second := w.join("g", memberID(pending))
	equal(t, "generation", w.wantJoin(token, errNone).Generation, 2)
	w.wantJoin(second, errNone)

	// And one that never comes holds it up for its session only.
	w.settle("g", []int{token, second})
	w.wantJoin(w.join("g", session(6*time.Second)), errMemberIDRequired)
	tokens := []int{w.join("g", memberID(ids[0])), w.join("g", memberID(pending))}
	w.sleep(6 * time.Second)
	for _, token := range tokens {
		w.wantJoin(token, errNone)
	}
}

func TestPendingMemberMayLeave(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 1)
	pending := w.wantJoin(w.join("g"), errMemberIDRequired).MemberID
	token := w.join("g", memberID(ids[0]))
	equal(t, "leave", w.leave("g", [2]string{pending, ""}).Members[0].ErrorCode, errNone)
	w.wantJoin(token, errNone)
}

func TestMembersThatDoNotRejoinAreRemoved(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 3, session(time.Minute), rebalance(20*time.Second))
	second := w.join("g", memberID(ids[1]), protocols("range", subscribe("t", "u")), rebalance(20*time.Second))
	w.sleep(20*time.Second - time.Millisecond)
	if !w.waits(second) {
		t.Fatal("ended before the rebalance timeout")
	}
	w.sleep(time.Millisecond)
	r := w.wantJoin(second, errNone)
	equal(t, "leader", r.LeaderID, ids[1])
	equal(t, "members", len(r.Members), 1)
	equal(t, "heartbeat of who was removed", w.heartbeat("g", ids[0], 2), errUnknownMemberID)
}

func TestStaticMemberThatDoesNotRejoinKeepsItsPlace(t *testing.T) {
	w := newWorld(t)
	first := w.join("g", instance("i"), session(5*time.Minute), rebalance(20*time.Second))
	id, second := w.joinTwice("g", session(5*time.Minute), rebalance(20*time.Second))
	w.sleep(10 * time.Second)
	w.settle("g", []int{first, second})

	// Of the two only the dynamic member rejoins; the static one was the leader.
	token := w.join("g", memberID(id), protocols("range", subscribe("u")), rebalance(20*time.Second))
	w.sleep(20 * time.Second)
	r := w.wantJoin(token, errNone)
	equal(t, "leader", r.LeaderID, id)
	equal(t, "members", len(r.Members), 2)
	equal(t, "its subscription", string(r.Members[0].ProtocolMetadata), subscribe("t"))
}

func TestRebalanceThatNobodyJoinsWaitsForSessions(t *testing.T) {
	w := newWorld(t)
	first := w.join("g", instance("i"), session(time.Minute), rebalance(time.Millisecond))
	id, second := w.joinTwice("g", session(time.Minute), rebalance(time.Millisecond))
	w.sleep(3 * time.Second)
	w.settle("g", []int{first, second})
	w.leave("g", [2]string{id, ""})
	w.wantState("g", PreparingRebalance)
	w.sleep(50 * time.Second)
	w.wantState("g", PreparingRebalance)
	w.sleep(10 * time.Second)
	w.wantState("g", Empty)
}

func TestRejoinWithSameMetadataRepeatsTheAnswer(t *testing.T) {
	w := newWorld(t)
	leader, first := w.joinTwice("g")
	follower, second := w.joinTwice("g")
	w.sleep(10 * time.Second)
	again := w.wantJoin(w.join("g", memberID(leader)), errNone)
	equal(t, "generation", again.Generation, 1)
	equal(t, "members", len(again.Members), 2)
	again = w.wantJoin(w.join("g", memberID(follower)), errNone)
	equal(t, "members", len(again.Members), 0)
	w.settle("g", []int{first, second})

	// When stable, only a follower is told again; the leader forces a rebalance.
	equal(t, "generation", w.wantJoin(w.join("g", memberID(follower)), errNone).Generation, 1)
	if !w.waits(w.join("g", memberID(leader))) {
		t.Fatal("the leader's join did not force a rebalance")
	}
}

func TestRejoinWithOtherMetadataRebalances(t *testing.T) {
	for _, state := range []State{CompletingRebalance, Stable} {
		w := newWorld(t)
		_, first := w.joinTwice("g")
		follower, second := w.joinTwice("g")
		w.sleep(10 * time.Second)
		if state == Stable {
			w.settle("g", []int{first, second})
		}
		w.wantState("g", state)
		if !w.waits(w.join("g", memberID(follower), protocols("range", subscribe("u")))) {
			t.Fatalf("%v: no rebalance", state)
		}
		w.wantState("g", PreparingRebalance)
	}
}

func TestGroupMaxSize(t *testing.T) {
	cfg := newWorld(t).cfg
	cfg.MaxSize = 2
	w := newWorldWith(t, cfg)
	_, first := w.joinTwice("g")
	_, second := w.joinTwice("g")
	w.wantJoin(w.join("g"), errGroupMaxSizeReached)
	w.sleep(10 * time.Second)
	w.wantJoin(w.join("g"), errGroupMaxSizeReached)
	w.settle("g", []int{first, second})
	equal(t, "member id", w.wantJoin(w.join("g"), errGroupMaxSizeReached).MemberID, "")
	w.wantState("g", Stable)
}

func TestLoweredMaxSizeShrinksTheGroupAtLoading(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 3)
	w.cfg.MaxSize = 2
	n := w.reloaded()
	n.wantState("g", PreparingRebalance)
	tokens := []int{n.join("g", memberID(ids[0])), n.join("g", memberID(ids[1]))}
	n.wantJoin(n.join("g", memberID(ids[2])), errGroupMaxSizeReached)
	n.sleep(10 * time.Second)
	n.settle("g", tokens)
}

func TestPendingMembersAreBounded(t *testing.T) {
	cfg := newWorld(t).cfg
	cfg.PendingMembersMax = 3
	w := newWorldWith(t, cfg)
	for range 3 {
		w.wantJoin(w.join("g"), errMemberIDRequired)
	}
	w.wantJoin(w.join("g"), errGroupMaxSizeReached)
	w.sleep(30 * time.Second)
	w.wantJoin(w.join("g"), errMemberIDRequired)
}

func TestProtocolWithMostVotesWins(t *testing.T) {
	for _, c := range []struct {
		name  string
		votes [][]string
		want  string
	}{
		{"one", [][]string{{"a", "b"}}, "a"},
		{"majority", [][]string{{"a", "b"}, {"b", "a"}, {"b", "a"}}, "b"},
		{"only what all know", [][]string{{"a", "b"}, {"b"}}, "b"},
		{"first vote breaks a tie", [][]string{{"b", "a"}, {"a", "b"}}, "b"},
		{"what not all know has no vote", [][]string{{"x", "a", "b"}, {"b", "a"}, {"y", "a", "b"}}, "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			token := 0
			for _, vote := range c.votes {
				var offered []string
				for _, name := range vote {
					offered = append(offered, name, "metadata of "+name)
				}
				_, token = w.joinTwice("g", protocols(offered...))
			}
			w.sleep(10 * time.Second)
			r := w.wantJoin(token, errNone)
			equal(t, "protocol", *r.Protocol, c.want)
			leader := w.describe("g")
			equal(t, "members", len(leader.Members), len(c.votes))
		})
	}
}

func TestNewMemberThatWaitsTooLongIsRemoved(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 1, session(30*time.Minute), rebalance(20*time.Minute))
	token := w.join("g", version(3))
	w.sleep(5*time.Minute - time.Millisecond)
	equal(t, "old member's heartbeat", w.heartbeat("g", ids[0], 1), errRebalanceInProgress)
	if !w.waits(token) {
		t.Fatal("removed early")
	}
	w.sleep(time.Millisecond)
	equal(t, "member id", w.wantJoin(token, errUnknownMemberID).MemberID, "")
	equal(t, "members", len(w.describe("g").Members), 1)
}

func TestSecondJoinOfWaitingMemberAnswersTheFirst(t *testing.T) {
	w := newWorld(t)
	id, first := w.joinTwice("g")
	second := w.join("g", memberID(id))
	w.wantJoin(first, errRebalanceInProgress)
	w.sleep(10 * time.Second)
	w.wantJoin(second, errNone)
}

func TestGoneClientIsNotAnswered(t *testing.T) {
	w := newWorld(t)
	_, token := w.joinTwice("g")
	w.s.Gone(token)
	w.s.Gone("never seen")
	w.sleep(3 * time.Second)
	if !w.waits(token) {
		t.Fatal("answered")
	}
	w.wantState("g", CompletingRebalance)
	// It never syncs either: out after the rebalance timeout, or its session.
	w.sleep(time.Minute)
	w.wantState("g", Empty)
	equal(t, "requests remembered", len(w.s.waits), 0)
}

func TestGroupWithoutMembersKeepsItsGeneration(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 1)
	w.leave("g", [2]string{ids[0], ""})
	w.wantState("g", Empty)
	_, token := w.joinTwice("g", protocolType("connect"), protocols("sessioned", ""))
	w.sleep(10 * time.Second)
	equal(t, "generation", w.wantJoin(token, errNone).Generation, 3)
}
