package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"millrace/broker/replica"
	"millrace/tools/chaos/history"
)

// alarms records that nodes have stopped replicas which would have had to give up committed records to follow their leader.
// They keep them, so that clients may never notice; but one of the two has broken the rules.
func (t *test) alarms() {
	for _, n := range t.cluster.Nodes {
		text, err := os.ReadFile(n.LogFile)
		if err != nil {
			t.recorder.Brokef("%v: %v", n, err)
			continue
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, replica.ErrStopped.Error()) {
				t.recorder.Add(history.Event{Kind: history.Differ, Text: fmt.Sprintf("%v: %s", n, strings.TrimSpace(line))})
			}
		}
	}
}

// pictures are what is asked of every node when a run is stuck.
var pictures = map[string]string{
	"cluster.json":   "/cluster",
	"metrics.txt":    "/metrics",
	"goroutines.txt": "/debug/pprof/goroutine?debug=2",
}

// picture saves what the nodes say of themselves, for whoever has to find out why nothing goes on.
func (t *test) picture() {
	client := &http.Client{Timeout: 3 * time.Second}
	for _, n := range t.cluster.Nodes {
		for name, path := range pictures {
			if err := save(client, "http://"+n.Admin+path, filepath.Join(t.dir, fmt.Sprintf("node-%d-%s", n.ID, name))); err != nil {
				t.o.log.Warn("no picture", "node", n.ID, "of", path, "err", err)
			}
		}
	}
}

func save(client *http.Client, url, path string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
