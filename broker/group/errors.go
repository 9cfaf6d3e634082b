package group

import "errors"

// Kafka's error codes that groups answer with (Errors.java).
const (
	errNone                      int16 = 0
	errUnknownServerError        int16 = -1
	errUnknownTopicOrPartition   int16 = 3
	errNotLeaderOrFollower       int16 = 6
	errRequestTimedOut           int16 = 7
	errMessageTooLarge           int16 = 10
	errOffsetMetadataTooLarge    int16 = 12
	errCoordinatorNotAvailable   int16 = 15
	errNotCoordinator            int16 = 16
	errRecordListTooLarge        int16 = 18
	errNotEnoughReplicas         int16 = 19
	errNotEnoughAfterAppend      int16 = 20
	errIllegalGeneration         int16 = 22
	errInconsistentGroupProtocol int16 = 23
	errInvalidGroupID            int16 = 24
	errUnknownMemberID           int16 = 25
	errInvalidSessionTimeout     int16 = 26
	errRebalanceInProgress       int16 = 27
	errInvalidRequest            int16 = 42
	errKafkaStorageError         int16 = 56
	errNonEmptyGroup             int16 = 68
	errGroupIDNotFound           int16 = 69
	errMemberIDRequired          int16 = 79
	errGroupMaxSizeReached       int16 = 81
	errFencedInstanceID          int16 = 82
	errGroupSubscribedToTopic    int16 = 86
	errUnstableOffsetCommit      int16 = 88
)

var (
	// ErrUnknownRecord says that a record's key is of a kind that this package does
	// not keep: newer group types, or a future Kafka. Loading skips such records.
	ErrUnknownRecord = errors.New("group: unknown kind of record")
	// ErrCorruptRecord says that a record's key or value cannot be decoded.
	ErrCorruptRecord = errors.New("group: corrupt record")
)

// AppendErrorCode turns the code of a failed or unacknowledged append into what a group client is
// told, as Kafka does: it must look for the coordinator again, or retry.
func AppendErrorCode(code int16) int16 {
	switch code {
	case errUnknownTopicOrPartition, errNotEnoughReplicas, errNotEnoughAfterAppend, errRequestTimedOut:
		return errCoordinatorNotAvailable
	case errNotLeaderOrFollower, errKafkaStorageError:
		return errNotCoordinator
	case errMessageTooLarge, errRecordListTooLarge:
		return errUnknownServerError
	default:
		return code
	}
}
