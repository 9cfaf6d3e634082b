package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/engine"
	"millrace/engine/batch"
)

// logDir makes a data directory with one topic: ten records in a segment and in the WAL.
func logDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	e, err := engine.Open(engine.Options{
		Dir: dir, CommitBytesMax: 256 << 10, RingBytes: 2 << 20, WALFileBytes: 1 << 20, WALBytes: 4 << 20, DiskReserveBytes: 1, Warn: t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	logs, err := e.CreateLogs([]engine.LogSpec{{TopicID: engine.TopicID{1}, Topic: "events"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		b := batch.NewBuilder(0, 0)
		b.Append(int64(i), []byte("key"), []byte(strings.Repeat(string(rune('a'+i)), 1000)), nil)
		raw := b.Build()
		h, err := batch.ParseHeader(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := logs[0].Append(engine.AppendRequest{Batch: raw, Header: h}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
	return dir
}

func runLog(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRootCommand()
	root.SetArgs(append([]string{"log"}, args...))
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestLogDumpShowsRecordsAndWAL(t *testing.T) {
	dir := logDir(t)
	out, err := runLog(t, "dump", "--data-dir", dir, "--topic", "events", "--records", "--wal", "--from", "4")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"log 1 events-0", "offsets 9 to 9", `"key" = "eeee`, "append events-0", "mark: "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "dddd") {
		t.Error("prints what is below --from")
	}
	if out, err = runLog(t, "dump", "--data-dir", dir, "--records", "--wal", "--json"); err != nil {
		t.Fatal(err)
	}
	kinds := make(map[string]int)
	for line := range strings.Lines(out) {
		var v struct {
			Kind string `json:"kind"`
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		kinds[v.Kind]++
	}
	if kinds["record"] != 20 || kinds["segment"] != 1 || kinds["directory"] != 1 || kinds["commit"] == 0 {
		t.Errorf("printed %v", kinds)
	}
}

func TestLogCheckAndRepairSayWhatIsBrokenAndLost(t *testing.T) {
	dir := logDir(t)
	out, err := runLog(t, "check", "--data-dir", dir)
	if err != nil || !strings.Contains(out, "nothing is broken") {
		t.Fatalf("%v\n%s", err, out)
	}
	segments, err := filepath.Glob(filepath.Join(dir, "logs/*/*.log"))
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	f, err := os.OpenFile(segments[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, 5000); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err = runLog(t, "check", "--data-dir", dir); !errors.Is(err, errReported) || !strings.Contains(out, "broken: logs/events-0.1/") || !strings.Contains(out, "events-0 can be proved up to offset 4") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = runLog(t, "repair", "--data-dir", dir); !errors.Is(err, errReported) || !strings.Contains(out, "would end events-0 at offset 4") || !strings.Contains(out, "offsets 4 to 9 are lost") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = runLog(t, "repair", "--data-dir", dir, "--accept-loss"); err != nil || !strings.Contains(out, "offsets 4 to 9 are lost") || !strings.Contains(out, "passes the check") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = runLog(t, "check", "--data-dir", dir); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestLogCommandsRefuseADirectoryInUse(t *testing.T) {
	dir := logDir(t)
	e, err := engine.Open(engine.Options{Dir: dir, Warn: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close(context.Background()) }()
	for _, command := range [][]string{{"dump"}, {"check"}, {"repair", "--accept-loss"}} {
		_, err := runLog(t, append(command, "--data-dir", dir)...)
		var cannot *cannotRun
		if !errors.As(err, &cannot) || !errors.Is(err, engine.ErrInUse) {
			t.Errorf("%v: %v", command, err)
		}
	}
	var cannot *cannotRun
	if _, err := runLog(t, "check", "--data-dir", t.TempDir()); !errors.As(err, &cannot) {
		t.Errorf("an empty folder: %v", err)
	}
}
