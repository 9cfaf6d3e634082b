package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"millrace/tools/chaos/cluster"
	"millrace/tools/chaos/history"
)

func main() {
	code, err := command()
	if err != nil {
		fmt.Fprintf(os.Stderr, "chaos: FAILED: %v\n", err)
	}
	os.Exit(code)
}

// command does what the command line says and returns the exit code.
func command() (int, error) {
	o := defaults()
	var (
		faults, expect, check string
		failover              bool
		rounds                int
	)
	flag.StringVar(&o.binary, "bin", "bin/millrace", "the broker's binary")
	flag.StringVar(&o.dir, "dir", "", "where data and logs are made (default: the system's temporary directory)")
	flag.DurationVar(&o.duration, "duration", o.duration, "how long faults happen; healing and checking come on top")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "seed of everything random")
	flag.IntVar(&o.nodes, "nodes", o.nodes, "nodes; 1 is a standalone broker")
	flag.IntVar(&o.partitions, "partitions", o.partitions, "partitions a topic")
	flag.IntVar(&o.producers, "producers", o.producers, "producers: half idempotent, a quarter acks=all, a quarter acks=1")
	flag.Float64Var(&o.rate, "rate", o.rate, "records a second a producer")
	flag.IntVar(&o.size, "message-size", o.size, "largest value in bytes")
	flag.BoolVar(&o.network, "network", false, "a network namespace for each node, and partitions between them (root, ip)")
	flag.BoolVar(&o.disks, "disks", false, "a disk for each node that can lose its power or be full (root, FUSE, loop devices)")
	flag.BoolVar(&o.lie, "lie", false, "with -disks: flushes do nothing and succeed, a negative control")
	flag.StringVar(&faults, "faults", "", "comma-separated names of the faults to choose from, with -failover of its outages (default: all that can be)")
	flag.StringVar(&expect, "expect-violation", "", "exit with 0 only if the checker finds this: comma-separated rules, or any (all but harness)")
	flag.StringVar(&check, "check", "", "judge a recorded history instead")
	flag.BoolVar(&failover, "failover", false, "measure how long acknowledgements pause at each kind of fault, print JSON")
	flag.IntVar(&rounds, "rounds", 20, "with -failover: how often each fault happens")
	flag.BoolVar(&o.keep, "keep", false, "keep data, logs and history when all is well, too")

	flag.Usage = func() {
		fmt.Fprintf(os.Stderr, "usage: chaos [flags] [-- flags of millrace]\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	o.args = flag.Args()
	o.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	if faults != "" {
		o.faults = strings.Split(faults, ",")
	}
	for rule := range strings.SplitSeq(expect, ",") {
		switch rule {
		case "":
		case "any":
			o.anyRule = true
		default:
			o.expect = append(o.expect, history.Rule(rule))
		}
	}
	if check != "" {
		return checkFile(check)
	}
	if o.network {
		if err := cluster.NamespacesAvailable(); err != nil {
			return 2, fmt.Errorf("no network of their own for nodes: %w", err)
		}
		if code, ran, err := cluster.Isolate(); ran || err != nil {
			return code, err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if failover {
		err = measure(ctx, o, rounds, os.Stdout)
	} else {
		err = run(ctx, o)
	}
	switch {
	case err == nil:
		return 0, nil
	case errors.Is(err, errBroken) || errors.Is(err, errNothingFound):
		return 1, fmt.Errorf("seed %d: %w", o.seed, err)
	default:
		return 2, fmt.Errorf("seed %d: %w", o.seed, err)
	}
}

// checkFile judges a recorded history again.
func checkFile(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 2, err
	}
	defer func() { _ = f.Close() }()
	violations, counts, err := history.Check(f)
	if err != nil {
		return 2, err
	}
	fmt.Printf("%+v\n", counts)
	for _, v := range violations {
		fmt.Println(v)
	}
	if len(violations) > 0 {
		return 1, errBroken
	}
	return 0, nil
}
