package main

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/tools/chaos/cluster"
	"millrace/tools/chaos/history"
	"millrace/tools/powercut"
)

// build makes a program of the tree; MILLRACE_BIN is the broker, if it is there.
func build(t *testing.T, name string) string {
	t.Helper()
	if bin := os.Getenv("MILLRACE_BIN"); bin != "" && name == "millrace" {
		return bin
	}
	bin := filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("go", "build", "-ldflags=-checklinkname=0", "-o", bin, "millrace/tools/"+name).CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// testLog sends log lines to the test.
type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// testOptions are those of a short run; MILLRACE_CHAOS_SEED repeats one.
func testOptions(t *testing.T) options {
	t.Helper()
	o := defaults()
	o.binary, o.dir, o.log = build(t, "millrace"), t.TempDir(), slog.New(slog.NewTextHandler(testLog{t}, nil))
	o.duration, o.partitions, o.rate = 25*time.Second, 2, 50
	if testing.Short() {
		o.duration = 8 * time.Second
	}
	o.args = []string{"--ring-bytes", "64MiB", "--wal-bytes", "128MiB"}
	o.seed = uint64(time.Now().UnixNano())
	if text := os.Getenv("MILLRACE_CHAOS_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		o.seed = seed
	}
	return o
}

func TestAClusterThatIsTakenApartKeepsItsPromises(t *testing.T) {
	o := testOptions(t)
	o.faults = []string{"kill", "pause", "restart", "rolling restart"}
	if err := run(t.Context(), o); err != nil {
		t.Fatalf("MILLRACE_CHAOS_SEED=%d: %v", o.seed, err)
	}
}

// TestAClusterThatIsCutApartKeepsItsPromises runs the program itself: it needs a network namespace of its own.
func TestAClusterThatIsCutApartKeepsItsPromises(t *testing.T) {
	if err := cluster.NamespacesAvailable(); err != nil {
		t.Skipf("SKIPPED, NO NETWORK WAS CUT: %v", err)
	}
	o := testOptions(t)
	cmd := exec.CommandContext(t.Context(), build(t, "chaos"), "-network", "-bin", o.binary, "-dir", o.dir, "-duration", (o.duration / 2).String(),
		"-seed", strconv.FormatUint(o.seed, 10), "-partitions", "2", "-rate", "50", "-faults", "isolate,mute,deafen,bridge,unplug")
	cmd.Args = append(append(cmd.Args, "--"), o.args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("MILLRACE_CHAOS_SEED=%d: %v", o.seed, err)
	}
}

// TestALyingDiskIsFoundOut shows that a loss would be seen: acknowledged records that were never on the disk.
func TestALyingDiskIsFoundOut(t *testing.T) {
	if err := powercut.Available(); err != nil {
		t.Skipf("SKIPPED, NO LOSS WAS MADE AND FOUND: %v", err)
	}
	o := testOptions(t)
	o.nodes, o.disks, o.lie, o.faults, o.duration = 1, true, true, []string{"power"}, 5*time.Second
	o.expect = []history.Rule{history.LostWrite, history.Short}
	if err := run(t.Context(), o); err != nil {
		t.Fatalf("MILLRACE_CHAOS_SEED=%d: %v", o.seed, err)
	}
}

func TestAVerdictIsWhatIsExpected(t *testing.T) {
	for name, c := range map[string]struct {
		expect []history.Rule
		any    bool
		events []history.Event
		want   error
	}{
		"all is well":                   {nil, false, nil, nil},
		"something was found":           {nil, false, []history.Event{{Kind: history.Lost}}, errBroken},
		"a control, something":          {nil, true, []history.Event{{Kind: history.Lost}}, nil},
		"a control, nothing":            {nil, true, nil, errNothingFound},
		"a control, stuck":              {nil, true, []history.Event{{Kind: history.Broken}}, errNothingFound},
		"a control, the right rule":     {[]history.Rule{history.DataLoss}, false, []history.Event{{Kind: history.Lost}}, nil},
		"a control, another rule":       {[]history.Rule{history.LostWrite}, false, []history.Event{{Kind: history.Lost}}, errNothingFound},
		"a control that expects a halt": {[]history.Rule{history.Harness}, false, []history.Event{{Kind: history.Broken}}, nil},
	} {
		recorder, err := history.NewRecorder("")
		if err != nil {
			t.Fatal(err)
		}
		w := history.Where{Topic: "t"}
		recorder.Add(history.Event{Kind: history.Send, Where: w}, history.Event{Kind: history.Ack, Where: w, Acks: history.All}, history.Event{Kind: history.Poll, Where: w},
			history.Event{Kind: history.Final, Where: w}, history.Event{Kind: history.FinalEnd, Where: w, Offset: 1})
		recorder.Add(c.events...)
		x := &test{o: options{expect: c.expect, anyRule: c.any, log: slog.New(slog.DiscardHandler)}, recorder: recorder}
		if err := x.verdict(true, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
