package controller

import "time"

// Lease is a broker's right to believe that it is not fenced. It counts from when the heartbeat was sent that the
// controller answered: the controller's session counts from when it arrived, later, and is longer. Times are readings
// of one clock that goes on while the machine sleeps.
type Lease struct {
	length time.Duration
	until  time.Duration
}

// NewLease returns a lease that has not begun.
func NewLease(length time.Duration) Lease { return Lease{length: length} }

// Extend notes the answer to a heartbeat sent at a time. Answers may arrive in any order.
func (l *Lease) Extend(sent time.Duration) { l.until = max(l.until, sent+l.length) }

// Valid reports whether the lease holds at a time.
func (l *Lease) Valid(now time.Duration) bool { return now < l.until }

// End ends the lease: the broker knows that it is fenced.
func (l *Lease) End() { l.until = 0 }
