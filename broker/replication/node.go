package replication

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"millrace/broker/replica"
	"millrace/raft/transport"
)

// Kinds of connections.
const (
	KindTail    = transport.KindFirstFree     // out of the tail ring
	KindCatchUp = transport.KindFirstFree + 1 // from segments, until the tail is met
)

// Times of the streams.
const (
	backoffMin = 100 * time.Millisecond
	backoffMax = 2 * time.Second
	markDelay  = 5 * time.Millisecond // changes without data go out together
	ackDelay   = 5 * time.Millisecond // of what was received and is not stored
)

// NodeOptions of NewNode.
type NodeOptions struct {
	NodeID int32
	// BrokerEpoch of this process's registration; 0 before it.
	BrokerEpoch func() int64
	// ImageIndex is the raft index of the image that the partitions follow.
	ImageIndex func() uint64
	// Find finds this broker's replica of a partition; nil where it has none.
	Find func(Key) Partition
	// OnPeer is told of a broker that gets streams from now on. It is called under a lock: it must not block and must not call
	// back.
	OnPeer func(*Peer)
	// Aside runs f, which may block on the device: on a goroutine, or at once in a simulation.
	Aside func(f func())
	// CatchUpBytesPerSecond limits all that a peer gets by its catch-up connection; 0 or nil is no limit.
	CatchUpBytesPerSecond func() int64
	Logger                *slog.Logger
	// Flushed promises that Replication.Flush is called on the thread that calls Stored, behind it, and on the one that calls
	// Appended quietly.
	Flushed bool
}

// Peer is another broker that follows partitions of this one.
type Peer struct {
	ID            int32
	Tail, CatchUp *Sender
}

// Sender returns the end of one kind of connection.
func (p *Peer) Sender(kind transport.Kind) *Sender {
	if kind == KindCatchUp {
		return p.CatchUp
	}
	return p.Tail
}

// Node is the step machines of one broker: a Sender for each connection to a follower, a Receiver for each
// connection from a leader, and the tables between them and the partitions. It has no goroutine and no clock.
// All methods are safe for concurrent use; those of replica.Replicator never wait for more than a leaf lock.
type Node struct {
	o NodeOptions

	mu    sync.Mutex // guards peers, receivers, and changes of the two maps below; a leaf but for OnPeer
	peers map[int32]*Peer
	led   sync.Map // Partition -> *ledPartition
	seats sync.Map // Partition -> *seat

	receivers map[*Receiver]struct{}
}

// ledPartition is a partition that this broker leads.
type ledPartition struct {
	flows atomic.Pointer[[]*outflow]
}

