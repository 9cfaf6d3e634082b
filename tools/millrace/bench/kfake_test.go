package bench

import (
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// kfakeDelay makes the fake broker hold back the first produce request that comes after begin.
func kfakeDelay(c *kfake.Cluster, begin time.Time, d time.Duration) func(kmsg.Request) (kmsg.Response, error, bool) {
	done := false
	return func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if _, produce := req.(*kmsg.ProduceRequest); produce && !done && time.Now().After(begin) {
			done = true
			time.Sleep(d) // the broker's only goroutine: everything waits
		}
		return nil, nil, false
	}
}
