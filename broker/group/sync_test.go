package group

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// completing makes a group of n members that have joined and not synced yet.
func (w *world) completing(groupID string, n int, options ...joinOption) (ids []string) {
	w.t.Helper()
	for range n {
		id, _ := w.joinTwice(groupID, options...)
		ids = append(ids, id)
	}
	w.sleep(10 * time.Second)
	w.wantState(groupID, CompletingRebalance)
	return ids
}

func TestSyncErrors(t *testing.T) {
	other := func(r *kmsg.SyncGroupRequest) { r.Protocol = kmsg.StringPtr("other") }
	for _, c := range []struct {
		name string
		sync func(w *world) int
		want int16
	}{
		{"no group id", func(w *world) int { return w.sync("", "m", 1) }, errInvalidGroupID},
		{"unknown group", func(w *world) int { return w.sync("g", "m", 1) }, errUnknownMemberID},
		{"empty group", func(w *world) int { w.join("g"); return w.sync("g", "m", 0) }, errUnknownMemberID},
		{"unknown member", func(w *world) int { w.completing("g", 1); return w.sync("g", "m", 1) }, errUnknownMemberID},
		{"older generation", func(w *world) int { return w.sync("g", w.completing("g", 1)[0], 0) }, errIllegalGeneration},
		{"newer generation", func(w *world) int { return w.sync("g", w.completing("g", 1)[0], 2) }, errIllegalGeneration},
		{"another protocol", func(w *world) int { return w.sync("g", w.completing("g", 1)[0], 1, other) }, errInconsistentGroupProtocol},
		{"another protocol type", func(w *world) int {
			return w.sync("g", w.completing("g", 1)[0], 1, func(r *kmsg.SyncGroupRequest) { r.ProtocolType = kmsg.StringPtr("connect") })
		}, errInconsistentGroupProtocol},
		{"no protocol in version 5", func(w *world) int {
			return w.sync("g", w.completing("g", 1)[0], 1, func(r *kmsg.SyncGroupRequest) { r.Protocol = nil })
		}, errInconsistentGroupProtocol},
		{"during a rebalance", func(w *world) int {
			ids := w.stable("g", 1)
			w.joinTwice("g")
			return w.sync("g", ids[0], 1)
		}, errRebalanceInProgress},
		{"fenced instance", func(w *world) int {
			w.staticJoin("g", "i")
			return w.sync("g", "m", 1, syncInstance("i"))
		}, errFencedInstanceID},
		{"unknown instance", func(w *world) int {
			return w.sync("g", w.completing("g", 1)[0], 1, syncInstance("i"))
		}, errUnknownMemberID},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.wantSync(c.sync(w), c.want, "")
		})
	}
}

func TestOldSyncNeedsNoProtocol(t *testing.T) {
	w := newWorld(t)
	ids := w.completing("g", 1)
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.MemberID, req.Generation = "g", ids[0], 1
	token := w.newToken()
	w.take(w.s.SyncGroup(w.now, token, Client{}, 4, req))
	w.wantSync(token, errNone, "")
}

func TestFollowersWaitForTheLeadersAssignment(t *testing.T) {
	w := newWorld(t)
	ids := w.completing("g", 3)
	second := w.sync("g", ids[1], 1)
	if !w.waits(second) {
		t.Fatal("did not wait")
	}
	records := len(w.log)
	first := w.sync("g", ids[0], 1, assign(ids[0], "one", ids[1], "two", "nobody", "?"))
	w.wantSync(first, errNone, "one")
	w.wantSync(second, errNone, "two")
	equal(t, "records of a new generation", len(w.log)-records, 1)
	w.wantState("g", Stable)
	w.wantSync(w.sync("g", ids[2], 1), errNone, "") // not assigned anything
	w.wantSync(w.sync("g", ids[1], 1), errNone, "two")
	r := w.replies[second].(*kmsg.SyncGroupResponse)
	equal(t, "protocol", *r.Protocol, "range")
	equal(t, "protocol type", *r.ProtocolType, "consumer")
}

