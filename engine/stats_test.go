package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/engine/disk"
)

// A device that hangs shows in FlushAge while nothing else has noticed: here the driver does not look for completions.
func TestFlushAgeShowsADeviceThatHangs(t *testing.T) {
	begin := time.Now()
	var later atomic.Int64
	o := testOptions(t)
	o.Shards, o.IO = 1, disk.ModePwrite // any thread may drive it
	o.Now = func() time.Time { return begin.Add(time.Duration(later.Load())) }
	e, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	s := e.Shards()[0]
	s.Attach(t)
	e.Start()
	// drive polls the shard until stop is called.
	drive := func() (stop func()) {
		var wg sync.WaitGroup
		quit := make(chan struct{})
		wg.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
					s.Poll()
				}
			}
		})
		return func() { close(quit); wg.Wait() }
	}
	stop := drive()
	l := mustCreate(t, e, "t", 1)[0]
	for e.FlushAge() != 0 { // what came with the creation
		time.Sleep(100 * time.Microsecond)
	}
	stop()
	later.Store(int64(time.Second))
	raw, h := testBatch(1, "v", 1)
	appendOne(t, l, raw, h)
	s.Poll() // submits
	later.Store(int64(4 * time.Second))
	if age := e.FlushAge(); age < 3*time.Second {
		t.Errorf("a write has been under way for three seconds, FlushAge says %v", age)
	}
	stop = drive()
	awaitAck(t, l, 1)
	for deadline := time.Now().Add(10 * time.Second); e.FlushAge() != 0; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nothing is under way, FlushAge says %v", e.FlushAge())
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
	stop()
}
