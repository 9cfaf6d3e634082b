package doctor

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"millrace/tools/millrace/machine"
)

// The limits that a busy broker needs.
const (
	filesWanted   = 65536   // one a connection, and a few a partition
	memlockWanted = 8 << 20 // rings on kernels before 5.12 are charged to it
)

func memoryCheck(_ context.Context, o Options) []Finding {
	memory, err := machine.Memory()
	if err != nil {
		return []Finding{note("memory", err.Error(), "")}
	}
	findings := []Finding{good("memory", "%s; the broker's rings and buffers take %s of it", sizeText(memory), sizeText(o.Budgets))}
	if o.Budgets > memory/2 {
		findings = append(findings, bad("memory", fmt.Sprintf("the budgets (%s) take more than half of it", sizeText(o.Budgets)), "lower --ring-bytes and --network-bytes"))
	}
	if huge := readWord("/sys/kernel/mm/transparent_hugepage/enabled"); strings.Contains(huge, "[never]") {
		findings = append(findings, note("memory", "transparent huge pages are off: the rings cost more of the processor's address cache",
			"echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"))
	}
	return findings
}

func limitsCheck(context.Context, Options) []Finding {
	var findings []Finding
	var files, lock unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil {
		// The Go runtime raises the soft limit to the hard one at start, so the hard one counts.
		if files.Max < filesWanted {
			findings = append(findings, weak("limits", fmt.Sprintf("%d open files at most: each connection takes one, each partition a few", files.Max),
				fmt.Sprintf("raise it to %d or more: LimitNOFILE= in the systemd unit, ulimit -n in a shell", filesWanted)))
		} else {
			findings = append(findings, good("limits", "%s open files", count(files.Max)))
		}
	}
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lock); err == nil && lock.Max < memlockWanted {
		findings = append(findings, note("limits", fmt.Sprintf("%s of locked memory at most: kernels before 5.12 charge io_uring to it", sizeText(int64(lock.Max))),
			"LimitMEMLOCK=infinity in the systemd unit"))
	}
	return findings
}

func count(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

// sizeText prints a size with one digit after the point where that says more.
func sizeText(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.size {
			x := float64(n) / float64(u.size)
			if x < 10 && n%u.size != 0 {
				return fmt.Sprintf("%.1f %s", x, u.name)
			}
			return fmt.Sprintf("%.0f %s", x, u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
