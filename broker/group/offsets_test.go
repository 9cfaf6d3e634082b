package group

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestCommitErrors(t *testing.T) {
	long := strings.Repeat("x", math.MaxInt16+1)
	for _, c := range []struct {
		name   string
		commit func(w *world) int16
		want   int16
	}{
		{"simple group", func(w *world) int16 { return w.commit("g", "t", 0, 1) }, errNone},
		{"empty group id", func(w *world) int16 { return w.commit("", "t", 0, 1) }, errNone},
		{"group id longer than a record's string", func(w *world) int16 { return w.commit(long, "t", 0, 1) }, errInvalidGroupID},
		{"topic longer than a record's string", func(w *world) int16 { return w.commit("g", long, 0, 1) }, errUnknownTopicOrPartition},
		{"unknown group", func(w *world) int16 { return w.commit("g", "t", 0, 1, by("m", 1)) }, errGroupIDNotFound},
		{"unknown group, old version", func(w *world) int16 {
			return w.commit("g", "t", 0, 1, by("m", 1), commitVersion(8))
		}, errIllegalGeneration},
		{"generation -1 in an empty group, with a member id", func(w *world) int16 {
			w.join("g")
			return w.commit("g", "t", 0, 1, by("m", -1))
		}, errNone},
		{"generation 0 in an empty group", func(w *world) int16 {
			w.join("g")
			return w.commit("g", "t", 0, 1, by("m", 0))
		}, errUnknownMemberID},
		{"simple commit to a group with members", func(w *world) int16 {
			w.stable("g", 1)
			return w.commit("g", "t", 0, 1)
		}, errUnknownMemberID},
		{"member with generation -1", func(w *world) int16 {
			return w.commit("g", "t", 0, 1, by(w.stable("g", 1)[0], -1))
		}, errIllegalGeneration},
		{"unknown member", func(w *world) int16 { w.stable("g", 1); return w.commit("g", "t", 0, 1, by("m", 1)) }, errUnknownMemberID},
		{"another generation", func(w *world) int16 { return w.commit("g", "t", 0, 1, by(w.stable("g", 1)[0], 2)) }, errIllegalGeneration},
		{"unknown instance", func(w *world) int16 {
			return w.commit("g", "t", 0, 1, by(w.stable("g", 1)[0], 1), byInstance("i"))
		}, errUnknownMemberID},
		{"instance alone, in a group with members", func(w *world) int16 {
			w.stable("g", 1)
			return w.commit("g", "t", 0, 1, byInstance("i"))
		}, errUnknownMemberID},
		{"stable", func(w *world) int16 { return w.commit("g", "t", 0, 1, by(w.stable("g", 1)[0], 1)) }, errNone},
		{"preparing", func(w *world) int16 {
			ids := w.stable("g", 1)
			w.joinTwice("g")
			return w.commit("g", "t", 0, 1, by(ids[0], 1))
		}, errNone},
		{"completing", func(w *world) int16 { return w.commit("g", "t", 0, 1, by(w.completing("g", 1)[0], 1)) }, errRebalanceInProgress},
		{"longest metadata", func(w *world) int16 { return w.commit("g", "t", 0, 1, metadata(strings.Repeat("é", 4096))) }, errNone},
		{"too long metadata", func(w *world) int16 { return w.commit("g", "t", 0, 1, metadata(strings.Repeat("x", 4097))) }, errOffsetMetadataTooLarge},
		{"metadata outside the BMP counts double", func(w *world) int16 {
			return w.commit("g", "t", 0, 1, metadata(strings.Repeat("😀", 2049)))
		}, errOffsetMetadataTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			code := c.commit(w)
			equal(t, "error", code, c.want)
			if code != errNone && len(w.last.Records) > 0 {
				t.Fatal("a refused commit was written")
			}
		})
	}
}

func TestCommitIsFetchedAgain(t *testing.T) {
	w := newWorld(t)
	equal(t, "none yet", w.committed("g", "t", 0), int64(-1))
	w.commit("g", "t", 0, 5)
	w.commit("g", "t", 0, 3) // going back is allowed
	w.commit("g", "u", 9, 7, metadata("m"))
	equal(t, "t-0", w.committed("g", "t", 0), int64(3))
	equal(t, "t-1", w.committed("g", "t", 1), int64(-1))
	equal(t, "u-9", w.committed("g", "u", 9), int64(7))
	equal(t, "u-9 after failover", w.reloaded().committed("g", "u", 9), int64(7))
	w.wantState("g", Empty)
	equal(t, "protocol type", w.describe("g").ProtocolType, "")
}

