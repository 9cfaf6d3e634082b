package raft

import "time"

// What talks to dragonboat waits in real time, as dragonboat does; what decides (apply) has no clock.

func after(d time.Duration) <-chan time.Time {
	return time.After(d) //nolint:forbidigo // see above
}

func now() time.Time {
	return time.Now() //nolint:forbidigo // see above
}
