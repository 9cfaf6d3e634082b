package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	o := defaults()
	flag.StringVar(&o.binary, "bin", "bin/millrace", "the broker's binary")
	flag.StringVar(&o.dir, "dir", "", "where the data directory is made (default: the system's temporary directory)")
	flag.DurationVar(&o.duration, "duration", o.duration, "how long to go on; the round under way is finished")
	flag.IntVar(&o.rounds, "rounds", 0, "stop after so many rounds (0: only the duration counts)")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "seed of everything random")
	flag.IntVar(&o.producers, "producers", o.producers, "producers; every other one is idempotent")
	flag.IntVar(&o.partitions, "partitions", o.partitions, "partitions a topic")
	flag.IntVar(&o.messageSize, "message-size", o.messageSize, "largest value in bytes")
	flag.IntVar(&o.buffered, "buffered", o.buffered, "records under way a producer")
	flag.Float64Var(&o.rate, "rate", 0, "records a second a producer (0: as fast as it goes)")
	flag.BoolVar(&o.power, "power", false, "put the data on a disk of its own and cut its power instead of killing the process; needs root, FUSE and loop devices")
	flag.BoolVar(&o.keep, "keep", false, "keep the data directory when all is well, too")
	flag.Usage = func() {
		fmt.Fprintf(os.Stderr, "usage: crashtest [flags] [-- flags of millrace standalone]\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	o.brokerArgs = flag.Args()
	o.log = slog.New(slog.NewTextHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "crashtest: FAILED (seed %d): %v\n", o.seed, err)
		os.Exit(1) //nolint:gocritic // nothing is left to release
	}
}
