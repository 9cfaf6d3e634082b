package group

import (
	"fmt"
	"testing"
	"time"
)

const week = 7 * 24 * time.Hour

func TestOffsetsExpire(t *testing.T) {
	const check = 10 * time.Minute
	for _, c := range []struct {
		name  string
		setup func(w *world)
		kept  bool // t-0 of group g, a week after setup
		group State
	}{
		{"simple group", func(w *world) { w.commit("g", "t", 0, 1) }, false, Dead},
		{"simple group, committed since", func(w *world) {
			w.commit("g", "t", 0, 1)
			w.sleep(week / 2)
			w.commit("g", "t", 0, 2)
			w.sleep(-week / 2) // of what follows
		}, true, Empty},
		{"group that is empty for a week", func(w *world) {
			ids := w.stable("g", 1)
			w.commit("g", "t", 0, 1, by(ids[0], 1))
			w.leave("g", [2]string{ids[0], ""})
		}, false, Dead},
		{"group of another type, empty for a week", func(w *world) {
			_, token := w.joinTwice("g", protocolType("connect"), protocols("p", ""))
			w.sleep(10 * time.Second)
			w.commit("g", "t", 0, 1, by(w.joined(token).MemberID, 1)) // refused: completing
			w.leave("g", [2]string{w.joined(token).MemberID, ""})
			w.commit("g", "t", 0, 1)
		}, false, Dead},
		{"own retention, shorter", func(w *world) { w.commit("g", "t", 0, 1, commitVersion(4), retention(1000)) }, false, Dead},
		{"own retention, longer", func(w *world) { w.commit("g", "t", 0, 1, commitVersion(4), retention(30*24*3600*1000)) }, true, Empty},
		{"own retention, of a version without it", func(w *world) { w.commit("g", "t", 0, 1, commitVersion(5), retention(30*24*3600*1000)) }, false, Dead},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			c.setup(w)
			w.sleep(week + check)
			for _, n := range []*world{w, w.reloaded()} {
				equal(t, "kept", n.committed("g", "t", 0) >= 0, c.kept)
				n.wantState("g", c.group)
			}
		})
	}
}

func TestOffsetsOfLiveConsumersExpireByTopic(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 1, session(30*time.Minute), protocols("range", subscribe("t")))
	w.commit("g", "t", 0, 1, by(ids[0], 1))
	w.commit("g", "old", 0, 1, by(ids[0], 1))
	for range 7 * 24 * 3 {
		w.sleep(20 * time.Minute)
		equal(t, "heartbeat", w.heartbeat("g", ids[0], 1), errNone)
	}
	w.sleep(10 * time.Minute)
	equal(t, "subscribed", w.committed("g", "t", 0), int64(1))
	equal(t, "not subscribed any more", w.committed("g", "old", 0), int64(-1))
}

func TestOffsetsOfLiveGroupsOfOtherTypesStay(t *testing.T) {
	for _, options := range [][]joinOption{
		{protocolType("connect"), protocols("range", "x")},
		{protocols("range", "not a subscription")},
	} {
		w := newWorld(t)
		w.commit("g", "t", 0, 1)
		w.joinTwice("g", append(options, session(30*time.Minute), rebalance(20*24*time.Hour))...)
		w.sleep(4 * time.Second)
		id := w.describe("g").Members[0].MemberID
		for range 7 * 24 * 3 {
			w.sleep(20 * time.Minute)
			equal(t, "heartbeat", w.heartbeat("g", id, 1), errNone)
		}
		w.sleep(20 * time.Minute)
		equal(t, "offset", w.committed("g", "t", 0), int64(1))
	}
}

func TestRetentionBeginsWhenTheGroupBecomesEmpty(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 1, session(30*time.Minute))
	w.commit("g", "t", 0, 1, by(ids[0], 1))
	for range 3 * 24 * 3 {
		w.sleep(20 * time.Minute)
		w.heartbeat("g", ids[0], 1)
	}
	w.leave("g", [2]string{ids[0], ""})
	w.sleep(week - time.Minute)
	for _, n := range []*world{w, w.reloaded()} {
		equal(t, "before", n.committed("g", "t", 0), int64(1))
		n.sleep(time.Minute + 10*time.Minute)
		equal(t, "after", n.committed("g", "t", 0), int64(-1))
		n.wantState("g", Dead)
	}
}

func TestEmptyGroupWithoutOffsetsGoes(t *testing.T) {
	w := newWorld(t)
	w.join("g")
	w.sleep(10 * time.Minute)
	w.wantState("g", Dead)
	equal(t, "after failover", len(w.reloaded().s.groups), 0)
}

func TestGroupWithPendingMemberStays(t *testing.T) {
	w := newWorld(t)
	w.sleep(10*time.Minute - time.Second)
	id := w.wantJoin(w.join("g"), errMemberIDRequired).MemberID
	w.sleep(2 * time.Second)
	if !w.waits(w.join("g", memberID(id))) {
		t.Fatal("refused")
	}
}

func TestSweepGoesInBoundedSteps(t *testing.T) {
	cfg := newWorld(t).cfg
	cfg.OffsetsCheckInterval = 2 * 24 * time.Hour
	w := newWorldWith(t, cfg)
	const groups = 3*sweepRecordsMax + 1
	for i := range groups {
		w.commit(fmt.Sprint("g", i), "t", 0, 1)
	}
	ticks := 0
	until := w.now.Add(week + cfg.OffsetsCheckInterval)
	for {
		at, _ := w.s.NextDeadline()
		if at.After(until) {
			break
		}
		w.now = at
		w.take(w.s.Tick(at))
		if n := len(w.last.Records); n > 0 {
			if ticks++; n > 2*sweepRecordsMax {
				t.Fatalf("%d records in one tick", n)
			}
		}
	}
	if ticks < 3 {
		t.Fatalf("%d ticks", ticks)
	}
	equal(t, "groups left", len(w.s.groups), 0)
}
