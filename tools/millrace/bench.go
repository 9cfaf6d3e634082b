package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/tools/millrace/bench"
)

func newBenchCommand() *cobra.Command {
	c := new(clientOptions)
	o := bench.Options{}
	var mode, acks, jsonFile string
	var inflight int
	var batch byteSize
	duration, warmup, drain, every := seconds(30*time.Second), seconds(2*time.Second), seconds(10*time.Second), seconds(time.Second)
	linger := milliseconds(0)
	cmd := &cobra.Command{
		Use: "bench", GroupID: groupClient, Short: "Load a broker and measure it", Args: noArgs,
		Long: `Load a broker and measure it.

Without --rate it is a closed loop: --concurrency tasks on one client, each waits for its record before it sends
the next. With --rate it is an open loop: records are sent when they are due, and latency counts from that
moment. --verify reads every acknowledged record back at its acknowledged offset.`,
		Example: `  millrace bench --duration 30 --concurrency 128 --message-size 256
  millrace bench --rate 20000 --message-size 1024 --partitions 16 --json result.json
  millrace bench --mode end-to-end --rate 5000
  millrace bench --raw --concurrency 4 --inflight 5 --batch 64KiB --message-size 1024 --partitions 4
  millrace bench --mode consume --raw`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.BootstrapServers = c.bootstrap
			o.Mode = bench.Mode(mode)
			if mode == "e2e" || mode == "round-trip" {
				o.Mode = bench.EndToEnd
			}
			switch acks {
			case "all", "-1":
				o.Acks = -1
			case "0":
				o.Acks = 0
			case "1":
				o.Acks = 1
			default:
				return usagef("--acks %s: use 0, 1 or all", acks)
			}
			o.Inflight = inflight
			if inflight == 0 {
				o.Inflight = 5
				if o.Raw {
					o.Inflight = 1
				}
			}
			o.BatchBytes = int(batch)
			o.Duration, o.Warmup, o.Drain = time.Duration(duration), time.Duration(warmup), time.Duration(drain)
			o.Linger, o.ProgressEvery, o.Timeout = time.Duration(linger), time.Duration(every), time.Duration(c.timeout)
			o.Progress = cmd.ErrOrStderr()
			if err := o.Validate(); err != nil {
				return &usageError{err}
			}
			client, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			client.Close() // it only showed that there is a broker
			report, err := bench.Run(cmd.Context(), o)
			if report != nil && report.Records+report.Failed > 0 {
				err = errors.Join(err, writeReport(cmd.OutOrStdout(), report, jsonFile))
			}
			if err == nil && report.Failed > 0 {
				err = fmt.Errorf("%d record(s) failed", report.Failed)
			}
			return err
		},
	}
	c.register(cmd)
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&mode, "mode", "m", string(bench.Produce), "produce, consume or end-to-end")
	fs.StringVarP(&o.Topic, "topic", "t", "bench", "topic; created if it is not there")
	fs.Int32VarP(&o.Partitions, "partitions", "p", 0, "partitions of the topic (0: as it is, or 1 when it is created)")
	fs.Int16VarP(&o.Replicas, "replication-factor", "r", 0, "replicas of the topic when it is created (0: the broker's default)")
	fs.VarP(&duration, "duration", "d", "measured time: 30, 30s or 5m")
	fs.VarP(&warmup, "warmup", "w", "load before that without measuring")
	fs.IntVarP(&o.Concurrency, "concurrency", "c", 128, "tasks of the closed loop, all on one client")
	fs.Float64Var(&o.Rate, "rate", 0, "records a second: an open loop (0: closed loop)")
	fs.IntVarP(&o.MessageSize, "message-size", "s", 256, "bytes of a record's value")
	fs.IntVar(&o.Keys, "keys", 0, "number of different keys (0: no keys)")
	fs.StringVar(&acks, "acks", "all", "0, 1 or all")
	fs.Var(&linger, "linger", "how long the client waits for more records before it sends: 5, 5ms")
	fs.Var(&batch, "batch", "largest batch in bytes (0: the client's default, 1 MB; with --raw one record)")
	fs.IntVar(&inflight, "inflight", 0, "requests under way a connection, when not idempotent (0: 5; with --raw 1)")
	fs.BoolVar(&o.Idempotent, "idempotent", false, "idempotent producer")
	fs.StringVar(&o.Compression, "compression", "none", "none, gzip, snappy, lz4 or zstd")
	fs.IntVar(&o.Consumers, "consumers", 1, "readers, each of which reads everything")
	fs.BoolVar(&o.Raw, "raw", false, "leave the client library out: --concurrency connections, pre-encoded requests, --inflight on each")
	fs.IntVar(&o.Threads, "threads", 1, "with --raw: threads that share the connections")
	fs.IntVar(&o.Topics, "topics", 1, "with --raw: topics to write to; the others are called TOPIC-1 and so on")
	fs.BoolVar(&o.Verify, "verify", false, "read every acknowledged record back at its offset afterwards")
	fs.IntVar(&o.BrokerPID, "broker-pid", 0, "process whose CPU time and memory are reported, too")
	fs.Var(&drain, "drain", "how long to wait for the last answers")
	fs.Var(&every, "progress", "time between progress lines (0: none)")
	fs.StringVar(&jsonFile, "json", "", "write the result as JSON to this `file` (-: to the output, instead of text)")
	return cmd
}

func writeReport(w io.Writer, r *bench.Report, jsonFile string) error {
	if jsonFile == "-" {
		return r.WriteJSON(w)
	}
	err := r.WriteText(w)
	if jsonFile != "" {
		var b strings.Builder
		err = errors.Join(err, r.WriteJSON(&b), os.WriteFile(jsonFile, []byte(b.String()), 0o644))
	}
	return err
}
