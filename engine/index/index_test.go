package index

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// pair is an entry of the dumb twins, which search a plain list.
type pair struct{ key, value int64 }

func floor(list []pair, key int64, none pair) pair {
	for _, p := range list {
		if p.key <= key {
			none = p
		}
	}
	return none
}

func TestOffsetsAgreeWithADumbTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SampledFrom([]int64{0, 5, 1 << 40}).Draw(t, "base")
		x := NewOffsets(base)
		var twin []pair
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				cut := base + rapid.Int64Range(-1, 400).Draw(t, "cut")
				x.TruncateTo(cut)
				twin = slices.DeleteFunc(twin, func(p pair) bool { return p.key >= cut })
			case 1:
				x.Thin()
				var half []pair
				for i, p := range twin {
					if (len(twin)-1-i)%2 == 0 {
						half = append(half, p)
					}
				}
				twin = half
			default:
				p := pair{base + rapid.Int64Range(-1, 400).Draw(t, "offset"), rapid.Int64Range(-1, 4000).Draw(t, "position")}
				want := p.key >= base && p.value >= 0 && (len(twin) == 0 || p.key > twin[len(twin)-1].key && p.value > twin[len(twin)-1].value)
				if got := x.Append(p.key, p.value); got != want {
					t.Fatalf("append of %v to %v: %v", p, twin, got)
				}
				if want {
					twin = append(twin, p)
				}
			}
			d, err := DecodeOffsets(x.AppendTo(nil))
			if err != nil || d.base != x.base || !slices.Equal(d.entries, x.entries) {
				t.Fatalf("%v decoded to %v: %v", x, d, err)
			}
			x = x.Clone() // as good as the original
			if x.Len() != len(twin) {
				t.Fatalf("%d entries, want %v", x.Len(), twin)
			}
			if o, p, ok := x.Last(); ok != (len(twin) > 0) || ok && (pair{o, p}) != twin[len(twin)-1] {
				t.Fatalf("last is %d, %d, %v; want %v", o, p, ok, twin)
			}
			for i := range int64(400) {
				if o, p := x.Lookup(base + i); (pair{o, p}) != floor(twin, base+i, pair{base, 0}) {
					t.Fatalf("offset %d found %d, %d in %v", base+i, o, p, twin)
				}
			}
			for pos := int64(0); pos < 4000; pos += 37 {
				want := pair{base, 0}
				for _, p := range twin {
					if p.value <= pos {
						want = p
					}
				}
				if o, p := x.LookupPosition(pos); (pair{o, p}) != want {
					t.Fatalf("position %d found %d, %d in %v", pos, o, p, twin)
				}
			}
		}
	})
}

func TestTimesAgreeWithADumbTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SampledFrom([]int64{0, 5, 1 << 40}).Draw(t, "base")
		x := NewTimes(base)
		var twin []pair // time, offset
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				cut := base + rapid.Int64Range(-1, 400).Draw(t, "cut")
				x.TruncateTo(cut)
				twin = slices.DeleteFunc(twin, func(p pair) bool { return p.value >= cut })
			case 1:
				x.Thin()
				var half []pair
				for i, p := range twin {
					if (len(twin)-1-i)%2 == 0 {
						half = append(half, p)
					}
				}
				twin = half
			default:
				p := pair{rapid.Int64Range(-200, 200).Draw(t, "time"), base + rapid.Int64Range(-1, 400).Draw(t, "offset")}
				want := p.value >= base && (len(twin) == 0 || p.key > twin[len(twin)-1].key && p.value >= twin[len(twin)-1].value)
				if got := x.Append(p.key, p.value); got != want {
					t.Fatalf("append of %v to %v: %v", p, twin, got)
				}
				if want {
					twin = append(twin, p)
				}
			}
			d, err := DecodeTimes(x.AppendTo(nil))
			if err != nil || d.base != x.base || !slices.Equal(d.times, x.times) || !slices.Equal(d.offsets, x.offsets) {
				t.Fatalf("%v decoded to %v: %v", x, d, err)
			}
			x = x.Clone()
			for ts := int64(-201); ts <= 201; ts++ {
				if got, o := x.Lookup(ts); (pair{got, o}) != floor(twin, ts, pair{math.MinInt64, base}) {
					t.Fatalf("time %d found %d, %d in %v", ts, got, o, twin)
				}
			}
			if ts, o, ok := x.Last(); ok != (len(twin) > 0) || ok && (pair{ts, o}) != twin[len(twin)-1] {
				t.Fatalf("last is %d, %d, %v; want %v", ts, o, ok, twin)
			}
		}
	})
}

func TestExtremeTimesSurviveEncoding(t *testing.T) {
	x := NewTimes(0)
	for i, ts := range []int64{math.MinInt64, -1, 0, math.MaxInt64} {
		if !x.Append(ts, int64(i)) {
			t.Fatal(ts)
		}
	}
	d, err := DecodeTimes(x.AppendTo(nil))
	if err != nil || !slices.Equal(d.times, x.times) {
		t.Fatalf("%v, %v", d.times, err)
	}
}

