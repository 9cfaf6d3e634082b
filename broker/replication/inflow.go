package replication

import (
	"sync/atomic"

	"millrace/broker/replica"
)

// News of an inflow for its receiver.
const (
	newsStored   uint32 = 1 << iota // more is on the device
	newsRoom                        // an append that found no room may be tried again
	newsFollowed                    // Follow has returned
	newsCut                         // CutTo has returned
	newsOusted                      // another stream has taken the partition
)

// inflowState is where a stream stands.
//
//	expected --image has come--> following --Follow--> offered --Agreed--> taking <--> stalled (no room)
//	                                                    |  ^ Cut: CutTo
//	                                                    v  |
//	                                                   cutting
//	any --error, said by a Fail--> failed
type inflowState uint8

const (
	expected inflowState = iota
	following
	offered
	cutting
	taking
	stalled
	failed
)

// inflow is one partition's stream from its leader. Everything below news belongs to the receiver, under its mu, but for
// result, which belongs to what runs aside while the state is following or cutting.
type inflow struct {
	r      *Receiver
	stream uint64
	key    Key
	news   atomic.Uint32

	dropped atomic.Bool // nobody waits for it any more

	epoch      int32
	generation uint64
	index      uint64 // of the image that it waits for

	state  inflowState
	p      Partition
	seat   *seat
	in     replica.Inflow
	end    int64 // where the next run begins
	got    int64 // end of what has been appended
	gotLog int64 // the same in the log: less when the last run ended in an offset hole

	held  queue[heldRun] // runs that found no room, in order
	dirty bool           // in the receiver's list of acknowledgements

	result struct {
		in    replica.Inflow
		offer replica.Offer
		err   error
	}
}

// follow takes the partition for the stream, unless a younger one of the same leader has it: what runs aside may run late.
// Who had it hears of that. Called with seat.following. It may block.
func (in *inflow) follow(leader int32) {
	s := in.seat
	last := s.taken.Load()
	if in.dropped.Load() || last != nil && last.r.leader == leader && last.epoch == in.epoch && last.generation > in.generation {
		in.result.err = replica.ErrStaleInflow
		return
	}
	in.result.in, in.result.offer, in.result.err = in.p.Follow(leader, in.epoch, in.generation)
	if in.result.err != nil {
		return
	}
	if s.taken.Store(in); last != nil {
		last.tell(newsOusted)
	}
}

// cut does what a verdict asks for, unless another stream has the partition. Called with seat.following: a cut that began
// must end before another stream offers what the log has, or it offers what is cut a moment later. It blocks.
func (in *inflow) cut(v replica.Verdict) {
	if in.seat.taken.Load() != in {
		in.result.err = replica.ErrStaleInflow
		return
	}
	in.result.offer, in.result.err = in.p.CutTo(in.in, v)
}

// heldRun is a run that waits for room. Its batches are memory of its own.
type heldRun struct {
	replica.Run
	wireEnd int64 // where the run ends, holes behind its last batch included
	bytes   int   // that count as held
}

// tell notes news and has it seen. It may be called on any goroutine, under any lock.
func (in *inflow) tell(news uint32) {
	if in.news.Load()&news == news {
		return // it is in the inbox
	}
	if in.news.Or(news) == 0 {
		in.r.inbox.put(in)
	}
	if news == newsStored && in.r.n.o.Flushed {
		in.r.inbox.quiet.Store(true)
		return
	}
	in.r.inbox.wake(sleepFull)
}
