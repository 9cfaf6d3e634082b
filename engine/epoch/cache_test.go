package epoch

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestEndOffsetForAnswersAsKafka(t *testing.T) {
	var c Cache
	if e, end := c.EndOffsetFor(0, 10); e != UndefinedEpoch || end != UndefinedOffset {
		t.Fatalf("empty cache: %d, %d", e, end)
	}
	c.Assign(2, 10)
	c.Assign(4, 20)
	c.Assign(7, 30)
	for _, tc := range []struct {
		asked     int32
		wantEpoch int32
		wantEnd   int64
	}{
		{-1, -1, -1},
		{0, 0, 10}, // below all: the log starts in a later epoch
		{2, 2, 20},
		{3, 2, 20}, // unknown, in between: the one before it
		{4, 4, 30},
		{6, 4, 30},
		{7, 7, 99}, // the newest ends at the log end
		{8, -1, -1},
	} {
		if e, end := c.EndOffsetFor(tc.asked, 99); e != tc.wantEpoch || end != tc.wantEnd {
			t.Errorf("epoch %d: got %d, %d; want %d, %d", tc.asked, e, end, tc.wantEpoch, tc.wantEnd)
		}
	}
}

func TestAssignKeepsTheFirstStartOfAnEpoch(t *testing.T) {
	var c Cache
	c.Assign(1, 5)
	c.Assign(1, 9)
	c.Assign(2, 9)
	c.Assign(3, 9) // nothing was written in epoch 2
	if got := c.Entries(); !slices.Equal(got, []Entry{{1, 5}, {3, 9}}) {
		t.Fatalf("%v", got)
	}
	c.Assign(2, 7) // contradicts epoch 3: the later news wins
	if got := c.Entries(); !slices.Equal(got, []Entry{{1, 5}, {2, 7}}) {
		t.Fatalf("%v", got)
	}
	c.Assign(-1, 20)
	if c.Len() != 2 {
		t.Fatal("an undefined epoch was remembered")
	}
}

func TestTruncateFromEndCutsEvenWithoutBytes(t *testing.T) {
	var c Cache
	c.Assign(1, 0)
	c.Assign(2, 10) // began at the log end, nothing written yet
	c.TruncateFromEnd(10)
	if last, ok := c.Latest(); !ok || last.Epoch != 1 {
		t.Fatalf("%v", last)
	}
}

func TestTruncateFromStartKeepsTheEpochOfTheStart(t *testing.T) {
	var c Cache
	c.Assign(1, 0)
	c.Assign(2, 10)
	c.Assign(3, 20)
	c.TruncateFromStart(15)
	if got := c.Entries(); !slices.Equal(got, []Entry{{2, 15}, {3, 20}}) {
		t.Fatalf("%v", got)
	}
	c.TruncateFromStart(5) // already further
	if first, _ := c.Earliest(); first.StartOffset != 15 {
		t.Fatalf("%v", first)
	}
	c.TruncateFromStart(20)
	if got := c.Entries(); !slices.Equal(got, []Entry{{3, 20}}) {
		t.Fatalf("%v", got)
	}
}

// The twin is one epoch for each offset.
func TestCacheAgreesWithADumbTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c Cache
		var epochs []int32 // of each record, from start on
		start, current := 0, int32(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			end := start + len(epochs)
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				current += rapid.Int32Range(1, 3).Draw(t, "more")
				c.Assign(current, int64(end))
			case 1:
				cut := rapid.IntRange(start, end).Draw(t, "cut")
				epochs = epochs[:cut-start]
				c.TruncateFromEnd(int64(cut))
				if l, ok := c.Latest(); ok {
					current = l.Epoch
				}
			case 2:
				to := rapid.IntRange(start, end).Draw(t, "start")
				epochs, start = epochs[to-start:], to
				c.TruncateFromStart(int64(to))
			default:
				for range rapid.IntRange(1, 5).Draw(t, "records") {
					c.Assign(current, int64(start+len(epochs)))
					epochs = append(epochs, current)
				}
			}
			for i, want := range epochs {
				if got, ok := c.EpochAt(int64(start + i)); !ok || got != want {
					t.Fatalf("offset %d has epoch %d, %v; want %d in %v", start+i, got, ok, want, c.Entries())
				}
			}
			for _, last := range epochs {
				e, end := c.EndOffsetFor(last, int64(start+len(epochs)))
				wantEnd := start + slices.IndexFunc(append(slices.Clone(epochs), 1<<30), func(x int32) bool { return x > last })
				if e != last || end != int64(wantEnd) {
					t.Fatalf("epoch %d ends at %d (%d), want %d in %v", last, end, e, wantEnd, c.Entries())
				}
			}
			d, err := Decode(c.AppendTo(nil))
			if err != nil || !slices.Equal(d.Entries(), c.Entries()) {
				t.Fatalf("%v decoded to %v: %v", c.Entries(), d.Entries(), err)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	var c Cache
	f.Add(c.AppendTo(nil))
	c.Assign(1, 5)
	c.Assign(300, 1<<40)
	f.Add(c.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		for i, e := range c.Entries() {
			if e.Epoch < 0 || e.StartOffset < 0 || i > 0 && (e.Epoch <= c.entries[i-1].Epoch || e.StartOffset <= c.entries[i-1].StartOffset) {
				t.Fatalf("accepted %v", c.Entries())
			}
		}
		again, err := Decode(c.AppendTo(nil))
		if err != nil || !slices.Equal(again.entries, c.entries) || len(c.AppendTo(nil)) > len(b) {
			t.Fatalf("%v: %x became %x", err, b, c.AppendTo(nil))
		}
	})
}
