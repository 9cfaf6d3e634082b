package transport

import "time"

// A network waits in real time; what is decided elsewhere from what arrives here has its own clock.

func now() time.Time { return time.Now() } //nolint:forbidigo // see above

func after(d time.Duration) <-chan time.Time { return time.After(d) } //nolint:forbidigo // see above
