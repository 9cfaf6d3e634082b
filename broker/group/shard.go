package group

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Shard is the state of one partition of __consumer_offsets: all groups whose ids
// hash to it. It is not safe for concurrent use.
type Shard struct {
	cfg    Config
	groups map[string]*group
	timers timers
	waits  map[any]*waiting // what waits, by token, for Gone

	sweep      sweep // the walk that expires offsets
	sweepTimer *timer

	// Of the call under way.
	now        time.Time
	fx         Effects
	rejectCode int16
}

// NewShard returns an empty shard. Replay the partition's records into it, then call
// Loaded; only then does it take requests.
func NewShard(cfg Config) *Shard {
	return &Shard{
		cfg:        cfg.withDefaults(),
		groups:     map[string]*group{},
		waits:      map[any]*waiting{},
		sweepTimer: newTimer((*Shard).expireOffsets),
	}
}

// SetConfig changes the settings; deadlines that are already set stay.
func (s *Shard) SetConfig(cfg Config) { s.cfg = cfg.withDefaults() }

// Replay applies one record of the partition, in log order, before Loaded. With
// ErrUnknownRecord and ErrCorruptRecord the state is unchanged: the caller says so in
// its log, and goes on.
func (s *Shard) Replay(key, value []byte, now time.Time) error {
	k, groupID, isOffset, err := decodeKey(key)
	if err != nil {
		return err
	}
	if isOffset {
		return s.replayOffset(k, value, now)
	}
	if value == nil {
		delete(s.groups, groupID)
		return nil
	}
	r, err := decodeGroupValue(value)
	if err != nil {
		return fmt.Errorf("group %q: %w", groupID, err)
	}
	g := newGroup(groupID, now)
	if old := s.groups[groupID]; old != nil {
		g.offsets = old.offsets
	}
	if err := s.restore(g, r); err != nil {
		return fmt.Errorf("group %q: %w", groupID, err)
	}
	s.groups[groupID] = g
	return nil
}

func (s *Shard) replayOffset(k offsetKey, value []byte, now time.Time) error {
	g := s.groups[k.group]
	if value == nil {
		if g != nil {
			g.dropOffset(k.topic, k.partition)
		}
		return nil
	}
	o, err := decodeOffsetValue(value)
	if err != nil {
		return fmt.Errorf("offset of group %q for %s-%d: %w", k.group, k.topic, k.partition, err)
	}
	if g == nil { // a consumer that only keeps its offsets here
		g = newGroup(k.group, now)
		s.groups[k.group] = g
	}
	g.putOffset(k.topic, k.partition, o)
	return nil
}

// restore makes a fresh group what its record says. A group with members is Stable:
// an assignment is what its record was written for.
func (s *Shard) restore(g *group, r groupRecord) error {
	g.generation = r.generation
	g.protocolType = r.protocolType
	g.protocol = r.protocol
	g.stateTimestamp = r.currentStateTimestamp
	for i := range r.members {
		rm := &r.members[i]
		if r.protocol == nil || g.byID[rm.memberID] != nil || rm.instanceID != nil && g.static[*rm.instanceID] != nil {
			return fmt.Errorf("%w: member %q twice, or without a protocol", ErrCorruptRecord, rm.memberID)
		}
		m := &member{
			id:                 rm.memberID,
			instanceID:         rm.instanceID,
			client:             Client{rm.clientID, rm.clientHost},
			rebalanceTimeoutMs: rm.rebalanceTimeout,
			sessionTimeoutMs:   rm.sessionTimeout,
			protocols:          []protocol{{*r.protocol, rm.subscription}},
			assignment:         rm.assignment,
		}
		if m.rebalanceTimeoutMs == -1 {
			m.rebalanceTimeoutMs = m.sessionTimeoutMs
		}
		s.giveSession(g, m)
		g.add(m)
	}
	if len(g.members) > 0 {
		g.state = Stable
	}
	if r.leader != nil && g.byID[*r.leader] != nil {
		g.leader = *r.leader
	}
	g.updateSubscribed()
	return nil
}

