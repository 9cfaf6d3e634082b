package group

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestRejectedCommitIsTakenBack(t *testing.T) {
	w := newWorld(t)
	w.reject = errNotEnoughReplicas
	equal(t, "first commit", w.commit("g", "t", 0, 1), errCoordinatorNotAvailable)
	w.wantState("g", Dead)

	equal(t, "commit", w.commit("g", "t", 0, 2), errNone)
	w.reject = errKafkaStorageError
	equal(t, "second commit", w.commit("g", "t", 0, 3), errNotCoordinator)
	equal(t, "offset", w.committed("g", "t", 0), int64(2))
	w.reject = errKafkaStorageError
	equal(t, "another partition", w.commit("g", "t", 1, 3), errNotCoordinator)
	equal(t, "offset", w.committed("g", "t", 1), int64(-1))
	equal(t, "records", len(w.log), 1)
}

func TestRejectedPartsOfACommitKeepTheirOwnErrors(t *testing.T) {
	w := newWorld(t)
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = "g", -1
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic = "t"
	long := string(make([]byte, 5000))
	for i := range int32(2) {
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition = i
		if i == 1 {
			p.Metadata = &long
		}
		topic.Partitions = append(topic.Partitions, p)
	}
	req.Topics = append(req.Topics, topic)
	token := w.newToken()
	w.reject = errMessageTooLarge
	w.take(w.s.OffsetCommit(w.now, token, Client{}, 9, req))
	r := response[*kmsg.OffsetCommitResponse](w, token)
	equal(t, "rejected", r.Topics[0].Partitions[0].ErrorCode, errUnknownServerError)
	equal(t, "refused", r.Topics[0].Partitions[1].ErrorCode, errOffsetMetadataTooLarge)
}

func TestRejectedNewGroupIsGone(t *testing.T) {
	w := newWorld(t)
	w.reject = errKafkaStorageError
	token := w.join("g", version(3))
	w.wantJoin(token, errNotCoordinator)
	w.wantState("g", Dead)
	w.checkShard()

	w.reject = errKafkaStorageError
	w.wantJoin(w.join("g"), errMemberIDRequired) // it will be told at its second join
	w.wantState("g", Dead)
	w.sleep(time.Hour)
}

func TestRejectedAssignmentRebalances(t *testing.T) {
	w := newWorld(t)
	ids := w.completing("g", 2)
	second := w.sync("g", ids[1], 1)
	w.reject = errMessageTooLarge
	first := w.sync("g", ids[0], 1, assign(ids[0], "one", ids[1], "two"))
	w.wantSync(first, errUnknownServerError, "")
	w.wantSync(second, errUnknownServerError, "")
	w.wantState("g", PreparingRebalance)
	w.checkShard()
	w.settle("g", []int{w.join("g", memberID(ids[0])), w.join("g", memberID(ids[1]))})
	equal(t, "generation", w.s.groups["g"].generation, 2)
}

func TestRejectedStaticMemberKeepsItsOldID(t *testing.T) {
	w := newWorld(t)
	leader, _ := w.staticGroup()
	before := encoded(w.describe("g"))
	w.reject = errNotEnoughReplicas
	r := w.wantJoin(w.join("g", instance("i"), protocols("range", subscribe("u"))), errCoordinatorNotAvailable)
	equal(t, "member id", r.MemberID, "")
	equal(t, "group", encoded(w.describe("g")), before)
	equal(t, "heartbeat", w.heartbeat("g", leader, 1, "i"), errNone)
	equal(t, "leader", w.s.groups["g"].leader, leader)
	w.checkShard()
}

func TestRejectedDeletesLeaveEverything(t *testing.T) {
	w := newWorld(t)
	w.commit("g", "t", 0, 1)
	w.commit("g", "u", 0, 1)
	w.reject = errKafkaStorageError
	equal(t, "delete group", w.deleteGroup("g"), errNotCoordinator)
	w.wantState("g", Empty)
	equal(t, "offset", w.committed("g", "t", 0), int64(1))
	w.reject = errKafkaStorageError
	equal(t, "delete offset", w.deleteOffset("g", "t", 0), errNotCoordinator)
	equal(t, "offset", w.committed("g", "t", 0), int64(1))
	w.reject = errKafkaStorageError
	w.take(w.s.TopicDeleted([]string{"t"}))
	equal(t, "offset", w.committed("g", "t", 0), int64(1))
	w.reject = errKafkaStorageError
	w.sleep(week + 5*time.Minute)
	w.wantState("g", Empty)
	equal(t, "offset", w.committed("g", "t", 0), int64(1))
	w.sleep(10 * time.Minute) // the next sweep has more luck
	w.wantState("g", Dead)
}

func TestFailKnowsEveryResponse(t *testing.T) {
	w := newWorld(t)
	ids := w.stable("g", 1)
	w.commit("g", "t", 0, 1, by(ids[0], 1))
	w.committed("g", "t", 0)
	w.describe("g")
	w.heartbeat("g", ids[0], 1)
	w.deleteOffset("g", "other", 0)
	w.take(w.s.ListGroups(w.now, w.newToken(), Client{}, 5, kmsg.NewPtrListGroupsRequest()))
	w.leave("g", [2]string{ids[0], ""})
	w.deleteGroup("g")
	kinds := map[int16]bool{}
	for _, r := range w.replies {
		before := string(r.AppendTo(nil))
		kinds[r.Key()] = true
		Fail(r, errNotCoordinator)
		if j, ok := r.(*kmsg.JoinGroupResponse); ok && j.ErrorCode == errMemberIDRequired {
			continue
		}
		if string(r.AppendTo(nil)) == before {
			t.Errorf("%T is not failed", r)
		}
	}
	equal(t, "kinds of responses", len(kinds), 10)
}

func TestErrorCodesAreKafkas(t *testing.T) {
	for code, err := range map[int16]*kerr.Error{
		errUnknownServerError: kerr.UnknownServerError, errUnknownTopicOrPartition: kerr.UnknownTopicOrPartition,
		errNotLeaderOrFollower: kerr.NotLeaderForPartition, errRequestTimedOut: kerr.RequestTimedOut,
		errMessageTooLarge: kerr.MessageTooLarge, errOffsetMetadataTooLarge: kerr.OffsetMetadataTooLarge,
		errCoordinatorNotAvailable: kerr.CoordinatorNotAvailable, errNotCoordinator: kerr.NotCoordinator,
		errRecordListTooLarge: kerr.RecordListTooLarge, errNotEnoughReplicas: kerr.NotEnoughReplicas,
		errIllegalGeneration: kerr.IllegalGeneration, errInconsistentGroupProtocol: kerr.InconsistentGroupProtocol,
		errInvalidGroupID: kerr.InvalidGroupID, errUnknownMemberID: kerr.UnknownMemberID,
		errInvalidSessionTimeout: kerr.InvalidSessionTimeout, errRebalanceInProgress: kerr.RebalanceInProgress,
		errInvalidRequest: kerr.InvalidRequest, errKafkaStorageError: kerr.KafkaStorageError,
		errNonEmptyGroup: kerr.NonEmptyGroup, errGroupIDNotFound: kerr.GroupIDNotFound,
		errMemberIDRequired: kerr.MemberIDRequired, errGroupMaxSizeReached: kerr.GroupMaxSizeReached,
		errFencedInstanceID: kerr.FencedInstanceID, errGroupSubscribedToTopic: kerr.GroupSubscribedToTopic,
		errUnstableOffsetCommit: kerr.UnstableOffsetCommit,
	} {
		equal(t, err.Message, code, err.Code)
	}
}
