package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/pflag"

	"millrace/broker"
	"millrace/broker/config"
	"millrace/raft"
	"millrace/raft/transport"
)

// clusterOptions is what a command line says about a node of a cluster beyond what it says about any server.
type clusterOptions struct {
	raftAddr           string
	raftAdvertisedAddr string
	peers              string
	bootstrap          bool
	join               bool
	secretFile         string
	tlsCert            string
	tlsKey             string
	tlsCA              string
	set                *pflag.FlagSet
}

const (
	defaultRaftAddr = "127.0.0.1:9192"
	// The admin port of node N is adminPortBase+N, and its data is in defaultClusterDir-N, unless told otherwise: so
	// several nodes on one machine need no more flags than several machines.
	adminPortBase     = 9643
	defaultClusterDir = "data/node"
)

// A secret shorter than secretMin is a typing error; one longer than secretMax is the wrong file.
const (
	secretMin = 8
	secretMax = 4096
)

func newClusterOptions() *clusterOptions { return &clusterOptions{} }

func (c *clusterOptions) flagSet() *pflag.FlagSet {
	fs := pflag.NewFlagSet("cluster", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.StringVar(&c.raftAddr, "raft-addr", defaultRaftAddr, "address of the cluster port, host:port: metadata and replication between the nodes; 0.0.0.0:port opens it to other machines")
	fs.StringVar(&c.raftAdvertisedAddr, "raft-advertised-addr", "", "host:port where the other nodes reach the cluster port (default: --raft-addr; if that is a wildcard, the advertised host or the host name)")
	fs.StringVar(&c.peers, "peers", "", "the other nodes as \"2@host:port,3@host:port\": all first ones for --bootstrap, some members for --join, later only hints")
	fs.BoolVar(&c.bootstrap, "bootstrap", false, "make an empty data directory one of the first nodes; ignored once it belongs to a cluster")
	fs.BoolVar(&c.join, "join", false, "have an empty data directory admitted by a running cluster, without a vote at first; ignored once it belongs to one")
	fs.StringVar(&c.secretFile, "cluster-secret-file", "", "`file` with the secret that nodes prove to each other; not readable by everyone")
	fs.StringVar(&c.tlsCert, "cluster-tls-cert", "", "PEM `file` of this node's certificate: mutual TLS on the cluster port")
	fs.StringVar(&c.tlsKey, "cluster-tls-key", "", "PEM `file` of its key")
	fs.StringVar(&c.tlsCA, "cluster-tls-ca", "", "PEM `file` of the CA that signs the nodes' certificates and nothing else's")
	c.set = withEnvironment(fs)
	return fs
}

// said reports whether the command line or the environment set a flag.
func (c *clusterOptions) said(flag string) bool { return c.set != nil && c.set.Changed(flag) }

// plan is the plan of a node of a cluster.
func (c *clusterOptions) plan(o *serverOptions) (*plan, error) {
	if c.bootstrap && c.join {
		return nil, usagef("--bootstrap is for the first nodes of a cluster, --join for later ones: use one of them")
	}
	raftAddrSaid := false
	p, err := o.planOver(func(_ *plan, values map[string]string) error {
		raftAddrSaid = c.overlay(values)
		return nodeDefaults(values)
	})
	if err != nil {
		return nil, err
	}
	if c.bootstrap && !raftAddrSaid {
		return nil, usagef("--bootstrap needs --raft-addr HOST:PORT: where the other nodes reach this one")
	}
	p.cluster, err = c.resolve(p)
	return p, err
}

// planIfSaid is the plan of a node of a cluster if a flag speaks of one, else that of a standalone broker.
func (c *clusterOptions) planIfSaid(o *serverOptions) (*plan, error) {
	if c.said("raft-addr") || c.said("peers") {
		return c.plan(o)
	}
	return o.plan()
}

// overlay puts what the flags say over what the file says, and reports whether either names the cluster port.
func (c *clusterOptions) overlay(values map[string]string) (raftAddrSaid bool) {
	for flag, s := range map[string]struct{ name, value string }{
		"raft-addr":            {"millrace.cluster.address", c.raftAddr},
		"raft-advertised-addr": {"millrace.cluster.advertised.address", c.raftAdvertisedAddr},
		"peers":                {"millrace.cluster.peers", c.peers},
		"cluster-secret-file":  {"millrace.cluster.secret.file", c.secretFile},
		"cluster-tls-cert":     {"millrace.cluster.tls.certificate.file", c.tlsCert},
		"cluster-tls-key":      {"millrace.cluster.tls.key.file", c.tlsKey},
		"cluster-tls-ca":       {"millrace.cluster.tls.ca.file", c.tlsCA},
	} {
		if c.said(flag) {
			values[s.name] = s.value
		}
	}
	return values["millrace.cluster.address"] != ""
}

// nodeDefaults fills in what follows from the node's number, so that nodes on one machine do not meet.
func nodeDefaults(values map[string]string) error {
	text := orDefault(values["node.id"], values["broker.id"])
	if text == "" {
		return usagef("a node of a cluster needs its number: --node-id N, another one for each node, fixed for life")
	}
	id, err := strconv.ParseInt(text, 10, 32)
	if err != nil || id < 1 {
		return usagef("node id %s: number the nodes of a cluster from 1", text)
	}
	if values["log.dirs"] == "" && values["log.dir"] == "" {
		values["log.dirs"] = "./" + defaultClusterDir + "-" + text
	}
	if values["millrace.admin.address"] == "" {
		port := adminPortBase + id
		if port > math.MaxUint16 {
			return usagef("node id %d leaves no port for the admin address (%d + id): choose one with --admin-addr", id, adminPortBase)
		}
		values["millrace.admin.address"] = net.JoinHostPort("127.0.0.1", strconv.FormatInt(port, 10))
	}
	return nil
}

// resolve turns the settings into what the broker is told.
func (c *clusterOptions) resolve(p *plan) (*broker.ClusterOptions, error) {
	peers, err := raft.ParsePeers(p.config.ClusterPeers())
	if err != nil {
		return nil, usagef("--peers: %w", err)
	}
	for _, peer := range peers {
		if peer.NodeID == p.config.NodeID() {
			return nil, usagef("--peers names node %d, which is this one: leave it out", peer.NodeID)
		}
	}
	switch {
	case c.bootstrap && len(peers) == 0:
		return nil, usagef(`--bootstrap needs --peers "2@host:port,3@host:port": the other first nodes. ` +
			"A single node is millrace standalone; its directory can become the first one of a cluster later")
	case c.bootstrap && len(peers)+1 > raft.MaxVoters:
		return nil, usagef("--bootstrap with %d nodes: at most %d are first ones, start the others with --join", len(peers)+1, raft.MaxVoters)
	case c.join && len(peers) == 0:
		return nil, usagef(`--join needs --peers "1@host:port": a member of the cluster`)
	}
	out := &broker.ClusterOptions{Peers: peers, Bootstrap: c.bootstrap, Join: c.join}
	if out.RaftAddr, out.AdvertisedAddr, err = p.clusterAddresses(); err != nil {
		return nil, err
	}
	if err := checkReachable(out.AdvertisedAddr, p, peers); err != nil {
		return nil, err
	}
	if name := p.config.ClusterSecretFile(); name != "" {
		if out.Secret, err = readSecret(name); err != nil {
			return nil, err
		}
	}
	out.TLS, err = clusterTLS(p.config)
	return out, err
}

// clusterAddresses are where the cluster port listens and where the other nodes reach it.
func (p *plan) clusterAddresses() (listen, advertised string, err error) {
	host, port, err := hostPort("--raft-addr", p.config.ClusterAddress())
	if err != nil {
		return "", "", err
	}
	if host == "" { // as everywhere: nothing is open to others unless somebody says so
		host = "127.0.0.1"
	}
	listen = net.JoinHostPort(host, port)
	if a := p.config.ClusterAdvertisedAddress(); a != "" {
		host, port, err = hostPort("--raft-advertised-addr", a)
		switch {
		case err != nil:
			return "", "", err
		case isWildcard(host):
			return "", "", usagef("--raft-advertised-addr %s: other nodes cannot connect to every address, name one", a)
		}
		return listen, net.JoinHostPort(host, port), nil
	}
	if isWildcard(host) {
		if host = p.advertisedHost; host == "" {
			if host, err = os.Hostname(); err != nil {
				return "", "", fmt.Errorf("host name: %w", err)
			}
		}
	}
	return listen, net.JoinHostPort(host, port), nil
}

// hostPort takes an address apart; its port must be one that others can know.
func hostPort(flag, addr string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(addr)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 {
		return "", "", usagef("%s %q: write host:port, with a port that the other nodes can know", flag, addr)
	}
	return host, port, nil
}

// checkReachable refuses loopback addresses beside a peer on another machine: neither that node nor its clients could
// use them.
func checkReachable(advertised string, p *plan, peers []raft.Peer) error {
	if err := raft.CheckAdvertised(advertised, peers); err != nil {
		return usagef("%w: set --raft-addr or --raft-advertised-addr", err)
	}
	host, port := p.advertisedHost, strconv.Itoa(int(p.advertisedPort))
	if host == "" {
		host, port, _ = net.SplitHostPort(p.listen[0]) // made by JoinHostPort
	}
	if err := raft.CheckAdvertised(net.JoinHostPort(host, port), peers); err != nil {
		return usagef("clients that are sent here from other nodes could not connect: %w: set --bind-addr and --advertised-addr", err)
	}
	return nil
}

// readSecret reads the nodes' secret: the file without white space around it.
func readSecret(name string) ([]byte, error) {
	fail := func(format string, args ...any) ([]byte, error) {
		return nil, usagef("cluster secret: "+format, args...)
	}
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return fail("%w", err)
	case !info.Mode().IsRegular():
		return fail("%s is no ordinary file", name)
	case info.Mode().Perm()&0o007 != 0:
		return fail("%s has mode %04o, so that everyone on this machine can use it: chmod 600 %s", name, info.Mode().Perm(), name)
	case info.Size() > secretMax:
		return fail("%s has %d bytes, at most %d are a secret", name, info.Size(), secretMax)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return fail("%w", err)
	}
	if text = bytes.TrimSpace(text); len(text) < secretMin {
		return fail("%s holds %d bytes, use %d or more: head -c 32 /dev/urandom | base64 > %s", name, len(text), secretMin, filepath.Base(name))
	}
	return text, nil
}

// clusterTLS loads the certificates; nil if none are named.
func clusterTLS(c *config.Broker) (*transport.TLS, error) {
	cert, key, ca := c.ClusterTLSFiles()
	if cert == "" && key == "" && ca == "" {
		return nil, nil
	}
	t, err := transport.LoadTLS(transport.TLSFiles{CertFile: cert, KeyFile: key, CAFile: ca})
	if errors.Is(err, transport.ErrTLSFiles) {
		return nil, usagef("%w (--cluster-tls-cert, -key and -ca)", err)
	}
	return t, err
}
