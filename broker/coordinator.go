package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"millrace/broker/group"
	"millrace/broker/replica"
	"millrace/engine"
	"millrace/engine/batch"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// offsetsTopic is where groups and their offsets live, as records.
const offsetsTopic = "__consumer_offsets"

// groups runs the group coordinator's state machines: one per partition of
// __consumer_offsets that this broker leads. A state machine's records are
// appended to its partition, and what it answers leaves only when they are
// acknowledged: a reply never promises what a crash could take back.
//
// Lock order: groups.mu, groupShard.mu, then the partition's own.
type groups struct {
	b   *Broker
	cfg group.Config

	mu     sync.RWMutex // guards shards
	shards map[int32]*groupShard
}

// groupShard is one partition of __consumer_offsets with its state.
type groupShard struct {
	g    *groups
	part *replica.Partition

	mu      sync.Mutex // guards everything below, and orders effects
	state   *group.Shard
	loaded  bool
	stopped bool
	// end is the offset after the last record appended for this state; a reply
	// waits for it even when it brought no record of its own, so that what is
	// read is never less durable than what is answered.
	end     int64
	waiting []heldReplies // ascending by need
}

// heldReplies are replies that wait for the high watermark.
type heldReplies struct {
	need    int64
	until   time.Time // the in-sync replicas have not taken the records by then: whoever waits is told to come again
	replies []group.Reply
}

// groupAckPatience is how long a reply waits for the in-sync replicas (Kafka: offsets.commit.timeout.ms).
const groupAckPatience = 5 * time.Second

func newGroups(b *Broker, cfg group.Config) *groups {
	return &groups{b: b, cfg: cfg, shards: map[int32]*groupShard{}}
}

// lead starts the coordinator of a partition: its state is loaded in the
// background, and until then clients are told to come again.
func (g *groups) lead(p *replica.Partition) {
	s := &groupShard{g: g, part: p, state: group.NewShard(g.cfg), end: p.Log().AppendedEnd()}
	g.mu.Lock()
	if old := g.shards[p.Index]; old != nil {
		old.stop()
	}
	g.shards[p.Index] = s
	g.mu.Unlock()
	if p.Log().AppendedEnd() == p.Log().LogStartOffset() {
		s.ready(nil)
		return
	}
	g.b.loaders.Go(func(context.Context) { s.load() })
}

// resign stops the coordinator of a partition.
func (g *groups) resign(p *replica.Partition) {
	g.mu.Lock()
	s := g.shards[p.Index]
	if s != nil && s.part == p {
		delete(g.shards, p.Index)
	}
	g.mu.Unlock()
	if s != nil {
		s.stop()
	}
}

func (s *groupShard) stop() {
	s.mu.Lock()
	held := s.waiting
	s.waiting = nil
	s.mu.Unlock()
	for _, h := range held {
		refuseReplies(h.replies, errNotCoordinator)
	}
	s.retire()
}

// retire ends the coordinator: members that wait for a rebalance are told to look for another one. Answers that
// wait for the device still come.
func (s *groupShard) retire() {
	s.mu.Lock()
	var waiting []group.Reply
	if s.loaded && !s.stopped {
		waiting = s.state.Unload(s.g.b.now()).Replies
	}
	s.stopped = true
	s.mu.Unlock()
	refuseReplies(waiting, errNotCoordinator)
}

// retire ends all coordinators: the broker is about to end, and nobody may wait longer than that.
func (g *groups) retire() {
	for _, s := range g.all() {
		s.retire()
	}
}

// load replays the partition's records.
func (s *groupShard) load() {
	now := s.g.b.now()
	log := s.part.Log()
	// The epoch's own start is already in the log: everything below this end is
	// what the state has to know.
	end := log.AppendedEnd()
	err := scanLog(log, log.LogStartOffset(), end, func(r batch.Record, _ int64) error {
		err := s.state.Replay(r.Key, r.Value, now)
		if errors.Is(err, group.ErrUnknownRecord) {
			return nil // of a newer protocol: kept in the log, not understood
		}
		return err
	})
	s.ready(err)
}

func (s *groupShard) ready(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	if err != nil {
		s.g.b.log.Error("a group coordinator could not be loaded", "partition", s.part.Index, "error", err)
		return
	}
	s.loaded = true
	s.apply(s.state.Loaded(s.g.b.now()))
}

// groupCall is the token of a request inside the state machine.
type groupCall struct {
	call *call
	// finish, when set, takes the response instead of the connection: a part of
	// a request that several shards answer.
	finish func(kmsg.Response)
}

func (t *groupCall) reply(r kmsg.Response) {
	if t.finish != nil {
		t.finish(r)
		return
	}
	t.call.respond(r)
}

// shardFor finds the coordinator of a group; a code says why there is none.
func (g *groups) shardFor(id string) (*groupShard, int16) {
	t := g.b.partitions.Topic(offsetsTopic)
	if t == nil {
		return nil, errNotCoordinator
	}
	g.mu.RLock()
	s := g.shards[group.PartitionFor(id, int32(len(t.Partitions())))]
	g.mu.RUnlock()
	if s == nil {
		return nil, errNotCoordinator
	}
	return s, 0
}

// run lets f act on the state, when it is loaded, and carries out its effects.
func (s *groupShard) run(f func(now time.Time, state *group.Shard) group.Effects) int16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopped:
		return errNotCoordinator
	case !s.loaded:
		return errCoordinatorLoadInProgress
	}
	s.apply(f(s.g.b.now(), s.state))
	return 0
}

