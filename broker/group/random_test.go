package group

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// player is a client with what it has been told; it mostly plays by the rules.
type player struct {
	group      string
	instance   string
	version    int16
	protocols  []string // name, metadata, ...
	id         string
	generation int32
	protocol   string
	leader     bool
	members    []string
	token      int // the request it waits for; 0: none
}

// game is a world with players.
type game struct {
	*world
	players []*player
	answers [][]byte // every response since the last call of flush, by token order
}

func newGame(w *world, players []player) *game {
	g := &game{world: w}
	for _, p := range players {
		p := p
		g.players = append(g.players, &p)
	}
	return g
}

// drawPlayers makes clients of two groups. With one protocol each, a coordinator that
// was rebuilt from its log knows as much of them as one that was not.
func drawPlayers(t *rapid.T, oneProtocol bool) []player {
	var players []player
	for i := range rapid.IntRange(1, 6).Draw(t, "players") {
		p := player{
			group:     rapid.SampledFrom([]string{"g", "h"}).Draw(t, "group"),
			version:   rapid.SampledFrom([]int16{3, 4, 8, 9}).Draw(t, "version"),
			protocols: []string{"range", subscribe("t")},
		}
		if p.version >= 5 && rapid.Bool().Draw(t, "static") {
			p.instance = fmt.Sprint("i", rapid.IntRange(0, i).Draw(t, "instance"))
		}
		if !oneProtocol {
			p.protocols = rapid.SampledFrom([][]string{
				{"range", subscribe("t")},
				{"range", subscribe("t"), "sticky", subscribe("u")},
				{"sticky", subscribe("u"), "range", subscribe("t")},
				{"sticky", subscribe("u")},
			}).Draw(t, "protocols")
		}
		players = append(players, p)
	}
	return players
}

// step is one thing that happens. It is drawn once and may be played in several games.
type step struct {
	kind   string
	player int
	sleep  time.Duration
	number int32
	reject int16
}

func drawStep(t *rapid.T, players int, rejects bool) step {
	s := step{
		kind: rapid.SampledFrom([]string{
			"play", "play", "play", "play", "play", "play", "heartbeat", "heartbeat", "commit", "leave", "sleep", "sleep",
			"rejoin", "forget", "simple commit", "delete group", "delete offset", "gone", "stale", "topic deleted", "other metadata",
		}).Draw(t, "step"),
		player: rapid.IntRange(0, players-1).Draw(t, "player"),
		sleep:  time.Duration(rapid.IntRange(0, 20_000).Draw(t, "sleep")) * time.Millisecond,
		number: rapid.Int32Range(0, 3).Draw(t, "number"),
	}
	if rejects && rapid.IntRange(0, 5).Draw(t, "rejects") == 0 {
		s.reject = rapid.SampledFrom([]int16{errKafkaStorageError, errMessageTooLarge, errNotEnoughReplicas}).Draw(t, "reject")
	}
	return s
}

// play does a step, and lets the players hear the answers.
func (g *game) play(s step) {
	g.t.Helper()
	g.reject = s.reject
	p := g.players[s.player]
	switch s.kind {
	case "play": // what a client does next
		switch {
		case p.token != 0:
		case p.generation < 0 || p.id == "":
			g.joinAs(p)
		case p.leader && p.members != nil:
			g.syncAs(p)
		default:
			g.syncAs(p)
		}
	case "rejoin":
		if p.token == 0 {
			g.joinAs(p)
		}
	case "other metadata":
		p.protocols = append([]string(nil), p.protocols...)
		p.protocols[1] = subscribe("t", fmt.Sprint(s.number))
		if p.token == 0 {
			g.joinAs(p)
		}
	case "heartbeat":
		var instance []string
		if p.instance != "" {
			instance = []string{p.instance}
		}
		code := g.heartbeat(p.group, p.id, p.generation, instance...)
		g.answers = append(g.answers, []byte(fmt.Sprint("heartbeat ", code)))
		g.hear(p, code)
	case "commit":
		options := []commitOption{by(p.id, p.generation)}
		if p.instance != "" {
			options = append(options, byInstance(p.instance))
		}
		code := g.commit(p.group, "t", s.number, int64(g.token), options...)
		g.answers = append(g.answers, []byte(fmt.Sprint("commit ", code)))
	case "simple commit":
		code := g.commit(p.group, "u", s.number, int64(g.token))
		g.answers = append(g.answers, []byte(fmt.Sprint("simple commit ", code)))
	case "leave":
		r := g.leave(p.group, [2]string{p.id, p.instance})
		g.answers = append(g.answers, r.AppendTo(nil))
		p.id, p.generation = "", -1
	case "forget": // the client restarts
		if p.token != 0 {
			g.s.Gone(p.token)
			delete(g.open, p.token)
		}
		p.token, p.id, p.generation = 0, "", -1
	case "gone": // the connection breaks
		if p.token != 0 {
			g.s.Gone(p.token)
			delete(g.open, p.token)
			p.token = 0
		}
	case "delete group":
		g.answers = append(g.answers, []byte(fmt.Sprint("delete ", g.deleteGroup(p.group))))
	case "delete offset":
		g.answers = append(g.answers, []byte(fmt.Sprint("delete offset ", g.deleteOffset(p.group, "u", s.number))))
	case "topic deleted":
		g.take(g.s.TopicDeleted([]string{"t"}))
	case "stale":
		g.answers = append(g.answers, []byte(fmt.Sprint("stale ", g.heartbeat(p.group, p.id, s.number))))
	case "sleep":
		g.sleep(s.sleep)
	}
	g.reject = 0
	g.hearAll()
	g.checkShard()
}

