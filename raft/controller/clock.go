package controller

import "time"

// What sends and waits lives in real time; what decides (Core, Lease) is told the time.

func after(d time.Duration) <-chan time.Time { return time.After(d) } //nolint:forbidigo // see above

// processClock reads the time since now.
func processClock() func() time.Duration {
	begin := time.Now()                                      //nolint:forbidigo // see above
	return func() time.Duration { return time.Since(begin) } //nolint:forbidigo // see above
}
