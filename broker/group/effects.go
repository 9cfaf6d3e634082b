package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Record is one record for __consumer_offsets. A nil Value is a tombstone.
type Record struct{ Key, Value []byte }

// Reply answers the request that was handed in with Token. The response carries
// the request's version and is not touched again by the Shard.
type Reply struct {
	Token    any
	Response kmsg.Response
}

// Effects is what a call decided: see the package comment for what the broker
// owes to them.
type Effects struct {
	Records []Record
	Replies []Reply

	// undo takes back what the call changed, newest last. Valid only until the
	// next call on the Shard.
	undo []func(*Shard)
}

// Client is what a request's connection and header say of who sent it. Kafka shows
// a host as "/10.0.0.1".
type Client struct{ ID, Host string }

// Reject takes back a call whose records could not be appended, and gives the
// replies to send instead: those of the call, as errors, and those that taking it
// back led to. code is the append's Kafka error. It must be the next call after the
// rejected one. What it returns may have records of its own (rarely: a rebalance that
// ends at once); they are to be handled like any others.
func (s *Shard) Reject(now time.Time, e Effects, code int16) Effects {
	s.begin(now)
	code = AppendErrorCode(code)
	s.rejectCode = code
	for i := range e.Replies {
		Fail(e.Replies[i].Response, code)
	}
	s.fx.Replies = append(s.fx.Replies, e.Replies...)
	for i := len(e.undo) - 1; i >= 0; i-- {
		e.undo[i](s)
	}
	return s.take()
}

// Fail turns a response into its error form, in place: for replies whose records
// did not become durable. Errors that the response already had stay.
func Fail(response kmsg.Response, code int16) {
	put := func(have *int16) {
		if *have == errNone {
			*have = code
		}
	}
	switch r := response.(type) {
	case *kmsg.JoinGroupResponse:
		if r.ErrorCode == errNone {
			r.Members, r.SkipAssignment, r.MemberID = nil, false, ""
		}
		put(&r.ErrorCode)
	case *kmsg.SyncGroupResponse:
		if r.ErrorCode == errNone {
			r.MemberAssignment, r.Protocol, r.ProtocolType = nil, nil, nil
		}
		put(&r.ErrorCode)
	case *kmsg.HeartbeatResponse:
		put(&r.ErrorCode)
	case *kmsg.LeaveGroupResponse:
		put(&r.ErrorCode)
	case *kmsg.ListGroupsResponse:
		put(&r.ErrorCode)
	case *kmsg.OffsetCommitResponse:
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				put(&r.Topics[i].Partitions[j].ErrorCode)
			}
		}
	case *kmsg.OffsetFetchResponse:
		put(&r.ErrorCode)
		for i := range r.Groups {
			put(&r.Groups[i].ErrorCode)
		}
	case *kmsg.OffsetDeleteResponse:
		if r.ErrorCode == errNone {
			r.Topics = nil
		}
		put(&r.ErrorCode)
	case *kmsg.DescribeGroupsResponse:
		for i := range r.Groups {
			put(&r.Groups[i].ErrorCode)
		}
	case *kmsg.DeleteGroupsResponse:
		for i := range r.Groups {
			put(&r.Groups[i].ErrorCode)
		}
	}
}
