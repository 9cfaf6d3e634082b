//go:build !broken

package broken

// The rules, all in force.
const (
	// AckBeforeFlush: a follower acknowledges what it has appended.
	AckBeforeFlush = false
	// AnyAcknowledgement: acknowledgements of older epochs and stints count.
	AnyAcknowledgement = false
	// TruncateByHighWatermark: a follower cuts its log at the high watermark, and takes what is below as it is (KIP-101).
	TruncateByHighWatermark = false
	// EarlyJoin: a follower joins the ISR before it has what is committed.
	EarlyJoin = false
	// MaximalISRIsEnough: members that are only proposed count for min.insync.replicas.
	MaximalISRIsEnough = false
	// NoContiguity: a run may begin beyond the end of the follower's log.
	NoContiguity = false
	// AnyEpoch: a follower takes the streams of older leaders.
	AnyEpoch = false
)
