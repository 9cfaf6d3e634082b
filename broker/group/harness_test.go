package group

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// fataler is what tests and rapid checks have in common.
type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

// world is a shard with a clock that stands still, a log, and clients.
type world struct {
	t       fataler
	s       *Shard
	cfg     Config
	now     time.Time
	log     []Record
	token   int
	replies map[int]kmsg.Response
	open    map[int]bool // tokens that were not answered yet
	last    Effects
	reject  int16 // when set, records of the next call are refused with it
}

func newWorld(t fataler) *world {
	ids := 0
	cfg := DefaultConfig()
	cfg.NewMemberUUID = func() string { ids++; return fmt.Sprint(ids) }
	return newWorldWith(t, cfg)
}

func newWorldWith(t fataler, cfg Config) *world {
	w := &world{
		t: t, cfg: cfg, s: NewShard(cfg), now: time.UnixMilli(1_700_000_000_000),
		replies: map[int]kmsg.Response{}, open: map[int]bool{},
	}
	w.take(w.s.Loaded(w.now))
	return w
}

// take carries out effects as a broker does whose appends are durable at once.
func (w *world) take(e Effects) {
	w.t.Helper()
	if w.reject != 0 && len(e.Records) > 0 {
		code := w.reject
		w.reject = 0
		e = w.s.Reject(w.now, e, code)
	}
	w.last = e
	w.log = append(w.log, e.Records...)
	for _, r := range e.Replies {
		token := r.Token.(int)
		if !w.open[token] {
			w.t.Fatalf("request %d was answered twice, or never asked: %T", token, r.Response)
		}
		delete(w.open, token)
		w.replies[token] = r.Response
	}
}

func (w *world) newToken() int {
	w.token++
	w.open[w.token] = true
	return w.token
}

// sleep moves the clock, ticking at every deadline on the way.
func (w *world) sleep(d time.Duration) {
	w.t.Helper()
	until := w.now.Add(d)
	for {
		at, ok := w.s.NextDeadline()
		if !ok || at.After(until) {
			break
		}
		if at.After(w.now) {
			w.now = at
		}
		w.take(w.s.Tick(w.now))
	}
	w.now = until
}

// reloaded is the world after a coordinator failover: state rebuilt from the log.
func (w *world) reloaded() *world {
	w.t.Helper()
	n := newWorldWith(w.t, w.cfg)
	n.now = w.now
	n.s = NewShard(w.cfg)
	for i, r := range w.log {
		if err := n.s.Replay(r.Key, r.Value, w.now); err != nil {
			w.t.Fatalf("replay of record %d: %v", i, err)
		}
	}
	n.log = append([]Record(nil), w.log...)
	n.take(n.s.Loaded(n.now))
	return n
}

type joinOption func(*kmsg.JoinGroupRequest, *int16)

func version(v int16) joinOption { return func(_ *kmsg.JoinGroupRequest, to *int16) { *to = v } }

func memberID(id string) joinOption {
	return func(r *kmsg.JoinGroupRequest, _ *int16) { r.MemberID = id }
}

func instance(id string) joinOption {
	return func(r *kmsg.JoinGroupRequest, _ *int16) { r.InstanceID = &id }
}

func session(d time.Duration) joinOption {
	return func(r *kmsg.JoinGroupRequest, _ *int16) { r.SessionTimeoutMillis = int32(d.Milliseconds()) }
}

func rebalance(d time.Duration) joinOption {
	return func(r *kmsg.JoinGroupRequest, _ *int16) { r.RebalanceTimeoutMillis = int32(d.Milliseconds()) }
}

func protocolType(t string) joinOption {
	return func(r *kmsg.JoinGroupRequest, _ *int16) { r.ProtocolType = t }
}

func protocols(nameAndMetadata ...string) joinOption {
	return func(r *kmsg.JoinGroupRequest, _ *int16) {
		r.Protocols = nil
		for i := 0; i < len(nameAndMetadata); i += 2 {
			p := kmsg.NewJoinGroupRequestProtocol()
			p.Name, p.Metadata = nameAndMetadata[i], []byte(nameAndMetadata[i+1])
			r.Protocols = append(r.Protocols, p)
		}
	}
}

// subscribe is the metadata of a consumer.
func subscribe(topics ...string) string {
	m := kmsg.NewConsumerMemberMetadata()
	m.Topics = topics
	return string(m.AppendTo(nil))
}

