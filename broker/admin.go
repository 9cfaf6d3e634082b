package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/broker/config"
	"millrace/engine"
	"millrace/raft"
)

// Kafka's error codes that only admin requests need.
const (
	errRequestTimedOut             int16 = 7
	errTopicAuthorization          int16 = 29
	errTopicAlreadyExists          int16 = 36
	errInvalidPartitions           int16 = 37
	errInvalidReplicationFactor    int16 = 38
	errInvalidReplicaAssignment    int16 = 39
	errInvalidConfig               int16 = 40
	errNotController               int16 = 41
	errPolicyViolation             int16 = 44
	errTopicDeletionDisabled       int16 = 73
	errPreferredLeaderNotAvailable int16 = 80
	errEligibleLeadersNotAvailable int16 = 83
	errElectionNotNeeded           int16 = 84
	errNoReassignmentInProgress    int16 = 85
	errInvalidUpdateVersion        int16 = 95
	errFeatureUpdateFailed         int16 = 96
	errBrokerIDNotRegistered       int16 = 102
	errMismatchedEndpointType      int16 = 114
	errUnsupportedEndpointType     int16 = 115
	errConcurrentChange            int16 = errNotController // retriable for every admin client
	noSuchOffset                   int64 = -1
	clusterMetadataTopic                 = "__cluster_metadata"
	transactionStateTopic                = "__transaction_state"
	topicAuthorizedOperations      int32 = 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11
	clusterAuthorizedOperations    int32 = 1<<5 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12
	proposalPartitionsMax                = 10_000 // partitions in one command of the metadata
	proposalItemsMax                     = 200    // topics or resources in one command
	adminTimeoutDefault                  = 30 * time.Second
	adminTimeoutMax                      = 5 * time.Minute
)

// fault is an error of an admin request: what the client is told.
type fault struct {
	code int16
	text string
}

func (f *fault) Error() string { return f.text }

func faultf(code int16, format string, args ...any) *fault {
	return &fault{code, fmt.Sprintf(format, args...)}
}

// answer splits an error into a code and a message for the client.
func answer(err error) (int16, *string) {
	if err == nil {
		return errNone, nil
	}
	code, text := adminCode(err), err.Error()
	return code, &text
}

// adminCode is the code of an error of an admin request.
func adminCode(err error) int16 {
	var f *fault
	var c raft.Code
	var i *config.Invalid
	switch {
	case errors.As(err, &f):
		return f.code
	case errors.As(err, &i) && i.Malformed:
		return errInvalidRequest
	case errors.Is(err, config.ErrInvalid):
		return errInvalidConfig
	case errors.As(err, &c):
		return metadataCode(c)
	case errors.Is(err, raft.ErrCommandTooLarge):
		return errPolicyViolation
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, raft.ErrOutcomeUnknown):
		return errRequestTimedOut
	case errors.Is(err, raft.ErrNotReady), errors.Is(err, raft.ErrClosed), errors.Is(err, engine.ErrClosed):
		return errNotController
	default:
		return codeOf(err)
	}
}

// metadataCode is the code of a refusal by the metadata.
func metadataCode(c raft.Code) int16 {
	switch c {
	case raft.OK:
		return errNone
	case raft.InvalidCommand:
		return errInvalidRequest
	case raft.TopicExists:
		return errTopicAlreadyExists
	case raft.UnknownTopic, raft.UnknownPartition:
		return errUnknownTopicOrPartition
	case raft.InvalidReplicaAssignment:
		return errInvalidReplicaAssignment
	case raft.InvalidPartitions:
		return errInvalidPartitions
	case raft.LimitExceeded:
		return errPolicyViolation
	case raft.ConfigMismatch:
		return errConcurrentChange
	case raft.UnsupportedLevel:
		return errUnsupportedVersion
	case raft.UnknownBroker:
		return errBrokerIDNotRegistered
	case raft.LevelNotSupported:
		return errFeatureUpdateFailed
	case raft.NoReassignment:
		return errNoReassignmentInProgress
	case raft.EligibleLeaderMissing:
		return errEligibleLeadersNotAvailable
	case raft.ElectionNotNeeded:
		return errElectionNotNeeded
	case raft.NotFormed, raft.Halted:
		return errNotController
	default:
		return errUnknownServer
	}
}

// adminDeadline bounds an admin request by what its client asked for.
func adminDeadline(ctx context.Context, timeoutMillis int32) (context.Context, context.CancelFunc) {
	d := time.Duration(timeoutMillis) * time.Millisecond
	if d <= 0 {
		d = adminTimeoutDefault
	}
	return context.WithTimeout(ctx, min(d, adminTimeoutMax))
}

// propose changes the metadata and returns the outcome of each of n items. An
// error means that the command as a whole came to nothing, or that nobody
// knows. When it returns, this broker's own image and logs have the change.
//
// What was proposed is proposed again when its answer is lost with a leader of the
// metadata: an item that the first time has done is refused then, and it is for the
// caller to see that in the image.
func (b *Broker) propose(ctx context.Context, c raft.Command, n int) ([]raft.ItemResult, error) {
	ctx, cancel := context.WithTimeout(ctx, proposalPatience)
	defer cancel()
	res, err := b.proposeAgain(ctx, c)
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		return nil, err
	}
	if len(res.Items) != n {
		panic(fmt.Sprintf("BUG: %T with %d items was answered with %d", c, n, len(res.Items)))
	}
	if err := b.awaitImage(ctx, res.Index); err != nil {
		return nil, fmt.Errorf("the change is made, but this broker has not caught up with it yet: %w", err)
	}
	return res.Items, nil
}

// proposeAgain proposes until there is an answer, or ctx ends; but not at all while the
// cluster has no leader: requests that wait for one would take the workers of those
// that need none.
func (b *Broker) proposeAgain(ctx context.Context, c raft.Command) (raft.Result, error) {
	for waited := time.Duration(0); b.cluster != nil; waited += leaderLook {
		if _, ok := b.meta.Leader(); ok {
			break
		}
		if waited >= leaderPatience {
			return raft.Result{}, fmt.Errorf("%w: the cluster has no quorum, or this broker does not reach it", raft.ErrNotReady)
		}
		if err := pause(ctx, leaderLook); err != nil {
			return raft.Result{}, err
		}
	}
	return b.meta.ProposeAgain(ctx, c)
}

// How long a request waits for the metadata. An election takes one or two seconds.
const (
	proposalPatience = 15 * time.Second
	leaderPatience   = 2 * time.Second
	leaderLook       = 20 * time.Millisecond
	// firstUsePatience is for topics that are created on their first use: the client
	// did not ask for that, and comes again.
	firstUsePatience = 3 * time.Second
)

// topicNameFault checks a name as Kafka's Topic.validate does; the text is Kafka's.
func topicNameFault(name string) *fault {
	switch {
	case name == "":
		return faultf(errInvalidTopic, "Topic name is invalid: the empty string is not allowed")
	case name == "." || name == "..":
		return faultf(errInvalidTopic, "Topic name is invalid: '%s' is not allowed", name)
	case len(name) > 249:
		return faultf(errInvalidTopic, "Topic name is invalid: the length of '%.60s...' is longer than the max allowed length 249", name)
	case !validTopicName(name):
		return faultf(errInvalidTopic, "Topic name is invalid: '%s' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'", name)
	default:
		return nil
	}
}
