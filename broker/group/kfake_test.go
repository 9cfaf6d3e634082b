package group

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A second opinion: franz-go's fake broker, which has the classic protocol too. The same
// clients play against both; what they are told must be the same, member ids aside.
// Time stands still: what timeouts do is tested elsewhere.
//
// Where kfake is known not to be like Kafka the clients keep away from it (plays): it does
// not wait for pending members, names several leaders when the last one is gone, never
// forgets a protocol type, compares a static member's metadata and not its protocol, and
// has other errors for commits to an empty group and for a leave with a wrong member id.
func TestGroupsAnswerAsKfakeDoes(t *testing.T) {
	if testing.Short() {
		t.Skip("talks over sockets")
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "t", "u"))
	if err != nil {
		t.Skipf("kfake does not start here: %v", err)
	}
	defer cluster.Close()
	seed := uint64(time.Now().UnixNano())
	for run := range uint64(25) {
		if !t.Run(fmt.Sprintf("seed=%d", seed+run), func(t *testing.T) { playTwins(t, cluster.ListenAddrs()[0], seed+run) }) {
			return
		}
	}
}

// twin is one of the two coordinators.
type twin interface {
	send(player int, req kmsg.Request)
	// await gives the answer to a player's request; nil if none comes in this time.
	await(player int, wait time.Duration) kmsg.Response
}

type shardTwin struct {
	w      *world
	tokens map[int]int
}

func (s *shardTwin) send(player int, req kmsg.Request) {
	w, v, c := s.w, req.GetVersion(), Client{"client", "/10.0.0.1"}
	token := w.newToken()
	s.tokens[player] = token
	switch r := req.(type) {
	case *kmsg.JoinGroupRequest:
		w.take(w.s.JoinGroup(w.now, token, c, v, r))
	case *kmsg.SyncGroupRequest:
		w.take(w.s.SyncGroup(w.now, token, c, v, r))
	case *kmsg.HeartbeatRequest:
		w.take(w.s.Heartbeat(w.now, token, c, v, r))
	case *kmsg.LeaveGroupRequest:
		w.take(w.s.LeaveGroup(w.now, token, c, v, r))
	case *kmsg.OffsetCommitRequest:
		w.take(w.s.OffsetCommit(w.now, token, c, v, r))
	case *kmsg.OffsetFetchRequest:
		w.take(w.s.OffsetFetch(w.now, token, c, v, r))
	case *kmsg.OffsetDeleteRequest:
		w.take(w.s.OffsetDelete(w.now, token, c, v, r))
	case *kmsg.DescribeGroupsRequest:
		w.take(w.s.DescribeGroups(w.now, token, c, v, r))
	case *kmsg.DeleteGroupsRequest:
		w.take(w.s.DeleteGroups(w.now, token, c, v, r))
	}
	w.sleep(0) // the initial rebalance delay, which is none
	w.checkShard()
}

func (s *shardTwin) await(player int, _ time.Duration) kmsg.Response {
	return s.w.replies[s.tokens[player]]
}

type kfakeTwin struct {
	t       *testing.T
	conns   []net.Conn
	answers []chan kmsg.Response
	asked   []kmsg.Request
}

func (k *kfakeTwin) send(player int, req kmsg.Request) {
	k.t.Helper()
	k.asked[player] = req
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID("client"))
	if _, err := k.conns[player].Write(f.AppendRequest(nil, req, 1)); err != nil {
		k.t.Fatal(err)
	}
	go func() {
		conn := k.conns[player]
		var size [4]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(conn, body); err != nil {
			return
		}
		r := req.ResponseKind()
		r.SetVersion(req.GetVersion())
		body = body[4:]
		if r.IsFlexible() {
			body = body[1:]
		}
		if err := r.ReadFrom(body); err != nil {
			k.t.Errorf("%T: %v", r, err)
		}
		k.answers[player] <- r
	}()
}

func (k *kfakeTwin) await(player int, wait time.Duration) kmsg.Response {
	select {
	case r := <-k.answers[player]:
		return r
	case <-time.After(wait):
		return nil
	}
}

// cast is the clients as one of the twins knows them.
type cast struct {
	twin
	players []*player
	open    []bool
	names   map[string]string // member id -> a name that both casts use
	ids     map[int]int       // how many ids a player has had
	told    []string
}

// know names a member after the player who first hears that it is him.
func (c *cast) know(i int, r kmsg.Response) {
	if r, ok := r.(*kmsg.JoinGroupResponse); ok && (r.ErrorCode == errNone || r.ErrorCode == errMemberIDRequired) && c.names[r.MemberID] == "" {
		c.ids[i]++
		c.names[r.MemberID] = fmt.Sprintf("m%d.%d", i, c.ids[i])
	}
}

