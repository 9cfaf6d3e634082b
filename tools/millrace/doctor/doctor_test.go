package doctor

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestExamineLooksAtEverythingAndLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	findings := Examine(t.Context(), Options{DataDir: filepath.Join(dir, "data"), Addresses: []string{"127.0.0.1:0"}, Budgets: 1 << 20, Measure: 20 * time.Millisecond})
	seen := map[string]bool{}
	for _, f := range findings {
		seen[f.Subject] = true
		if f.Text == "" || (f.Verdict == Weak || f.Verdict == Bad) && f.Advice == "" && f.Subject != "io_uring" {
			t.Errorf("finding without words: %+v", f)
		}
	}
	for _, subject := range []string{"kernel", "io_uring", "processor", "memory", "limits", "data", "device", "flush", "network"} {
		if !seen[subject] {
			t.Errorf("nothing about %s", subject)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	var text bytes.Buffer
	if err := Write(&text, findings); err != nil || strings.Count(text.String(), "\n") < len(findings) {
		t.Errorf("%v\n%s", err, text.String())
	}
	t.Log("\n" + text.String())
}

func TestAnAddressInUseIsSaid(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	f := networkCheck(t.Context(), Options{Addresses: []string{l.Addr().String()}})
	if len(f) == 0 || !strings.Contains(f[0].Text, "in use") {
		t.Errorf("%+v", f)
	}
}

func TestADirectoryThatCannotBeWrittenIsBad(t *testing.T) {
	if f := fileSystemCheck(t.Context(), Options{DataDir: "/proc/nowhere"}); Worst(f) != Bad {
		t.Errorf("%+v", f)
	}
}

func TestWorstIsTheWorst(t *testing.T) {
	if w := Worst([]Finding{{Verdict: Weak}, {Verdict: Good}, {Verdict: Note}}); w != Weak {
		t.Error(w)
	}
	if w := Worst(nil); w != Good {
		t.Error(w)
	}
}

func TestPeersAreReachedOrNot(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = free.Close()
	got := peersCheck(t.Context(), Options{Peers: []string{l.Addr().String(), free.Addr().String(), "127.0.0.1:no-port"}})
	if len(got) != 3 || got[0].Verdict != Good || got[1].Verdict != Note || got[2].Verdict != Weak {
		t.Errorf("findings %+v", got)
	}
}