// join sends a JoinGroup; its reply may come later.
func (w *world) join(groupID string, options ...joinOption) int {
	w.t.Helper()
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.ProtocolType = groupID, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 30_000, 60_000
	protocols("range", subscribe("t"))(req, nil)
	v := int16(9)
	for _, o := range options {
		o(req, &v)
	}
	token := w.newToken()
	w.take(w.s.JoinGroup(w.now, token, Client{"client", "/10.0.0.1"}, v, req))
	return token
}

func (w *world) waits(token int) bool { return w.open[token] }

// response takes the answer to a request.
func response[T kmsg.Response](w *world, token int) T {
	w.t.Helper()
	r, ok := w.replies[token].(T)
	if !ok {
		w.t.Fatalf("request %d: want a %T, have %T", token, r, w.replies[token])
	}
	return r
}

func (w *world) joined(token int) *kmsg.JoinGroupResponse {
	w.t.Helper()
	return response[*kmsg.JoinGroupResponse](w, token)
}

// wantJoin checks a join's error code and returns the response.
func (w *world) wantJoin(token int, code int16) *kmsg.JoinGroupResponse {
	w.t.Helper()
	r := w.joined(token)
	if r.ErrorCode != code {
		w.t.Fatalf("join: error %d, want %d (%+v)", r.ErrorCode, code, r)
	}
	return r
}

// joinTwice is a dynamic member of today: it asks for its id first.
func (w *world) joinTwice(groupID string, options ...joinOption) (id string, token int) {
	w.t.Helper()
	id = w.wantJoin(w.join(groupID, options...), errMemberIDRequired).MemberID
	return id, w.join(groupID, append(options, memberID(id))...)
}

type syncOption func(*kmsg.SyncGroupRequest)

func assign(memberAndAssignment ...string) syncOption {
	return func(r *kmsg.SyncGroupRequest) {
		for i := 0; i < len(memberAndAssignment); i += 2 {
			a := kmsg.NewSyncGroupRequestGroupAssignment()
			a.MemberID, a.MemberAssignment = memberAndAssignment[i], []byte(memberAndAssignment[i+1])
			r.GroupAssignment = append(r.GroupAssignment, a)
		}
	}
}

func syncInstance(id string) syncOption {
	return func(r *kmsg.SyncGroupRequest) { r.InstanceID = &id }
}

func (w *world) sync(groupID, id string, generation int32, options ...syncOption) int {
	w.t.Helper()
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.MemberID, req.Generation = groupID, id, generation
	req.ProtocolType, req.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	for _, o := range options {
		o(req)
	}
	token := w.newToken()
	w.take(w.s.SyncGroup(w.now, token, Client{}, 5, req))
	return token
}

func (w *world) wantSync(token int, code int16, assignment string) {
	w.t.Helper()
	r := response[*kmsg.SyncGroupResponse](w, token)
	if r.ErrorCode != code || string(r.MemberAssignment) != assignment {
		w.t.Fatalf("sync: error %d with %q, want %d with %q", r.ErrorCode, r.MemberAssignment, code, assignment)
	}
}

func (w *world) heartbeat(groupID, id string, generation int32, instanceID ...string) int16 {
	w.t.Helper()
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID, req.Generation = groupID, id, generation
	for _, i := range instanceID {
		req.InstanceID = &i
	}
	token := w.newToken()
	w.take(w.s.Heartbeat(w.now, token, Client{}, 4, req))
	return response[*kmsg.HeartbeatResponse](w, token).ErrorCode
}

// leave names members as "id" or "id/instance".
func (w *world) leave(groupID string, members ...[2]string) *kmsg.LeaveGroupResponse {
	w.t.Helper()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = groupID
	for _, m := range members {
		l := kmsg.NewLeaveGroupRequestMember()
		l.MemberID = m[0]
		if m[1] != "" {
			l.InstanceID = &m[1]
		}
		req.Members = append(req.Members, l)
	}
	token := w.newToken()
	w.take(w.s.LeaveGroup(w.now, token, Client{}, 5, req))
	return response[*kmsg.LeaveGroupResponse](w, token)
}

type commitOption func(*kmsg.OffsetCommitRequest, *int16)

func by(id string, generation int32) commitOption {
	return func(r *kmsg.OffsetCommitRequest, _ *int16) { r.MemberID, r.Generation = id, generation }
}

func byInstance(id string) commitOption {
	return func(r *kmsg.OffsetCommitRequest, _ *int16) { r.InstanceID = &id }
}

