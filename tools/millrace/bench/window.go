package bench

import (
	"context"
	"time"
)

// window is the time plan of a run: load from began on, measured from open to close.
type window struct {
	began, opens, closes time.Time
}

func newWindow(began time.Time, warmup, duration time.Duration) window {
	return window{began: began, opens: began.Add(warmup), closes: began.Add(warmup + duration)}
}

// measures reports whether something that was completed at t counts.
func (w window) measures(t time.Time) bool {
	return !t.Before(w.opens) && t.Before(w.closes)
}

// loading is a context that ends when the load has to stop: at the window's end or with ctx.
func (w window) loading(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithDeadline(ctx, w.closes)
}
