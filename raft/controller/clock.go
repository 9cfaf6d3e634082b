package controller

import (
	"time"

	"golang.org/x/sys/unix"
)

// What sends and waits lives in real time; what decides (Core, Lease) is told the time.

func after(d time.Duration) <-chan time.Time { return time.After(d) } //nolint:forbidigo // see above

// bootClock reads CLOCK_BOOTTIME: it goes on while the machine sleeps, so that a lease ends in its sleep.
func bootClock() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("BUG: no CLOCK_BOOTTIME: " + err.Error()) // since Linux 2.6.39
	}
	return time.Duration(t.Nano())
}