func TestJoinDuringSyncSendsEverybodyBack(t *testing.T) {
	w := newWorld(t)
	ids := w.completing("g", 2)
	token := w.sync("g", ids[1], 1)
	w.joinTwice("g")
	w.wantSync(token, errRebalanceInProgress, "")
	w.wantState("g", PreparingRebalance)
}

func TestMembersThatDoNotSyncAreRemoved(t *testing.T) {
	for _, leaderSyncs := range []bool{true, false} {
		w := newWorld(t)
		ids := w.completing("g", 3, session(10*time.Minute), rebalance(20*time.Second))
		tokens := []int{w.sync("g", ids[1], 1)}
		if leaderSyncs {
			tokens = append(tokens, w.sync("g", ids[0], 1))
		}
		joinedAgo := 4 * time.Second // completing slept 10 s, the join took 6
		w.sleep(20*time.Second - joinedAgo - time.Millisecond)
		w.wantState("g", map[bool]State{true: Stable, false: CompletingRebalance}[leaderSyncs])
		w.sleep(time.Millisecond)
		w.wantState("g", PreparingRebalance)
		equal(t, "members left", len(w.describe("g").Members), len(tokens))
		if !leaderSyncs {
			w.wantSync(tokens[0], errRebalanceInProgress, "")
		}
	}
}

func TestSyncOfAllMembersEndsTheSyncDeadline(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 2, session(10*time.Minute), rebalance(20*time.Second))
	w.sleep(time.Minute)
	w.wantState("g", Stable)
	equal(t, "members", len(w.describe("g").Members), len(ids))
}

func TestSecondSyncOfWaitingMemberAnswersTheFirst(t *testing.T) {
	w := newWorld(t)
	ids := w.completing("g", 2)
	first := w.sync("g", ids[1], 1)
	second := w.sync("g", ids[1], 1)
	w.wantSync(first, errRebalanceInProgress, "")
	w.sync("g", ids[0], 1, assign(ids[1], "two"))
	w.wantSync(second, errNone, "two")
}

func TestWaitingSyncKeepsTheSession(t *testing.T) {
	w := newWorld(t)
	ids := w.completing("g", 2, session(6*time.Second), rebalance(time.Minute))
	token := w.sync("g", ids[1], 1)
	for range 6 { // the leader takes its time, and heartbeats
		equal(t, "heartbeat", w.heartbeat("g", ids[0], 1), errNone)
		w.sleep(5 * time.Second)
	}
	w.sync("g", ids[0], 1, assign(ids[1], "two"))
	w.wantSync(token, errNone, "two")
	w.sleep(6*time.Second - time.Millisecond) // its session begins anew
	equal(t, "heartbeat", w.heartbeat("g", ids[1], 1), errNone)
}

func TestHeartbeatErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		beat func(w *world) int16
		want int16
	}{
		{"no group id", func(w *world) int16 { return w.heartbeat("", "m", 1) }, errInvalidGroupID},
		{"unknown group", func(w *world) int16 { return w.heartbeat("g", "m", 1) }, errUnknownMemberID},
		{"empty group", func(w *world) int16 { w.join("g"); return w.heartbeat("g", "m", 0) }, errUnknownMemberID},
		{"unknown member", func(w *world) int16 { w.stable("g", 1); return w.heartbeat("g", "m", 1) }, errUnknownMemberID},
		{"another generation", func(w *world) int16 { return w.heartbeat("g", w.stable("g", 1)[0], 2) }, errIllegalGeneration},
		{"stable", func(w *world) int16 { return w.heartbeat("g", w.stable("g", 1)[0], 1) }, errNone},
		{"completing", func(w *world) int16 { return w.heartbeat("g", w.completing("g", 1)[0], 1) }, errNone},
		{"preparing", func(w *world) int16 {
			ids := w.stable("g", 1)
			w.joinTwice("g")
			return w.heartbeat("g", ids[0], 1)
		}, errRebalanceInProgress},
		{"fenced instance", func(w *world) int16 {
			w.staticJoin("g", "i")
			return w.heartbeat("g", "m", 1, "i")
		}, errFencedInstanceID},
		{"unknown instance", func(w *world) int16 { return w.heartbeat("g", w.stable("g", 1)[0], 1, "i") }, errUnknownMemberID},
	} {
		t.Run(c.name, func(t *testing.T) { equal(t, "error", c.beat(newWorld(t)), c.want) })
	}
}

