package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"millrace/broker"
	"millrace/broker/config"
	"millrace/tools/millrace/machine"
)

// serverOptions is what a command line says about a server.
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
	networkBytes    byteSize
	shutdownTimeout seconds
	set             *pflag.FlagSet
}

// The defaults of a standalone broker, for the help text; the configuration's tables have the same.
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
	fs.StringVar(&o.adminAddr, "admin-addr", defaultAdminAddr, "address of /metrics, /healthz, /readyz, /cluster and /debug/pprof; \"off\" for none")
	fs.Int32Var(&o.nodeID, "node-id", defaultNodeID, "number of this node; fixed once the data directory exists")
	fs.StringVar(&o.configFile, "config", "", "configuration `file` with Kafka's names (key=value lines)")
	fs.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	fs.StringVar(&o.logFormat, "log-format", "text", "text or json")
	fs.StringVar(&o.io, "io", "auto", "how the log is written: auto, uring or pwrite")
	fs.IntVar(&o.shards, "shards", 0, "log shards, each with its own write-ahead log and thread (0: by the machine's cores)")
	fs.Var(&o.ringBytes, "ring-bytes", "memory for the tail of the logs, over all shards (0: by the machine's memory)")
	fs.Var(&o.networkBytes, "network-bytes", "memory for requests and answers, over all connections (0: by the machine's memory)")
	fs.Var(&o.walBytes, "wal-bytes", "disk space of the write-ahead log, over all shards; bounds the work of a restart (0: by the disk)")
	fs.Var(&o.shutdownTimeout, "shutdown-timeout", "how long an orderly end may take before the process ends anyway")
	o.set = withEnvironment(fs)
	return fs
}

// said reports whether the command line or the environment set a flag.
func (o *serverOptions) said(flag string) bool {
	return o.set != nil && o.set.Changed(flag)
}

// plan is everything that a broker is started with, worked out from flags, variables, file and machine.
type plan struct {
	cluster        *broker.ClusterOptions // nil: standalone
	config         *config.Broker
	warnings       []string
	machine        config.Machine // what this process may use of it
	sizes          config.Sizes
	memory         int64
	listen         []string
	advertisedHost string
	advertisedPort int32
	open           bool // some address is reachable from other machines
}

// plan is the plan of a standalone broker.
func (o *serverOptions) plan() (*plan, error) {
	return o.planOver(func(p *plan, values map[string]string) error {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			if strings.HasPrefix(name, "millrace.cluster.") {
				p.warnings = append(p.warnings, name+" changes nothing in standalone: raft-cluster uses it")
			}
		}
		return nil
	})
}

// planOver reads the configuration file, lays the flags over it and fills what nobody said by the machine's size.
// complete sees the values, with the flags over them, before they are checked.
func (o *serverOptions) planOver(complete func(p *plan, values map[string]string) error) (*plan, error) {
	p := &plan{}
	values := map[string]string{}
	if o.configFile != "" {
		text, err := os.ReadFile(o.configFile)
		if err != nil {
			return nil, &usageError{err}
		}
		file, err := config.Parse(bytes.NewReader(text), o.configFile)
		if err != nil {
			return nil, &usageError{err}
		}
		values, p.warnings = file.Values, file.Warnings
	}
	if err := o.overlay(values); err != nil {
		return nil, err
	}
	if err := complete(p, values); err != nil {
		return nil, err
	}
	c, err := config.New(values)
	if err != nil {
		return nil, &usageError{err}
	}
	p.config = c
	if err := p.size(c); err != nil {
		return nil, err
	}
	return p, p.address(c)
}

// overlay puts what the flags say over what the file says, under Kafka's names.
func (o *serverOptions) overlay(values map[string]string) error {
	for flag, set := range map[string]func(){
		"data-dir":      func() { delete(values, "log.dir"); values["log.dirs"] = o.dataDir },
		"admin-addr":    func() { values["millrace.admin.address"] = o.adminAddr },
		"node-id":       func() { delete(values, "broker.id"); values["node.id"] = strconv.Itoa(int(o.nodeID)) },
		"log-level":     func() { values["millrace.log.level"] = o.logLevel },
		"log-format":    func() { values["millrace.log.format"] = o.logFormat },
		"io":            func() { values["millrace.io"] = o.io },
		"shards":        func() { values["millrace.shards"] = strconv.Itoa(o.shards) },
		"ring-bytes":    func() { values["millrace.tail.ring.bytes"] = strconv.FormatInt(int64(o.ringBytes), 10) },
		"network-bytes": func() { values["millrace.network.memory.bytes"] = strconv.FormatInt(int64(o.networkBytes), 10) },
		"wal-bytes":     func() { values["millrace.wal.bytes"] = strconv.FormatInt(int64(o.walBytes), 10) },
		"shutdown-timeout": func() {
			values["millrace.shutdown.timeout.ms"] = strconv.FormatInt(time.Duration(o.shutdownTimeout).Milliseconds(), 10)
		},
	} {
		if o.said(flag) {
			set()
		}
	}
	if o.said("kafka-port") && (o.kafkaPort < 0 || o.kafkaPort > math.MaxUint16) {
		return usagef("--kafka-port %d is no port", o.kafkaPort)
	}
	if o.advertisedPort < 0 || o.advertisedPort > math.MaxUint16 {
		return usagef("--advertised-port %d is no port", o.advertisedPort)
	}
	if err := o.overlayListeners(values); err != nil {
		return err
	}
	return o.overlayAdvertised(values)
}

