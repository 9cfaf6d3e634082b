package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"millrace/broker"
	"millrace/tools/millrace/admin"
)

// fakeAdmin is the admin address of a node. Every look at /cluster takes the next state; the last one stays.
type fakeAdmin struct {
	*httptest.Server
	mu     sync.Mutex
	states []broker.ClusterStatus
	fails  int // looks that are answered with 503 first
	looks  int
	posts  []string // path and body
	refuse string   // why a POST is refused
	moves  int
}

func newFakeAdmin(t *testing.T, states ...broker.ClusterStatus) *fakeAdmin {
	t.Helper()
	f := &fakeAdmin{states: states}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeAdmin) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := func(code int, v any) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(v)
	}
	switch {
	case r.Method == http.MethodGet && f.fails > 0:
		f.fails--
		answer(503, admin.ErrorAnswer{Error: "no quorum"})
	case r.Method == http.MethodGet:
		f.looks++
		answer(200, f.states[0])
		if len(f.states) > 1 {
			f.states = f.states[1:]
		}
	case r.Header.Get(admin.HeaderGuard) == "":
		answer(403, admin.ErrorAnswer{Error: "no guard"})
	case f.refuse != "":
		answer(409, admin.ErrorAnswer{Error: f.refuse})
	default:
		body, _ := io.ReadAll(r.Body)
		f.posts = append(f.posts, r.URL.Path+" "+string(body))
		if strings.HasSuffix(r.URL.Path, "/balance") {
			answer(200, admin.BalanceAnswer{Moves: f.moves})
			return
		}
		w.WriteHeader(204)
	}
}

// try runs one cluster command.
func (f *fakeAdmin) try(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	root := newRootCommand()
	root.SetArgs(append(append([]string{"cluster"}, args...), "--admin-addr", f.Listener.Addr().String()))
	root.SetOut(&out)
	root.SetErr(&errs)
	err = root.ExecuteContext(ctx)
	return out.String(), errs.String(), err
}

// three is a cluster of three voters and a fourth node that follows.
func three() broker.ClusterStatus {
	s := broker.ClusterStatus{ClusterID: "kitten", AnsweredBy: 1, Controller: 2, ControllerEpoch: 9, Level: 2, LevelPossible: 2, Partitions: broker.PartitionSummary{Total: 12}}
	for id := int32(1); id <= 4; id++ {
		s.Nodes = append(s.Nodes, broker.NodeStatus{
			ID: id, Address: fmt.Sprintf("localhost:%d", 9091+id), ClusterAddr: fmt.Sprintf("localhost:%d", 9191+id), State: broker.NodeLive,
			Voter: id < 4, ReplicaID: uint64(id) + 1, Reachable: true, MetadataIndex: 77, MaxLevel: 2, Leads: 3, Replicas: 9, InSync: 9, Heard: 120,
		})
	}
	return s
}

// but is a state with one node changed.
func but(s broker.ClusterStatus, id int32, change func(n *broker.NodeStatus)) broker.ClusterStatus {
	s.Nodes = slices.Clone(s.Nodes)
	for i := range s.Nodes {
		if s.Nodes[i].ID == id {
			change(&s.Nodes[i])
		}
	}
	return s
}

