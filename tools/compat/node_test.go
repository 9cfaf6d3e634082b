package compat

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestKafkaJS(t *testing.T) {
	need(t, "node", "npm")
	dir := cache(t, "kafkajs", func(dir string) error {
		out, err := Try(t.Context(), installTimeout, nil, dir, "npm", "install", "--silent", "--fetch-retries=0", "--fetch-timeout=10000", "--no-audit", "--no-fund", "kafkajs@2.2.4")
		if err != nil {
			return fmt.Errorf("%w: %s", err, tail([]byte(out), 500))
		}
		return nil
	})
	// Node looks for packages beside the script.
	script, err := os.ReadFile("node/kafkajs.js")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kafkajs.js"), script, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + Run(t, javaRun, nil, dir, "node", "kafkajs.js", Broker(t, fastGroups...)))
}
