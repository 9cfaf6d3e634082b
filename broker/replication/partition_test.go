package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"millrace/broker/replica"
	"millrace/engine"
	"millrace/engine/batch"
)

// testPartition is a Partition over a real log with the plainest rules that can be: every follower counts, and nobody
// fences anybody but by epochs.
type testPartition struct {
	log   *engine.Log
	key   Key
	node  *testNode
	bad   error // what Damaged was told
	check func(format string, args ...any)

	surgery    sync.Mutex // one cut at a time, and none while it becomes the leader; outside mu
	mu         sync.Mutex
	epoch      int32 // that it leads or follows in
	leading    bool
	hw         int64
	followers  []int32
	stints     map[int32]replica.Stint
	stored     map[int32]int64
	generation uint64
	in         replica.Inflow
	followed   bool
	upTo       int64 // what in has brought
	// truth is, by the stream that was followed, the most of what it had brought that was on the device when anybody asked,
	// until another took over. What is acknowledged over a stream cannot lie beyond.
	truth map[replica.Inflow]int64
	busy  func() bool // chaos: says that there is no room
	// refuse, if set, answers every run.
	refuse func() error
}

var errNotFollowed = errors.New("another stream has taken over")

func (p *testPartition) Log() *engine.Log { return p.log }

func (p *testPartition) HighWatermark() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hw
}

func (p *testPartition) LeaderEpoch() (int32, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch, p.leading
}

func (p *testPartition) Damaged(err error) {
	p.mu.Lock()
	p.bad, p.leading = err, false
	p.mu.Unlock()
	p.node.n.resign(p)
}

func (p *testPartition) OpenStint(follower int32) (replica.Stint, int64, int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.leading {
		return replica.Stint{}, 0, 0, replica.ErrNotLeader
	}
	p.generation++
	s := replica.Stint{Follower: follower, LeaderEpoch: p.epoch, Generation: p.generation}
	p.stints[follower] = s
	delete(p.stored, follower)
	return s, p.log.LogStartOffset(), p.hw, nil
}

func (p *testPartition) current(s replica.Stint) error {
	if !p.leading || p.epoch != s.LeaderEpoch {
		return replica.ErrNotLeader
	}
	if p.stints[s.Follower] != s {
		return errors.New("an older stint")
	}
	return nil
}

func (p *testPartition) Offered(s replica.Stint, o replica.Offer) (replica.Verdict, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.current(s); err != nil {
		return replica.Verdict{}, err
	}
	start := p.log.LogStartOffset()
	restart := replica.Verdict{Kind: replica.Restart, Offset: start}
	if o.End < start || o.LastEpoch < 0 && o.End != start {
		return restart, nil
	}
	if o.LastEpoch < 0 {
		return replica.Verdict{Kind: replica.Agreed, Offset: o.End}, nil
	}
	e, end := p.log.EndOffsetForEpoch(o.LastEpoch)
	switch {
	case e < 0:
		return restart, nil
	case e == o.LastEpoch && o.End <= end:
		return replica.Verdict{Kind: replica.Agreed, Offset: o.End}, nil
	}
	return replica.Verdict{Kind: replica.Cut, Epoch: e, Offset: end}, nil
}

func (p *testPartition) Acknowledged(s replica.Stint, received, stored int64) error {
	if other := p.node.c.replicaOf(s.Follower, p.key); other != nil {
		in := replica.Inflow{Leader: p.node.id, LeaderEpoch: s.LeaderEpoch, Generation: s.Generation}
		other.mu.Lock()
		truth := other.truth[in]
		other.mu.Unlock()
		if stored > truth {
			p.check("%s: node %d acknowledged %d of %+v, it had no more than %d", p.key, s.Follower, stored, s, truth)
		}
	}
	p.mu.Lock()
	if err := p.current(s); err != nil {
		p.mu.Unlock()
		return err
	}
	if stored < p.stored[s.Follower] {
		p.check("%s: node %d takes back an acknowledgement", p.key, s.Follower)
	}
	p.stored[s.Follower] = stored
	moved := p.raise()
	p.mu.Unlock()
	if moved {
		p.node.n.tell(p, newsMoved)
	}
	return nil
}

func (p *testPartition) CloseStint(s replica.Stint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stints[s.Follower] == s {
		delete(p.stints, s.Follower)
	}
}

// raise moves the high watermark to what all have. Called with mu.
func (p *testPartition) raise() bool {
	end := p.log.AckEnd()
	for _, f := range p.followers {
		end = min(end, p.stored[f])
	}
	if !p.leading || end <= p.hw {
		return false
	}
	p.hw = end
	p.log.SetHighWatermarkHint(end)
	return true
}