func (c *cast) name(id string) string {
	if id == "" {
		return "nobody"
	}
	return c.names[id]
}

func playTwins(t *testing.T, addr string, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	n := 1 + rng.IntN(4)
	var players []player
	for i := range n {
		p := player{group: fmt.Sprint("g", seed), version: int16(4 + rng.IntN(6)), protocols: []string{"range", subscribe("t")}, generation: -1}
		if p.version >= 5 && rng.IntN(3) == 0 {
			p.instance, p.version = fmt.Sprint("i", i), 9
		}
		if rng.IntN(3) == 0 {
			p.protocols = append(p.protocols, "sticky", subscribe("t"))
		}
		players = append(players, p)
	}
	cfg := newWorld(t).cfg
	cfg.InitialRebalanceDelay = 0
	cfg.MaxSessionTimeout = 5 * time.Minute
	k := &kfakeTwin{t: t, asked: make([]kmsg.Request, n)}
	for range n {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		k.conns, k.answers = append(k.conns, conn), append(k.answers, make(chan kmsg.Response, 1))
	}
	ours := &cast{twin: &shardTwin{newWorldWith(t, cfg), map[int]int{}}, open: make([]bool, n), names: map[string]string{}, ids: map[int]int{}}
	theirs := &cast{twin: k, open: make([]bool, n), names: map[string]string{}, ids: map[int]int{}}
	for i := range players {
		a, b := players[i], players[i]
		ours.players, theirs.players = append(ours.players, &a), append(theirs.players, &b)
	}
	var script []string
	for range 40 {
		i := rng.IntN(n)
		if ours.open[i] {
			continue
		}
		kind, number := kinds[rng.IntN(len(kinds))], rng.Int32N(3)
		if !ours.players[i].plays(kind, n) {
			continue
		}
		script = append(script, fmt.Sprintf("player %d: %s %d", i, kind, number))
		for _, c := range []*cast{ours, theirs} {
			if req := c.players[i].next(kind, number); req != nil {
				c.open[i] = true
				c.send(i, req)
			}
		}
		for settle(t, ours, theirs, script) {
		}
		if have, want := ours.told, theirs.told; strings.Join(have, "\n") != strings.Join(want, "\n") {
			t.Fatalf("told\n  ours  %v\n  kfake %v\n%s", have, want, strings.Join(script, "\n"))
		}
		if len(ours.told) > 0 {
			script = append(script, "  "+strings.Join(ours.told, "\n  "))
		}
		ours.told, theirs.told = nil, nil
	}
}

// settle hears all answers: whom ours has answered theirs must answer too, and nobody
// else. It says whether that led to new requests.
func settle(t *testing.T, ours, theirs *cast, script []string) (again bool) {
	t.Helper()
	type answer struct {
		player       int
		ours, theirs kmsg.Response
	}
	var answers []answer
	for j := range ours.players {
		if !ours.open[j] {
			continue
		}
		r := ours.await(j, 0)
		wait := 3 * time.Second
		if r == nil {
			wait = 2 * time.Millisecond
		}
		s := theirs.await(j, wait)
		if (r == nil) != (s == nil) {
			t.Fatalf("player %d: ours answers %+v, kfake %+v\n%s", j, r, s, strings.Join(script, "\n"))
		}
		if r != nil {
			answers = append(answers, answer{j, r, s})
			ours.know(j, r)
			theirs.know(j, s)
		}
	}
	for _, a := range answers {
		ours.hear(a.player, a.ours)
		theirs.hear(a.player, a.theirs)
		if r, ok := a.ours.(*kmsg.JoinGroupResponse); ok && r.ErrorCode == errMemberIDRequired {
			for _, c := range []*cast{ours, theirs} {
				c.send(a.player, c.players[a.player].next("play", 0))
				c.open[a.player] = true
			}
			again = true
		}
	}
	return again
}

// plays says whether both twins should agree about this.
func (p *player) plays(kind string, players int) bool {
	switch kind {
	case "stale commit", "bad type", "bad protocols":
		return p.generation >= 0
	case "leave":
		return !p.leader || players == 1
	case "leave stranger", "other metadata", "unknown member":
		return p.instance == ""
	case "forget":
		return p.instance != "" && !p.leader
	case "commit":
		return p.instance == "" || p.generation >= 0
	}
	return true
}

var kinds = []string{
	"play", "play", "play", "play", "play", "play", "play", "rejoin", "other metadata", "heartbeat", "heartbeat", "commit", "commit",
	"leave", "simple commit", "stale", "stale sync", "stale commit", "fetch", "fetch all", "describe", "delete group",
	"delete offset", "bad protocols", "bad type", "bad session", "no group", "unknown member", "forget", "leave stranger",
}

