package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"millrace/raft"
)

// clusterPlanOf parses a command line as millrace does, server flags before or after raft-cluster, without starting
// anything.
func clusterPlanOf(t *testing.T, args ...string) (*plan, error) {
	t.Helper()
	o, c := newServerOptions(), newClusterOptions()
	serverFlags, clusterFlags := o.flagSet(), c.flagSet()
	var p *plan
	root := &cobra.Command{Use: "millrace", TraverseChildren: true, SilenceErrors: true, SilenceUsage: true}
	root.Flags().AddFlagSet(serverFlags)
	cmd := newRaftClusterCommand(o, c, serverFlags, clusterFlags)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if err = setFromEnvironment(cmd); err == nil {
			p, err = c.plan(o)
		}
		return err
	}
	root.AddGroup(&cobra.Group{ID: groupServer})
	root.AddCommand(cmd)
	root.SetArgs(args)
	return p, root.ExecuteContext(t.Context())
}

func TestTheCommandLineOfThreeNodes(t *testing.T) {
	for _, args := range [][]string{
		{"--node-id", "1", "--kafka-port", "9092", "--advertised-addr", "localhost", "raft-cluster", "--raft-addr", "0.0.0.0:9192", "--peers", "2@localhost:9193,3@localhost:9194", "--bootstrap"},
		{"raft-cluster", "--raft-addr", "0.0.0.0:9192", "--peers", "2@localhost:9193,3@localhost:9194", "--bootstrap", "--node-id", "1", "--kafka-port", "9092", "--advertised-addr", "localhost"},
	} {
		p, err := clusterPlanOf(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		c := p.cluster
		if c.RaftAddr != "0.0.0.0:9192" || c.AdvertisedAddr != "localhost:9192" || !c.Bootstrap || c.Join || c.Secret != nil || c.TLS != nil ||
			!slices.Equal(c.Peers, []raft.Peer{{NodeID: 2, Addr: "localhost:9193"}, {NodeID: 3, Addr: "localhost:9194"}}) {
			t.Errorf("cluster %+v", c)
		}
		if p.config.NodeID() != 1 || p.config.DataDir() != "./data/node-1" || p.config.AdminAddress() != "127.0.0.1:9644" || p.advertisedHost != "localhost" || !slices.Equal(p.listen, []string{"127.0.0.1:9092"}) {
			t.Errorf("plan %+v, data %s, admin %s", p, p.config.DataDir(), p.config.AdminAddress())
		}
	}
	// After a restart --bootstrap is left out.
	p, err := clusterPlanOf(t, "--node-id", "3", "--kafka-port", "9094", "raft-cluster", "--raft-addr", "0.0.0.0:9194", "--peers", "1@localhost:9192,2@localhost:9193")
	if err != nil || p.cluster.Bootstrap || p.config.AdminAddress() != "127.0.0.1:9646" || p.config.DataDir() != "./data/node-3" || p.advertisedPort != 0 {
		t.Errorf("plan %+v, %v", p, err)
	}
}

func TestClusterSettingsFromVariablesAndFile(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("open sesame\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	name := file(t, "broker.id=7\nlisteners=PLAINTEXT://0.0.0.0:9092\nadvertised.listeners=PLAINTEXT://seven:9092\nmillrace.admin.address=off\nlog.dir=/tmp/seven\n"+
		"millrace.cluster.address=0.0.0.0:9300\nmillrace.cluster.peers=1@one:9300\nmillrace.cluster.secret.file="+secret+"\n")
	p, err := clusterPlanOf(t, "--config", name, "raft-cluster", "--join")
	if err != nil {
		t.Fatal(err)
	}
	if c := p.cluster; c.RaftAddr != "0.0.0.0:9300" || c.AdvertisedAddr != "seven:9300" || !c.Join || len(c.Peers) != 1 || string(c.Secret) != "open sesame" {
		t.Errorf("cluster %+v", c)
	}
	if p.config.NodeID() != 7 || p.config.DataDir() != "/tmp/seven" || p.config.AdminAddress() != "" {
		t.Errorf("node %d, data %s, admin %q", p.config.NodeID(), p.config.DataDir(), p.config.AdminAddress())
	}
	t.Setenv("MILLRACE_RAFT_ADDR", "127.0.0.1:9400")
	t.Setenv("MILLRACE_RAFT_ADVERTISED_ADDR", "there:9500")
	t.Setenv("MILLRACE_PEERS", "2@two:9300")
	t.Setenv("MILLRACE_BOOTSTRAP", "true")
	p, err = clusterPlanOf(t, "--config", name, "raft-cluster", "--peers", "3@three:9300")
	if err != nil {
		t.Fatal(err)
	}
	if c := p.cluster; c.RaftAddr != "127.0.0.1:9400" || c.AdvertisedAddr != "there:9500" || !c.Bootstrap || c.Peers[0].NodeID != 3 {
		t.Errorf("cluster %+v", c)
	}
}

func TestMistakesOfAClusterAreUsageErrorsThatHelp(t *testing.T) {
	open := filepath.Join(t.TempDir(), "open")
	short := filepath.Join(t.TempDir(), "short")
	for name, mode := range map[string]os.FileMode{open: 0o644, short: 0o600} {
		if err := os.WriteFile(name, []byte("x\n"), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	const peers = "--peers=2@localhost:9193,3@localhost:9194"
	first := []string{"--node-id=1", "--raft-addr=127.0.0.1:9192", peers, "--bootstrap"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--raft-addr=127.0.0.1:9192", peers, "--bootstrap"}, "--node-id"},
		{[]string{"--node-id=0", peers}, "from 1"},
		{[]string{"--node-id=1", peers, "--bootstrap"}, "--raft-addr"},
		{[]string{"--node-id=1", "--raft-addr=127.0.0.1:9192", "--bootstrap"}, "--peers"},
		{[]string{"--node-id=1", "--join"}, "--peers"},
		{append(slices.Clone(first), "--join"), "--join"},
		{[]string{"--node-id=2", "--raft-addr=127.0.0.1:9193", peers, "--bootstrap"}, "node 2, which is this one"},
		{[]string{"--node-id=1", "--peers=localhost:9193"}, "2@host:port"},
		{[]string{"--node-id=1", "--peers=2@localhost"}, "no host and port"},
		{[]string{"--node-id=1", "--peers=2@a:1,2@b:1"}, "twice"},
		{[]string{"--node-id=1", "--raft-addr=127.0.0.1:1", "--peers=2@localhost:2,3@localhost:3,4@localhost:4,5@localhost:5,6@localhost:6", "--bootstrap"}, "at most 5"},
		{[]string{"--node-id=1", "--raft-addr=9192"}, "host:port"},
		{[]string{"--node-id=1", "--raft-addr=127.0.0.1:0"}, "port that the other nodes can know"},
		{[]string{"--node-id=1", "--raft-advertised-addr=0.0.0.0:9192"}, "every address"},
		{[]string{"--node-id=1", "--raft-addr=127.0.0.1:9192", "--peers=2@elsewhere:9192"}, "--raft-advertised-addr"},
		{[]string{"--node-id=1", "--raft-addr=:9192", "--peers=2@elsewhere:9192"}, "127.0.0.1:9192"}, // no host is this machine only
		{[]string{"--node-id=1", "--raft-addr=10.0.0.1:9192", "--peers=2@elsewhere:9192"}, "--advertised-addr"},
		{[]string{"--node-id=60000"}, "--admin-addr"},
		{append(slices.Clone(first), "--cluster-secret-file="+open), "chmod 600"},
		{append(slices.Clone(first), "--cluster-secret-file="+short), "urandom"},
		{append(slices.Clone(first), "--cluster-secret-file=/does/not/exist"), "secret"},
		{append(slices.Clone(first), "--cluster-secret-file="+t.TempDir()), "ordinary file"},
		{append(slices.Clone(first), "--cluster-tls-cert=x"), "no key file"},
		{append(slices.Clone(first), "--cluster-tls-cert=x", "--cluster-tls-key=x", "--cluster-tls-ca=x"), "cluster TLS"},
	} {
		if _, err := clusterPlanOf(t, append([]string{"raft-cluster"}, c.args...)...); !isUsage(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v; want a usage error about %s", c.args, err, c.want)
		}
	}
}

func TestStandaloneSaysThatClusterSettingsDoNothing(t *testing.T) {
	p, err := planOf(t, "--config", file(t, "millrace.cluster.peers=2@a:1\n"))
	if err != nil || p.cluster != nil || len(p.warnings) != 1 || !strings.Contains(p.warnings[0], "millrace.cluster.peers") {
		t.Errorf("warnings %q, %v", p.warnings, err)
	}
}

func TestAnOpenClusterPortIsWarnedAbout(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("open sesame"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		warn bool
	}{
		{[]string{"--raft-addr=127.0.0.1:9192"}, false},
		{[]string{"--raft-addr=localhost:9192"}, false},
		{[]string{"--raft-addr=:9192"}, false},
		{[]string{"--raft-addr=0.0.0.0:9192"}, true},
		{[]string{"--raft-addr=[::]:9192"}, true},
		{[]string{"--raft-addr=0.0.0.0:9192", "--cluster-secret-file", secret}, false},
	} {
		p, err := clusterPlanOf(t, append([]string{"raft-cluster", "--node-id=1"}, c.args...)...)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		p.warnOpen(slog.New(slog.NewTextHandler(&text, nil)))
		if got := strings.Contains(text.String(), "can act as a node"); got != c.warn {
			t.Errorf("%v: warned %t\n%s", c.args, got, text.String())
		}
	}
}

// The defaults of the flags are only their help text: the configuration's are what holds.
func TestTheHelpTellsTheDefaultsThatHold(t *testing.T) {
	p, err := clusterPlanOf(t, "raft-cluster", "--node-id", "1")
	if err != nil || p.cluster.RaftAddr != defaultRaftAddr {
		t.Errorf("plan %+v, %v", p, err)
	}
	newClusterOptions().flagSet().VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(f.Usage, "[$MILLRACE_") {
			t.Errorf("--%s has no variable", f.Name)
		}
	})
}
