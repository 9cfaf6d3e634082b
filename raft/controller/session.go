package controller

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"millrace/raft"
)

// Status is what a broker says of itself in its next heartbeat.
type Status struct {
	Ready    bool
	Stopping bool
	Failed   bool
	FlushAge time.Duration
	// Index is the index of the image that the broker acts on; 0 is the node's newest.
	Index uint64
}

// SessionOptions are a broker's end of its session.
type SessionOptions struct {
	BrokerID    int32
	BrokerEpoch int64         // of this process's registration
	Interval    time.Duration // 300 ms
	Lease       time.Duration // 1.5 s; shorter than the controller's Config.Session
	Clock       func() time.Duration
	// Status is asked before every heartbeat. It must not block.
	Status func() Status
	// Local is this node's own Controller: no network lies between them.
	Local  *Controller
	Logger *slog.Logger
}

// Session keeps a broker registered: it sends heartbeats to every voter and knows how long the broker may believe that
// it is not fenced.
type Session struct {
	n      *raft.Node
	o      SessionOptions
	mu     sync.Mutex
	lease  Lease
	last   Answer // of the controller
	stale  bool
	asking map[uint64]bool

	mayStop chan struct{}
	stopped sync.Once
	cancel  context.CancelFunc
	done    chan struct{}
	poke    chan struct{}
	answers atomic.Int64
}

// NewSession starts the heartbeats of a registered broker.
func NewSession(n *raft.Node, o SessionOptions) *Session {
	if o.Interval == 0 {
		o.Interval = 300 * time.Millisecond
	}
	if o.Lease == 0 {
		o.Lease = 1500 * time.Millisecond
	}
	if o.Clock == nil {
		o.Clock = bootClock
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Session{
		n: n, o: o, lease: NewLease(o.Lease), asking: map[uint64]bool{}, mayStop: make(chan struct{}), done: make(chan struct{}),
		poke: make(chan struct{}, 1),
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go s.run(ctx)
	return s
}

// Close ends the heartbeats: the broker will be fenced a session later.
func (s *Session) Close() {
	s.cancel()
	<-s.done
}

// Valid reports whether the lease holds: beyond it acks=0 and acks=1 must be refused.
func (s *Session) Valid() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease.Valid(s.o.Clock())
}

// Stale reports that the cluster knows a newer process under this broker's id, or none: this one must stop.
func (s *Session) Stale() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stale
}

// Beat sends heartbeats now: the status has changed.
func (s *Session) Beat() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// MayStop is closed once the controller has moved everything away after Status said Stopping.
func (s *Session) MayStop() <-chan struct{} { return s.mayStop }

// LastAnswer returns the controller's last answer.
func (s *Session) LastAnswer() Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *Session) run(ctx context.Context) {
	defer close(s.done)
	var sending sync.WaitGroup
	defer sending.Wait()
	for {
		st := s.o.Status()
		h := Heartbeat{
			BrokerID: s.o.BrokerID, BrokerEpoch: s.o.BrokerEpoch, Index: st.Index, Ready: st.Ready, Stopping: st.Stopping,
			Failed: st.Failed, FlushAge: st.FlushAge,
		}
		if h.Index == 0 {
			h.Index = s.n.Image().Index
		}
		for _, replica := range s.n.Voters() {
			s.mu.Lock()
			busy := s.asking[replica]
			s.asking[replica] = true
			s.mu.Unlock()
			if !busy {
				sending.Go(func() { s.send(ctx, replica, h) })
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.poke:
		case <-after(s.o.Interval):
		}
	}
}

// send asks one voter. sent is taken before the heartbeat leaves: the lease may count from there only.
func (s *Session) send(ctx context.Context, replica uint64, h Heartbeat) {
	defer func() {
		s.mu.Lock()
		delete(s.asking, replica)
		s.mu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(ctx, s.o.Lease)
	defer cancel()
	sent := s.o.Clock()
	var a Answer
	if replica == s.n.ReplicaID() {
		if s.o.Local == nil {
			return
		}
		a = s.o.Local.Heartbeat(ctx, h)
	} else {
		to, ok := s.n.TargetReplica(replica)
		if !ok {
			return
		}
		b, err := s.n.Port().Call(ctx, to, MethodHeartbeat, h.AppendTo(nil))
		if err == nil {
			a, err = DecodeAnswer(b)
		}
		if err != nil {
			return
		}
	}
	s.take(a, sent)
}

func (s *Session) take(a Answer, sent time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.Stale && !s.stale {
		s.stale = true
		s.lease.End()
		s.o.Logger.Error("another process is registered as this broker, or none", "broker", s.o.BrokerID, "epoch", s.o.BrokerEpoch)
	}
	if !a.Controller || a.Epoch < s.last.Epoch {
		return
	}
	s.last = a
	s.answers.Add(1)
	if a.Fenced {
		s.lease.End()
	} else if !s.stale {
		s.lease.Extend(sent)
	}
	if a.MayStop {
		s.stopped.Do(func() { close(s.mayStop) })
	}
}
