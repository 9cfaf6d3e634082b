package history

import (
	"time"

	"millrace/tools/numbered"
)

// partition is what is known of one partition.
type partition struct {
	places []place // by offset
	leader map[int32]int64
	end    int64                      // by the last reader; -1: it was not asked
	ones   map[numbered.ID]loneRecord // acknowledged with acks=1: where and when
	sent   map[int32]lastSent         // by producer
	seen   map[consumer]position      // by consumer
	known  map[int32]int64            // by client: the first offset that it knows nothing of
	groups map[string]int64           // by group: the first offset that no member was shown
	commit map[string]int64           // by group: acknowledged
}

// place is what has to stand at one offset.
type place struct {
	must  numbered.ID // acknowledged with acks=all, or shown; 0: nothing is known
	final numbered.ID // what the last reader was shown
	epoch int32       // -1: not known
	flags uint8
}

const (
	ackedAll uint8 = 1 << iota
	shown
	hasFinal
)

// loneRecord is a record that one replica has acknowledged.
type loneRecord struct {
	offset int64
	at     time.Duration
}

// lastSent is the newest acknowledgement of one producer.
type lastSent struct {
	number uint64
	offset int64
	op     int64
}

// consumer is one client, by itself or in a group.
type consumer int32

// position is where a consumer is.
type position struct {
	next  int64 // the offset that has to come
	op    int64
	free  bool   // it was assigned anew and may begin where the group's offset lets it
	group string // "" for one that reads by itself
}

func newPartition() *partition {
	return &partition{
		leader: map[int32]int64{}, end: -1, ones: map[numbered.ID]loneRecord{}, sent: map[int32]lastSent{}, seen: map[consumer]position{},
		known: map[int32]int64{}, groups: map[string]int64{}, commit: map[string]int64{},
	}
}

// place finds or makes an offset's place.
func (p *partition) place(offset int64) *place {
	for int64(len(p.places)) <= offset {
		p.places = append(p.places, place{epoch: -1})
	}
	return &p.places[offset]
}

// knows raises what a client knows.
func (p *partition) knows(client int32, next int64) {
	p.known[client] = max(p.known[client], next)
}