func commitVersion(v int16) commitOption {
	return func(_ *kmsg.OffsetCommitRequest, to *int16) { *to = v }
}

func retention(ms int64) commitOption {
	return func(r *kmsg.OffsetCommitRequest, _ *int16) { r.RetentionTimeMillis = ms }
}

func metadata(m string) commitOption {
	return func(r *kmsg.OffsetCommitRequest, _ *int16) { r.Topics[0].Partitions[0].Metadata = &m }
}

// commit commits one offset and returns the error code.
func (w *world) commit(groupID, topic string, partition int32, at int64, options ...commitOption) int16 {
	w.t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = groupID, -1
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch = partition, at, 7
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic, t.Partitions = topic, append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	v := int16(9)
	for _, o := range options {
		o(req, &v)
	}
	token := w.newToken()
	w.take(w.s.OffsetCommit(w.now, token, Client{}, v, req))
	r := response[*kmsg.OffsetCommitResponse](w, token)
	return r.Topics[0].Partitions[0].ErrorCode
}

// committed is a group's offset for a partition, -1 if there is none.
func (w *world) committed(groupID, topic string, partition int32) int64 {
	w.t.Helper()
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = groupID
	t := kmsg.NewOffsetFetchRequestGroupTopic()
	t.Topic, t.Partitions = topic, []int32{partition}
	g.Topics = append(g.Topics, t)
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Groups, req.RequireStable = append(req.Groups, g), true
	token := w.newToken()
	w.take(w.s.OffsetFetch(w.now, token, Client{}, 9, req))
	return response[*kmsg.OffsetFetchResponse](w, token).Groups[0].Topics[0].Partitions[0].Offset
}

func (w *world) describe(groupID string) kmsg.DescribeGroupsResponseGroup {
	w.t.Helper()
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups = []string{groupID}
	token := w.newToken()
	w.take(w.s.DescribeGroups(w.now, token, Client{}, 6, req))
	return response[*kmsg.DescribeGroupsResponse](w, token).Groups[0]
}

func (w *world) wantState(groupID string, want State) {
	w.t.Helper()
	if have := w.describe(groupID).State; have != want.String() {
		w.t.Fatalf("group %q is %s, want %v", groupID, have, want)
	}
}

func (w *world) deleteGroup(groupID string) int16 {
	w.t.Helper()
	req := kmsg.NewPtrDeleteGroupsRequest()
	req.Groups = []string{groupID}
	token := w.newToken()
	w.take(w.s.DeleteGroups(w.now, token, Client{}, 2, req))
	return response[*kmsg.DeleteGroupsResponse](w, token).Groups[0].ErrorCode
}

// stable makes a stable group of n dynamic members in generation 1; the first is leader,
// and member i was assigned "a<i>".
func (w *world) stable(groupID string, n int, options ...joinOption) (ids []string) {
	w.t.Helper()
	var tokens []int
	for range n {
		id, token := w.joinTwice(groupID, options...)
		ids, tokens = append(ids, id), append(tokens, token)
	}
	w.sleep(10 * time.Second)
	w.settle(groupID, tokens)
	return ids
}

// settle lets all members of a generation sync. It returns their ids, leader first.
func (w *world) settle(groupID string, tokens []int) {
	w.t.Helper()
	var assignments []string
	leader := w.wantJoin(tokens[0], errNone).LeaderID
	for i, token := range tokens {
		assignments = append(assignments, w.wantJoin(token, errNone).MemberID, fmt.Sprintf("a%d", i))
	}
	var syncs []int
	for _, token := range tokens {
		if r := w.joined(token); r.MemberID != leader {
			syncs = append(syncs, w.sync(groupID, r.MemberID, r.Generation))
		}
	}
	for _, token := range tokens {
		if r := w.joined(token); r.MemberID == leader {
			w.wantCode(w.sync(groupID, leader, r.Generation, assign(assignments...)), errNone)
		}
	}
	for _, token := range syncs {
		w.wantCode(token, errNone)
	}
	w.wantState(groupID, Stable)
}

func (w *world) wantCode(token int, code int16) {
	w.t.Helper()
	if r := response[*kmsg.SyncGroupResponse](w, token); r.ErrorCode != code {
		w.t.Fatalf("sync: error %d, want %d", r.ErrorCode, code)
	}
}

func equal[T comparable](t testing.TB, what string, have, want T) {
	t.Helper()
	if have != want {
		t.Fatalf("%s: have %v, want %v", what, have, want)
	}
}