func (g *game) joinAs(p *player) {
	g.t.Helper()
	options := []joinOption{
		version(p.version), memberID(p.id), protocols(p.protocols...),
		session(10 * time.Second), rebalance(15 * time.Second),
	}
	if p.instance != "" {
		options = append(options, instance(p.instance))
	}
	p.token = g.join(p.group, options...)
}

func (g *game) syncAs(p *player) {
	g.t.Helper()
	var options []syncOption
	if p.instance != "" {
		options = append(options, syncInstance(p.instance))
	}
	if p.leader {
		var a []string
		for _, m := range p.members {
			a = append(a, m, "assignment of "+m)
		}
		options = append(options, assign(a...))
	}
	options = append(options, func(r *kmsg.SyncGroupRequest) { r.Protocol = &p.protocol })
	p.token = g.sync(p.group, p.id, p.generation, options...)
}

func (g *game) hearAll() {
	g.t.Helper()
	for _, p := range g.players {
		if p.token == 0 || g.open[p.token] {
			continue
		}
		r := g.replies[p.token]
		p.token = 0
		r.SetVersion(r.GetVersion())
		g.answers = append(g.answers, r.AppendTo(nil))
		switch r := r.(type) {
		case *kmsg.JoinGroupResponse:
			if r.ErrorCode == errMemberIDRequired {
				p.id = r.MemberID
				g.joinAs(p)
				continue
			}
			g.hear(p, r.ErrorCode)
			if r.ErrorCode != errNone {
				continue
			}
			p.id, p.generation, p.leader, p.members = r.MemberID, r.Generation, r.LeaderID == r.MemberID, nil
			if r.Protocol == nil {
				g.t.Fatalf("joined without a protocol")
			}
			p.protocol = *r.Protocol
			for _, m := range r.Members {
				p.members = append(p.members, m.MemberID)
			}
		case *kmsg.SyncGroupResponse:
			g.hear(p, r.ErrorCode)
		}
	}
	// A second join may have been answered at once.
	for _, p := range g.players {
		if p.token != 0 && !g.open[p.token] {
			g.hearAll()
			return
		}
	}
}

// hear is what a client does about an error.
func (g *game) hear(p *player, code int16) {
	switch code {
	case errNone:
	case errUnknownMemberID, errFencedInstanceID:
		p.id, p.generation = "", -1
	default:
		p.generation = -1
	}
}

// A group never blocks: whatever happened, once everybody plays on they become stable.
func TestGroupsHoldTheirInvariantsAndSettle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		players := drawPlayers(t, false)
		g := newGame(w, players)
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			g.play(drawStep(t, len(players), true))
		}
		g.converge(players)
		// The waiting requests of a shard that goes away are answered, all of them.
		for i := range g.players {
			g.play(step{kind: "rejoin", player: i})
		}
		w.take(w.s.Unload(w.now))
		if len(w.open) > 0 {
			t.Fatalf("%d requests were never answered", len(w.open))
		}
	})
}

