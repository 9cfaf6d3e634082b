package transport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// ReplicaName is the permanent logical address of a raft replica. Dragonboat binds a directory to it, so it must
// survive every change of host name, address and port; who it is today is Options.Resolve's knowledge.
func ReplicaName(replicaID uint64) string { return "replica-" + strconv.FormatUint(replicaID, 10) }

// ParseReplicaName is the inverse of ReplicaName.
func ParseReplicaName(s string) (uint64, error) {
	digits, ok := strings.CutPrefix(s, "replica-")
	id, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || id == 0 || ReplicaName(id) != s {
		return 0, fmt.Errorf("transport: not the name of a replica: %q", s)
	}
	return id, nil
}

// Factory gives a Transport to dragonboat as its transport module.
type Factory struct {
	Transport *Transport
	Shard     uint64
	ReplicaID uint64
}

var _ config.TransportFactory = Factory{}

// Create is part of config.TransportFactory.
func (f Factory) Create(c config.NodeHostConfig, onBatch raftio.MessageHandler, onChunk raftio.ChunkHandler) raftio.ITransport {
	r := &raftTransport{
		t: f.Transport, rules: rules{shard: f.Shard, self: f.ReplicaID, deployment: c.GetDeploymentID()},
		onBatch: onBatch, onChunk: onChunk, peers: map[uint64]*raftPeer{}, receiving: make(chan struct{}, maxIncomingSnapshots),
		conns: map[*Conn]bool{},
	}
	f.Transport.mu.Lock()
	f.Transport.raft = r
	f.Transport.mu.Unlock()
	return r
}

// Validate is part of config.TransportFactory: it accepts replica names only.
func (Factory) Validate(address string) bool {
	_, err := ParseReplicaName(address)
	return err == nil
}

const (
	raftBatch     = 1 // type of frames of KindRaft
	snapshotChunk = 1 // of KindSnapshot

	maxIncomingSnapshots = 2
	maxChunkBytes        = 2<<20 + 64<<10 // dragonboat's chunk and what is around it

	backoffMin = 20 * time.Millisecond
	backoffMax = 500 * time.Millisecond
)

// raftTransport is the part of a Transport that dragonboat sees.
type raftTransport struct {
	t         *Transport
	rules     rules
	onBatch   raftio.MessageHandler
	onChunk   raftio.ChunkHandler
	receiving chan struct{}

	mu     sync.Mutex
	peers  map[uint64]*raftPeer
	conns  map[*Conn]bool // accepted
	closed bool
	wg     sync.WaitGroup
}

var _ raftio.ITransport = (*raftTransport)(nil)

func (r *raftTransport) Name() string { return "millrace" }

// Start does not receive yet: dragonboat starts its transport before the rest of itself, and ends the process if a
// message arrives meanwhile. ServeRaft does.
func (r *raftTransport) Start() error { return nil }

// ServeRaft begins to receive raft messages, once dragonboat's NodeHost is there.
func (t *Transport) ServeRaft() {
	t.mu.Lock()
	r := t.raft
	t.mu.Unlock()
	t.Register(KindRaft, r.held(r.receiveBatches))
	t.Register(KindSnapshot, r.held(r.receiveSnapshot))
}

// held ties accepted connections to the life of dragonboat: none calls it after Close.
func (r *raftTransport) held(h Handler) Handler {
	return func(c *Conn) {
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			return
		}
		r.conns[c] = true
		r.wg.Add(1)
		r.mu.Unlock()
		defer func() {
			r.mu.Lock()
			delete(r.conns, c)
			r.mu.Unlock()
			r.wg.Done()
		}()
		h(c)
	}
}

// Close ends all senders and receivers and waits for them.
func (r *raftTransport) Close() error {
	r.t.Register(KindRaft, nil)
	r.t.Register(KindSnapshot, nil)
	r.mu.Lock()
	r.closed = true
	for _, p := range r.peers {
		p.stop()
	}
	conns := make([]*Conn, 0, len(r.conns))
	for c := range r.conns {
		conns = append(conns, c)
	}
	r.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	r.wg.Wait()
	return nil
}

// GetConnection never fails and never dials: reconnecting is the peer's own business, with a backoff that is shorter
// and more regular than that of dragonboat's circuit breaker.
func (r *raftTransport) GetConnection(_ context.Context, target string) (raftio.IConnection, error) {
	id, err := ParseReplicaName(target)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed
	}
	p := r.peers[id]
	if p == nil {
		p = newRaftPeer(r, id)
		r.peers[id] = p
		r.wg.Go(p.run)
	}
	return p, nil
}

// raftPeer sends raft messages to one replica.
type raftPeer struct {
	r      *raftTransport
	id     uint64
	mu     sync.Mutex
	queue  [][]byte
	bytes  int
	lost   uint64 // dropped for want of room, or with a connection
	wake   chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
}

