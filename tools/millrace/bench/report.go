package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"millrace/tools/millrace/machine"
)

// Report is the result of a run. Its JSON form is stable: fields are added, never renamed.
type Report struct {
	Mode       Mode             `json:"mode"`
	Loop       string           `json:"loop"` // closed, open or read
	Topic      string           `json:"topic"`
	Durability string           `json:"durability"` // D0, D1, D2; empty if the broker did not say
	Settings   Settings         `json:"settings"`
	Seconds    float64          `json:"seconds"` // of the measured window
	Records    int64            `json:"records"` // inside the window
	PerSecond  float64          `json:"records_per_second"`
	MBPerSec   float64          `json:"mb_per_second"` // 1e6 bytes of keys and values
	Latency    *Latency         `json:"latency,omitempty"`
	EndToEnd   *Latency         `json:"end_to_end_latency,omitempty"`
	Generator  *Latency         `json:"generator_lag,omitempty"` // open loop: how late records were handed to the client
	Read       int64            `json:"read_records,omitempty"`  // end-to-end: seen by the readers
	Sent       int64            `json:"sent,omitempty"`          // whole run, with warm-up and drain
	Acked      int64            `json:"acknowledged,omitempty"`  // likewise
	Unsent     int64            `json:"unsent,omitempty"`        // open loop: due, but never handed to the client
	Failed     int64            `json:"failed"`
	Failures   map[string]int64 `json:"failures,omitempty"`
	Verify     *Verification    `json:"verify,omitempty"`
	CPU        CPU              `json:"cpu"`
	Machine    Machine          `json:"machine"`
	Started    time.Time        `json:"started"`
}

// Settings are the options that shape the load.
type Settings struct {
	Concurrency int     `json:"concurrency,omitempty"`
	Rate        float64 `json:"rate,omitempty"`
	MessageSize int     `json:"message_size"`
	Keys        int     `json:"keys,omitempty"`
	Partitions  int     `json:"partitions"`
	Acks        string  `json:"acks"`
	LingerMS    float64 `json:"linger_ms"`
	BatchBytes  int     `json:"batch_bytes,omitempty"`
	Inflight    int     `json:"inflight"`
	Idempotent  bool    `json:"idempotent"`
	Compression string  `json:"compression"`
	Raw         bool    `json:"raw"`
	Topics      int     `json:"topics,omitempty"`
	Consumers   int     `json:"consumers,omitempty"`
	WarmupSec   float64 `json:"warmup_seconds"`
}

// CPU is what the window cost.
type CPU struct {
	ClientSeconds      float64 `json:"client_seconds"`
	ClientCores        float64 `json:"client_cores"`
	BrokerSeconds      float64 `json:"broker_seconds,omitempty"`
	BrokerCores        float64 `json:"broker_cores,omitempty"`
	BrokerPerGB        float64 `json:"broker_seconds_per_gb,omitempty"`
	BrokerPerMillion   float64 `json:"broker_seconds_per_million_records,omitempty"`
	BrokerMemory       int64   `json:"broker_rss_bytes,omitempty"`
	BrokerMemoryPeak   int64   `json:"broker_rss_peak_bytes,omitempty"`
	BrokerNotAvailable string  `json:"broker_not_available,omitempty"`
}

