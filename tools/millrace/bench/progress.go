package bench

import (
	"fmt"
	"sync"
	"time"
)

// progress prints a line every so often while a run is under way.
type progress struct {
	quit chan struct{}
	done sync.WaitGroup
}

// startProgress begins; counts returns what is done so far and how much failed. latency may be nil.
func startProgress(o *Options, w window, latency *recorder, counts func() (done, failed int64)) *progress {
	p := &progress{quit: make(chan struct{})}
	if o.Progress == nil || o.ProgressEvery <= 0 {
		return p
	}
	p.done.Go(func() {
		tick := time.NewTicker(o.ProgressEvery)
		defer tick.Stop()
		before, at := int64(0), time.Now()
		for {
			select {
			case <-p.quit:
				return
			case now := <-tick.C:
				records, failed := counts()
				phase := ""
				switch {
				case now.Before(w.opens):
					phase = "  warm-up"
				case now.After(w.closes):
					phase = "  draining"
				}
				line := fmt.Sprintf("%6.1fs  %12s records/s", now.Sub(w.began).Seconds(), thousands(float64(records-before)/now.Sub(at).Seconds()))
				if latency != nil {
					h := latency.takeRecent()
					line += fmt.Sprintf("  p50 %8s  p99 %8s  max %8s", micros(h.ValueAtQuantile(50)), micros(h.ValueAtQuantile(99)), micros(h.Max()))
				}
				if failed > 0 {
					line += fmt.Sprintf("  failed %d", failed)
				}
				fmt.Fprintln(o.Progress, line+phase)
				before, at = records, now
			}
		}
	})
	return p
}

// stop ends the lines and waits for the last one.
func (p *progress) stop() {
	close(p.quit)
	p.done.Wait()
}
