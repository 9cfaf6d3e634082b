package replication

import (
	"time"
)

// throttle is a token bucket of bytes. Spending may overdraw it: then it is empty until the debt is paid.
type throttle struct {
	limited bool
	rate    int64 // bytes a second
	tokens  int64
	last    time.Time
}

// refill adds what time has brought, at most a tenth of a second's.
func (t *throttle) refill(rate func() int64, applies bool, now time.Time) {
	if !applies {
		return
	}
	t.rate = rate()
	if t.rate <= 0 {
		*t = throttle{last: now}
		return
	}
	burst := max(t.rate/10, 1)
	if !t.limited {
		t.limited, t.tokens, t.last = true, burst, now
		return
	}
	passed := min(now.Sub(t.last), time.Second)
	t.tokens = min(t.tokens+int64(float64(t.rate)*passed.Seconds()), burst)
	t.last = now
}

func (t *throttle) empty() bool { return t.limited && t.tokens <= 0 }

func (t *throttle) spend(bytes int) {
	if t.limited {
		t.tokens -= int64(bytes)
	}
}

// until is when it is not empty any more.
func (t *throttle) until(now time.Time) time.Time {
	if !t.empty() {
		return now
	}
	return now.Add(time.Duration(float64(1-t.tokens)/float64(t.rate)*float64(time.Second)) + time.Millisecond)
}
