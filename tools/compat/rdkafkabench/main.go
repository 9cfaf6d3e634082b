//go:build cgo

// Command rdkafkabench loads a broker through librdkafka: tasks that each wait for their record, all on one
// producer with linger 0. It prints progress and leaves a report as `millrace bench` does.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

type options struct {
	broker, topic, acks, jsonFile string
	tasks, size, partitions       int
	warmup, duration, progress    time.Duration
}

// report has the fields of `millrace bench --json` that this program knows.
type report struct {
	Mode      string  `json:"mode"`
	Loop      string  `json:"loop"`
	Topic     string  `json:"topic"`
	Seconds   float64 `json:"seconds"`
	Records   int64   `json:"records"`
	PerSecond float64 `json:"records_per_second"`
	MBPerSec  float64 `json:"mb_per_second"`
	Latency   latency `json:"latency"`
	Sent      int64   `json:"sent"`
	Acked     int64   `json:"acknowledged"`
	Failed    int64   `json:"failed"`
	CPU       struct {
		Seconds float64 `json:"client_seconds"`
		Cores   float64 `json:"client_cores"`
	} `json:"cpu"`
	Library string `json:"library"`
}

type latency struct {
	Samples int64 `json:"samples"`
	P50     int64 `json:"p50_us"`
	P90     int64 `json:"p90_us"`
	P99     int64 `json:"p99_us"`
	P999    int64 `json:"p999_us"`
	Max     int64 `json:"max_us"`
}

func main() {
	var o options
	flag.StringVar(&o.broker, "b", "127.0.0.1:9092", "broker")
	flag.StringVar(&o.topic, "t", "bench", "topic; created if it is not there")
	flag.StringVar(&o.acks, "acks", "all", "0, 1 or all")
	flag.IntVar(&o.tasks, "c", 128, "tasks")
	flag.IntVar(&o.size, "s", 256, "bytes of a record's value")
	flag.IntVar(&o.partitions, "p", 1, "partitions")
	flag.DurationVar(&o.duration, "d", 10*time.Second, "measured time")
	flag.DurationVar(&o.warmup, "w", 2*time.Second, "load before that")
	flag.DurationVar(&o.progress, "progress", time.Second, "time between progress lines")
	flag.StringVar(&o.jsonFile, "json", "", "file for the report")
	_ = flag.Int("broker-pid", 0, "not used: whoever started this looks at the broker")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "rdkafkabench:", err)
		os.Exit(1)
	}
}

// samples are one task's latencies in microseconds, inside the window.
type samples []int64

func run(o options) error {
	p, err := kafka.NewProducer(&kafka.ConfigMap{
		"bootstrap.servers": o.broker, "acks": o.acks, "linger.ms": 0, "enable.idempotence": false, "socket.nagle.disable": true,
		"go.events.channel.size": 1, "go.delivery.report.fields": "none", "go.logs.channel.enable": false,
	})
	if err != nil {
		return err
	}
	defer p.Close()
	if err := create(p, o); err != nil {
		return err
	}
	value := make([]byte, o.size)
	for i := range value {
		value[i] = byte(i*131 + i>>8)
	}
	var acked, failed, counted atomic.Int64
	began := time.Now()
	opens := began.Add(o.warmup)
	closes := opens.Add(o.duration)
	all := make([]samples, o.tasks)
	var tasks sync.WaitGroup
	for i := range o.tasks {
		tasks.Go(func() {
			done := make(chan kafka.Event, 1)
			m := &kafka.Message{TopicPartition: kafka.TopicPartition{Topic: &o.topic, Partition: kafka.PartitionAny}, Value: value}
			for {
				start := time.Now()
				if !start.Before(closes) {
					return
				}
				if err := p.Produce(m, done); err != nil {
					failed.Add(1)
					time.Sleep(time.Millisecond)
					continue
				}
				answer, ok := (<-done).(*kafka.Message)
				if !ok || answer.TopicPartition.Error != nil {
					failed.Add(1)
					continue
				}
				acked.Add(1)
				if now := time.Now(); !now.Before(opens) && now.Before(closes) {
					counted.Add(1)
					all[i] = append(all[i], now.Sub(start).Microseconds())
				}
			}
		})
	}
	quit := make(chan struct{})
	go show(o, opens, began, &acked, quit)
	time.Sleep(time.Until(opens))
	before := cpu()
	time.Sleep(time.Until(closes))
	used := cpu() - before
	tasks.Wait()
	close(quit)
	r := report{
		Mode: "produce", Loop: "closed", Topic: o.topic, Seconds: o.duration.Seconds(), Records: counted.Load(),
		Sent: acked.Load() + failed.Load(), Acked: acked.Load(), Failed: failed.Load(),
	}
	_, r.Library = kafka.LibraryVersion()
	r.PerSecond = float64(r.Records) / r.Seconds
	r.MBPerSec = r.PerSecond * float64(o.size) / 1e6
	r.CPU.Seconds, r.CPU.Cores = used.Seconds(), used.Seconds()/r.Seconds
	r.Latency = distribution(all)
	if r.Acked == 0 {
		return errors.New("no record got through")
	}
	fmt.Printf("librdkafka %s, %d tasks: %.0f records/s, p50 %d us, p99 %d us, client %.2f cores, %d failed\n",
		r.Library, o.tasks, r.PerSecond, r.Latency.P50, r.Latency.P99, r.CPU.Cores, r.Failed)
	if o.jsonFile == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.jsonFile, text, 0o644)
}

// create makes the topic, and waits until it has a leader.
func create(p *kafka.Producer, o options) error {
	admin, err := kafka.NewAdminClientFromProducer(p)
	if err != nil {
		return err
	}
	defer admin.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	results, err := admin.CreateTopics(ctx, []kafka.TopicSpecification{{Topic: o.topic, NumPartitions: o.partitions, ReplicationFactor: 1}})
	if err != nil {
		return err
	}
	if code := results[0].Error.Code(); code != kafka.ErrNoError && code != kafka.ErrTopicAlreadyExists {
		return results[0].Error
	}
	for {
		m, err := p.GetMetadata(&o.topic, false, 5000)
		if err == nil {
			if t := m.Topics[o.topic]; t.Error.Code() == kafka.ErrNoError && len(t.Partitions) > 0 && t.Partitions[0].Leader >= 0 {
				return nil
			}
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func show(o options, opens, began time.Time, acked *atomic.Int64, quit chan struct{}) {
	if o.progress <= 0 {
		return
	}
	tick := time.NewTicker(o.progress)
	defer tick.Stop()
	last, at := int64(0), time.Now()
	for {
		select {
		case <-quit:
			return
		case now := <-tick.C:
			n, phase := acked.Load(), ""
			if now.Before(opens) {
				phase = "  warm-up"
			}
			fmt.Fprintf(os.Stderr, "%6.1fs  %12.0f records/s%s\n", now.Sub(began).Seconds(), float64(n-last)/now.Sub(at).Seconds(), phase)
			last, at = n, now
		}
	}
}

func distribution(all []samples) (l latency) {
	var merged samples
	for _, s := range all {
		merged = append(merged, s...)
	}
	if len(merged) == 0 {
		return l
	}
	slices.Sort(merged)
	at := func(q float64) int64 { return merged[min(len(merged)-1, int(q*float64(len(merged))))] }
	return latency{Samples: int64(len(merged)), P50: at(0.5), P90: at(0.9), P99: at(0.99), P999: at(0.999), Max: merged[len(merged)-1]}
}

// cpu is the processor time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