func TestEntriesOutOfRangeAreRefused(t *testing.T) {
	x, y := NewOffsets(10), NewTimes(10)
	if x.Append(10+1<<32, 0) || x.Append(10, 1<<32) || y.Append(0, 10+1<<32) {
		t.Fatal("does not fit into 32 bits, but was accepted")
	}
	if !x.Append(10+math.MaxUint32, math.MaxUint32) || !y.Append(0, 10+math.MaxUint32) {
		t.Fatal("fits, but was refused")
	}
	if o, p := x.Lookup(math.MaxInt64); o != 10+math.MaxUint32 || p != math.MaxUint32 {
		t.Fatal(o, p)
	}
}

// The twin looks at all transactions. Their markers are in order, and a log's last stable
// offset is that of the oldest one still open.
func TestAbortedAgreesWithADumbTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x Aborted
		var twin []AbortedTxn
		open := map[int64]int64{}
		end := int64(0)
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			id := rapid.Int64Range(0, 4).Draw(t, "producer")
			first, isOpen := open[id]
			end += rapid.Int64Range(1, 3).Draw(t, "records")
			if !isOpen {
				open[id] = end
				continue
			}
			delete(open, id)
			if rapid.Bool().Draw(t, "committed") {
				continue
			}
			stable := end + 1
			for _, o := range open {
				stable = min(stable, o)
			}
			txn := AbortedTxn{ProducerID: id, FirstOffset: first, LastOffset: end, LastStableOffset: stable}
			x.Append(txn)
			twin = append(twin, txn)
			switch rapid.IntRange(0, 9).Draw(t, "also") {
			case 0:
				start := rapid.Int64Range(0, end).Draw(t, "start")
				x.DropBefore(start)
				twin = slices.DeleteFunc(twin, func(a AbortedTxn) bool { return a.LastOffset < start })
			case 1:
				d, err := DecodeAborted(x.AppendTo(nil))
				if err != nil || !slices.Equal(d.txns, x.txns) {
					t.Fatalf("%v decoded to %v: %v", x, d, err)
				}
				x = d.Clone()
			}
		}
		for range 20 {
			from := rapid.Int64Range(0, end+2).Draw(t, "from")
			to := rapid.Int64Range(from, end+2).Draw(t, "to")
			var want []AbortedTxn
			for _, a := range twin {
				if a.FirstOffset < to && a.LastOffset >= from {
					want = append(want, a)
				}
			}
			slices.SortFunc(want, func(a, b AbortedTxn) int { return cmp.Compare(a.FirstOffset, b.FirstOffset) })
			if got := x.Overlapping(from, to); !slices.Equal(got, want) {
				t.Fatalf("[%d, %d): got %v, want %v", from, to, got, want)
			}
		}
		cut := rapid.Int64Range(0, end+2).Draw(t, "cut")
		x.TruncateTo(cut)
		if slices.ContainsFunc(x.txns, func(a AbortedTxn) bool { return a.LastOffset >= cut }) {
			t.Fatal("a cut transaction is still there")
		}
	})
}

func TestEmptyIndexesCostNothing(t *testing.T) {
	x, y := NewOffsets(1), NewTimes(1)
	if x.SizeBytes() != 0 || y.SizeBytes() != 0 {
		t.Fatal("memory without entries")
	}
	for i := range int64(1000) {
		x.Append(1+i*40, i*4096)
		y.Append(i, 1+i*40)
	}
	if n := len(x.AppendTo(nil)); n > 1000*4 {
		t.Fatalf("offsets take %d bytes encoded", n)
	}
	x.Trim()
	y.Trim()
	if x.SizeBytes() > 1024*8 || y.SizeBytes() > 1024*12 {
		t.Fatalf("%d and %d bytes", x.SizeBytes(), y.SizeBytes())
	}
}

func FuzzDecode(f *testing.F) {
	x, y, z := NewOffsets(3), NewTimes(3), Aborted{}
	f.Add(x.AppendTo(nil))
	f.Add(y.AppendTo(nil))
	f.Add(z.AppendTo(nil))
	for i := range int64(5) {
		x.Append(10+i, 100*i)
		y.Append(-5+i, 10+i)
		z.Append(AbortedTxn{i, 10 * i, 10*i + 5, 10*i + 6})
	}
	f.Add(x.AppendTo(nil))
	f.Add(y.AppendTo(nil))
	f.Add(z.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := DecodeOffsets(b); err == nil {
			again, err := DecodeOffsets(x.AppendTo(nil))
			if err != nil || !slices.Equal(again.entries, x.entries) {
				t.Fatal(err)
			}
			x.Lookup(5)
			x.Thin()
		} else if !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
		if y, err := DecodeTimes(b); err == nil {
			again, err := DecodeTimes(y.AppendTo(nil))
			if err != nil || !slices.Equal(again.times, y.times) {
				t.Fatal(err)
			}
			y.Lookup(5)
			y.Thin()
		} else if !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
		if z, err := DecodeAborted(b); err == nil {
			again, err := DecodeAborted(z.AppendTo(nil))
			if err != nil || !slices.Equal(again.txns, z.txns) {
				t.Fatal(err)
			}
			z.Overlapping(0, 100)
		} else if !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	})
}
