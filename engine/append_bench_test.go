package engine

import (
	"context"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/engine/disk"
)

func benchOptions(t testing.TB) Options {
	return Options{Dir: t.TempDir(), IO: disk.ModeAuto, RingBytes: 64 << 20, WALFileBytes: 64 << 20, WALBytes: 256 << 20, DiskReserveBytes: 1, Warn: t.Logf}
}

// BenchmarkAppend appends without waiting for durability; what counts is the
// time of one call.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{256, 16 << 10} {
		b.Run(time.Duration(size).String(), func(b *testing.B) {
			e := mustOpen(b, benchOptions(b))
			defer func() { _ = e.Close(context.Background()) }()
			l := mustCreate(b, e, "bench", 1)[0]
			raw, h := testBatch(1, string(make([]byte, size)), 1)
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				appendOne(b, l, raw, h)
			}
			b.StopTimer()
			st := e.Stats().Shards[0]
			b.ReportMetric(float64(b.N)/float64(st.Commits), "batches/commit")
			b.ReportMetric(float64(st.WALBytes)/float64(b.N*len(raw)), "wal-amp")
		})
	}
}

// BenchmarkCommit is the time of one small batch from append to durable, one at a time.
func BenchmarkCommit(b *testing.B) {
	for _, mode := range []disk.Mode{disk.ModeUring, disk.ModePwrite} {
		b.Run(mode.String(), func(b *testing.B) {
			o := benchOptions(b)
			o.IO = mode
			e, err := Open(o)
			if err != nil {
				b.Skip(err)
			}
			e.Start()
			defer func() { _ = e.Close(context.Background()) }()
			l := mustCreate(b, e, "bench", 1)[0]
			done := make(chan struct{}, 1)
			l.SetObserver(observerFunc(func(*Log) {
				select {
				case done <- struct{}{}:
				default:
				}
			}))
			raw, h := testBatch(1, "value", 1)
			for b.Loop() {
				r := appendOne(b, l, raw, h)
				for l.AckEnd() <= r.LastOffset {
					<-done
				}
			}
		})
	}
}

type observerFunc func(*Log)

func (f observerFunc) Progress(l *Log) { f(l) }

// BenchmarkClosedLoop is 128 producers of small batches, each of which sends its next one when the last is acknowledged: what
// requests without linger do to the commit path.
func BenchmarkClosedLoop(b *testing.B) {
	const tasks = 128
	for _, class := range []struct {
		name     string
		messages int64
	}{{"D2", 1}, {"D1", 1 << 40}} {
		b.Run(class.name, func(b *testing.B) {
			var l *Log
			raw, h := testBatch(1, string(make([]byte, 256)), 1)
			done := make(chan struct{}, 1)
			var target atomic.Int64
			send := func() {
				for l.AppendedEnd() < min(l.AckEnd()+tasks, target.Load()) {
					if _, err := l.Append(AppendRequest{Batch: raw, Header: h}); err != nil {
						return // busy: the next commit makes room
					}
				}
				if l.AckEnd() >= target.Load() {
					select {
					case done <- struct{}{}:
					default:
					}
				}
			}
			o := benchOptions(b)
			o.OnCommit = func(*Shard) {
				if target.Load() > 0 {
					send()
				}
			}
			e := mustOpen(b, o)
			defer func() { _ = e.Close(context.Background()) }()
			l = mustCreate(b, e, "bench", 1)[0]
			l.SetConfig(LogConfig{FlushMessages: class.messages})
			began := e.Stats().Shards[0]
			b.ReportAllocs()
			b.ResetTimer()
			target.Store(int64(b.N))
			appendOne(b, l, raw, h)
			<-done
			b.StopTimer()
			target.Store(0)
			b.ReportMetric(float64(b.N)/float64(e.Stats().Shards[0].Commits-began.Commits), "batches/commit")
		})
	}
}

// BenchmarkRound is a checkpoint round over a thousand logs that have grown by 32 KiB each, and what it costs in processor time. TMPDIR says on
// which filesystem.
func BenchmarkRound(b *testing.B) {
	o := benchOptions(b)
	o.RingBytes, o.manual = 128<<20, true
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	e := mustOpen(b, o)
	defer e.release()
	s := e.shards[0]
	logs := mustCreate(b, e, "bench", 1000)
	raw, h := testBatch(1, string(make([]byte, 16<<10)), 1)
	var cpu time.Duration
	for b.Loop() {
		b.StopTimer()
		for range 2 {
			for _, l := range logs {
				for {
					if _, err := l.Append(AppendRequest{Batch: raw, Header: h}); err == nil {
						break
					}
					s.Poll()
					s.writer.stepRound()
				}
			}
		}
		for _, l := range logs {
			for l.DurableEnd() < l.AppendedEnd() {
				s.wake.wait()
				s.Poll()
			}
		}
		before := processorTime(b)
		b.StartTimer()
		if _, err := s.writer.round(s.durableLSN.Load()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		cpu += processorTime(b) - before
		b.StartTimer()
	}
	b.ReportMetric(cpu.Seconds()*1e3/float64(b.N), "cpu-ms/round")
}

func processorTime(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
