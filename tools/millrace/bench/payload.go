package bench

import (
	"encoding/binary"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A record's value: run (8 bytes), number (8), due time in ns since the run began (8), then filler that
// follows from run and number. All integers are big endian.
const headerSize = 24

// fillerPoolSize is the size of the random bytes that fillers are cut from. Random, so that compression has
// nothing to gain and a damaged byte cannot hide among equal ones.
const fillerPoolSize = 1 << 20

// payload makes and recognises the records of one run. It is safe for concurrent use.
type payload struct {
	run   uint64
	began time.Time
	size  int
	pool  []byte
	keys  [][]byte
}

func newPayload(run uint64, began time.Time, size, keys int) *payload {
	p := &payload{run: run, began: began, size: size, pool: make([]byte, fillerPoolSize+size)}
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(p.pool) // never fails
	for i := range keys {
		p.keys = append(p.keys, strconv.AppendInt([]byte("key-"), int64(i), 10))
	}
	return p
}

// header is what a record says about itself.
type header struct {
	run, number uint64
	due         time.Duration // since the run began
}

func (p *payload) filler(run, number uint64) []byte {
	// Fibonacci hashing spreads neighbouring numbers over the pool.
	at := ((number ^ run) * 0x9e3779b97f4a7c15) >> (64 - 20)
	return p.pool[at : int(at)+p.size-headerSize]
}

// fill makes r the record of that number, with a value of its own in buf.
func (p *payload) fill(r *kgo.Record, buf []byte, number uint64, due time.Time) {
	p.put(buf, number, due)
	*r = kgo.Record{Value: buf}
	if len(p.keys) > 0 {
		r.Key = p.keys[number%uint64(len(p.keys))]
	}
}

// put writes the value of that number into buf, which has the run's message size.
func (p *payload) put(buf []byte, number uint64, due time.Time) {
	p.putHeader(buf, number, due)
	copy(buf[headerSize:], p.filler(p.run, number))
}

// putHeader writes what a value begins with.
func (p *payload) putHeader(buf []byte, number uint64, due time.Time) {
	binary.BigEndian.PutUint64(buf, p.run)
	binary.BigEndian.PutUint64(buf[8:], number)
	binary.BigEndian.PutUint64(buf[16:], uint64(due.Sub(p.began)))
}

// parse reads a value's header; ok is false if it is no record of this run.
func (p *payload) parse(value []byte) (h header, ok bool) {
	if len(value) < headerSize || binary.BigEndian.Uint64(value) != p.run {
		return header{}, false
	}
	return header{
		run:    p.run,
		number: binary.BigEndian.Uint64(value[8:]),
		due:    time.Duration(binary.BigEndian.Uint64(value[16:])),
	}, true
}

// intact reports whether every byte of a value of this run is what was sent.
func (p *payload) intact(value []byte) bool {
	h, ok := p.parse(value)
	return ok && len(value) == p.size && string(value[headerSize:]) == string(p.filler(p.run, h.number))
}
