package replication

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"millrace/broker/replica"
	"millrace/raft/transport"
)

// Options of New. All functions are safe for concurrent use.
type Options struct {
	NodeID      int32
	BrokerEpoch func() int64 // of this process's registration; 0 before it
	Find        func(topic [16]byte, partition int32) *replica.Partition
	ImageIndex  func() uint64 // raft index of the image that the partitions follow
	// Dial opens a connection to another broker's cluster port.
	Dial                  func(ctx context.Context, broker int32, kind transport.Kind) (*transport.Conn, error)
	CatchUpBytesPerSecond func() int64 // to one follower; 0 or nil: no limit
	Logger                *slog.Logger
	Now                   func() time.Time
	// Flushed promises Flush at the end of each turn of the threads that drive shards, and behind each of their commits.
	Flushed bool

	PingInterval   time.Duration // 500 ms
	SilenceTimeout time.Duration // 2 s
	IdleTimeout    time.Duration // 1 min; a connection without streams is closed then
}

// Replication runs a Node: it dials, reads, writes and waits. It implements replica.Replicator by its Node.
type Replication struct {
	*Node
	o      Options
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex // guards closed, and wg.Go against Close
	closed bool
	wg     sync.WaitGroup

	outlets outlets
}

var _ replica.Replicator = (*Replication)(nil)

// New makes the replication of one broker. It dials as soon as Lead asks for a stream.
func New(o Options) *Replication {
	return newReplication(o, func(k Key) Partition {
		if p := o.Find(k.Topic, k.Partition); p != nil {
			return p
		}
		return nil
	})
}

func newReplication(o Options, find func(Key) Partition) *Replication {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // the clock that everything here is given
	}
	for _, d := range []struct {
		at    *time.Duration
		value time.Duration
	}{{&o.PingInterval, 500 * time.Millisecond}, {&o.SilenceTimeout, 2 * time.Second}, {&o.IdleTimeout, time.Minute}} {
		if *d.at == 0 {
			*d.at = d.value
		}
	}
	r := &Replication{o: o}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.Node = NewNode(NodeOptions{
		NodeID: o.NodeID, BrokerEpoch: o.BrokerEpoch, ImageIndex: o.ImageIndex, Find: find, OnPeer: r.onPeer, Aside: r.aside,
		CatchUpBytesPerSecond: o.CatchUpBytesPerSecond, Logger: o.Logger, Flushed: o.Flushed,
	})
	return r
}

// Serve takes the connections of leaders to this broker from a cluster port.
func (r *Replication) Serve(port *transport.Transport) {
	port.Register(KindTail, r.serve)
	port.Register(KindCatchUp, r.serve)
}

// Close ends every stream and waits for all goroutines. Connections that the port has accepted end too.
func (r *Replication) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

// spawn runs f on a goroutine that Close waits for; false after Close.
func (r *Replication) spawn(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.wg.Go(f)
	return true
}

// aside runs what blocks on the device. After Close it does not run: nobody would look at what it does.
func (r *Replication) aside(f func()) { r.spawn(f) }

// onPeer starts the two links of a new peer.
func (r *Replication) onPeer(p *Peer) {
	for _, s := range []*Sender{p.Tail, p.CatchUp} {
		r.spawn(newLink(r, s).run)
	}
}

// backoff doubles a wait up to a limit; jitter keeps peers apart.
func backoff(wait time.Duration) (next, sleep time.Duration) {
	if wait < backoffMin {
		wait = backoffMin
	}
	return min(2*wait, backoffMax), wait/2 + rand.N(wait/2)
}
