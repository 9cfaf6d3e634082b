package monitoring

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"millrace/broker"
	"millrace/tools/millrace/admin"
)

// metricName matches what a query may name; labels of Millrace's metrics do not look like it.
var metricName = regexp.MustCompile(`\b(?:millrace|process|go)_[a-z0-9_]+\b`)

// printed are the metrics of a broker that runs, with the labels of each.
func printed(t *testing.T) map[string]string {
	t.Helper()
	web, err := admin.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = web.Close(context.Background()) })
	b, err := broker.Start(t.Context(), broker.Options{DataDir: t.TempDir(), ListenAddrs: []string{"127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	web.Attach(b)
	resp, err := http.Get("http://" + web.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	metrics := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, " ")
		name, labels, _ := strings.Cut(name, "{")
		if metrics[name] += labels; rest == "" {
			t.Errorf("a line without a value: %q", line)
		}
	}
	if len(metrics) < 50 {
		t.Fatalf("only %d metrics", len(metrics))
	}
	return metrics
}

// expressions are the queries of both files.
func expressions(t *testing.T) (alerts, panels []string) {
	t.Helper()
	text, err := os.ReadFile("alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^ +expr: (.+)$`).FindAllStringSubmatch(string(text), -1) {
		alerts = append(alerts, m[1])
	}
	var d struct {
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ H, W, X, Y int }
			Targets []struct{ Expr, RefID string }
		}
		Templating struct{ List []struct{ Definition string } }
	}
	if text, err = os.ReadFile("dashboard.json"); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 || (len(p.Targets) == 0) != (p.Type == "row") {
			t.Errorf("panel %+v", p)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			panels = append(panels, target.Expr)
		}
	}
	for _, v := range d.Templating.List {
		if v.Definition != "" {
			panels = append(panels, v.Definition)
		}
	}
	return alerts, panels
}

func TestEveryMetricThatIsWatchedIsPrinted(t *testing.T) {
	metrics := printed(t)
	alerts, panels := expressions(t)
	if len(alerts) < 10 || len(panels) < 30 {
		t.Fatalf("%d alerts, %d queries of panels: the files were not read", len(alerts), len(panels))
	}
	watched := map[string]bool{}
	for _, expr := range slices.Concat(alerts, panels) {
		names := metricName.FindAllString(expr, -1)
		if len(names) == 0 && !strings.HasPrefix(expr, "up{") {
			t.Errorf("%s names no metric", expr)
		}
		for _, name := range names {
			watched[name] = true
			if _, ok := metrics[name]; !ok {
				t.Errorf("%s: no broker prints %s", expr, name)
			}
		}
	}
	// What says that something is broken must be watched.
	for name := range metrics {
		for _, sign := range []string{"_failed", "_offline", "_stopped", "_under_", "_fenced", "disk_full"} {
			if strings.HasPrefix(name, "millrace_") && strings.Contains(name, sign) && !watched[name] {
				t.Errorf("nothing watches %s", name)
			}
		}
	}
}

func TestEveryAlertSaysWhatToDo(t *testing.T) {
	text, err := os.ReadFile("alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rules := strings.Split(string(text), "- alert: ")[1:]
	seen := map[string]bool{}
	for _, r := range rules {
		name, _, _ := strings.Cut(r, "\n")
		for _, part := range []string{"\n        expr: ", "\n        labels: {severity: ", "\n          summary: \"", "\n          action: \""} {
			if strings.Count(r, part) != 1 {
				t.Errorf("%s has not one %q", name, strings.TrimSpace(part))
			}
		}
		if seen[name] || !strings.HasPrefix(name, "Millrace") || strings.Contains(r, "\t") {
			t.Errorf("alert %q", name)
		}
		seen[name] = true
	}
	if len(rules) < 10 {
		t.Errorf("%d rules", len(rules))
	}
}
