package lint

import (
	"slices"
	"strings"
	"testing"
)

const module = "millrace"

// layers says which of our folders a folder may import. A folder without a row takes the row of its parent.
// Downwards only: tools and perf -> broker -> engine, netpoll, raft, three foundations that do not know each
// other. A subpackage never imports its parent unless its row says so.
var layers = map[string][]string{
	"tools": {"tools", "broker", "engine", "netpoll", "raft"},
	"perf":  {"tools", "broker", "engine", "netpoll", "raft"},

	"broker": {"broker", "engine", "netpoll", "raft"},
	// The partition state is the one part beside the shell that calls the engine.
	"broker/replica":        {"broker/replica/broken", "engine", "raft"},
	"broker/replica/broken": {},
	// The streams between replicas: partitions, their logs, and the cluster port.
	"broker/replication": {"broker/replica", "engine", "raft/transport"},
	// Decisions in, records and answers out: no I/O below them.
	"broker/group":  {"broker/group", "engine/batch"},
	"broker/txn":    {"broker/txn", "engine/batch"},
	"broker/auth":   {"broker/auth"},
	"broker/quota":  {"broker/quota"},
	"broker/config": {"engine"}, // it fills engine.LogConfig
	"broker/wire":   {"engine/batch"},

	"engine":          {"engine"},
	"engine/batch":    {},
	"engine/index":    {},
	"engine/epoch":    {},
	"engine/producer": {"engine/batch", "engine/index"},
	"engine/disk":     {"engine/disk"},

	"netpoll": {"netpoll"},

	"raft":            {"raft", "engine/disk"},
	"raft/logdb":      {"engine/disk"},
	"raft/transport":  {"raft/transport"},
	"raft/controller": {"raft", "raft/transport"},
	"raft/broken":     {},
	"raft/simraft":    {"raft"}, // for tests
}

// foreign says which folders may import a module that is not ours and not for everyone.
var foreign = map[string][]string{
	"github.com/lni/dragonboat":       {"raft"},
	"github.com/lni/goutils":          {"raft"},
	"github.com/lni/vfs":              {"raft"},
	"github.com/pawelgaczynski":       {"engine/disk"},
	"golang.org/x/sys/unix":           {"engine", "netpoll", "raft/controller", "raft/transport", "tools", "perf"},
	"github.com/spf13":                {"tools"},
	"github.com/HdrHistogram":         {"tools", "perf"},
	"github.com/twmb/franz-go/pkg/k":  {"broker", "tools", "perf"},
	"github.com/VictoriaMetrics":      {"broker", "tools"},
	"github.com/hanwen/go-fuse":       {"tools"},
	"github.com/klauspost/compress":   {"engine/batch", "tools"},
	"github.com/pierrec/lz4":          {"engine/batch", "tools"},
	"github.com/klauspost/crc32":      {"engine", "raft", "broker", "tools"},
	"net/http":                        {"tools", "perf"},
	"testing":                         {"tools"},
	"github.com/twmb/franz-go/pkg/kg": {"tools", "perf"},
}

func TestImportsOnlyPointDownwards(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range goFiles(t) {
		if strings.HasSuffix(f.path, "_test.go") || f.folder == "tools/dev" {
			continue // a test may drive what its package may not know; tools/dev only pins versions
		}
		seen[strings.SplitN(f.folder, "/", 2)[0]] = true
		for _, imported := range f.imports {
			if why := forbidden(f.folder, imported); why != "" {
				t.Errorf("%s imports %s: %s", f.path, imported, why)
			}
		}
	}
	for _, folder := range []string{"broker", "engine", "netpoll", "raft", "tools"} {
		if !seen[folder] {
			t.Errorf("no file found in %s/: the rule would hold for nothing", folder)
		}
	}
}

// TestLayerRuleCatches keeps the rule itself honest: a rule that never fires is no rule.
func TestLayerRuleCatches(t *testing.T) {
	for _, c := range []struct {
		folder, imported string
		allowed          bool
	}{
		{"engine", module + "/broker", false},
		{"engine", module + "/netpoll", false},
		{"engine", module + "/engine/batch", true},
		{"engine/batch", module + "/engine", false},
		{"engine/disk/uring", module + "/engine/disk", true},
		{"engine/disk/uring", module + "/engine", false},
		{"broker", module + "/tools/lint", false},
		{"broker/group", module + "/engine", false},
		{"broker", module + "/raft", true},
		{"raft", module + "/engine/disk", true},
		{"raft", module + "/engine", false},
		{"raft/logdb", module + "/raft", false},
		{"netpoll", module + "/engine/disk", false},
		{"tools/millrace", module + "/broker", true},
		{"broker", "github.com/lni/dragonboat/v4", false},
		{"raft/logdb", "github.com/lni/dragonboat/v4/raftio", true},
		{"engine", "github.com/pawelgaczynski/giouring", false},
		{"engine/disk/uring", "github.com/pawelgaczynski/giouring", true},
		{"broker", "golang.org/x/sys/unix", false},
		{"broker", "github.com/twmb/franz-go/pkg/kmsg", true},
		{"broker", "github.com/twmb/franz-go/pkg/kgo", false},
		{"engine", "github.com/twmb/franz-go/pkg/kmsg", false},
		{"engine", "fmt", true},
	} {
		if why := forbidden(c.folder, c.imported); (why == "") != c.allowed {
			t.Errorf("%s -> %s: allowed is %t, want %t (%s)", c.folder, c.imported, why == "", c.allowed, why)
		}
	}
}

// forbidden says why a folder may not import a package, or nothing.
func forbidden(folder, imported string) string {
	if ours, ok := strings.CutPrefix(imported, module+"/"); ok {
		row, allowed := rowOf(folder)
		if row == "" {
			return "the folder has no row in tools/lint: say what it may import"
		}
		if ours == folder || slices.ContainsFunc(allowed, func(a string) bool { return within(ours, a) }) && !parent(row, folder, ours) {
			return ""
		}
		return row + " may import only " + strings.Join(allowed, ", ")
	}
	prefix := ""
	for p := range foreign {
		if strings.HasPrefix(imported, p) && (!std(p) || imported == p) && len(p) > len(prefix) {
			prefix = p
		}
	}
	if prefix == "" || slices.ContainsFunc(foreign[prefix], func(a string) bool { return within(folder, a) }) {
		return ""
	}
	return prefix + " belongs to " + strings.Join(foreign[prefix], ", ")
}

// parent says that ours is a folder above folder in the same layer, which a subpackage may not import.
// A fixture or main below tools may.
func parent(row, folder, ours string) bool {
	return row != "tools" && row != "perf" && strings.HasPrefix(folder, ours+"/") && row == strings.SplitN(folder, "/", 2)[0]
}

// rowOf finds the row that holds for a folder: its own or the nearest above it.
func rowOf(folder string) (string, []string) {
	for f := folder; f != ""; {
		if allowed, ok := layers[f]; ok {
			return f, allowed
		}
		i := strings.LastIndexByte(f, '/')
		if i < 0 {
			break
		}
		f = f[:i]
	}
	return "", nil
}

func within(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }

func std(path string) bool { return !strings.Contains(strings.SplitN(path, "/", 2)[0], ".") }
