package controller

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"millrace/raft"
	"millrace/raft/transport"
)

// MethodHeartbeat is the heartbeats' method on the cluster port.
const MethodHeartbeat = raft.FirstFreeMethod

const tick = 100 * time.Millisecond

// Options of Run.
type Options struct {
	Config
	// Clock reads a clock that goes on while the machine sleeps; nil is CLOCK_BOOTTIME.
	Clock  func() time.Duration
	Logger *slog.Logger
	// Decided, if set, is told of every decision and its outcome, for metrics.
	Decided func(d Decision, r raft.Result, err error)
}

// Controller runs a Core beside a node: it observes heartbeats always and decides while the node is the controller.
type Controller struct {
	n  *raft.Node
	o  Options
	mu sync.Mutex
	c  *Core

	round   rounds
	probing sync.WaitGroup
	asked   map[int32]bool // whose process is being looked for; guarded by mu, as is closed
	closed  bool
	cancel  context.CancelFunc
	done    chan struct{}
	poke    chan struct{}
}

// Run starts a controller on a node with a cluster port. Every node runs one.
func Run(n *raft.Node, o Options) *Controller {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = bootClock
	}
	c := &Controller{n: n, o: o, c: NewCore(o.Config), asked: map[int32]bool{}, done: make(chan struct{}), poke: make(chan struct{}, 1)}
	c.round.ask = func(ctx context.Context) (*raft.Image, error) { return n.Latest(ctx) }
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	n.Port().Serve(MethodHeartbeat, func(ctx context.Context, peer transport.Identity, body []byte) ([]byte, error) {
		h, err := DecodeHeartbeat(body)
		if err != nil {
			return nil, err
		}
		if h.BrokerID != peer.NodeID || peer.ReplicaID == 0 {
			return nil, fmt.Errorf("controller: node %d speaks for broker %d", peer.NodeID, h.BrokerID)
		}
		return c.Heartbeat(ctx, h).AppendTo(nil), nil
	})
	n.Port().OnLost(func(peer transport.Identity) {
		if _, leads := n.ControllerEpoch(); leads && peer.NodeID != n.NodeID() {
			c.look(ctx, peer.NodeID)
		}
	})
	go c.run(ctx)
	return c
}

const probeTimeout = 200 * time.Millisecond

// look finds out, aside, whether the process of a broker is still there. One that died need not be waited for: its
// kernel says so.
func (c *Controller) look(ctx context.Context, id int32) {
	to, ok := c.n.Target(id)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ok || c.asked[id] || c.closed {
		return
	}
	c.asked[id] = true
	began := c.o.Clock()
	c.probing.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		gone := c.n.Port().NobodyListens(ctx, to.Addr)
		c.mu.Lock()
		delete(c.asked, id)
		if gone {
			c.c.Gone(began, id)
		}
		c.mu.Unlock()
		if gone {
			c.hurry()
		}
	})
}

// hurry has something decided now and not at the next tick.
func (c *Controller) hurry() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// Close stops deciding.
func (c *Controller) Close() {
	c.n.Port().OnLost(nil)
	c.cancel()
	<-c.done
	c.mu.Lock()
	c.closed = true // nobody begins to look any more
	c.mu.Unlock()
	c.probing.Wait()
}

// Heartbeat observes and answers.
func (c *Controller) Heartbeat(ctx context.Context, h Heartbeat) Answer {
	c.mu.Lock()
	c.c.Observe(c.o.Clock(), h)
	c.mu.Unlock()
	epoch, leads := c.n.ControllerEpoch()
	m := c.n.Image()
	if leads {
		// Only a leader that a quorum still follows may extend a lease: the round begins after the heartbeat arrived.
		confirmed, err := c.round.join(ctx)
		again, still := c.n.ControllerEpoch()
		leads = err == nil && still && again == epoch
		if err == nil {
			m = confirmed
		}
	}
	a := Answer{Controller: leads, Epoch: epoch, Index: m.Index}
	b := m.Broker(h.BrokerID)
	if b == nil || b.Epoch != h.BrokerEpoch {
		a.Controller, a.Stale = false, leads
		return a
	}
	a.Fenced, a.MayStop = b.Fenced, b.ShuttingDown
	if leads && (h.Stopping != b.ShuttingDown || b.Fenced && h.Ready) {
		c.hurry()
	}
	return a
}

// Heard reports how long ago a broker's last heartbeat arrived at this node.
func (c *Controller) Heard(broker int32) (ago time.Duration, h Heartbeat, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.c.Heard(c.o.Clock(), broker)
}

func (c *Controller) run(ctx context.Context) {
	defer close(c.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.poke:
		case <-after(tick):
		}
		epoch, leads := c.n.ControllerEpoch()
		if !leads {
			epoch = 0
		}
		c.mu.Lock()
		now, img := c.o.Clock(), c.n.Image()
		decisions := c.c.Tick(now, img, epoch)
		var suspects []int32
		if leads {
			suspects = c.c.Suspects(now, img)
		}
		c.mu.Unlock()
		for _, id := range suspects {
			if id != c.n.NodeID() {
				c.look(ctx, id)
			}
		}
		for _, d := range decisions {
			if !c.propose(ctx, d) {
				break
			}
		}
	}
}

func (c *Controller) propose(ctx context.Context, d Decision) bool {
	limit, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	r, err := c.n.Propose(limit, d.Command)
	if c.o.Decided != nil {
		c.o.Decided(d, r, err)
	}
	if err == nil {
		err = r.Err()
	}
	switch {
	case err != nil && ctx.Err() == nil:
		c.o.Logger.Info("controller: not done", "what", d.Why, "err", err)
		return false
	case err != nil:
		return false
	case d.Loud:
		c.o.Logger.Warn("controller: " + d.Why)
	default:
		c.o.Logger.Info("controller: " + d.Why)
	}
	return true
}

// rounds lets heartbeats that arrive while a quorum is being asked share the next asking.
type rounds struct {
	ask  func(context.Context) (*raft.Image, error)
	mu   sync.Mutex
	busy bool
	next *round
}

type round struct {
	done chan struct{}
	m    *raft.Image
	err  error
}

const roundTimeout = time.Second

// join returns the outcome of a round that began after the call.
func (r *rounds) join(ctx context.Context) (*raft.Image, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	mine := r.next
	if !r.busy {
		r.busy = true
		go r.run()
	}
	r.mu.Unlock()
	select {
	case <-mine.done:
		return mine.m, mine.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *rounds) run() {
	for {
		r.mu.Lock()
		now := r.next
		r.next = nil
		if now == nil {
			r.busy = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
		now.m, now.err = r.ask(ctx)
		cancel()
		close(now.done)
	}
}
