package replication

import (
	"sync/atomic"
	"time"

	"millrace/broker/replica"
)

// News of an outflow for the sender that has it.
const (
	newsChanged  uint32 = 1 << iota // Lead was called again, or the stream is not wanted any more
	newsAppended                    // there are new batches
	newsMoved                       // high watermark or log start
	newsArrived                     // from the other connection
	newsVerified                    // the leader's own copy was read again
)

// outflowState is where a stream stands.
//
//	idle --connected--> opening --Offer, Agreed--> flowing --to move--> draining --all acknowledged--> idle, on the other connection
//	  ^                  |  ^ Cut: Offer again       |
//	  |                  v                           v Fail corrupt
//	waiting (back-off) <-+--- Fail, error -----------+--> verifying --> idle | waiting | parked
//	parked: not the leader, until Lead is called again
type outflowState uint8

const (
	idle outflowState = iota
	waiting
	opening
	flowing
	draining
	verifying
	parked
)

// outflow is one partition's stream to one follower. Everything below home belongs to the sender that is home, under its mu.
type outflow struct {
	key      Key
	p        Partition
	follower int32
	news     atomic.Uint32 // not 0: it is in an inbox, or about to be
	unwanted atomic.Bool   // set once, then newsChanged
	home     atomic.Pointer[Sender]

	state  outflowState
	stream uint64 // id on this connection; 0: none
	stint  replica.Stint
	rounds int       // of the handshake
	due    time.Time // of waiting
	fails  int       // in a row
	index  int       // in the heap of those that wait; -1: not in it

	next     int64 // what is sent next
	received int64 // acknowledged
	stored   int64 // acknowledged
	sent     sentRuns
	queued   bool // in the sender's ready queue
	marked   bool // in the sender's list of marks

	sentHW, sentLogStart int64

	epoch    int32 // of the batches below epochEnd, or epochChecked
	epochEnd int64
	checked  bool // everything goes under the frame's checksum
	mistrust bool // so shall the next stint

	fromMemory int // bytes in a row that the catch-up stream read from memory

	corrupt  int // times in a row that the follower found corruption
	verified error
}

// tell notes news and has it seen. It may be called on any goroutine, under any lock.
func (o *outflow) tell(news uint32) { o.note(news, false) }

// note is tell; quiet: the caller sees to it that the sender is flushed, and nobody need be woken for a tail stream.
func (o *outflow) note(news uint32, quiet bool) {
	if o.news.Load()&news == news {
		return // it is in the inbox
	}
	s := o.home.Load()
	if o.news.Or(news) == 0 {
		s.inbox.put(o)
		news = o.news.Load() // what others have added meanwhile was not seen by who woke up for it
	}
	if quiet && s.kind == KindTail && news == newsAppended {
		s.inbox.quiet.Store(true)
		return
	}
	switch {
	case news == newsMoved:
		s.inbox.wake(sleepDeep)
	case news&^(newsMoved|newsAppended) == 0:
		s.inbox.wake(sleepMarks)
	default:
		s.inbox.wake(sleepFull)
	}
}

// sentRuns are the runs that are under way, oldest first.
type sentRuns struct {
	list  []sentRun
	head  int
	bytes int
}

type sentRun struct {
	end   int64
	bytes int
}

func (s *sentRuns) push(end int64, bytes int) {
	if s.head > 64 && s.head*2 > len(s.list) {
		s.list = s.list[:copy(s.list, s.list[s.head:])]
		s.head = 0
	}
	s.list = append(s.list, sentRun{end, bytes})
	s.bytes += bytes
}

// acknowledged drops the runs that end at or below received and returns their bytes.
func (s *sentRuns) acknowledged(received int64) int {
	n := 0
	for s.head < len(s.list) && s.list[s.head].end <= received {
		n += s.list[s.head].bytes
		s.head++
	}
	if s.head == len(s.list) {
		s.list, s.head = s.list[:0], 0
		if cap(s.list) > 1024 {
			s.list = nil // an idle stream keeps little
		}
	}
	s.bytes -= n
	return n
}

// clear forgets all runs and returns their bytes.
func (s *sentRuns) clear() int {
	n := s.bytes
	*s = sentRuns{}
	return n
}
