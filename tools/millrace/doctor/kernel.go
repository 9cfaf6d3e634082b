package doctor

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"millrace/engine/disk"
	"millrace/tools/millrace/machine"
)

// kernelMin is the oldest kernel that the engine has been made for: io_uring with eventfd and RWF_DSYNC on
// direct files work well from here on.
var kernelMin = [2]int{5, 10}

func kernelCheck(context.Context, Options) []Finding {
	release := machine.Kernel()
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return []Finding{note("kernel", "Linux "+release+": cannot tell its version", "")}
	}
	if major < kernelMin[0] || major == kernelMin[0] && minor < kernelMin[1] {
		return []Finding{weak("kernel", "Linux "+release+" is old", fmt.Sprintf("use %d.%d or later", kernelMin[0], kernelMin[1]))}
	}
	return []Finding{good("kernel", "Linux %s on %s", release, runtime.GOARCH)}
}

// uringDisabled is the switch that administrators use to forbid io_uring.
const uringDisabled = "/proc/sys/kernel/io_uring_disabled"

func uringCheck(context.Context, Options) []Finding {
	q, warning, err := disk.NewQueue(disk.ModeUring, 8)
	if err == nil {
		_ = q.Close() // nothing was submitted
		if warning != "" {
			return []Finding{weak("io_uring", warning, "")}
		}
		return []Finding{good("io_uring", "available: the log is written without a thread waiting for the device")}
	}
	text := fmt.Sprintf("not available (%v): the log is written by threads instead, at more CPU per write", err)
	advice := "is a container's seccomp profile in the way? Allow io_uring_setup, io_uring_enter and io_uring_register (docker: --security-opt seccomp=...)"
	if value := readWord(uringDisabled); value != "" && value != "0" {
		text = fmt.Sprintf("switched off on this machine (%s is %s): the log is written by threads instead, at more CPU per write", uringDisabled, value)
		advice = "sysctl -w kernel.io_uring_disabled=0, if your policy allows it"
	}
	return []Finding{weak("io_uring", text, advice)}
}

// stealShare is the part of CPU time taken by other guests above which figures mean little.
const stealShare = 0.01

func processorCheck(ctx context.Context, o Options) []Finding {
	findings := []Finding{good("processor", "%s, %d core(s) for this process", machine.CPUModel(), machine.Cores())}
	if machine.Cores() < 2 {
		findings = append(findings, weak("processor", "one core: the event loop and the rest of the process take turns", "give it two"))
	}
	if governor := readWord("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"); governor != "" && governor != "performance" {
		findings = append(findings, note("processor", "the frequency governor is "+governor+": latency suffers while cores wake up",
			"cpupower frequency-set -g performance"))
	}
	if clock := readWord("/sys/devices/system/clocksource/clocksource0/current_clocksource"); clock != "" && clock != "tsc" && clock != "kvm-clock" && clock != "arch_sys_counter" {
		findings = append(findings, weak("processor", "the clock source is "+clock+": reading the time takes a system call", "boot with clocksource=tsc if the machine's TSC is stable"))
	}
	if o.Measure > 0 {
		if share, ok := steal(ctx, o.Measure); ok && share > stealShare {
			findings = append(findings, weak("processor", fmt.Sprintf("%.1f%% of the time was taken by other guests of the host", share*100), "measure on another machine, or at another time"))
		}
	}
	return findings
}

// steal is the share of CPU time that the hypervisor gave to others while we watched.
func steal(ctx context.Context, d time.Duration) (share float64, ok bool) {
	first, ok1 := cpuTimes()
	select {
	case <-ctx.Done():
		return 0, false
	case <-time.After(d):
	}
	second, ok2 := cpuTimes()
	var total float64
	for i := range second {
		total += second[i] - first[i]
	}
	if !ok1 || !ok2 || total <= 0 {
		return 0, false
	}
	const stealField = 7 // of the cpu line in proc_stat(5), after its name
	return (second[stealField] - first[stealField]) / total, true
}

func cpuTimes() (times [8]float64, ok bool) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return times, false
	}
	line, _, _ := strings.Cut(string(text), "\n")
	n, _ := fmt.Sscanf(strings.TrimPrefix(line, "cpu"), "%g %g %g %g %g %g %g %g", &times[0], &times[1], &times[2], &times[3], &times[4], &times[5], &times[6], &times[7])
	return times, n == len(times)
}

// readWord reads a small file of the kernel; empty if there is none.
func readWord(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
