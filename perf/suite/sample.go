package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sample is every counter at one moment; two of them make the figures of what was between.
type sample struct {
	at      time.Time
	nodes   []nodeSample
	metrics map[string]float64 // of Millrace's /metrics, summed over labels but for the API, and over nodes
	sectors float64            // written to the device
	flushes float64            // of the device
	cpu     machineCPU
}

// nodeSample are the counters of one broker.
type nodeSample struct {
	metrics map[string]float64
	seconds float64 // processor time
	workers int     // kernel workers of the broker's rings
	rss     float64
}

func (srv *server) sample() sample {
	s := sample{at: time.Now(), metrics: map[string]float64{}, nodes: make([]nodeSample, len(srv.nodes))}
	for i, n := range srv.nodes {
		s.nodes[i].seconds, _ = processSeconds(n.proc.pid()) // a broker that has ended is told elsewhere
	}
	s.cpu = readMachineCPU()
	for i, n := range srv.nodes {
		nd := &s.nodes[i]
		nd.metrics = map[string]float64{}
		if n.admin != "" {
			if page, err := n.get("/metrics", 2*time.Second); err == nil {
				nd.metrics = parseMetrics(page)
			}
		}
		for name, v := range nd.metrics {
			s.metrics[name] += v
		}
		nd.workers, nd.rss = ringWorkers(n.proc.pid()), residentBytes(n.proc.pid())
	}
	s.sectors, s.flushes = deviceCounters(srv.dir)
	return s
}

// most is the largest of a figure of the nodes.
func (s *sample) most(figure func(nodeSample) float64) (v float64) {
	for _, n := range s.nodes {
		v = max(v, figure(n))
	}
	return v
}

// rss is the memory of the node that has most.
func (s *sample) rss() float64 { return s.most(func(n nodeSample) float64 { return n.rss }) }

// parseMetrics sums a metric over its labels; requests are kept by API.
func parseMetrics(page []byte) map[string]float64 {
	m := map[string]float64{}
	lines := bufio.NewScanner(bytes.NewReader(page))
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		name := line[:at]
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			continue
		}
		if base, _, labels := strings.Cut(name, "{"); labels && base != "millrace_requests_total" {
			name = base
		}
		m[name] += value
	}
	return m
}

// device is the folder in /sys of the block device that dir is on.
func device(dir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
}

// deviceCounters are the sectors written and the flushes since the machine started; 0 where there is no device.
func deviceCounters(dir string) (sectors, flushes float64) {
	d, err := device(dir)
	if err != nil {
		return 0, 0
	}
	text, err := os.ReadFile(filepath.Join(d, "stat"))
	if err != nil {
		return 0, 0
	}
	const written, flushed = 6, 15 // fields of Documentation/block/stat.rst
	fields := strings.Fields(string(text))
	if len(fields) > written {
		sectors, _ = strconv.ParseFloat(fields[written], 64)
	}
	if len(fields) > flushed {
		flushes, _ = strconv.ParseFloat(fields[flushed], 64)
	}
	return sectors, flushes
}

// ringWorkers counts the threads that the kernel has added for io_uring.
func ringWorkers(pid int) (n int) {
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", pid))
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(text), "iou-wrk") {
			n++
		}
	}
	return n
}

func residentBytes(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseFloat(fields[1], 64)
	return pages * float64(os.Getpagesize())
}

// machineCPU is the machine's processor time in ticks.
type machineCPU struct{ total, idle, steal float64 }

func readMachineCPU() (c machineCPU) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return c
	}
	line, _, _ := strings.Cut(string(text), "\n")
	const idle, wait, steal, last = 4, 5, 8, 8
	for i, f := range strings.Fields(line) {
		v, err := strconv.ParseFloat(f, 64)
		if err != nil || i > last {
			continue
		}
		c.total += v
		switch i {
		case idle, wait:
			c.idle += v
		case steal:
			c.steal += v
		}
	}
	return c
}

// stolen is the share of the machine's time that others of the host had.
func stolen(a, b machineCPU) float64 {
	if b.total <= a.total {
		return 0
	}
	return (b.steal - a.steal) / (b.total - a.total)
}