// overlayListeners lets --bind-addr and --kafka-port replace their half of the listeners.
func (o *serverOptions) overlayListeners(values map[string]string) error {
	if !o.said("bind-addr") && !o.said("kafka-port") {
		return nil
	}
	hosts, port := []string{defaultBindAddr}, defaultKafkaPort
	if values["listeners"] != "" {
		c, err := config.New(map[string]string{"listeners": values["listeners"]})
		if err != nil {
			return &usageError{err}
		}
		listeners, err := c.Listeners()
		if err != nil {
			return &usageError{err}
		}
		hosts, port = nil, listeners[0].Port
		for _, l := range listeners {
			hosts = append(hosts, l.Host)
		}
	}
	if o.said("bind-addr") {
		hosts = nil
		for h := range strings.SplitSeq(o.bindAddr, ",") {
			if h = strings.Trim(strings.TrimSpace(h), "[]"); h == "*" {
				h = ""
			}
			hosts = append(hosts, h)
		}
	}
	if o.said("kafka-port") {
		port = o.kafkaPort
	}
	var all []string
	for _, h := range hosts {
		all = append(all, "PLAINTEXT://"+net.JoinHostPort(h, strconv.Itoa(port)))
	}
	values["listeners"] = strings.Join(all, ",")
	return nil
}

// overlayAdvertised does the same for what clients are told.
func (o *serverOptions) overlayAdvertised(values map[string]string) error {
	if !o.said("advertised-addr") && !o.said("advertised-port") {
		return nil
	}
	c, err := config.New(map[string]string{"listeners": orDefault(values["listeners"], "PLAINTEXT://127.0.0.1:9092"), "advertised.listeners": values["advertised.listeners"]})
	if err != nil {
		return &usageError{err}
	}
	advertised, err := c.AdvertisedListeners()
	if err != nil {
		return &usageError{err}
	}
	if len(advertised) == 0 {
		if advertised, err = c.Listeners(); err != nil {
			return &usageError{err}
		}
	}
	host, port := advertised[0].Host, advertised[0].Port
	if o.said("advertised-addr") {
		host = strings.Trim(o.advertisedAddr, "[]")
	}
	if o.said("advertised-port") {
		port = o.advertisedPort
	}
	if host == "" {
		if host, err = os.Hostname(); err != nil {
			return fmt.Errorf("host name: %w", err)
		}
	}
	values["advertised.listeners"] = "PLAINTEXT://" + net.JoinHostPort(host, strconv.Itoa(port))
	return nil
}

func orDefault(value, def string) string {
	if value == "" {
		return def
	}
	return value
}

// size works out what grows with the machine. What nobody set stays open in the configuration and is shown as the
// default that it is; the broker is told of the machine instead, as it does not know of the control group (a
// container's limits) that the process is in.
func (p *plan) size(c *config.Broker) error {
	memory, memoryErr := machine.Memory()
	disk, _, diskErr := machine.Disk(c.DataDir())
	if err := errors.Join(memoryErr, diskErr); err != nil {
		return fmt.Errorf("size of this machine: %w", err)
	}
	p.memory = memory
	p.machine = config.Machine{Cores: machine.Cores(), MemoryBytes: memory, DiskBytes: disk}
	p.sizes = c.Sizes(p.machine)
	return nil
}

// address works out where to listen and what clients are told.
func (p *plan) address(c *config.Broker) error {
	listeners, err := c.Listeners()
	if err != nil {
		return &usageError{err}
	}
	wildcard := false
	for i, l := range listeners {
		p.listen = append(p.listen, l.Address())
		p.open = p.open || !isLoopback(l.Host)
		if i == 0 {
			wildcard = isWildcard(l.Host)
		}
	}
	advertised, err := c.AdvertisedListeners()
	if err != nil {
		return &usageError{err}
	}
	switch {
	case len(advertised) > 0:
		p.advertisedHost, p.advertisedPort = advertised[0].Host, int32(advertised[0].Port)
	case wildcard:
		if p.advertisedHost, err = os.Hostname(); err != nil {
			return fmt.Errorf("host name: %w", err)
		}
	}
	return nil
}

// isLoopback reports whether only this machine reaches a host.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// isWildcard reports whether a host to listen on is every address.
func isWildcard(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || host == "*" || ip != nil && ip.IsUnspecified()
}

// logger builds the process's logger.
func (p *plan) logger() *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(p.config.LogLevel())); err != nil {
		level = slog.LevelInfo // the configuration has checked it
	}
	handler := &slog.HandlerOptions{Level: level}
	if p.config.LogFormat() == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, handler))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, handler))
}