// next is the request that a player makes for a kind of step.
func (p *player) next(kind string, number int32) kmsg.Request {
	str := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	join := func() *kmsg.JoinGroupRequest {
		r := kmsg.NewPtrJoinGroupRequest()
		r.Version, r.Group, r.MemberID, r.InstanceID, r.ProtocolType = p.version, p.group, p.id, str(p.instance), "consumer"
		r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = 300_000, 300_000
		protocols(p.protocols...)(r, nil)
		return r
	}
	sync := func() *kmsg.SyncGroupRequest {
		r := kmsg.NewPtrSyncGroupRequest()
		r.Version, r.Group, r.MemberID, r.InstanceID, r.Generation = 5, p.group, p.id, str(p.instance), p.generation
		r.ProtocolType, r.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr(p.protocol)
		if p.leader {
			for i, m := range p.members {
				a := kmsg.NewSyncGroupRequestGroupAssignment()
				a.MemberID, a.MemberAssignment = m, fmt.Appendf(nil, "assignment %d", i)
				r.GroupAssignment = append(r.GroupAssignment, a)
			}
		}
		return r
	}
	commit := func(topic string) *kmsg.OffsetCommitRequest {
		r := kmsg.NewPtrOffsetCommitRequest()
		r.Version, r.Group, r.MemberID, r.InstanceID, r.Generation = 9, p.group, p.id, str(p.instance), p.generation
		part := kmsg.NewOffsetCommitRequestTopicPartition()
		part.Partition, part.Offset, part.Metadata = number, int64(number)*7, kmsg.StringPtr("m")
		tp := kmsg.NewOffsetCommitRequestTopic()
		tp.Topic, tp.Partitions = topic, append(tp.Partitions, part)
		r.Topics = append(r.Topics, tp)
		return r
	}
	switch kind {
	case "play":
		if p.generation < 0 {
			return join()
		}
		return sync()
	case "rejoin":
		return join()
	case "other metadata":
		p.protocols = append([]string(nil), p.protocols...)
		p.protocols[1] = subscribe("t", fmt.Sprint(number))
		return join()
	case "bad protocols":
		r := join()
		protocols("none", "")(r, nil)
		return r
	case "bad type":
		r := join()
		r.ProtocolType = "connect"
		return r
	case "bad session":
		r := join()
		r.SessionTimeoutMillis = 1
		return r
	case "no group":
		r := join()
		r.Group = ""
		return r
	case "unknown member":
		r := join()
		r.MemberID = "stranger"
		return r
	case "heartbeat", "stale":
		r := kmsg.NewPtrHeartbeatRequest()
		r.Version, r.Group, r.MemberID, r.InstanceID, r.Generation = 4, p.group, p.id, str(p.instance), p.generation
		if kind == "stale" {
			r.Generation = number
		}
		return r
	case "stale sync":
		r := sync()
		r.Generation = number
		return r
	case "commit":
		return commit("t")
	case "stale commit":
		r := commit("t")
		r.Generation = number
		return r
	case "simple commit":
		r := commit("u")
		r.Generation, r.MemberID, r.InstanceID = -1, "", nil
		return r
	case "leave", "leave stranger":
		r := kmsg.NewPtrLeaveGroupRequest()
		r.Version, r.Group = 5, p.group
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID, m.InstanceID = p.id, str(p.instance)
		if kind == "leave stranger" {
			m.MemberID = "stranger"
		}
		r.Members = append(r.Members, m)
		return r
	case "fetch", "fetch all":
		r := kmsg.NewPtrOffsetFetchRequest()
		r.Version = 8
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = p.group
		if kind == "fetch" {
			tp := kmsg.NewOffsetFetchRequestGroupTopic()
			tp.Topic, tp.Partitions = "t", []int32{0, 1, 2}
			g.Topics = append(g.Topics, tp)
		}
		r.Groups = append(r.Groups, g)
		return r
	case "describe":
		r := kmsg.NewPtrDescribeGroupsRequest()
		r.Version, r.Groups = 6, []string{p.group}
		return r
	case "delete group":
		r := kmsg.NewPtrDeleteGroupsRequest()
		r.Version, r.Groups = 2, []string{p.group}
		return r
	case "delete offset":
		r := kmsg.NewPtrOffsetDeleteRequest()
		r.Group = p.group
		r.Topics = []kmsg.OffsetDeleteRequestTopic{
			{Topic: "t", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: number}}},
			{Topic: "u", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: number}}},
		}
		return r
	case "forget":
		p.id, p.generation = "", -1
	}
	return nil
}