func TestSessionEndsWithoutHeartbeats(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 2, session(20*time.Second))
	w.sleep(10 * time.Second)
	equal(t, "heartbeat", w.heartbeat("g", ids[0], 1), errNone)
	w.sleep(9 * time.Second)
	equal(t, "heartbeat", w.heartbeat("g", ids[0], 1), errNone)
	w.sleep(time.Second) // the second member's session ends
	equal(t, "heartbeat", w.heartbeat("g", ids[0], 1), errRebalanceInProgress)
	equal(t, "members", len(w.describe("g").Members), 1)
	token := w.join("g", memberID(ids[0]))
	equal(t, "generation", w.wantJoin(token, errNone).Generation, 2)
}

func TestLastSessionEmptiesTheGroup(t *testing.T) {
	w := newWorld(t)
	w.stable("g", 1)
	records := len(w.log)
	w.sleep(time.Minute)
	w.wantState("g", Empty)
	equal(t, "records", len(w.log)-records, 1)
	equal(t, "protocol type", w.describe("g").ProtocolType, "consumer")
}

func TestLeaveErrors(t *testing.T) {
	w := newWorld(t)
	equal(t, "no group id", w.leave("", [2]string{"m", ""}).ErrorCode, errInvalidGroupID)
	equal(t, "unknown group", w.leave("g", [2]string{"m", ""}).Members[0].ErrorCode, errUnknownMemberID)
	w.settle("g", []int{w.staticJoin("g", "i")})
	r := w.leave("g", [2]string{"m", ""}, [2]string{"m", "i"}, [2]string{"", "j"}, [2]string{"", ""}, [2]string{"m", "j"})
	for i, want := range []int16{errUnknownMemberID, errFencedInstanceID, errUnknownMemberID, errUnknownMemberID, errUnknownMemberID} {
		equal(t, "member", r.Members[i].ErrorCode, want)
	}
	equal(t, "top level", r.ErrorCode, errNone)
	w.wantState("g", Stable)
}

func TestLeaveRebalancesTheOthers(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 3)
	r := w.leave("g", [2]string{ids[0], ""}, [2]string{ids[1], ""})
	equal(t, "answers", len(r.Members), 2)
	w.wantState("g", PreparingRebalance)
	token := w.join("g", memberID(ids[2]))
	r2 := w.wantJoin(token, errNone)
	equal(t, "leader", r2.LeaderID, ids[2])
	w.settle("g", []int{token})
	w.leave("g", [2]string{ids[2], ""})
	w.wantState("g", Empty)
}

func TestLeaveByInstanceID(t *testing.T) {
	w := newWorld(t)
	w.settle("g", []int{w.staticJoin("g", "i")})
	equal(t, "leave", w.leave("g", [2]string{"", "i"}).Members[0].ErrorCode, errNone)
	w.wantState("g", Empty)
}

func TestLeaveAnswersTheRequestsThatWait(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 2)
	join := w.join("g", memberID(ids[0]))
	w.leave("g", [2]string{ids[0], ""})
	w.wantJoin(join, errUnknownMemberID)

	w = newWorld(t)
	ids = w.completing("g", 2)
	sync := w.sync("g", ids[1], 1)
	w.leave("g", [2]string{ids[1], ""})
	w.wantSync(sync, errUnknownMemberID, "")
}

func TestOldLeaveNamesOneMember(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 1)
	for _, c := range []struct {
		id   string
		want int16
	}{{"m", errUnknownMemberID}, {ids[0], errNone}} {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Group, req.MemberID = "g", c.id
		token := w.newToken()
		w.take(w.s.LeaveGroup(w.now, token, Client{}, 2, req))
		equal(t, "error", response[*kmsg.LeaveGroupResponse](w, token).ErrorCode, c.want)
	}
	w.wantState("g", Empty)
}