// Loaded ends the replay: sessions begin anew, and a group that is larger than
// group.max.size allows must rebalance.
func (s *Shard) Loaded(now time.Time) Effects {
	s.begin(now)
	for _, g := range s.groups {
		for _, m := range g.members {
			s.touch(m)
		}
		if len(g.members) > s.cfg.MaxSize {
			s.prepareRebalance(g)
		}
	}
	s.timers.arm(s.sweepTimer, now.Add(s.cfg.OffsetsCheckInterval))
	return s.take()
}

// Unload ends the shard's life, when its partition is lost: whoever waits is told to
// look for the new coordinator. The shard must not be used any more.
func (s *Shard) Unload(now time.Time) Effects {
	s.begin(now)
	for _, g := range s.groups {
		for _, m := range g.members {
			s.completeJoin(g, m, joinError(m.id, errNotCoordinator))
			s.completeSync(m, syncError(errNotCoordinator))
		}
		g.moveTo(Dead, now)
	}
	s.groups, s.timers = map[string]*group{}, timers{}
	return s.take()
}

// Gone says that the client which made a request has hung up: its reply is not given
// any more. The member itself stays until its session runs out, as in Kafka: the
// client may come back with its member id.
func (s *Shard) Gone(token any) {
	if w := s.waits[token]; w != nil {
		w.gone, w.token = true, nil
		delete(s.waits, token)
	}
}

// Tick carries out what is due.
func (s *Shard) Tick(now time.Time) Effects {
	s.begin(now)
	upTo := s.timers.seq
	for t := s.timers.due(now, upTo); t != nil; t = s.timers.due(now, upTo) {
		t.fire(s)
	}
	return s.take()
}

// NextDeadline says when Tick has something to do.
func (s *Shard) NextDeadline() (time.Time, bool) { return s.timers.next() }

// begin and take enclose every call.
func (s *Shard) begin(now time.Time) { s.now = now }

func (s *Shard) take() Effects {
	fx := s.fx
	s.fx, s.rejectCode = Effects{}, errNone
	return fx
}

func (s *Shard) write(r Record)          { s.fx.Records = append(s.fx.Records, r) }
func (s *Shard) onReject(f func(*Shard)) { s.fx.undo = append(s.fx.undo, f) }

// reply answers the request that is being handled.
func (s *Shard) reply(token any, version int16, r kmsg.Response) {
	r.SetVersion(version)
	s.fx.Replies = append(s.fx.Replies, Reply{token, r})
}

// wait parks a request until complete.
func (s *Shard) wait(token any, version int16) *waiting {
	w := &waiting{token: token, version: version}
	s.waits[token] = w
	return w
}

func (s *Shard) complete(w *waiting, r kmsg.Response) {
	if w.gone {
		return
	}
	delete(s.waits, w.token)
	s.reply(w.token, w.version, r)
}

// group finds a group; nil: there is none.
func (s *Shard) group(id string) *group { return s.groups[id] }

// drop removes a group from the shard.
func (s *Shard) drop(g *group) {
	for id := range g.pending {
		g.removePending(s, id)
	}
	for _, m := range g.members {
		s.timers.disarm(m.session)
	}
	for _, t := range []*timer{g.joinTimer, g.syncTimer} {
		if t != nil {
			s.timers.disarm(t)
		}
	}
	g.moveTo(Dead, s.now)
	delete(s.groups, g.id)
}

// Stats counts what a shard holds.
type Stats struct {
	Groups  [stateCount]int // by State
	Members int
	Offsets int
}

// Stats walks over the groups: for metrics, not for every request.
func (s *Shard) Stats() Stats {
	var st Stats
	for _, g := range s.groups {
		st.Groups[g.state]++
		st.Members += len(g.members)
		for _, partitions := range g.offsets {
			st.Offsets += len(partitions)
		}
	}
	return st
}

// Committed calls f with every committed offset, in no order: for lag metrics.
func (s *Shard) Committed(f func(group, topic string, partition int32, offset int64)) {
	for _, g := range s.groups {
		for topic, partitions := range g.offsets {
			for p, o := range partitions {
				f(g.id, topic, p, o.offset)
			}
		}
	}
}
