package broker

import (
	"errors"

	"millrace/broker/replica"
	"millrace/engine"
	"millrace/engine/producer"
)

// Kafka's error codes, by their names in Errors.java.
const (
	errNone                      int16 = 0
	errUnknownServer             int16 = -1
	errOffsetOutOfRange          int16 = 1
	errCorruptMessage            int16 = 2
	errUnknownTopicOrPartition   int16 = 3
	errLeaderNotAvailable        int16 = 5
	errNotLeaderOrFollower       int16 = 6
	errMessageTooLarge           int16 = 10
	errCoordinatorLoadInProgress int16 = 14
	errCoordinatorNotAvailable   int16 = 15
	errNotCoordinator            int16 = 16
	errInvalidTopic              int16 = 17
	errNotEnoughReplicas         int16 = 19
	errNotEnoughAfterAppend      int16 = 20
	errInvalidRequiredAcks       int16 = 21
	errInvalidTimestamp          int16 = 32
	errUnsupportedVersion        int16 = 35
	errInvalidRequest            int16 = 42
	errUnsupportedForFormat      int16 = 43
	errOutOfOrderSequence        int16 = 45
	errDuplicateSequence         int16 = 46
	errInvalidProducerEpoch      int16 = 47
	errInvalidTxnState           int16 = 48
	errKafkaStorage              int16 = 56
	errUnknownProducerID         int16 = 59
	errFetchSessionIDNotFound    int16 = 70
	errInvalidFetchSessionEpoch  int16 = 71
	errFencedLeaderEpoch         int16 = 74
	errUnknownLeaderEpoch        int16 = 75
	errOffsetNotAvailable        int16 = 78
	errInvalidRecord             int16 = 87
	errUnknownTopicID            int16 = 100
	errInconsistentTopicID       int16 = 103
)

// codeOf is the one place where an error of the layers below becomes a code.
func codeOf(err error) int16 {
	switch {
	case err == nil:
		return errNone
	case errors.Is(err, replica.ErrNotLeader):
		return errNotLeaderOrFollower
	case errors.Is(err, replica.ErrFencedEpoch), errors.Is(err, engine.ErrStaleEpoch):
		return errFencedLeaderEpoch
	case errors.Is(err, replica.ErrUnknownEpoch):
		return errUnknownLeaderEpoch
	case errors.Is(err, replica.ErrTimedOut):
		return errRequestTimedOut
	case errors.Is(err, replica.ErrNotAvailable):
		return errOffsetNotAvailable
	case errors.Is(err, replica.ErrNotEnoughAfter):
		return errNotEnoughAfterAppend
	case errors.Is(err, replica.ErrStopped):
		return errKafkaStorage
	case errors.Is(err, replica.ErrNotEnough):
		return errNotEnoughReplicas
	case errors.Is(err, replica.ErrPartitionGone), errors.Is(err, engine.ErrDropped):
		return errUnknownTopicOrPartition
	case errors.Is(err, engine.ErrOffsetOutOfRange):
		return errOffsetOutOfRange
	case errors.Is(err, producer.ErrOutOfOrderSequence):
		return errOutOfOrderSequence
	case errors.Is(err, producer.ErrInvalidEpoch):
		return errInvalidProducerEpoch
	case errors.Is(err, engine.ErrDiskFull), errors.Is(err, engine.ErrFailed), errors.Is(err, engine.ErrQuarantined):
		return errKafkaStorage
	default:
		return errUnknownServer
	}
}
