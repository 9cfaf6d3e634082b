package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// shell runs commands against a fake broker.
type shell struct {
	t     *testing.T
	seeds string
}

func newShell(t *testing.T) shell {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return shell{t, strings.Join(c.ListenAddrs(), ",")}
}

// try runs one command with its input and returns what it printed.
func (s shell) try(input string, args ...string) (stdout, stderr string, err error) {
	s.t.Helper()
	var out, errs bytes.Buffer
	root := newRootCommand()
	root.SetArgs(append(args, "--bootstrap-servers", s.seeds))
	root.SetIn(strings.NewReader(input))
	root.SetOut(&out)
	root.SetErr(&errs)
	err = root.ExecuteContext(s.t.Context())
	return out.String(), errs.String(), err
}

func (s shell) run(args ...string) string {
	s.t.Helper()
	out, errs, err := s.try("", args...)
	if err != nil {
		s.t.Fatalf("millrace %s: %v\n%s", strings.Join(args, " "), err, errs)
	}
	return out
}

func TestTopicCommandsCreateListDescribeGrowTrimDelete(t *testing.T) {
	s := newShell(t)
	s.run("topic", "create", "a", "b", "--partitions", "2", "--replication-factor", "1", "--set", "retention.ms=1000")
	if _, _, err := s.try("", "topic", "create", "a", "-r", "1"); err == nil || !strings.Contains(err.Error(), "a: TOPIC_ALREADY_EXISTS") {
		t.Errorf("creating a twice: %v", err)
	}
	s.run("topic", "create", "a", "-r", "1", "--if-not-exists")
	s.run("topic", "add-partitions", "a", "--partitions", "3")
	s.run("produce", "a", "one", "two", "--partition", "1")
	var list, partitions []map[string]any
	decode(t, s.run("topic", "list", "--json"), &list)
	decode(t, s.run("topic", "describe", "a", "--json"), &partitions)
	if len(list) != 2 || list[0]["partitions"] != 3.0 || len(partitions) != 3 || partitions[1]["end"] != 2.0 {
		t.Errorf("list %v, partitions %v", list, partitions)
	}
	if out := s.run("topic", "describe", "a"); !strings.Contains(out, "LEADER") {
		t.Errorf("no table: %s", out)
	}
	s.run("topic", "trim", "a:1", "--before", "1")
	decode(t, s.run("topic", "describe", "a", "--json"), &partitions)
	if partitions[1]["start"] != 1.0 {
		t.Errorf("after trim: %v", partitions[1])
	}
	s.run("topic", "delete", "a", "b")
	if _, _, err := s.try("", "topic", "describe", "a"); err == nil {
		t.Error("a deleted topic can be described")
	}
}

func TestConfigCommandsShowSetAndUnset(t *testing.T) {
	s := newShell(t)
	s.run("topic", "create", "a", "-r", "1")
	s.run("config", "set", "topic:a", "retention.ms=1234")
	if out := s.run("config", "describe", "topic:a"); !strings.Contains(out, "retention.ms") || !strings.Contains(out, "1234") {
		t.Errorf("describe: %s", out)
	}
	s.run("config", "unset", "topic:a", "retention.ms")
	if out := s.run("config", "describe", "topic:a"); strings.Contains(out, "1234") {
		t.Errorf("after unset: %s", out)
	}
	if _, _, err := s.try("", "config", "set", "a", "x=1"); !isUsage(err) {
		t.Errorf("a resource without its kind: %v", err)
	}
}

func TestProduceAndConsumeRoundTrip(t *testing.T) {
	s := newShell(t)
	s.run("topic", "create", "a", "-r", "1", "-p", "1")
	if _, _, err := s.try("k1:v1\nk2:v2\nplain\n", "produce", "a", "--key-separator", ":", "-H", "h=1"); err != nil {
		t.Fatal(err)
	}
	if got, want := s.run("consume", "a", "--from-beginning", "--exit-at-end", "-f", `%p %o %k=%v %h\n`), "0 0 k1=v1 h=1\n0 1 k2=v2 h=1\n0 2 =plain h=1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := s.run("consume", "a", "--from", "-1", "-n", "1"); got != "plain\n" {
		t.Errorf("the last record is %q", got)
	}
	if got := s.run("consume", "a", "--from", "1", "-n", "1", "-f", "json"); !strings.Contains(got, `"key":"k2"`) {
		t.Errorf("json is %q", got)
	}
	if out, _, err := s.try("", "produce", "a", "x", "-v"); err != nil || out != "a\t0\t3\n" {
		t.Errorf("verbose produce printed %q, %v", out, err)
	}
}