// apply appends the records of an effect and sends, or holds, its replies. When
// they cannot be appended (no room, a full disk) the state machine takes its step
// back and the client is told to come again.
func (s *groupShard) apply(e group.Effects) {
	for range rejectRounds {
		appended, err := s.append(e.Records)
		if err == nil {
			s.hold(e.Replies)
			return
		}
		if appended > 0 {
			break // the log is in the middle of the step
		}
		code := codeOf(err)
		if errors.Is(err, engine.ErrBusy) {
			code = errCoordinatorNotAvailable
		}
		e = s.state.Reject(s.g.b.now(), e, code)
	}
	s.reload(e.Replies)
}

// rejectRounds bounds the steps back: each may, rarely, want records of its own.
const rejectRounds = 4

// groupBatchBytes is where a step's records are cut into another batch: the
// deletion of a large group is not one record too many for a commit.
const groupBatchBytes = 512 << 10

// append appends records in one or more batches; appended counts those that are
// in the log when it fails.
func (s *groupShard) append(records []group.Record) (appended int, err error) {
	for appended < len(records) {
		n, size := appended, 0
		for n < len(records) && (n == appended || size+len(records[n].Key)+len(records[n].Value) <= groupBatchBytes) {
			size += len(records[n].Key) + len(records[n].Value)
			n++
		}
		raw := buildRecords(records[appended:n], s.g.b.now().UnixMilli())
		h, err := batch.ParseHeader(raw)
		if err != nil {
			panic("BUG: built a bad batch: " + err.Error())
		}
		res, _, err := s.part.Append(engine.AppendRequest{Batch: raw, Header: h}, replica.Acks{All: true}, nil, 0)
		if err != nil {
			return appended, err
		}
		s.end = res.LastOffset + 1
		appended = n
	}
	return appended, nil
}

// reload throws the state away, which is ahead of its log, and reads the log
// again. Whoever waits is told to come again.
func (s *groupShard) reload(replies []group.Reply) {
	s.g.b.log.Warn("a group coordinator reads its log again: records could not be appended", "partition", s.part.Index)
	refuseReplies(replies, errNotCoordinator)
	refuseReplies(s.state.Unload(s.g.b.now()).Replies, errNotCoordinator)
	s.state, s.loaded = group.NewShard(s.g.cfg), false
	s.g.b.loaders.Go(func(context.Context) { s.load() })
}

// hold sends replies once everything appended so far is acknowledged.
func (s *groupShard) hold(replies []group.Reply) {
	if len(replies) == 0 {
		return
	}
	acked, err := s.part.WaitFor(s.end, s, 0)
	switch {
	case err != nil:
		refuseReplies(replies, group.AppendErrorCode(codeOf(err)))
	case acked && len(s.waiting) == 0:
		sendReplies(replies)
	default:
		s.waiting = append(s.waiting, heldReplies{s.end, s.g.b.now().Add(groupAckPatience), replies})
		if acked {
			s.release()
		}
	}
}

// Acked implements replica.AckWaiter.
func (s *groupShard) Acked(_ int, err error, _ bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		for _, h := range s.waiting {
			refuseReplies(h.replies, group.AppendErrorCode(codeOf(err)))
		}
		s.waiting = nil
		return
	}
	s.release()
}

// release sends the replies that the high watermark has reached.
func (s *groupShard) release() {
	hw := s.part.HighWatermark()
	n := 0
	for n < len(s.waiting) && s.waiting[n].need <= hw {
		sendReplies(s.waiting[n].replies)
		n++
	}
	s.waiting = append(s.waiting[:0], s.waiting[n:]...)
}

func sendReplies(replies []group.Reply) {
	for _, r := range replies {
		r.Token.(*groupCall).reply(r.Response)
	}
}

// refuseReplies answers with an error instead: the change did not become
// durable, or not yet.
func refuseReplies(replies []group.Reply, code int16) {
	for _, r := range replies {
		group.Fail(r.Response, code)
	}
	sendReplies(replies)
}

// all returns the shards of this moment.
func (g *groups) all() []*groupShard {
	g.mu.RLock()
	defer g.mu.RUnlock()
	all := make([]*groupShard, 0, len(g.shards))
	for _, s := range g.shards {
		all = append(all, s)
	}
	return all
}

// expire answers those who have waited for the in-sync replicas for too long.
func (s *groupShard) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, n := s.g.b.now(), 0
	for n < len(s.waiting) && now.After(s.waiting[n].until) {
		refuseReplies(s.waiting[n].replies, group.AppendErrorCode(errRequestTimedOut))
		n++
	}
	s.waiting = append(s.waiting[:0], s.waiting[n:]...)
}

// tick runs the timers of all state machines; it returns when to come again.
func (g *groups) tick() {
	for _, s := range g.all() {
		s.expire()
		s.run(func(now time.Time, st *group.Shard) group.Effects {
			if at, ok := st.NextDeadline(); !ok || now.Before(at) {
				return group.Effects{}
			}
			return st.Tick(now)
		})
	}
}

// topicsDeleted forgets the offsets of deleted topics.
func (g *groups) topicsDeleted(names []string) {
	for _, s := range g.all() {
		s.run(func(_ time.Time, st *group.Shard) group.Effects { return st.TopicDeleted(names) })
	}
}

// buildRecords makes one batch of coordinator records.
func buildRecords(records []group.Record, nowMillis int64) []byte {
	b := batch.NewBuilder(0, 0)
	for _, r := range records {
		b.Append(nowMillis, r.Key, r.Value, nil)
	}
	return b.Build()
}