// NewNode makes a node without peers.
func NewNode(o NodeOptions) *Node {
	if o.OnPeer == nil {
		o.OnPeer = func(*Peer) {}
	}
	if o.CatchUpBytesPerSecond == nil {
		o.CatchUpBytesPerSecond = func() int64 { return 0 }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Node{o: o, peers: map[int32]*Peer{}, receivers: map[*Receiver]struct{}{}}
}

// Lead implements replica.Replicator.
func (n *Node) Lead(p *replica.Partition, followers []int32) {
	n.lead(p, Key{p.TopicID, p.Index}, followers)
}

// Resign implements replica.Replicator.
func (n *Node) Resign(p *replica.Partition) { n.resign(p) }

// Appended implements replica.Replicator. It costs a lookup and one atomic load a follower while the follower's
// sender has not taken up the last call.
func (n *Node) Appended(p *replica.Partition, quiet bool) {
	n.note(p, newsAppended, quiet && n.o.Flushed)
}

// Moved implements replica.Replicator.
func (n *Node) Moved(p *replica.Partition) { n.tell(p, newsMoved) }

// Stored implements replica.Replicator.
func (n *Node) Stored(p *replica.Partition) { n.stored(p) }

func (n *Node) lead(p Partition, key Key, followers []int32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	v, _ := n.led.LoadOrStore(p, &ledPartition{})
	led := v.(*ledPartition)
	var old []*outflow
	if list := led.flows.Load(); list != nil {
		old = *list
	}
	flows := make([]*outflow, 0, len(followers))
	for _, id := range followers {
		if id == n.o.NodeID {
			continue
		}
		if o := ofFollower(flows, id); o != nil {
			continue // named twice
		}
		o := ofFollower(old, id)
		if o == nil {
			o = &outflow{key: key, p: p, follower: id, index: -1}
			o.home.Store(n.peer(id).Tail)
		}
		flows = append(flows, o)
	}
	led.flows.Store(&flows)
	for _, o := range old {
		if ofFollower(flows, o.follower) == nil {
			o.unwanted.Store(true)
			o.tell(newsChanged)
		}
	}
	for _, o := range flows {
		o.tell(newsChanged)
	}
}

func ofFollower(flows []*outflow, id int32) *outflow {
	for _, o := range flows {
		if o.follower == id {
			return o
		}
	}
	return nil
}

// peer finds or makes a peer. Called with mu.
func (n *Node) peer(id int32) *Peer {
	p := n.peers[id]
	if p == nil {
		p = &Peer{ID: id}
		p.Tail, p.CatchUp = newSender(n, id, KindTail), newSender(n, id, KindCatchUp)
		p.Tail.other, p.CatchUp.other = p.CatchUp, p.Tail
		n.peers[id] = p
		n.o.OnPeer(p)
	}
	return p
}

// Peers are all that ever got a stream, in no order.
func (n *Node) Peers() []*Peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]*Peer, 0, len(n.peers))
	for _, p := range n.peers {
		all = append(all, p)
	}
	return all
}

func (n *Node) resign(p Partition) {
	n.mu.Lock()
	defer n.mu.Unlock()
	v, ok := n.led.LoadAndDelete(p)
	if !ok {
		return
	}
	for _, o := range *v.(*ledPartition).flows.Load() {
		o.unwanted.Store(true)
		o.tell(newsChanged)
	}
}

func (n *Node) tell(p Partition, news uint32) { n.note(p, news, false) }

func (n *Node) note(p Partition, news uint32, quiet bool) {
	v, ok := n.led.Load(p)
	if !ok {
		return
	}
	if flows := v.(*ledPartition).flows.Load(); flows != nil {
		for _, o := range *flows {
			o.note(news, quiet)
		}
	}
}

func (n *Node) stored(p Partition) {
	v, ok := n.seats.Load(p)
	if !ok {
		return
	}
	if in := v.(*seat).taken.Load(); in != nil {
		in.tell(newsStored)
	}
}

// ImageChanged says that ImageIndex, BrokerEpoch or what Find finds may answer otherwise than before.
func (n *Node) ImageChanged() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for r := range n.receivers {
		r.imageChanged()
	}
}

// Accept makes the follower's end of a connection that the leader at the other end opened. It ends with Lost.
func (n *Node) Accept(leader int32, kind transport.Kind) *Receiver {
	r := newReceiver(n, leader, kind)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.receivers[r] = struct{}{}
	return r
}

// seat is a partition's place for the stream that it follows. It lives as long as a receiver has a stream of it.
type seat struct {
	refs int // guarded by Node.mu
	// following is held while a stream takes the partition or cuts its log: the last to take it is the one in taken, and nobody
	// takes it in the middle of a cut.
	following sync.Mutex
	taken     atomic.Pointer[inflow]
}

func (n *Node) acquireSeat(p Partition) *seat {
	n.mu.Lock()
	defer n.mu.Unlock()
	v, _ := n.seats.LoadOrStore(p, &seat{})
	s := v.(*seat)
	s.refs++
	return s
}

// releaseSeat gives a reference back, and the seat if in, which may be nil, has it.
func (n *Node) releaseSeat(p Partition, s *seat, in *inflow) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if in != nil {
		s.taken.CompareAndSwap(in, nil)
	}
	if s.refs--; s.refs == 0 {
		n.seats.Delete(p)
	}
}