func TestCommitOfOnlyBadPartitionsMakesNoGroup(t *testing.T) {
	w := newWorld(t)
	w.commit("g", "t", 0, 1, metadata(strings.Repeat("x", 4097)))
	w.wantState("g", Dead)
}

func TestCommitKeepsTheSession(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 1, session(20*time.Second))
	for range 5 {
		w.sleep(15 * time.Second)
		equal(t, "commit", w.commit("g", "t", 0, 1, by(ids[0], 1)), errNone)
	}
	w.wantState("g", Stable)
}

func TestFetchForms(t *testing.T) {
	w := newWorld(t)
	w.commit("g", "t", 1, 11, metadata("m"))
	w.commit("g", "t", 0, 10)
	w.commit("g", "a", 0, 12)
	for v := int16(1); v <= 10; v++ {
		for _, all := range []bool{false, true} {
			if all && v < 2 {
				continue
			}
			req := kmsg.NewPtrOffsetFetchRequest()
			if v < 8 {
				req.Group = "g"
				if !all {
					req.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{1, 2}}}
				}
			} else {
				g := kmsg.NewOffsetFetchRequestGroup()
				g.Group = "g"
				if !all {
					g.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", TopicID: [16]byte{1}, Partitions: []int32{1, 2}}}
				}
				req.Groups = append(req.Groups, g)
			}
			token := w.newToken()
			w.take(w.s.OffsetFetch(w.now, token, Client{}, v, req))
			r := response[*kmsg.OffsetFetchResponse](w, token)
			// What a client would read.
			decoded := kmsg.NewPtrOffsetFetchResponse()
			decoded.SetVersion(v)
			if err := decoded.ReadFrom(r.AppendTo(nil)); err != nil {
				t.Fatal(err)
			}
			type row struct {
				topic     string
				partition int32
				offset    int64
				epoch     int32
				metadata  string
			}
			var rows []row
			for _, rt := range r.Topics {
				for _, p := range rt.Partitions {
					rows = append(rows, row{rt.Topic, p.Partition, p.Offset, p.LeaderEpoch, *p.Metadata})
				}
			}
			for _, rg := range r.Groups {
				for _, rt := range rg.Topics {
					if !all && rt.TopicID != [16]byte{1} {
						t.Fatal("the topic id was not given back")
					}
					for _, p := range rt.Partitions {
						rows = append(rows, row{rt.Topic, p.Partition, p.Offset, p.LeaderEpoch, *p.Metadata})
					}
				}
			}
			want := []row{{"t", 1, 11, 7, "m"}, {"t", 2, -1, -1, ""}}
			if all {
				want = []row{{"a", 0, 12, 7, ""}, {"t", 0, 10, 7, ""}, {"t", 1, 11, 7, "m"}}
			}
			equal(t, "rows", len(rows), len(want))
			for i := range want {
				equal(t, "row", rows[i], want[i])
			}
		}
	}
}

func TestFetchOfUnknownGroupHasNoOffsets(t *testing.T) {
	w := newWorld(t)
	equal(t, "one", w.committed("g", "t", 0), int64(-1))
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = "g"
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Groups = append(req.Groups, g)
	token := w.newToken()
	w.take(w.s.OffsetFetch(w.now, token, Client{}, 8, req))
	r := response[*kmsg.OffsetFetchResponse](w, token)
	equal(t, "all", len(r.Groups[0].Topics), 0)
	equal(t, "error", r.Groups[0].ErrorCode, errNone)
}

// deleteOffset deletes one offset; the error of the request, or of the partition.
func (w *world) deleteOffset(groupID, topic string, partition int32) int16 {
	w.t.Helper()
	req := kmsg.NewPtrOffsetDeleteRequest()
	req.Group = groupID
	req.Topics = []kmsg.OffsetDeleteRequestTopic{{Topic: topic, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: partition}}}}
	token := w.newToken()
	w.take(w.s.OffsetDelete(w.now, token, Client{}, 0, req))
	r := response[*kmsg.OffsetDeleteResponse](w, token)
	if r.ErrorCode != errNone {
		return r.ErrorCode
	}
	return r.Topics[0].Partitions[0].ErrorCode
}

