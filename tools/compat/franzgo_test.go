package compat

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/twmb/franz-go/pkg/kgo" // whose tests run: the import keeps it in go.mod
)

// needTransactions are the tests of franz-go that use transactions, which are not there yet. Tests of share groups
// and of KIP-848 groups skip themselves by what the broker advertises.
var needTransactions = []string{"TestTxnEtl"}

// franzRecords is how many records each of franz-go's group tests moves; its own default is 500,000.
const franzRecords = "20000"

func TestFranzGoOwnBrokerTests(t *testing.T) {
	need(t, "go")
	broker := Broker(t, "--config", "testdata/large-batches.properties")
	t.Logf("not yet, as there are no transactions: %v", needTransactions)
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-timeout", "8m", "-skip", "^("+strings.Join(needTransactions, "|")+")$",
		"-v", "github.com/twmb/franz-go/pkg/kgo")
	cmd.Env = append(os.Environ(), "KGO_SEEDS="+broker, "KGO_TEST_RF=1", "KGO_TEST_RECORDS="+franzRecords)
	cmd.WaitDelay = 5 * time.Second
	began := time.Now()
	out, err := cmd.CombinedOutput()
	passed, skipped := strings.Count(string(out), "--- PASS: Test"), strings.Count(string(out), "--- SKIP: Test")
	t.Logf("franz-go: %d passed, %d skipped in %v", passed, skipped, time.Since(began).Round(time.Second))
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "--- SKIP: ") || strings.Contains(line, "--- FAIL: ") {
			t.Log(strings.TrimSpace(line))
		}
	}
	if err != nil {
		log := filepath.Join(os.TempDir(), "franz-go-tests.log")
		t.Errorf("%v; all of the output is in %s (%v)", err, log, os.WriteFile(log, out, 0o644))
	}
	if passed < 30 {
		t.Errorf("only %d tests passed: did they run?", passed)
	}
}