func newRaftPeer(r *raftTransport, id uint64) *raftPeer {
	p := &raftPeer{r: r, id: id, wake: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(r.t.closing)
	return p
}

func (p *raftPeer) stop() { p.cancel() }

// Close is part of raftio.IConnection. The queue and its connection outlive it, for the next GetConnection.
func (p *raftPeer) Close() {}

// SendMessageBatch queues a batch. It never blocks; when the queue is full the oldest batch gives way.
func (p *raftPeer) SendMessageBatch(batch pb.MessageBatch) error {
	b, err := batch.Marshal()
	if err != nil {
		return err
	}
	if len(b) > MaxFrameBytes {
		return fmt.Errorf("%w: a raft batch of %d bytes", ErrFrameTooLarge, len(b))
	}
	p.mu.Lock()
	dropped := p.push(b, p.r.t.o.QueueFrames, p.r.t.o.QueueBytes)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
	if dropped {
		p.unreachable()
	}
	return nil
}

// push appends b and drops from the front what does not fit. It reports whether it dropped anything.
func (p *raftPeer) push(b []byte, frames, bytes int) (dropped bool) {
	p.queue = append(p.queue, b)
	p.bytes += len(b)
	for len(p.queue) > 1 && (len(p.queue) > frames || p.bytes > bytes) {
		p.bytes -= len(p.queue[0])
		p.queue[0] = nil
		p.queue = p.queue[1:]
		p.lost++
		dropped = true
	}
	return dropped
}

func (p *raftPeer) pop() ([]byte, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		p.queue = nil
		return nil, false
	}
	b := p.queue[0]
	p.queue[0] = nil
	p.queue = p.queue[1:]
	p.bytes -= len(b)
	return b, true
}

func (p *raftPeer) clear() {
	p.mu.Lock()
	p.lost += uint64(len(p.queue))
	p.queue, p.bytes = nil, 0
	p.mu.Unlock()
}

// unreachable tells raft that messages to the peer were lost, so that it stops to pipeline and asks again.
func (p *raftPeer) unreachable() {
	p.r.onBatch(pb.MessageBatch{
		DeploymentId: p.r.rules.deployment, BinVer: raftio.TransportBinVersion,
		Requests: []pb.Message{{Type: pb.Unreachable, From: p.id, To: p.r.rules.self, ShardID: p.r.rules.shard}},
	})
}

// run connects when there is something to send and sends it, for ever.
func (p *raftPeer) run() {
	wait := backoffMin
	for p.ctx.Err() == nil {
		select {
		case <-p.wake:
		case <-p.ctx.Done():
			return
		}
		c, err := p.dial()
		if err != nil {
			if p.r.t.quiet.pass(err.Error()) && p.ctx.Err() == nil {
				p.r.t.o.Logger.Warn("no raft connection", "replica", p.id, "err", err)
			}
			p.clear() // old messages are of no use later
			p.unreachable()
			select {
			case <-after(wait/2 + rand.N(wait)):
			case <-p.ctx.Done():
				return
			}
			wait = min(2*wait, backoffMax)
			continue
		}
		wait = backoffMin
		p.send(c)
		_ = c.Close()
		p.clear()
		if p.ctx.Err() == nil {
			p.unreachable()
		}
	}
}

var errUnresolved = errors.New("transport: no address is known")

func (p *raftPeer) dial() (*Conn, error) {
	to, ok := p.r.t.o.Resolve(p.id)
	if !ok {
		return nil, errUnresolved
	}
	return p.r.t.Dial(p.ctx, to, KindRaft)
}

// send sends until the connection ends.
func (p *raftPeer) send(c *Conn) {
	go c.KeepAlive(p.r.t.o.PingInterval, p.r.t.o.SilenceTimeout)
	go func() { // nothing comes back but pongs, and the end
		_, _, err := c.ReadFrame(0)
		if err == nil {
			err = ErrFrameMagic
		}
		c.close(err)
	}()
	for {
		for {
			b, ok := p.pop()
			if !ok {
				break
			}
			if err := c.WriteFrame(raftBatch, b); err != nil {
				return
			}
		}
		select {
		case <-p.wake:
		case <-c.closed:
			return
		case <-p.ctx.Done():
			return
		}
	}
}

// receiveBatches is the handler of KindRaft.
func (r *raftTransport) receiveBatches(c *Conn) {
	go c.KeepAlive(r.t.o.PingInterval, r.t.o.SilenceTimeout)
	for {
		kind, b, err := c.ReadFrame(MaxFrameBytes)
		if err != nil {
			r.report(c, err)
			return
		}
		if kind != raftBatch {
			r.report(c, ErrFrameMagic)
			return
		}
		batch, err := r.rules.batch(b, c.Peer().ReplicaID)
		if err != nil {
			r.report(c, err)
			return
		}
		r.onBatch(*batch)
	}
}

// report logs what an honest peer would not have sent.
func (r *raftTransport) report(c *Conn, err error) {
	bad := errors.Is(err, ErrImpossible) || errors.Is(err, ErrFrameMagic) || errors.Is(err, ErrFrameCRC) || errors.Is(err, ErrFrameTooLarge)
	if bad && r.t.quiet.pass(err.Error()) {
		r.t.o.Logger.Error("raft connection closed", "from", c.Peer().String(), "err", err)
	}
}
