package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"millrace/tools/millrace/machine"
)

// machineFacts say where the run was, and what is wrong with that.
type machineFacts struct {
	Lines    []fact   `json:"facts"`
	Warnings []string `json:"warnings"`
}

type fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func (m *machineFacts) add(name, format string, args ...any) {
	m.Lines = append(m.Lines, fact{name, fmt.Sprintf(format, args...)})
}

func (m *machineFacts) warn(format string, args ...any) {
	m.Warnings = append(m.Warnings, fmt.Sprintf(format, args...))
}

func firstLine(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "?"
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line)
}

// The points from which noise makes figures worthless.
const (
	stealMax  = 0.01
	spreadMax = 0.10
	busyMax   = 0.15
	freeMin   = 20 << 30
)

func lookAtMachine(dir string) *machineFacts {
	m := &machineFacts{}
	memory, _ := machine.Memory()
	m.add("kernel", "%s, %s", machine.Kernel(), runtime.Version())
	m.add("processor", "%d x %s", machine.Cores(), machine.CPUModel())
	m.add("memory", "%.1f GB", float64(memory)/1e9)
	governor := firstLine("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
	m.add("governor", "%s", governor)
	if governor != "?" && governor != "performance" {
		m.warn("the governor is %s: set it to performance", governor)
	}
	if machine.Cores() < 2 {
		m.warn("one core: client and broker share it, so nothing here is the broker's")
	}
	m.disk(dir)
	m.limits()
	m.noise()
	return m
}

func (m *machineFacts) disk(dir string) {
	fs, err := machine.FileSystem(dir)
	if err != nil {
		m.warn("the file system of %s: %v", dir, err)
		return
	}
	_, free, _ := machine.Disk(dir)
	m.add("file system", "%s, %.0f GB free, %s", fs, float64(free)/1e9, dir)
	if fs != "ext4" && fs != "xfs" {
		m.warn("%s on %s: direct writes may not be what they are on ext4 and xfs; use --dir", fs, dir)
	}
	if free < freeMin {
		m.warn("only %.0f GB free: the rows of large batches write several", float64(free)/1e9)
	}
	d, err := device(dir)
	if err != nil {
		m.warn("%s is not on a block device", dir)
		return
	}
	if _, err := os.Stat(filepath.Join(d, "partition")); err == nil {
		d = filepath.Dir(d)
	}
	queue := func(name string) string { return firstLine(filepath.Join(d, "queue", name)) }
	m.add("disk", "%s, blocks of %s logical and %s physical, cache %s, FUA %s, scheduler %s, rotational %s", filepath.Base(d),
		queue("logical_block_size"), queue("physical_block_size"), queue("write_cache"), queue("fua"), queue("scheduler"), queue("rotational"))
}

func (m *machineFacts) limits() {
	var lock, files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lock) == nil && unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil {
		show := func(v uint64) string {
			if v == unix.RLIM_INFINITY {
				return "unlimited"
			}
			return strconv.FormatUint(v, 10)
		}
		m.add("limits", "memlock %s, open files %s", show(lock.Cur), show(files.Cur))
		if files.Max < 4096 {
			m.warn("at most %d open files: the row of 1024 connections needs more", files.Max)
		}
	}
	uring := firstLine("/proc/sys/kernel/io_uring_disabled")
	m.add("io_uring", "disabled: %s", uring)
	if uring == "2" {
		m.warn("io_uring is disabled (sysctl kernel.io_uring_disabled): the second backend is measured")
	}
}

// noise looks at the machine while nothing of ours runs, and repeats one piece of work.
func (m *machineFacts) noise() {
	before := readMachineCPU()
	time.Sleep(500 * time.Millisecond)
	after := readMachineCPU()
	busy := 0.0
	if after.total > before.total {
		busy = 1 - (after.idle-before.idle)/(after.total-before.total)
	}
	var spins []float64
	for range 20 {
		began, x := time.Now(), uint64(1)
		for range 5_000_000 {
			x = x*6364136223846793005 + 1442695040888963407
		}
		spins = append(spins, float64(time.Since(began).Microseconds())+float64(x&1)*1e-9)
	}
	spun := readMachineCPU()
	slices.Sort(spins)
	spread := (spins[len(spins)-1] - spins[0]) / spins[0]
	steal := stolen(before, spun)
	m.add("noise", "busy without us %.0f %%, stolen by the host %.1f %%, the same work takes %.0f to %.0f us, load %s", 100*busy, 100*steal,
		spins[0], spins[len(spins)-1], strings.Join(strings.Fields(firstLine("/proc/loadavg"))[:1], ""))
	if busy > busyMax {
		m.warn("something else uses %.0f %% of the machine: throughput here is what is left", 100*busy)
	}
	if steal > stealMax {
		m.warn("the host takes %.1f %% of the machine's time", 100*steal)
	}
	if spread > spreadMax {
		m.warn("the same work takes up to %.0f %% longer at times: differences below that mean nothing", 100*spread)
	}
}