func TestGroupCommandsShowLagAndMoveOffsets(t *testing.T) {
	s := newShell(t)
	s.run("topic", "create", "a", "-r", "1", "-p", "1")
	s.run("produce", "a", "1", "2", "3", "4")
	if got := s.run("consume", "a", "--group", "g", "--from", "start", "-n", "3"); got != "1\n2\n3\n" {
		t.Fatalf("consumed %q", got)
	}
	lag := func() (committed, lag any) {
		var rows []map[string]any
		decode(t, s.run("group", "describe", "g", "--json"), &rows)
		return rows[0]["committed"], rows[0]["lag"]
	}
	if committed, left := lag(); committed != 3.0 || left != 1.0 {
		t.Errorf("committed %v, lag %v", committed, left)
	}
	s.run("group", "reset-offsets", "g", "--to", "start")
	if committed, _ := lag(); committed != 3.0 {
		t.Errorf("a reset without --execute moved the group to %v", committed)
	}
	s.run("group", "reset-offsets", "g", "--to", "-2", "--execute")
	if committed, left := lag(); committed != 1.0 || left != 3.0 {
		t.Errorf("after the reset: committed %v, lag %v", committed, left)
	}
	if got := s.run("consume", "a", "--group", "g", "--exit-at-end"); got != "2\n3\n4\n" {
		t.Errorf("the group read %q", got)
	}
	if out := s.run("group", "list"); !strings.Contains(out, "g") {
		t.Errorf("list: %s", out)
	}
	s.run("group", "delete", "g")
	var rows []any
	decode(t, s.run("group", "list", "--json"), &rows)
	if len(rows) != 0 {
		t.Errorf("groups after delete: %v", rows)
	}
}

func TestResetTargets(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		to     string
		offset int64
		time   time.Time
		usage  bool
	}{
		{to: "start", offset: 10},
		{to: "end", offset: 100},
		{to: "55", offset: 55},
		{to: "+5", offset: 55},
		{to: "-5", offset: 45},
		{to: "15m", time: now.Add(-15 * time.Minute)},
		{to: "2026-01-31T11:00:00Z", time: now.Add(-time.Hour)},
		{to: "yesterday", usage: true},
	} {
		target, err := parseReset(c.to, now)
		switch {
		case c.usage:
			if !isUsage(err) {
				t.Errorf("%s: error %v", c.to, err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.to, err)
		case !target.time.Equal(c.time):
			t.Errorf("%s: time %v, want %v", c.to, target.time, c.time)
		case c.time.IsZero() && target.offset(10, 100, 50) != c.offset:
			t.Errorf("%s: offset %d, want %d", c.to, target.offset(10, 100, 50), c.offset)
		}
	}
}

func TestBenchCommandWritesJSON(t *testing.T) {
	s := newShell(t)
	file := filepath.Join(t.TempDir(), "out.json")
	text := s.run("bench", "--duration", "0.3", "--warmup", "0", "--concurrency", "4", "--replication-factor", "1", "--verify", "--json", file)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Records int64
		Loop    string
		Verify  struct{ OK bool }
	}
	decode(t, string(raw), &report)
	if report.Records == 0 || report.Loop != "closed" || !report.Verify.OK || !strings.Contains(text, "records/s") {
		t.Errorf("report %+v\n%s", report, text)
	}
	if _, _, err := s.try("", "bench", "--acks", "2"); !isUsage(err) {
		t.Errorf("--acks 2: %v", err)
	}
}

func TestNoBrokerIsSaidAtOnce(t *testing.T) {
	s := shell{t, "127.0.0.1:1"}
	began := time.Now()
	_, _, err := s.try("", "topic", "list", "--timeout", "2")
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || time.Since(began) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}

func isUsage(err error) bool {
	var usage *usageError
	return errors.As(err, &usage)
}
