package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/spf13/pflag"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "nullbroker:", err)
		os.Exit(1)
	}
}

func run() (failed error) {
	var o options
	var profile string
	pflag.StringVar(&o.addr, "addr", "127.0.0.1:9092", "address to listen on, and what clients are told")
	pflag.IntVar(&o.partitions, "partitions", 16, "partitions of every topic")
	pflag.IntVar(&o.loops, "loops", 1, "event loops")
	pflag.BoolVar(&o.flush, "flush", false, "make the batches of every turn durable in one write before answering them")
	pflag.StringVar(&o.dir, "dir", os.TempDir(), "directory of the files that --flush writes; they are removed at the end")
	pflag.Int64Var(&o.fileBytes, "file-bytes", 256<<20, "size of each of these files, written over and over")
	pflag.StringVar(&o.io, "io", "auto", "how --flush writes: auto, uring or pwrite")
	pflag.StringVar(&profile, "cpuprofile", "", "write a CPU profile to this `file`")
	pflag.Parse()

	b, err := start(o)
	if err != nil {
		return err
	}
	fmt.Printf("nullbroker on %s, %s\n", b.addr, b.how)
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return errors.Join(err, f.Close())
		}
		defer func() {
			pprof.StopCPUProfile()
			failed = errors.Join(failed, f.Close())
		}()
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	b.stop(ctx)
	st := b.net.Stats()
	fmt.Printf("%d requests, %d bytes in, %d bytes out, %d turns, %d batches, %d records, %d writes\n",
		st.Frames, st.BytesIn, st.BytesOut, st.Turns, b.batches.Load(), b.records.Load(), b.writes())
	return nil
}