// Machine is where it ran.
type Machine struct {
	Cores  int    `json:"cores"`
	CPU    string `json:"cpu"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

func thisMachine() Machine {
	return Machine{Cores: machine.Cores(), CPU: machine.CPUModel(), Kernel: machine.Kernel(), Go: runtime.Version()}
}

// cost fills CPU from the usage before and after the window.
func (r *Report) cost(before, after usage) {
	r.CPU.ClientSeconds = (after.own - before.own).Seconds()
	elapsed := after.at.Sub(before.at).Seconds()
	r.CPU.ClientCores = r.CPU.ClientSeconds / elapsed
	if after.pid == 0 {
		return
	}
	if after.brokerMissing != nil {
		r.CPU.BrokerNotAvailable = after.brokerMissing.Error()
		return
	}
	r.CPU.BrokerSeconds = (after.broker - before.broker).Seconds()
	r.CPU.BrokerCores = r.CPU.BrokerSeconds / elapsed
	if r.Records > 0 {
		r.CPU.BrokerPerMillion = r.CPU.BrokerSeconds / float64(r.Records) * 1e6
		r.CPU.BrokerPerGB = r.CPU.BrokerSeconds / (r.MBPerSec * r.Seconds) * 1e3
	}
	r.CPU.BrokerMemory, r.CPU.BrokerMemoryPeak, _ = processMemory(after.pid) // it answered a moment ago; 0 says it has gone
}

// WriteJSON prints the report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// WriteText prints the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	class := r.Durability
	if class == "" {
		class = "unknown"
	}
	fmt.Fprintf(&b, "%s, %s loop, topic %s, %d partition(s), durability %s\n", r.Mode, r.Loop, r.Topic, r.Settings.Partitions, class)
	fmt.Fprintf(&b, "  throughput  %s records/s  %.2f MB/s  (%d records in %.2f s)\n", thousands(r.PerSecond), r.MBPerSec, r.Records, r.Seconds)
	for _, l := range []struct {
		name string
		of   *Latency
	}{{"latency", r.Latency}, {"end to end", r.EndToEnd}, {"generator", r.Generator}} {
		if l.of != nil {
			fmt.Fprintf(&b, "  %-10s  p50 %s  p90 %s  p99 %s  p99.9 %s  max %s  (mean %s, %d samples)\n", l.name,
				micros(l.of.P50), micros(l.of.P90), micros(l.of.P99), micros(l.of.P999), micros(l.of.Max), micros(int64(l.of.Mean)), l.of.Samples)
		}
	}
	fmt.Fprintf(&b, "  client CPU  %.2f cores of %d\n", r.CPU.ClientCores, r.Machine.Cores)
	if r.CPU.BrokerSeconds > 0 {
		fmt.Fprintf(&b, "  broker CPU  %.2f cores, %.2f s/GB, %.2f s per million records, RSS %d MiB (peak %d)\n", r.CPU.BrokerCores,
			r.CPU.BrokerPerGB, r.CPU.BrokerPerMillion, r.CPU.BrokerMemory>>20, r.CPU.BrokerMemoryPeak>>20)
	}
	if r.CPU.BrokerNotAvailable != "" {
		fmt.Fprintf(&b, "  broker CPU  not available: %s\n", r.CPU.BrokerNotAvailable)
	}
	if r.Unsent > 0 {
		fmt.Fprintf(&b, "  NOT SUSTAINED: %d records were due and never sent\n", r.Unsent)
	}
	if r.Failed > 0 {
		fmt.Fprintf(&b, "  FAILED      %d\n", r.Failed)
		for _, reason := range sortedKeys(r.Failures) {
			fmt.Fprintf(&b, "    %8d  %s\n", r.Failures[reason], reason)
		}
	}
	if v := r.Verify; v != nil {
		verdict := "every acknowledged record was read back at its offset"
		if !v.OK {
			verdict = "FAILED"
		}
		fmt.Fprintf(&b, "  verify      %s: %d acknowledged, %d found, %d missing, %d wrong, %d there twice, %d stored without an answer\n",
			verdict, v.Acknowledged, v.Found, v.Missing, v.Wrong, v.Duplicates, v.Unaccounted)
		for _, f := range v.Findings {
			fmt.Fprintf(&b, "    %s\n", f)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// micros prints microseconds in the unit that suits them.
func micros(us int64) string {
	switch {
	case us < 1000:
		return fmt.Sprintf("%dus", us)
	case us < 1_000_000:
		return fmt.Sprintf("%.2fms", float64(us)/1e3)
	default:
		return fmt.Sprintf("%.2fs", float64(us)/1e6)
	}
}

// thousands prints a rate with separators, since digits get lost in long numbers.
func thousands(x float64) string {
	digits := fmt.Sprintf("%.0f", x)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 && digits[i-1] != '-' {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

func sortedKeys(m map[string]int64) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
