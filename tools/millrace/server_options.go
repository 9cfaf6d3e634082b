package main

import (
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// serverOptions is what a command line says about a server. Zero means "not said": the configuration file
// or the default then decides.
type serverOptions struct {
	dataDir         string
	kafkaPort       int
	bindAddr        string
	advertisedAddr  string
	advertisedPort  int
	adminAddr       string
	nodeID          int32
	configFile      string
	logLevel        string
	logFormat       string
	io              string
	shards          int
	ringBytes       byteSize
	walBytes        byteSize
	shutdownTimeout seconds
	set             *pflag.FlagSet
}

// The defaults of a standalone broker.
const (
	defaultDataDir   = "./data"
	defaultKafkaPort = 9092
	// Until there is authentication, only this machine may connect unless told otherwise.
	defaultBindAddr        = "127.0.0.1"
	defaultAdminAddr       = "127.0.0.1:9644"
	defaultNodeID          = 1
	defaultShutdownTimeout = 30 * time.Second
)

func newServerOptions() *serverOptions {
	return &serverOptions{shutdownTimeout: seconds(defaultShutdownTimeout)}
}

func (o *serverOptions) flagSet() *pflag.FlagSet {
	fs := pflag.NewFlagSet("server", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.StringVar(&o.dataDir, "data-dir", defaultDataDir, "directory of the data; one process a directory")
	fs.IntVar(&o.kafkaPort, "kafka-port", defaultKafkaPort, "port for Kafka clients (0: any free one)")
	fs.StringVar(&o.bindAddr, "bind-addr", defaultBindAddr, "address to listen on for Kafka clients; several separated by commas; there is no authentication yet")
	fs.StringVar(&o.advertisedAddr, "advertised-addr", "", "host name or address that clients are told to connect to (default: the bind address, or the host name if that is a wildcard)")
	fs.IntVar(&o.advertisedPort, "advertised-port", 0, "port that clients are told to connect to (default: the Kafka port)")
	fs.StringVar(&o.adminAddr, "admin-addr", defaultAdminAddr, "address of /metrics, /healthz, /readyz and /debug/pprof; \"off\" for none")
	fs.Int32Var(&o.nodeID, "node-id", defaultNodeID, "number of this node; fixed once the data directory exists")
	fs.StringVar(&o.configFile, "config", "", "configuration `file` with Kafka's names (key=value lines)")
	fs.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	fs.StringVar(&o.logFormat, "log-format", "text", "text or json")
	fs.StringVar(&o.io, "io", "auto", "how the log is written: auto, uring or pwrite")
	fs.IntVar(&o.shards, "shards", 0, "log shards, each with its own write-ahead log and thread (0: by the machine's cores)")
	fs.Var(&o.ringBytes, "ring-bytes", "memory for the tail of the logs, over all shards (0: by the machine's memory)")
	fs.Var(&o.walBytes, "wal-bytes", "disk space of the write-ahead log, over all shards; bounds the work of a restart (0: by the disk)")
	fs.Var(&o.shutdownTimeout, "shutdown-timeout", "how long an orderly end may take before the process ends anyway")
	o.set = withEnvironment(fs)
	return fs
}

// said reports whether the command line or the environment set a flag.
func (o *serverOptions) said(flag string) bool {
	return o.set != nil && o.set.Changed(flag)
}

// bindAddrs are the addresses to listen on.
func (o *serverOptions) bindAddrs() []string {
	var addrs []string
	for a := range strings.SplitSeq(o.bindAddr, ",") {
		if a = strings.Trim(strings.TrimSpace(a), "[]"); a != "" {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// logger builds the process's logger.
func (o *serverOptions) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return nil, usagef("--log-level %s: use debug, info, warn or error", o.logLevel)
	}
	handler := &slog.HandlerOptions{Level: level}
	switch o.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, handler)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, handler)), nil
	}
	return nil, usagef("--log-format %s: use text or json", o.logFormat)
}
