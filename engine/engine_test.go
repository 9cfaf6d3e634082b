package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"millrace/engine/batch"
	"millrace/engine/disk"
)

// testBatch builds a batch of count records.
func testBatch(count int, value string, timestamp int64) ([]byte, batch.Header) {
	b := batch.NewBuilder(0, 0)
	for i := range count {
		b.Append(timestamp+int64(i), []byte(fmt.Sprintf("key-%d", i)), []byte(value), nil)
	}
	raw := b.Build()
	h, err := batch.ParseHeader(raw)
	if err != nil {
		panic(err)
	}
	return raw, h
}

func testOptions(t testing.TB) Options {
	return Options{
		Dir:              t.TempDir(),
		IO:               disk.ModeAuto,
		CommitBytesMax:   256 << 10,
		RingBytes:        4 << 20,
		WALFileBytes:     2 << 20,
		WALBytes:         8 << 20,
		DiskReserveBytes: 1,
		Warn:             t.Logf,
		OnFailed:         func(err error) { t.Errorf("directory failed: %v", err) },
	}
}

func mustOpen(t testing.TB, o Options) *Engine {
	t.Helper()
	e, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	return e
}

func mustClose(t testing.TB, e *Engine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

func mustCreate(t testing.TB, e *Engine, topic string, partitions int) []*Log {
	t.Helper()
	var specs []LogSpec
	var id TopicID
	copy(id[:], topic)
	for p := range partitions {
		specs = append(specs, LogSpec{TopicID: id, Topic: topic, Partition: int32(p)})
	}
	logs, err := e.CreateLogs(specs)
	if err != nil {
		t.Fatal(err)
	}
	return logs
}

func appendOne(t testing.TB, l *Log, raw []byte, h batch.Header) AppendResult {
	t.Helper()
	for {
		r, err := l.Append(AppendRequest{Batch: raw, Header: h})
		if errors.Is(err, ErrBusy) {
			room := make(chan struct{})
			l.Shard().OnRoom(func() { close(room) })
			<-room
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
}

func awaitAck(t testing.TB, l *Log, end int64) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for l.AckEnd() < end {
		if time.Now().After(deadline) {
			t.Fatalf("AckEnd %d never reached %d (appended %d, written %d)", l.AckEnd(), end, l.AppendedEnd(), l.WrittenEnd())
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// readAll returns the batches of the log from offset on.
func readAll(t testing.TB, l *Log, from int64) [][]byte {
	t.Helper()
	var out [][]byte
	for at := from; at < l.AppendedEnd(); {
		spans, info, err := l.Read(ReadRequest{Offset: at, UpTo: l.AppendedEnd(), MaxBytes: 1 << 20, MinOne: true, MayBlock: true}, nil)
		if err != nil {
			t.Fatalf("read at %d: %v", at, err)
		}
		if info.NextOffset <= at {
			t.Fatalf("read at %d of %d returned nothing", at, l.AppendedEnd())
		}
		b := spanBytes(t, spans)
		if len(b) != info.Bytes {
			t.Fatalf("read at %d: %d bytes in spans, info says %d", at, len(b), info.Bytes)
		}
		for len(b) > 0 {
			n, err := batch.PeekSize(b)
			if err != nil || n > len(b) {
				t.Fatalf("read at %d: half a batch (%d of %d bytes): %v", at, len(b), n, err)
			}
			if _, err := batch.Validate(b[:n]); err != nil {
				t.Fatalf("read at %d: %v", at, err)
			}
			out = append(out, b[:n:n])
			b = b[n:]
		}
		at = info.NextOffset
	}
	return out
}

func spanBytes(t testing.TB, spans []Span) []byte {
	t.Helper()
	var b []byte
	for i := range spans {
		s := &spans[i]
		if s.Mem != nil {
			b = append(b, s.Mem...)
		} else {
			part := make([]byte, s.Len)
			if err := readFull(s.Owner.(*openFile), part, s.Pos); err != nil {
				t.Fatal(err)
			}
			b = append(b, part...)
		}
		s.Owner.Release()
	}
	return b
}

// checkDense verifies that the batches of the log are those that were appended: values by base offset.
func checkDense(t testing.TB, l *Log, want map[int64][]byte) {
	t.Helper()
	next := l.LogStartOffset()
	for _, b := range readAll(t, l, next) {
		h, _ := batch.ParseHeader(b)
		if h.BaseOffset != next {
			t.Fatalf("batch at %d, expected %d", h.BaseOffset, next)
		}
		if w := want[h.BaseOffset]; !bytes.Equal(w[16:], b[16:]) {
			t.Fatalf("batch at %d is not what was appended", h.BaseOffset)
		}
		next = h.NextOffset()
	}
	if next != l.AppendedEnd() {
		t.Fatalf("batches end at %d, log at %d", next, l.AppendedEnd())
	}
}

func TestLogKeepsWhatWasAppendedAcrossRestarts(t *testing.T) {
	for _, mode := range []disk.Mode{disk.ModeAuto, disk.ModePwrite} {
		t.Run(mode.String(), func(t *testing.T) {
			o := testOptions(t)
			o.IO = mode
			e := mustOpen(t, o)
			logs := mustCreate(t, e, "events", 5)
			want := make([]map[int64][]byte, len(logs))
			for i := range want {
				want[i] = make(map[int64][]byte)
			}
			for round := range 3 {
				for i := range 4000 {
					n := i % len(logs)
					raw, h := testBatch(1+i%3, fmt.Sprintf("%d-%d-%s", round, i, bytes.Repeat([]byte("x"), i%2000)), int64(i))
					r := appendOne(t, logs[n], raw, h)
					want[n][r.BaseOffset] = raw
				}
				for i, l := range logs {
					awaitAck(t, l, l.AppendedEnd())
					checkDense(t, l, want[i])
				}
				t.Logf("%+v", e.Stats())
				mustClose(t, e)
				e = mustOpen(t, o)
				t.Logf("%+v", e.Recovery())
				logs = e.Logs()
				if len(logs) != len(want) {
					t.Fatalf("%d logs after restart", len(logs))
				}
				for i, l := range logs {
					checkDense(t, l, want[i])
				}
			}
			mustClose(t, e)
		})
	}
}