func TestOffsetDelete(t *testing.T) {
	w := newWorld(t)
	equal(t, "no group id", w.deleteOffset("", "t", 0), errInvalidGroupID)
	equal(t, "unknown group", w.deleteOffset("g", "t", 0), errGroupIDNotFound)
	w.commit("g", "t", 0, 1)
	w.commit("g", "old", 0, 2)
	w.commit("g", "old", 1, 3)
	equal(t, "simple group", w.deleteOffset("g", "old", 1), errNone)
	equal(t, "no such offset", w.deleteOffset("g", "none", 0), errNone)
	equal(t, "records for no such offset", len(w.last.Records), 0)
	w.stable("g", 1)
	equal(t, "subscribed topic", w.deleteOffset("g", "t", 0), errGroupSubscribedToTopic)
	equal(t, "topic not subscribed to", w.deleteOffset("g", "old", 0), errNone)
	equal(t, "left", w.committed("g", "t", 0), int64(1))
	equal(t, "gone", w.committed("g", "old", 0), int64(-1))
	equal(t, "gone", w.reloaded().committed("g", "old", 1), int64(-1))
	for _, c := range []struct {
		name    string
		options []joinOption
		want    int16
	}{
		{"not a consumer group", []joinOption{protocolType("connect"), protocols("range", "x")}, errNonEmptyGroup},
		{"subscription that cannot be read", []joinOption{protocols("range", "x")}, errGroupSubscribedToTopic},
	} {
		w := newWorld(t)
		w.commit("g", "t", 0, 1)
		w.completing("g", 1, c.options...)
		equal(t, c.name, w.deleteOffset("g", "t", 0), c.want)
	}
}

func TestTopicDeletedForgetsItsOffsets(t *testing.T) {
	w := newWorld(t)
	for _, g := range []string{"g", "h"} {
		w.commit(g, "t", 0, 1)
		w.commit(g, "t", 1, 1)
		w.commit(g, "u", 0, 1)
	}
	w.take(w.s.TopicDeleted([]string{"t", "none"}))
	equal(t, "tombstones", len(w.last.Records), 4)
	for _, n := range []*world{w, w.reloaded()} {
		equal(t, "t", n.committed("g", "t", 0), int64(-1))
		equal(t, "u", n.committed("h", "u", 0), int64(1))
	}
}

func TestDeleteGroups(t *testing.T) {
	w := newWorld(t)
	equal(t, "unknown", w.deleteGroup("g"), errGroupIDNotFound)
	w.commit("g", "t", 0, 1)
	ids := w.stable("g", 1)
	equal(t, "with members", w.deleteGroup("g"), errNonEmptyGroup)
	w.joinTwice("g")
	equal(t, "preparing", w.deleteGroup("g"), errNonEmptyGroup)
	w.sleep(time.Hour)
	w.wantState("g", Empty)
	equal(t, "empty", w.deleteGroup("g"), errNone)
	equal(t, "records", len(w.last.Records), 2)
	for _, n := range []*world{w, w.reloaded()} {
		n.wantState("g", Dead)
		equal(t, "offset", n.committed("g", "t", 0), int64(-1))
		equal(t, "heartbeat", n.heartbeat("g", ids[0], 1), errUnknownMemberID)
	}
}

func TestOffsetsBelongToTheTopicTheyWereCommittedFor(t *testing.T) {
	cfg := newWorld(t).cfg
	ids := map[string][16]byte{"t": {1}}
	cfg.TopicID = func(topic string) [16]byte { return ids[topic] }
	w := newWorldWith(t, cfg)
	w.commit("g", "t", 0, 5)
	w.commit("g", "gone", 0, 6)
	ids["t"] = [16]byte{2} // deleted and made again, and nobody told us
	for _, n := range []*world{w, w.reloaded()} {
		equal(t, "another topic of that name", n.committed("g", "t", 0), int64(-1))
		equal(t, "topic that does not exist", n.committed("g", "gone", 0), int64(6))
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = "g"
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Groups = append(req.Groups, g)
		token := n.newToken()
		n.take(n.s.OffsetFetch(n.now, token, Client{}, 10, req))
		r := response[*kmsg.OffsetFetchResponse](n, token)
		equal(t, "topics", len(r.Groups[0].Topics), 1)
		equal(t, "topic", r.Groups[0].Topics[0].Topic, "gone")
	}
	w.sleep(10 * time.Minute) // a sweep
	equal(t, "left", len(w.s.groups["g"].offsets), 1)
	w.commit("g", "t", 0, 7)
	equal(t, "of the new topic", w.reloaded().committed("g", "t", 0), int64(7))
}
