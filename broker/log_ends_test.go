package broker

import (
	"reflect"
	"testing"

	"millrace/raft"
	"millrace/raft/controller"
)

func TestLogEndsSurviveTheWire(t *testing.T) {
	places := []logPlace{{raft.NewUUID(), 0}, {raft.NewUUID(), 1 << 30}, {raft.NewUUID(), 7}}
	got, err := decodeLogPlaces(appendLogPlaces(nil, places))
	if err != nil || !reflect.DeepEqual(got, places) {
		t.Fatal(got, err)
	}
	b := appendLogEnd(appendLogEnd(appendLogEnd(nil, 5, 1<<40), -1, -1), -1, 0)
	ends, err := decodeLogEnds(b, places)
	want := map[logPlace]controller.LogEnd{places[0]: {Epoch: 5, End: 1 << 40}, places[2]: {Epoch: -1, End: 0}}
	if err != nil || !reflect.DeepEqual(ends, want) {
		t.Fatal(ends, err)
	}
	for cut := range b {
		if _, err := decodeLogEnds(b[:cut], places); err == nil {
			t.Fatalf("%d of %d bytes pass", cut, len(b))
		}
	}
	if _, err := decodeLogEnds(append(b, 0), places); err == nil {
		t.Fatal("one byte too many passes")
	}
	many := make([]logPlace, logPlacesMax+1)
	if _, err := decodeLogPlaces(appendLogPlaces(nil, many)); err == nil {
		t.Fatal("a question without end passes")
	}
}

func FuzzLogEnds(f *testing.F) {
	places := []logPlace{{raft.NewUUID(), 3}, {raft.NewUUID(), 300}}
	f.Add(appendLogPlaces(nil, places))
	f.Add(appendLogEnd(appendLogEnd(nil, 1, 2), 3, 4))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := decodeLogPlaces(b); err == nil {
			if again, err := decodeLogPlaces(appendLogPlaces(nil, got)); err != nil || !reflect.DeepEqual(got, again) {
				t.Fatal(got, again, err)
			}
		}
		if ends, err := decodeLogEnds(b, places); err == nil {
			for _, e := range ends {
				if e.End < 0 || e.Epoch < -1 {
					t.Fatalf("%+v", e)
				}
			}
		}
	})
}