// Progress implements engine.Observer.
func (p *testPartition) Progress(*engine.Log) {
	p.mu.Lock()
	moved := p.raise()
	p.mu.Unlock()
	if moved {
		p.node.n.tell(p, newsMoved)
	}
	p.node.n.stored(p)
}

func (p *testPartition) Follow(leader, epoch int32, generation uint64) (replica.Inflow, replica.Offer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if epoch < p.epoch || p.leading && epoch == p.epoch || epoch < p.log.LeaderEpoch() {
		return replica.Inflow{}, replica.Offer{}, fmt.Errorf("%w: %d, known is %d", replica.ErrStaleEpoch, epoch, p.epoch)
	}
	if p.followed && epoch == p.in.LeaderEpoch && generation <= p.in.Generation {
		return replica.Inflow{}, replica.Offer{}, errNotFollowed
	}
	p.epoch, p.leading = epoch, false
	p.in, p.followed = replica.Inflow{Leader: leader, LeaderEpoch: epoch, Generation: generation}, true
	p.upTo = p.log.AppendedEnd()
	return p.in, p.offer(), nil
}

func (p *testPartition) offer() replica.Offer {
	end := p.log.AppendedEnd()
	return replica.Offer{LastEpoch: p.log.EpochAt(end), End: end, HighWatermark: p.hw}
}

func (p *testPartition) CutTo(in replica.Inflow, v replica.Verdict) (replica.Offer, error) {
	p.surgery.Lock()
	defer p.surgery.Unlock()
	p.mu.Lock()
	if !p.followed || p.in != in {
		p.mu.Unlock()
		return replica.Offer{}, errNotFollowed
	}
	p.mu.Unlock() // Progress needs it
	var err error
	cut := v.Offset
	if v.Kind == replica.Restart {
		err = p.log.Reset(cut)
	} else {
		if _, end := p.log.EndOffsetForEpoch(v.Epoch); end >= 0 {
			cut = min(cut, end)
		}
		cut = max(cut, p.log.LogStartOffset())
		err = p.log.Truncate(cut, in.LeaderEpoch)
	}
	if err != nil {
		return replica.Offer{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.in != in {
		return replica.Offer{}, errNotFollowed
	}
	delete(p.truth, in) // what was seen before the cut says nothing
	p.upTo = p.log.AppendedEnd()
	p.hw = min(p.hw, cut)
	return p.offer(), nil
}

func (p *testPartition) Agree(in replica.Inflow, v replica.Verdict) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if end := p.log.AppendedEnd(); !p.followed || p.in != in || v.Offset != end {
		return errNotFollowed
	}
	return nil
}

func (p *testPartition) AppendRun(in replica.Inflow, run *replica.Run) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.followed || p.in != in {
		return errNotFollowed
	}
	if p.refuse != nil {
		if err := p.refuse(); err != nil {
			return err
		}
	}
	if run.Start != p.log.AppendedEnd() {
		return fmt.Errorf("%w: %d at %d", engine.ErrNotContiguous, run.Start, p.log.AppendedEnd())
	}
	sizes := []int{0}
	for at := 0; at < len(run.Batches); {
		n, err := batch.PeekSize(run.Batches[at:])
		if err == nil && n <= len(run.Batches)-at {
			_, err = batch.Validate(run.Batches[at : at+n])
		}
		if err != nil {
			return fmt.Errorf("%w: %w", replica.ErrCorrupt, err)
		}
		at += n
		sizes = append(sizes, at)
	}
	take := len(run.Batches)
	if p.busy != nil && p.busy() {
		take = sizes[rand.IntN(len(sizes))]
	}
	err := p.log.AppendAt(run.Start, run.Batches[:take], min(run.HighWatermark, run.End))
	p.upTo = p.log.AppendedEnd()
	if err == nil && take < len(run.Batches) {
		err = engine.ErrBusy
	}
	if errors.Is(err, engine.ErrBusy) {
		end := p.log.AppendedEnd()
		for len(run.Batches) > 0 {
			h, _ := batch.ParseHeader(run.Batches)
			if h.NextOffset() > end {
				break
			}
			run.Batches = run.Batches[h.Size():]
		}
		run.Start = end
		return engine.ErrBusy
	}
	if err == nil {
		p.hw = max(p.hw, min(run.HighWatermark, run.End))
		if p.log.AppendedEnd() != run.End {
			p.check("%s: the run ends at %d, the log at %d", p.key, run.End, p.log.AppendedEnd())
		}
	}
	return err
}

func (p *testPartition) TakeMark(in replica.Inflow, hw, logStart int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.followed || p.in != in {
		return errNotFollowed
	}
	p.hw = max(p.hw, min(hw, p.log.AppendedEnd()))
	return nil
}