// hear tells a player an answer, and notes what was said.
func (c *cast) hear(i int, r kmsg.Response) {
	p := c.players[i]
	c.open[i] = false
	forgets := func(code int16) {
		switch code {
		case errNone:
		case errUnknownMemberID, errFencedInstanceID:
			p.id, p.generation = "", -1
		default:
			p.generation = -1
		}
	}
	deref := func(s *string) string {
		if s == nil {
			return "" // kfake gives null where Kafka gives nothing
		}
		return *s
	}
	told := ""
	// An unknown group is UNKNOWN_MEMBER_ID in Kafka, for those that are about a member.
	unknown := func(code *int16) {
		if *code == errGroupIDNotFound {
			*code = errUnknownMemberID
		}
	}
	switch r := r.(type) {
	case *kmsg.JoinGroupResponse:
		switch r.ErrorCode {
		case errNone:
			p.id, p.generation, p.leader, p.members = r.MemberID, r.Generation, r.LeaderID == r.MemberID, nil
			p.protocol = deref(r.Protocol)
		case errMemberIDRequired:
			p.id = r.MemberID
		default:
			told = fmt.Sprintf("join: error %d", r.ErrorCode)
		}
		if told == "" {
			told = fmt.Sprintf("join: error %d member %s leader %s generation %d protocol %s skip %v", r.ErrorCode,
				c.name(r.MemberID), c.name(r.LeaderID), r.Generation, deref(r.Protocol), r.SkipAssignment)
		}
		for _, m := range r.Members {
			p.members = append(p.members, m.MemberID)
		}
		sort.Slice(p.members, func(a, b int) bool { return c.name(p.members[a]) < c.name(p.members[b]) })
		told += fmt.Sprintf(" of %d", len(r.Members))
		if r.ErrorCode != errMemberIDRequired {
			forgets(r.ErrorCode)
		}
	case *kmsg.SyncGroupResponse:
		unknown(&r.ErrorCode)
		told = fmt.Sprintf("sync: error %d assignment %q", r.ErrorCode, r.MemberAssignment)
		forgets(r.ErrorCode)
	case *kmsg.HeartbeatResponse:
		unknown(&r.ErrorCode)
		told = fmt.Sprintf("heartbeat: error %d", r.ErrorCode)
	case *kmsg.LeaveGroupResponse:
		unknown(&r.ErrorCode)
		code := r.ErrorCode
		if code == errNone {
			code = r.Members[0].ErrorCode
		}
		told = fmt.Sprintf("leave: error %d", code)
		if code == errNone {
			p.id, p.generation, p.leader = "", -1, false
		}
	case *kmsg.OffsetCommitResponse:
		told = fmt.Sprintf("commit: error %d", r.Topics[0].Partitions[0].ErrorCode)
	case *kmsg.OffsetFetchResponse:
		var rows []string
		for _, tp := range r.Groups[0].Topics {
			for _, part := range tp.Partitions {
				if part.Offset == -1 {
					continue
				}
				rows = append(rows, fmt.Sprintf("%s-%d %d %d %q %d", tp.Topic, part.Partition, part.Offset, part.LeaderEpoch, deref(part.Metadata), part.ErrorCode))
			}
		}
		sort.Strings(rows)
		// kfake says GROUP_ID_NOT_FOUND, Kafka that there are no offsets.
		if r.Groups[0].ErrorCode == errGroupIDNotFound {
			rows = nil
		}
		told = fmt.Sprintf("fetch: %v", rows)
	case *kmsg.OffsetDeleteResponse:
		told = fmt.Sprintf("delete offset: error %d", r.ErrorCode)
		for _, tp := range r.Topics {
			told += fmt.Sprintf(" %s %d", tp.Topic, tp.Partitions[0].ErrorCode)
		}
	case *kmsg.DescribeGroupsResponse:
		g := &r.Groups[0]
		if g.State == "Empty" {
			g.ProtocolType = "" // kfake keeps that of a refused join
		}
		told = fmt.Sprintf("describe: error %d %s %q %q", g.ErrorCode, g.State, g.ProtocolType, g.Protocol)
		var members []string
		for _, m := range g.Members {
			if g.State != "Stable" {
				m.MemberAssignment = nil // kfake has none then, Kafka has the last one
			}
			members = append(members, fmt.Sprintf("%s %q %q", c.name(m.MemberID), m.ProtocolMetadata, m.MemberAssignment))
		}
		sort.Strings(members)
		told += fmt.Sprint(members)
	case *kmsg.DeleteGroupsResponse:
		told = fmt.Sprintf("delete group: error %d", r.Groups[0].ErrorCode)
	}
	c.told = append(c.told, fmt.Sprintf("player %d: %s", i, told))
}