func TestClusterStatusShowsNodesAndTroubles(t *testing.T) {
	well := newFakeAdmin(t, three())
	out, _, err := well.try(t.Context(), "status", "--check")
	if err != nil || !strings.Contains(out, "cluster kitten, level 2, controller: node 2 (epoch 9)") || !strings.Contains(out, "1*") || strings.Contains(out, "!") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, want := range []string{"voter", "follows", "localhost:9093", "localhost:9193", "100ms"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	out, _, err = well.try(t.Context(), "status", "--json")
	var s broker.ClusterStatus
	if err != nil || json.Unmarshal([]byte(out), &s) != nil || len(s.Nodes) != 4 {
		t.Errorf("%v\n%s", err, out)
	}
	sick := but(three(), 3, func(n *broker.NodeStatus) { n.State, n.Reachable, n.Heard = broker.NodeFenced, false, -1 })
	sick.Nodes = append(sick.Nodes, broker.NodeStatus{ID: 5, State: broker.NodeFenced, Heard: -1})
	sick.Partitions.UnderReplicated, sick.LevelPossible = 9, 3
	f := newFakeAdmin(t, sick)
	if out, _, err = f.try(t.Context(), "status"); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"! node 3 is fenced", "! 2 of 3 voters can be reached; the metadata needs 2", "unreachable", "removed", "! 9 partition(s)", "millrace cluster finalize"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if _, _, err = f.try(t.Context(), "status", "--check"); err == nil || !strings.Contains(err.Error(), "2 of 3 voters") {
		t.Errorf("--check: %v", err)
	}
}

func TestClusterAddPromotesOrSaysHowToStartTheNode(t *testing.T) {
	f := newFakeAdmin(t, three())
	out, errs, err := f.try(t.Context(), "add", "4")
	if err != nil || !slices.Equal(f.posts, []string{`/cluster/promote {"node":4}`}) || !strings.Contains(out, "node 4 votes now, one of 4") || !strings.Contains(errs, "4 voters stand no more failures than 3") {
		t.Errorf("%v, %v\n%s%s", err, f.posts, out, errs)
	}
	f.posts = nil
	if out, _, err = f.try(t.Context(), "add", "2"); err != nil || !strings.Contains(out, "already") {
		t.Errorf("a voter: %v %s", err, out)
	}
	if _, _, err = f.try(t.Context(), "add", "7"); err == nil || !strings.Contains(err.Error(), `--node-id 7 raft-cluster --raft-addr HOST:PORT --peers "1@localhost:9192,2@localhost:9193,3@localhost:9194,4@localhost:9195" --join`) {
		t.Errorf("an unknown node: %v", err)
	}
	full := three()
	for id := int32(5); id <= 6; id++ {
		full.Nodes = append(full.Nodes, broker.NodeStatus{ID: id, Voter: true})
	}
	if _, _, err = newFakeAdmin(t, full).try(t.Context(), "add", "4"); err == nil || !strings.Contains(err.Error(), "5 nodes vote already") {
		t.Errorf("a sixth voter: %v", err)
	}
	if len(f.posts) != 0 {
		t.Errorf("posted %v", f.posts)
	}
	f.refuse = "raft: not caught up: at 3 of 70"
	if _, _, err = f.try(t.Context(), "add", "4"); err == nil || !strings.Contains(err.Error(), "at 3 of 70") {
		t.Errorf("refused: %v", err)
	}
}

func TestClusterDrainWaitsForLeadershipsThenReplicas(t *testing.T) {
	draining := func(leads, replicas int) broker.ClusterStatus {
		return but(three(), 3, func(n *broker.NodeStatus) { n.Draining, n.Leads, n.Replicas = true, leads, replicas })
	}
	f := newFakeAdmin(t, draining(3, 9), draining(3, 9), draining(0, 9), draining(0, 4), draining(0, 0))
	f.fails = 1 // a controller that changes meanwhile is no reason to give up
	out, errs, err := f.try(t.Context(), "drain", "3", "--interval", "0.001")
	if err != nil || !strings.Contains(out, "node 3 holds nothing any more") || !slices.Equal(f.posts, []string{`/cluster/drain {"node":3,"undo":false}`}) {
		t.Errorf("%v, %v\n%s", err, f.posts, out)
	}
	want := "node 3 leads 3 partition(s), holds 9 replica(s)\nnode 3 leads 0 partition(s), holds 9 replica(s)\nnode 3 leads 0 partition(s), holds 4 replica(s)\nnode 3 leads 0 partition(s), holds 0 replica(s)\n"
	if errs != want {
		t.Errorf("progress:\n%s", errs)
	}
	f = newFakeAdmin(t, draining(3, 9))
	if out, _, err = f.try(t.Context(), "drain", "3", "--no-wait", "--json"); err != nil || f.looks != 0 || !strings.Contains(out, `"pending": true`) {
		t.Errorf("--no-wait: %v, %d looks\n%s", err, f.looks, out)
	}
	if _, _, err = f.try(t.Context(), "drain", "3", "--undo"); err != nil || f.looks != 0 || f.posts[1] != `/cluster/drain {"node":3,"undo":true}` {
		t.Errorf("--undo: %v, %v", err, f.posts)
	}
	if _, _, err = newFakeAdmin(t, three()).try(t.Context(), "drain", "3"); err == nil || !strings.Contains(err.Error(), "taken back") {
		t.Errorf("a drain that somebody else took back: %v", err)
	}
}

func TestADrainThatGoesNowhereIsHintedAtAndCanBeLeft(t *testing.T) {
	stuck := but(three(), 3, func(n *broker.NodeStatus) { n.Draining = true })
	f := newFakeAdmin(t, stuck)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// It is left once it has been looked at for long enough, however fast that goes.
	f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.serve(w, r)
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.looks > stuckAfter+5 {
			cancel()
		}
	})
	_, errs, err := f.try(ctx, "drain", "3", "--interval", "0.001")
	if err == nil || !strings.Contains(err.Error(), "goes on") || strings.Count(errs, "replication factor") != 1 {
		t.Errorf("%v\n%s", err, errs)
	}
}

