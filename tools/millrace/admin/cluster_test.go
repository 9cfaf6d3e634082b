package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"millrace/broker"
)

// fakeCluster notes what it was asked for; err is what it answers.
type fakeCluster struct {
	asked []string
	err   error
}

func (f *fakeCluster) note(format string, args ...any) error {
	f.asked = append(f.asked, fmt.Sprintf(format, args...))
	return f.err
}

func (f *fakeCluster) ClusterStatus(context.Context) (broker.ClusterStatus, error) {
	return broker.ClusterStatus{ClusterID: "abc", Controller: 2, Nodes: []broker.NodeStatus{{ID: 1, State: broker.NodeLive, Voter: true, Reachable: true}}}, f.err
}

func (f *fakeCluster) ClusterPromote(_ context.Context, node int32) error {
	return f.note("promote %d", node)
}

func (f *fakeCluster) ClusterRemove(_ context.Context, node int32, force bool) error {
	return f.note("remove %d %t", node, force)
}

func (f *fakeCluster) ClusterDrain(_ context.Context, node int32, on bool) error {
	return f.note("drain %d %t", node, on)
}

func (f *fakeCluster) ClusterBalance(context.Context) (int, error) { return 3, f.note("balance") }

func (f *fakeCluster) ClusterSetReplicationFactor(_ context.Context, topics []string, rf int) error {
	return f.note("set-rf %v %d", topics, rf)
}

func (f *fakeCluster) ClusterFinalize(_ context.Context, level int) error {
	return f.note("finalize %d", level)
}

// fakeNode is a broker that is ready.
type fakeNode struct{}

func (fakeNode) Ready() bool              { return true }
func (fakeNode) WriteMetrics(w io.Writer) { fmt.Fprintln(w, "fake 1") }

func listen(t *testing.T) *Server {
	t.Helper()
	s, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

// send makes one request; POST has the guard unless headers say otherwise.
func send(t *testing.T, s *Server, method, path, body string, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Addr().String()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

const guard = HeaderGuard + ": 1"

func TestEveryClusterRequestReachesTheNode(t *testing.T) {
	s, f := listen(t), &fakeCluster{}
	s.Attach(fakeNode{})
	s.AttachCluster(f)
	for _, c := range []struct {
		path, body, want string
		code             int
	}{
		{"promote", `{"node": 4}`, "promote 4", 204},
		{"remove", `{"node": 0}`, "remove 0 false", 204},
		{"remove", `{"node": 4, "force": true}`, "remove 4 true", 204},
		{"drain", `{"node": 4}`, "drain 4 true", 204},
		{"drain", `{"node": 4, "undo": true}`, "drain 4 false", 204},
		{"balance", ``, "balance", 200},
		{"set-rf", `{"topics": ["a", "b"], "replication_factor": 3}`, "set-rf [a b] 3", 204},
		{"finalize", `{}`, "finalize 0", 204},
		{"finalize", `{"level": 2}`, "finalize 2", 204},
	} {
		f.asked = nil
		code, text := send(t, s, "POST", "/cluster/"+c.path, c.body, guard)
		if code != c.code || len(f.asked) != 1 || f.asked[0] != c.want {
			t.Errorf("%s %s: %d %q, asked %v", c.path, c.body, code, text, f.asked)
		}
	}
	if _, text := send(t, s, "POST", "/cluster/balance", "", guard); !strings.Contains(text, `"moves": 3`) {
		t.Errorf("balance answered %s", text)
	}
	code, text := send(t, s, "GET", "/cluster", "")
	var status broker.ClusterStatus
	if err := json.Unmarshal([]byte(text), &status); err != nil || code != 200 || status.ClusterID != "abc" || status.Controller != 2 || len(status.Nodes) != 1 {
		t.Errorf("%d %s: %v", code, text, err)
	}
}

func TestAMistakenClusterRequestChangesNothing(t *testing.T) {
	s, f := listen(t), &fakeCluster{}
	s.Attach(fakeNode{})
	s.AttachCluster(f)
	for _, c := range []struct {
		path, body, header, want string
		code                     int
	}{
		{"promote", `{"node": 4}`, "Accept: */*", HeaderGuard, 403},
		{"promote", `{"node": 4}`, guard + "\nOrigin: http://evil.example", HeaderGuard, 403},
		{"promote", ``, guard, "which node", 400},
		{"remove", `{"force": true}`, guard, "which node", 400},
		{"drain", `{"nodes": 4}`, guard, "unknown field", 400},
		{"drain", `{"node": 4} {"node": 5}`, guard, "more than one", 400},
		{"drain", `node=4`, guard, "invalid character", 400},
		{"set-rf", `{"topics": ["a"]}`, guard, "replication_factor", 400},
		{"finalize", `{"level": -1}`, guard, "level", 400},
		{"finalize", `{"level": ` + strings.Repeat(" ", bodyBytesMax) + `1}`, guard, "too large", 400},
	} {
		code, text := send(t, s, "POST", "/cluster/"+c.path, c.body, strings.Split(c.header, "\n")...)
		var e ErrorAnswer
		if err := json.Unmarshal([]byte(text), &e); err != nil || code != c.code || !strings.Contains(e.Error, c.want) {
			t.Errorf("%s %.40s: %d %s; want %d with %s", c.path, c.body, code, text, c.code, c.want)
		}
	}
	for _, method := range []string{"GET", "PUT"} {
		if code, _ := send(t, s, method, "/cluster/drain", `{"node": 4}`, guard); code != 405 {
			t.Errorf("%s /cluster/drain: %d", method, code)
		}
	}
	if len(f.asked) != 0 {
		t.Errorf("the node was asked for %v", f.asked)
	}
}

func TestTheReasonOfARefusalIsAnswered(t *testing.T) {
	s, f := listen(t), &fakeCluster{err: errors.New("two of three voters are down")}
	s.Attach(fakeNode{})
	s.AttachCluster(f)
	for _, c := range []struct {
		err  error
		code int
	}{
		{errors.New("two of three voters are down"), 409},
		{fmt.Errorf("no quorum: %w", context.DeadlineExceeded), 504},
	} {
		f.err = c.err
		for method, path := range map[string]string{"GET": "/cluster", "POST": "/cluster/balance"} {
			code, text := send(t, s, method, path, "", guard)
			if code != c.code || !strings.Contains(text, c.err.Error()) {
				t.Errorf("%s: %d %s", path, code, text)
			}
		}
	}
}

func TestWhoIsInNoClusterSaysWhy(t *testing.T) {
	s := listen(t)
	ask := func() (int, string) {
		code, text := send(t, s, "GET", "/cluster", "")
		if posted, _ := send(t, s, "POST", "/cluster/balance", "", guard); posted != code {
			t.Errorf("GET says %d, POST %d", code, posted)
		}
		return code, text
	}
	if code, text := ask(); code != 503 || !strings.Contains(text, "starting") {
		t.Errorf("while it starts: %d %s", code, text)
	}
	s.Attach(fakeNode{})
	if code, text := ask(); code != 404 || !strings.Contains(text, "standalone") {
		t.Errorf("standalone: %d %s", code, text)
	}
	s.AttachCluster(&fakeCluster{})
	if code, _ := ask(); code != 200 {
		t.Errorf("a node of a cluster: %d", code)
	}
	s.Fail(errors.New("the disk is gone"))
	if code, text := ask(); code != 503 || !strings.Contains(text, "the disk is gone") {
		t.Errorf("failed: %d %s", code, text)
	}
}
