package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// probes are what the machine lets us count from outside of the broker.
type probes struct {
	perf     string // path; empty: not there
	syscalls bool   // tracepoint raw_syscalls:sys_enter
	punts    bool   // tracepoint io_uring:io_uring_queue_async_work
	missing  []string
}

const (
	eventSyscalls = "raw_syscalls:sys_enter"
	eventPunts    = "io_uring:io_uring_queue_async_work"
	// Writes handed to a kernel worker; a flush always is, by the kernel's design. IORING_OP_WRITEV, WRITE_FIXED, WRITE.
	puntFilter = "opcode == 2 || opcode == 5 || opcode == 23"
)

// eventsCalls are the calls that a broker makes, each counted for itself; nanosleep is Go's own housekeeping.
var eventsCalls = func() (events []string) {
	for _, name := range []string{"read", "readv", "recvfrom", "write", "sendto", "sendmsg", "sendfile64", "epoll_pwait", "epoll_ctl", "io_uring_enter", "pwrite64", "pwritev2", "fdatasync", "futex", "nanosleep", "sched_yield", "fallocate", "fadvise64"} {
		events = append(events, "syscalls:sys_enter_"+name)
	}
	return events
}()

func findProbes(ctx context.Context) *probes {
	p := &probes{}
	path, err := exec.LookPath("perf")
	if err != nil {
		p.missing = append(p.missing, "perf is not installed (Debian: apt-get install linux-perf): no syscall counts, no kernel workers, no flame graphs")
		return p
	}
	p.perf = path
	p.syscalls = p.counts(ctx, eventSyscalls, "")
	if !p.syscalls {
		p.missing = append(p.missing, "perf cannot read "+eventSyscalls+": run as root with tracefs (mount -t tracefs none /sys/kernel/tracing)")
	}
	p.punts = p.counts(ctx, eventPunts, puntFilter)
	if !p.punts {
		p.missing = append(p.missing, "perf cannot read "+eventPunts+": run as root, kernel 5.15 or later with tracefs")
	}
	return p
}

func (p *probes) counts(ctx context.Context, event, filter string) bool {
	args := []string{"stat", "-x,", "-e", event}
	if filter != "" {
		args = append(args, "--filter", filter)
	}
	return exec.CommandContext(ctx, p.perf, append(args, "true")...).Run() == nil
}

// counted is what perf saw of one process in a slice of time.
type counted struct {
	seconds  float64
	syscalls float64 // -1: not counted
	punts    float64
	calls    map[string]float64 // by name, those that were made
}

// count watches a process for d.
func (p *probes) count(ctx context.Context, pid int, d time.Duration) counted {
	c := counted{syscalls: -1, punts: -1, calls: map[string]float64{}}
	if !p.syscalls && !p.punts {
		return c
	}
	args := []string{"stat", "-x,", "-p", strconv.Itoa(pid)}
	if p.syscalls {
		args = append(args, "-e", strings.Join(append([]string{eventSyscalls}, eventsCalls...), ","))
	}
	if p.punts {
		args = append(args, "-e", eventPunts, "--filter", puntFilter)
	}
	began := time.Now()
	out, err := exec.CommandContext(ctx, p.perf, append(args, "--", "sleep", fmt.Sprintf("%.2f", d.Seconds()))...).CombinedOutput()
	if err != nil {
		return c
	}
	c.seconds = min(d.Seconds(), time.Since(began).Seconds())
	for line := range strings.Lines(string(out)) {
		fields := strings.Split(strings.TrimSpace(line), ",")
		if len(fields) < 3 {
			continue
		}
		n, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			continue
		}
		switch fields[2] {
		case eventSyscalls:
			c.syscalls = n
		case eventPunts:
			c.punts = n
		default:
			if name, ok := strings.CutPrefix(fields[2], "syscalls:sys_enter_"); ok && n > 0 {
				c.calls[name] = n
			}
		}
	}
	return c
}

// profile takes a processor profile for d and the allocation profile after it, and a flame graph where perf is.
func (s *suite) profile(ctx context.Context, srv *server, name string, d time.Duration) {
	dir := filepath.Join(s.opts.out, "profiles")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.note("profiles: %v", err)
		return
	}
	save := func(file string, data []byte, err error) {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), data, 0o644)
		}
		if err != nil && ctx.Err() == nil {
			s.note("profile %s: %v", file, err)
		}
	}
	var both sync.WaitGroup
	if s.probes.perf != "" && s.opts.flames {
		both.Go(func() {
			svg, err := s.probes.flame(ctx, srv.leader().proc.pid(), name, d)
			save(name+".flame.svg", svg, err)
		})
	}
	if srv.millrace() {
		data, err := srv.leader().get(fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(1, int(d.Seconds()))), d+10*time.Second)
		save(name+".cpu.pprof", data, err)
		data, err = srv.leader().get("/debug/pprof/allocs", 10*time.Second)
		save(name+".allocs.pprof", data, err)
	}
	both.Wait()
}
