package engine

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestFailedOpeningHoldsNoFiles: who opens the directory again in the same process need not wait for locks.
func TestFailedOpeningHoldsNoFiles(t *testing.T) {
	d := newCheckDir(t, false)
	d.quietly()
	path := d.path("shard-000", "wal-000099")
	if err := os.WriteFile(path, make([]byte, 5000), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(d.o); err == nil || !strings.Contains(err.Error(), "wal-000099") {
		t.Fatalf("opened with a WAL file of impossible size: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	e := mustOpen(t, d.o)
	if waited := time.Since(began); waited > lockPatience/2 {
		t.Errorf("waited %v for the files of the failed opening", waited)
	}
	mustClose(t, e)
}
