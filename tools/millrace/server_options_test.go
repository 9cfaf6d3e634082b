package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// planOf parses a command line as the server would, without starting one.
func planOf(t *testing.T, args ...string) (*plan, error) {
	t.Helper()
	o := newServerOptions()
	cmd := &cobra.Command{Use: "x", SilenceErrors: true, SilenceUsage: true}
	cmd.Flags().AddFlagSet(o.flagSet())
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	if err := setFromEnvironment(cmd); err != nil {
		return nil, err
	}
	return o.plan()
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "server.properties")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestDefaultsListenOnThisMachineOnly(t *testing.T) {
	p, err := planOf(t)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.listen, []string{"127.0.0.1:9092"}) || p.open || p.config.DataDir() != "./data" || p.config.NodeID() != 1 || p.config.AdminAddress() != "127.0.0.1:9644" {
		t.Errorf("plan %+v, data %s", p, p.config.DataDir())
	}
	if n := int64(p.sizes.Shards); n < 1 || n*p.sizes.WALBytes < 64<<20 || n*p.sizes.RingBytes < 64<<20 {
		t.Errorf("sizes %+v", p.sizes)
	}
}

// What the flags call "over all shards" is divided once, here and in the broker alike.
func TestSizesAreDividedAmongTheShardsOnce(t *testing.T) {
	p, err := planOf(t, "--shards", "4", "--wal-bytes", "1GiB", "--ring-bytes", "256MiB")
	if err != nil {
		t.Fatal(err)
	}
	if s := p.config.Sizes(p.machine); s != p.sizes || s.Shards != 4 || s.WALBytes != 256<<20 || s.RingBytes != 64<<20 {
		t.Errorf("the broker's sizes %+v, the plan's %+v", s, p.sizes)
	}
	if p, err = planOf(t, "--shards", "4"); err != nil {
		t.Fatal(err)
	}
	if p.config.WALBytes() != 0 || p.config.RingBytes() != 0 || p.config.Sizes(p.machine) != p.sizes {
		t.Errorf("what nobody said became a setting: %+v", p.sizes)
	}
}

func TestFlagBeatsVariableBeatsFileBeatsDefault(t *testing.T) {
	name := file(t, "node.id=3\nlisteners=PLAINTEXT://0.0.0.0:9100\nmillrace.log.level=warn\nlog.dirs=/tmp/from-file\n")
	t.Setenv("MILLRACE_NODE_ID", "4")
	t.Setenv("MILLRACE_KAFKA_PORT", "9200")
	p, err := planOf(t, "--config", name, "--node-id", "5")
	if err != nil {
		t.Fatal(err)
	}
	if p.config.NodeID() != 5 || p.config.LogLevel() != "warn" || p.config.DataDir() != "/tmp/from-file" {
		t.Errorf("node %d, level %s, data %s", p.config.NodeID(), p.config.LogLevel(), p.config.DataDir())
	}
	if !slices.Equal(p.listen, []string{"0.0.0.0:9200"}) || !p.open || p.advertisedHost == "" {
		t.Errorf("listen %v, advertised %q", p.listen, p.advertisedHost)
	}
}

func TestAddressesFromFlags(t *testing.T) {
	p, err := planOf(t, "--bind-addr", "::1,127.0.0.1", "--kafka-port", "9300", "--advertised-addr", "kafka.example", "--advertised-port", "19300")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.listen, []string{"[::1]:9300", "127.0.0.1:9300"}) || p.open || p.advertisedHost != "kafka.example" || p.advertisedPort != 19300 {
		t.Errorf("plan %+v", p)
	}
}

func TestMistakesAreUsageErrorsThatHelp(t *testing.T) {
	for _, c := range []struct{ name, want string }{
		{"num.partitons=3\n", "num.partitions"},
		{"flush.messages=0\n", "flush.messages"},
		{"listeners=SSL://x:1\n", "listeners"},
	} {
		if _, err := planOf(t, "--config", file(t, c.name)); !isUsage(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.name, err)
		}
	}
	for _, args := range [][]string{{"--kafka-port", "99999"}, {"--io", "magic"}, {"--log-level", "loud"}, {"--config", "/does/not/exist"}, {"--node-id", "-2"}} {
		if _, err := planOf(t, args...); !isUsage(err) {
			t.Errorf("%v: %v", args, err)
		}
	}
	t.Setenv("MILLRACE_KAFKA_PORT", "tcp://10.0.0.1:9092")
	if _, err := planOf(t); !isUsage(err) || !strings.Contains(err.Error(), "Kubernetes") {
		t.Errorf("Kubernetes' variable: %v", err)
	}
}

func TestServerFlagsStandBeforeAndAfterTheSubcommand(t *testing.T) {
	for _, args := range [][]string{
		{"--node-id", "7", "standalone", "--io", "magic"},
		{"standalone", "--node-id", "7", "--io", "magic"},
		{"--node-id", "7", "--io", "magic"},
	} {
		root := newRootCommand()
		root.SetArgs(args)
		if err := root.ExecuteContext(t.Context()); !isUsage(err) || !strings.Contains(err.Error(), "magic") {
			t.Errorf("%v: %v", args, err)
		}
	}
	root := newRootCommand()
	root.SetArgs([]string{"standalon"})
	if err := root.ExecuteContext(t.Context()); !isUsage(err) || !strings.Contains(err.Error(), `"standalone"`) {
		t.Errorf("a misspelt command: %v", err)
	}
}