func TestClusterRemoveSaysWhatIsLeftToDo(t *testing.T) {
	f := newFakeAdmin(t, three())
	if _, _, err := f.try(t.Context(), "remove", "3"); err == nil || !strings.Contains(err.Error(), "still holds 9 replica(s) and leads 3: millrace cluster drain 3") {
		t.Errorf("a node that holds replicas: %v", err)
	}
	if _, _, err := f.try(t.Context(), "remove", "9"); err == nil || !strings.Contains(err.Error(), "unknown") {
		t.Errorf("an unknown node: %v", err)
	}
	idle := newFakeAdmin(t, but(three(), 3, func(n *broker.NodeStatus) { n.Leads, n.Replicas, n.InSync = 0, 0, 0 }))
	if _, _, err := idle.try(t.Context(), "remove", "3"); err == nil || !strings.Contains(err.Error(), "drain 3 first") {
		t.Errorf("a live node that is not drained: %v", err)
	}
	if len(f.posts)+len(idle.posts) != 0 {
		t.Errorf("posted %v %v", f.posts, idle.posts)
	}
	if out, _, err := f.try(t.Context(), "remove", "3", "--force"); err != nil || f.posts[0] != `/cluster/remove {"node":3,"force":true}` || !strings.Contains(out, "run millrace cluster remove 3 again") {
		t.Errorf("--force: %v, %v\n%s", err, f.posts, out)
	}
	for _, change := range []func(n *broker.NodeStatus){
		func(n *broker.NodeStatus) { n.Leads, n.Replicas, n.Draining = 0, 0, true },
		func(n *broker.NodeStatus) { n.Leads, n.Replicas, n.State, n.Reachable = 0, 0, broker.NodeFenced, false },
	} {
		f := newFakeAdmin(t, but(three(), 3, change))
		if out, _, err := f.try(t.Context(), "remove", "3"); err != nil || f.posts[0] != `/cluster/remove {"node":3,"force":false}` || !strings.Contains(out, "node 3 is out") {
			t.Errorf("%v, %v: %s", err, f.posts, out)
		}
	}
}

func TestClusterBalanceAndSetRFWaitForTheMoves(t *testing.T) {
	moving := func(n int) broker.ClusterStatus {
		s := three()
		s.Partitions.Moving = n
		return s
	}
	f := newFakeAdmin(t, moving(2), moving(1), moving(0))
	f.moves = 2
	out, errs, err := f.try(t.Context(), "balance", "--interval", "0.001")
	if err != nil || !strings.Contains(out, "2 move(s): done") || errs != "2 partition(s) moving\n1 partition(s) moving\n0 partition(s) moving\n" {
		t.Errorf("%v\n%s%s", err, out, errs)
	}
	f = newFakeAdmin(t, moving(5))
	if out, _, err = f.try(t.Context(), "balance"); err != nil || f.looks != 0 || !strings.Contains(out, "nothing to move") {
		t.Errorf("%v %s", err, out)
	}
	f = newFakeAdmin(t, moving(0), moving(12), moving(0))
	if _, _, err = f.try(t.Context(), "set-rf", "3", "a", "b", "--interval", "0.001"); err != nil || f.posts[0] != `/cluster/set-rf {"topics":["a","b"],"replication_factor":3}` {
		t.Errorf("%v, %v", err, f.posts)
	}
	if _, _, err = f.try(t.Context(), "set-rf", "5"); err == nil || !strings.Contains(err.Error(), "there are 4") {
		t.Errorf("more replicas than nodes: %v", err)
	}
	for _, bad := range [][]string{{"set-rf"}, {"set-rf", "three"}, {"set-rf", "0"}, {"drain", "x"}, {"add"}, {"balance", "now"}, {"finalize", "1", "2"}, {"finalize", "x"}, {"statu"}} {
		if _, _, err := f.try(t.Context(), bad...); !isUsage(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestClusterFinalizeNeedsEveryNode(t *testing.T) {
	s := three()
	s.LevelPossible = 3
	f := newFakeAdmin(t, s)
	if out, _, err := f.try(t.Context(), "finalize"); err != nil || f.posts[0] != `/cluster/finalize {"level":3}` || !strings.Contains(out, "level 3 is in force, after 2") {
		t.Errorf("%v, %v", err, f.posts)
	}
	if _, _, err := f.try(t.Context(), "finalize", "4"); err == nil || !strings.Contains(err.Error(), "node 3 knows 2") {
		t.Errorf("a level that nobody knows: %v", err)
	}
	if out, _, err := f.try(t.Context(), "finalize", "2"); err != nil || !strings.Contains(out, "already") || len(f.posts) != 1 {
		t.Errorf("%v %s", err, out)
	}
}

func TestTheFirstAdminAddressThatAnswersIsAsked(t *testing.T) {
	f := newFakeAdmin(t, three())
	dead := httptest.NewServer(nil)
	dead.Close()
	deadAddr := dead.Listener.Addr().String()
	run := func(addrs string) error {
		root := newRootCommand()
		root.SetArgs([]string{"cluster", "status", "--admin-addr", addrs})
		root.SetOut(io.Discard)
		return root.ExecuteContext(t.Context())
	}
	if err := run(deadAddr + ",http://" + f.Listener.Addr().String()); err != nil {
		t.Error(err)
	}
	if err := run(deadAddr); err == nil || !strings.Contains(err.Error(), deadAddr) || !strings.Contains(err.Error(), "nothing listens there") {
		t.Errorf("nobody: %v", err)
	}
	if err := run("off"); !isUsage(err) {
		t.Errorf("off: %v", err)
	}
	alone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(404)
		_ = json.NewEncoder(w).Encode(admin.ErrorAnswer{Error: "this broker runs alone"})
	}))
	defer alone.Close()
	if err := run(alone.Listener.Addr().String()); err == nil || !strings.Contains(err.Error(), "runs alone") {
		t.Errorf("standalone: %v", err)
	}
}
