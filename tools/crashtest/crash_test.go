package main

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tools/numbered"
	"millrace/tools/powercut"
)

// builtBinary is the broker to kill: MILLRACE_BIN, or built from the tree.
func builtBinary(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("MILLRACE_BIN"); bin != "" {
		return bin
	}
	bin := filepath.Join(t.TempDir(), "millrace")
	if out, err := exec.Command("go", "build", "-ldflags=-checklinkname=0", "-o", bin, "millrace/tools/millrace").CombinedOutput(); err != nil {
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

// testOptions are those of a short run; MILLRACE_CRASH_SEED repeats one.
func testOptions(t *testing.T) options {
	t.Helper()
	o := defaults()
	o.binary, o.dir, o.log = builtBinary(t), t.TempDir(), slog.New(slog.NewTextHandler(testLog{t}, nil))
	o.duration, o.messageSize, o.rate = 2*time.Minute, 400, 3000
	o.brokerArgs = []string{"--ring-bytes", "64MiB", "--wal-bytes", "128MiB"} // so that the log wraps
	o.seed = uint64(time.Now().UnixNano())
	if text := os.Getenv("MILLRACE_CRASH_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		o.seed = seed
	}
	return o
}

func TestNothingAcknowledgedIsLostToKill(t *testing.T) {
	o := testOptions(t)
	o.rounds = 4
	if testing.Short() {
		o.rounds = 2
	}
	if err := run(t.Context(), o); err != nil {
		t.Fatalf("MILLRACE_CRASH_SEED=%d: %v", o.seed, err)
	}
}

// TestNothingAcknowledgedIsLostToAPowerCut puts the data on a disk that forgets what was not flushed: a real
// filesystem with a journal, real O_DIRECT and io_uring, and the broker as users run it.
func TestNothingAcknowledgedIsLostToAPowerCut(t *testing.T) {
	if err := powercut.Available(); err != nil {
		t.Skipf("SKIPPED: no power can be cut here: %v", err)
	}
	o := testOptions(t)
	o.power, o.rounds = true, 6
	if testing.Short() {
		o.rounds = 2
	}
	if err := run(t.Context(), o); err != nil {
		t.Fatalf("MILLRACE_CRASH_SEED=%d: %v", o.seed, err)
	}
}

func value(i numbered.ID) []byte {
	v := make([]byte, 40)
	numbered.Put(v, i)
	return v
}

// A checker that cannot fail checks nothing: each kind of damage must be seen.
func TestAuditorSeesDamage(t *testing.T) {
	p := place{"t", 0}
	record := func(offset int64, v []byte) *kgo.Record {
		return &kgo.Record{Topic: p.topic, Partition: p.partition, Offset: offset, Value: v}
	}
	changed := value(numbered.New(0, 3))
	changed[20] ^= 1
	for name, c := range map[string]struct {
		records []*kgo.Record
		broken  int
	}{
		"all is well":               {[]*kgo.Record{record(0, value(numbered.New(0, 1))), record(1, value(numbered.New(0, 3)))}, 0},
		"a gap":                     {[]*kgo.Record{record(0, value(numbered.New(0, 1))), record(2, value(numbered.New(0, 5)))}, 1},
		"another record":            {[]*kgo.Record{record(0, value(numbered.New(0, 1))), record(1, value(numbered.New(0, 4)))}, 1},
		"changed bytes":             {[]*kgo.Record{record(0, value(numbered.New(0, 1))), record(1, changed)}, 1},
		"idempotent and twice":      {[]*kgo.Record{record(0, value(numbered.New(0, 1))), record(1, value(numbered.New(0, 3))), record(2, value(numbered.New(0, 3)))}, 1},
		"not idempotent, and twice": {[]*kgo.Record{record(0, value(numbered.New(0, 1))), record(1, value(numbered.New(0, 3))), record(2, value(numbered.New(1, 1))), record(3, value(numbered.New(1, 1)))}, 0},
		"a value too short":         {[]*kgo.Record{record(0, []byte("x"))}, 1},
	} {
		l := newLedger()
		l.promise(p, 0, numbered.New(0, 1), acknowledged)
		l.promise(p, 1, numbered.New(0, 3), acknowledged)
		a := newAuditor(l)
		for _, r := range c.records {
			a.record(p, r)
		}
		if got := l.promisesBroken(); len(got) != c.broken {
			t.Errorf("%s: %d found, want %d: %v", name, len(got), c.broken, got)
		}
	}
}

func TestLedgerSeesTwoRecordsAtOneOffset(t *testing.T) {
	l := newLedger()
	p := place{"t", 1}
	l.promise(p, 7, numbered.New(1, 1), acknowledged)
	l.promise(p, 7, numbered.New(1, 1), shown)
	if broken := l.promisesBroken(); len(broken) != 0 {
		t.Errorf("the same record twice: %v", broken)
	}
	l.promise(p, 7, numbered.New(2, 1), acknowledged)
	if broken := l.promisesBroken(); len(broken) != 1 {
		t.Errorf("%d found, want 1", len(broken))
	}
}

func TestIDsCarryProducerAndNumber(t *testing.T) {
	for _, producer := range []int{0, 1, 1000} {
		i := numbered.New(producer, 1<<39+5)
		if i.Producer() != producer || i.Number() != 1<<39+5 {
			t.Errorf("%v", i)
		}
		if got, err := numbered.Parse(value(i)); err != nil || got != i {
			t.Errorf("%v, %v", got, err)
		}
	}
}
