package replication

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"

	"millrace/broker/replica"
	"millrace/engine/batch"
)

// samples are messages of every kind, small and at the ends of their ranges.
func samples() []message {
	var all []message
	for _, v := range []int64{0, 1, 300, math.MaxInt64} {
		n := int32(min(v, math.MaxInt32))
		u := uint64(v)
		all = append(all,
			message{kind: msgOpen, stream: u, key: Key{Topic: [16]byte{1, 2, 255}, Partition: n}, epoch: n, generation: u, logStart: v, hw: v, index: u},
			message{kind: msgVerdict, stream: u, verdict: replica.Verdict{Kind: replica.Cut, Epoch: n, Offset: v}},
			message{kind: msgMark, stream: u, hw: -1, logStart: v},
			message{kind: msgClose, stream: u},
			message{kind: msgOffer, stream: u, offer: replica.Offer{BrokerEpoch: v, LastEpoch: -1, End: v, HighWatermark: -v}},
			message{kind: msgAck, stream: u, epoch: n, generation: u, received: v, stored: v / 2},
			message{kind: msgFail, stream: u, code: failCorrupt, text: "what is wrong"},
			message{kind: msgReady, broker: v},
		)
	}
	return all
}

func TestMessagesComeBack(t *testing.T) {
	for _, leader := range []bool{true, false} {
		var b []byte
		var want []message
		for _, m := range samples() {
			if (int(m.kind) < len(fromLeader) && fromLeader[m.kind]) == leader {
				b = appendMessage(b, &m)
				want = append(want, m)
			}
		}
		var m message
		n := 0
		err := decodeMessages(b, leader, &m, func(m *message) error {
			if *m != want[n] {
				t.Errorf("%+v became %+v", want[n], *m)
			}
			n++
			return nil
		})
		if err != nil || n != len(want) || n == 0 {
			t.Fatalf("%d of %d messages: %v", n, len(want), err)
		}
		// In the other direction all of them are refused, and cut short as well.
		if err := decodeMessages(b, !leader, &m, func(*message) error { return nil }); err == nil {
			t.Error("a message is taken from the wrong end")
		}
		one := appendMessage(nil, &want[0])
		for n := 1; n < len(one); n++ {
			if err := decodeMessages(one[:n], leader, &m, func(*message) error { return nil }); err == nil {
				t.Errorf("%d bytes of %d are a message", n, len(one))
			}
		}
	}
}

func FuzzMessages(f *testing.F) {
	for _, m := range samples() {
		f.Add(appendMessage(nil, &m), int(m.kind) < len(fromLeader) && fromLeader[m.kind])
	}
	f.Fuzz(func(t *testing.T, b []byte, leader bool) {
		var m message
		_ = decodeMessages(b, leader, &m, func(m *message) error {
			var again message
			err := decodeMessages(appendMessage(nil, m), leader, &again, func(*message) error { return nil })
			if err != nil || again != *m {
				t.Fatalf("%+v became %+v: %v", *m, again, err)
			}
			if len(m.text) > maxTextBytes || m.kind == msgAck && m.stored > m.received {
				t.Fatalf("%+v is accepted", *m)
			}
			return nil
		})
	})
}

// someRuns is a frame of two runs in the bulk and one in the head.
func someRuns() (head, bulk []byte) {
	batches := func(base int64, epoch int32) []byte {
		b := batch.NewBuilder(base, epoch)
		b.Append(0, nil, []byte("v"), nil)
		return b.Build()
	}
	one, two, three := batches(5, 3), batches(0, 2), batches(9, 1)
	head = append(head, 3)
	for _, h := range []runHeader{
		{stream: 1, start: 5, end: 6, logStart: 1, hw: 4, epoch: 3, length: len(one)},
		{stream: 2, start: 8, end: 10, hw: -1, epoch: epochChecked, length: len(three)},
		{stream: 3, start: 0, end: 1, epoch: 2, length: len(two)},
	} {
		head = appendRunHeader(head, &h)
	}
	return append(head, three...), append(one, two...)
}

func FuzzRuns(f *testing.F) {
	head, bulk := someRuns()
	f.Add(head, bulk)
	f.Fuzz(func(t *testing.T, head, bulk []byte) {
		var runs []runHeader
		total := 0
		err := decodeRuns(head, bulk, &runs, func(h *runHeader, batches []byte) error {
			if h.end <= h.start || h.start < 0 || len(batches) != h.length {
				t.Fatalf("%+v with %d bytes is accepted", *h, len(batches))
			}
			total += len(batches)
			next, p := prove(h, batches)
			if next < h.start || p == proven && (next > h.end || h.epoch != epochChecked && next != h.end) {
				t.Fatalf("%+v ends at %d", *h, next)
			}
			return nil
		})
		if err == nil && total > len(head)+len(bulk) {
			t.Fatalf("%d bytes of batches in %d", total, len(head)+len(bulk))
		}
		if cap(runs) > len(head) {
			t.Fatalf("memory for %d runs for a head of %d bytes", cap(runs), len(head))
		}
	})
}

// TestEveryBitOfABulkRunIsCovered flips each bit of a run that is outside the frame's checksum: either the walk or the
// batch's own checksum must see it.
func TestEveryBitOfABulkRunIsCovered(t *testing.T) {
	var good []byte
	for i := range int64(3) {
		b := batch.NewBuilder(100+2*i, 7)
		b.Append(0, nil, []byte("value"), nil)
		b.Append(1, nil, []byte("value"), nil)
		good = append(good, b.Build()...)
	}
	h := runHeader{start: 100, end: 106, epoch: 7, length: len(good)}
	seen := func(b []byte) bool {
		if _, p := prove(&h, b); p != proven {
			return true
		}
		for len(b) > 0 {
			n, err := batch.PeekSize(b)
			if err != nil {
				return true
			}
			if _, err := batch.Validate(b[:n]); err != nil {
				return true
			}
			b = b[n:]
		}
		return false
	}
	if seen(good) {
		t.Fatal("a good run is refused")
	}
	for bit := range 8 * len(good) {
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		if !seen(b) {
			t.Fatalf("bit %d of byte %d is covered by nothing", bit%8, bit/8)
		}
	}
	for range 1000 { // a batch that is left out, doubled, or out of order
		b := bytes.Clone(good)
		n := len(good) / 3
		i, j := rand.IntN(3), rand.IntN(3)
		if i == j {
			b = append(b[:i*n:i*n], b[(i+1)*n:]...)
		} else {
			copy(b[i*n:(i+1)*n], good[j*n:(j+1)*n])
		}
		if !seen(b) {
			t.Fatalf("batch %d in place of %d is not seen", j, i)
		}
	}
}

func TestHolesAreProvenUnderTheFramesChecksumAlone(t *testing.T) {
	b := batch.NewBuilder(12, 3)
	b.Append(0, nil, nil, nil)
	raw := b.Build()
	h := runHeader{start: 10, end: 20, epoch: 3, length: len(raw)}
	if _, p := prove(&h, raw); p != unproven {
		t.Fatalf("a run with holes outside the checksum: %d", p)
	}
	h.epoch = epochChecked
	if next, p := prove(&h, raw); p != proven || next != 13 {
		t.Fatalf("%d, ends at %d", p, next)
	}
	h.end = 12
	if _, p := prove(&h, raw); p != damaged {
		t.Fatal("a batch beyond its run")
	}
}