// converge plays on by the rules, one client for each instance and all with the same
// protocols, until every client has an assignment; and it must come to that.
func (g *game) converge(players []player) {
	g.t.Helper()
	seen := map[string]bool{}
	for i, p := range players {
		key := p.group + p.instance
		if p.instance != "" && seen[key] || p.protocols[0] != "range" {
			g.play(step{kind: "forget", player: i})
			continue
		}
		seen[key] = true
	}
	g.sleep(3 * time.Minute) // all sessions and rebalances of before are over
	var playing []int
	seen = map[string]bool{}
	for i, p := range players {
		key := p.group + p.instance
		if p.instance != "" && seen[key] || p.protocols[0] != "range" {
			continue
		}
		seen[key] = true
		playing = append(playing, i)
		g.play(step{kind: "forget", player: i})
	}
	for range 30 {
		for _, i := range playing {
			p := g.players[i]
			if p.generation >= 0 && p.token == 0 {
				g.play(step{kind: "heartbeat", player: i})
			}
			g.play(step{kind: "play", player: i})
		}
		g.play(step{kind: "sleep", sleep: 2 * time.Second})
	}
	for _, i := range playing {
		if p := g.players[i]; p.token != 0 || p.generation < 0 || g.heartbeat(p.group, p.id, p.generation) != errNone {
			g.t.Fatalf("player %d never got into its group: %+v (group %+v)", i, *p, g.describe(p.group))
		}
		g.wantState(g.players[i].group, Stable)
	}
}

// What was durable is there again after a failover, and nothing else.
func TestReplayRebuildsTheState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		players := drawPlayers(t, false)
		g := newGame(newWorld(t), players)
		rejects := rapid.Bool().Draw(t, "with rejects")
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			g.play(drawStep(t, len(players), rejects))
			g.comparedWith(g.reloaded(), rejects)
		}
	})
}

// comparedWith holds a shard against the one that was rebuilt from its log.
func (g *game) comparedWith(n *world, rejects bool) {
	g.t.Helper()
	n.checkShard()
	for _, id := range []string{"g", "h"} {
		a, b := g.s.groups[id], n.s.groups[id]
		if (a == nil) != (b == nil) {
			g.t.Fatalf("group %q: there %v, replayed %v", id, a != nil, b != nil)
		}
		if a == nil {
			continue
		}
		if fmt.Sprint(a.offsets) != fmt.Sprint(b.offsets) {
			g.t.Fatalf("group %q: offsets %v, replayed %v", id, a.offsets, b.offsets)
		}
		switch a.state {
		case Stable:
			have, want := encoded(n.describe(id)), encoded(g.describe(id))
			if a.generation != b.generation || a.leader != b.leader || have != want {
				g.t.Fatalf("group %q:\nis       %d %q %q\nreplayed %d %q %q", id, a.generation, a.leader, want, b.generation, b.leader, have)
			}
		case Empty:
			// When the record of an empty generation was rejected the log tells of the one
			// before: as in Kafka its members then come back, and time out.
			if !rejects && !a.simple() && (b.state != Empty || a.generation != b.generation || a.stateTimestamp != b.stateTimestamp) {
				g.t.Fatalf("group %q: empty since %d in generation %d, replayed %d in %d", id, a.stateTimestamp, a.generation, b.stateTimestamp, b.generation)
			}
		default:
			if b.state != Stable && b.state != Empty {
				g.t.Fatalf("group %q: replayed as %v", id, b.state)
			}
		}
	}
}

// And from there on it acts the same.
func TestReplayedStateActsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		players := drawPlayers(t, true)
		cfg := DefaultConfig()
		cfg.OffsetsCheckInterval = 1000 * time.Hour
		ids := 0
		cfg.NewMemberUUID = func() string { ids++; return fmt.Sprint(ids) }
		a := newGame(newWorldWith(t, cfg), players)
		for range rapid.IntRange(1, 40).Draw(t, "steps before") {
			a.play(drawStep(t, len(players), false))
		}
		a.converge(players)
		// Sessions begin anew at loading: let them begin anew here, too.
		for _, g := range a.s.groups {
			for _, m := range g.members {
				a.heartbeat(g.id, m.id, g.generation)
			}
		}
		b := newGame(a.reloaded(), nil)
		b.token = a.token
		for _, p := range a.players {
			q := *p
			b.players = append(b.players, &q)
		}
		idsOf := [2]int{ids, ids}
		a.answers = nil
		var played []step
		for range rapid.IntRange(1, 40).Draw(t, "steps after") {
			s := drawStep(t, len(players), false)
			played = append(played, s)
			for i, g := range []*game{a, b} {
				ids = idsOf[i]
				g.play(s)
				idsOf[i] = ids
			}
			if len(a.answers) != len(b.answers) {
				t.Fatalf("after %+v: %d answers, replayed %d", played, len(a.answers), len(b.answers))
			}
			for i := range a.answers {
				if !bytes.Equal(a.answers[i], b.answers[i]) {
					t.Fatalf("after %+v:\nanswered %q\nreplayed %q", played, a.answers[i], b.answers[i])
				}
			}
		}
	})
}

func encoded(g kmsg.DescribeGroupsResponseGroup) string {
	r := kmsg.DescribeGroupsResponse{Version: 6, Groups: []kmsg.DescribeGroupsResponseGroup{g}}
	return string(r.AppendTo(nil))
}