func (p *testPartition) AckEnd() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	end := p.log.AckEnd()
	p.truth[p.in] = max(p.truth[p.in], min(end, p.upTo))
	return end
}

// lead makes the node lead the partition in an epoch.
func (p *testPartition) lead(epoch int32, followers []int32) error {
	p.surgery.Lock()
	defer p.surgery.Unlock()
	p.mu.Lock()
	p.followed = false // nothing is appended by others from now on
	p.mu.Unlock()
	for {
		err := p.log.BeginEpoch(epoch)
		if err == nil {
			break
		}
		if !errors.Is(err, engine.ErrBusy) {
			return err
		}
		room := make(chan struct{})
		p.log.Shard().OnRoom(func() { close(room) })
		<-room
	}
	p.mu.Lock()
	p.epoch, p.leading, p.followed = epoch, true, false // a stream may have come meanwhile
	p.followers, p.stints, p.stored = followers, map[int32]replica.Stint{}, map[int32]int64{}
	p.mu.Unlock()
	p.node.n.lead(p, p.key, followers)
	return nil
}

// append appends a batch of about size bytes, and says so. It returns false when there is no room.
func (p *testPartition) append(size int) (bool, error) {
	raw, h := oneBatch(size)
	p.mu.Lock()
	if !p.leading {
		p.mu.Unlock()
		return false, nil
	}
	_, err := p.log.Append(engine.AppendRequest{Batch: raw, Header: h, LeaderEpoch: p.epoch})
	p.mu.Unlock()
	if errors.Is(err, engine.ErrBusy) {
		return false, nil
	}
	if err == nil {
		p.node.n.tell(p, newsAppended)
	}
	return err == nil, err
}

// oneBatch is a batch of one record of size random bytes.
func oneBatch(size int) ([]byte, batch.Header) {
	b := batch.NewBuilder(0, 0)
	b.Append(time.Now().UnixMilli(), nil, randomBytes(size), nil)
	raw := b.Build()
	h, err := batch.ParseHeader(raw)
	if err != nil {
		panic(err)
	}
	return raw, h
}

func (p *testPartition) setRefuse(f func() error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = f
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	_, _ = rand.NewChaCha8(seed).Read(b)
	return b
}

// testNode is one broker: an engine, replicas, and their streams.
type testNode struct {
	c     *testCluster
	id    int32
	e     *engine.Engine
	n     *Node
	parts map[Key]*testPartition
}

// testCluster is several of them.
type testCluster struct {
	t     testing.TB
	nodes []*testNode
}

func (c *testCluster) replicaOf(node int32, k Key) *testPartition {
	for _, n := range c.nodes {
		if n.id == node {
			return n.parts[k]
		}
	}
	return nil
}

func key(partition int) Key { return Key{Topic: [16]byte{7}, Partition: int32(partition)} }

// newTestNode opens an engine with logs and hangs test partitions on them; the caller gives it a Node.
func (c *testCluster) newTestNode(id int32, partitions int, o engine.Options, lc engine.LogConfig) *testNode {
	t := c.t
	o.Dir, o.DiskReserveBytes, o.Warn = t.TempDir(), 1, t.Logf
	o.OnFailed = func(err error) { t.Errorf("node %d: directory failed: %v", id, err) }
	e, err := engine.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	n := &testNode{c: c, id: id, e: e, parts: map[Key]*testPartition{}}
	var specs []engine.LogSpec
	for i := range partitions {
		specs = append(specs, engine.LogSpec{TopicID: key(i).Topic, Topic: "t", Partition: int32(i), Config: lc})
	}
	logs, err := e.CreateLogs(specs)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range logs {
		p := &testPartition{log: l, key: key(i), node: n, epoch: -1, check: t.Errorf, truth: map[replica.Inflow]int64{}}
		n.parts[key(i)] = p
		l.SetObserver(p)
	}
	c.nodes = append(c.nodes, n)
	return n
}

func (n *testNode) find(k Key) Partition {
	if p := n.parts[k]; p != nil {
		return p
	}
	return nil
}

// contents reads a whole log.
func contents(l *engine.Log) ([]byte, error) {
	var all []byte
	for at := l.LogStartOffset(); ; {
		spans, info, err := l.Read(engine.ReadRequest{Offset: at, UpTo: 1 << 62, MaxBytes: 1 << 20, MinOne: true, MayBlock: true}, nil)
		if err != nil {
			return nil, err
		}
		if len(spans) == 0 {
			return all, nil
		}
		if all, err = take(all, spans); err != nil {
			return nil, err
		}
		at = info.NextOffset
	}
}
