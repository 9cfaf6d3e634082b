package netpoll

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// chunkClasses are the sizes of pooled chunks. Larger ones are mapped to measure.
var chunkClasses = [...]int{1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20}

const (
	landingClass = 4  // chunkClasses[landingClass] == landingBytes
	mappedClass  = -1 // a mapping of its own
	arenaBytes   = 1 << 20
	pageBytes    = 4 << 10
	mapStepBytes = 1 << 20
)

// chunk is a piece of receive memory, off the Go heap. Frames, the connection
// that fills it and the loop that lands in it each hold a reference; the last one to
// let go gives it back. refs may be changed on any thread.
type chunk struct {
	mem   []byte
	refs  atomic.Int32
	class int
	pool  *memory
}

// Release implements Releaser.
func (k *chunk) Release() {
	n := k.refs.Add(-1)
	if n == 0 {
		k.pool.free(k)
	} else if n < 0 {
		panic(fmt.Sprintf("BUG: chunk of %d bytes released %d times too often", len(k.mem), -n))
	}
}

// memory is the budget of a server and its pool of chunks. It is safe for
// concurrent use.
type memory struct {
	total   int64 // what may be used; see admit
	reserve int64 // on top of total, for landing chunks
	used    atomic.Int64
	// hungry is set when somebody was refused memory; the next one to give some
	// back clears it and calls onFree.
	hungry atomic.Bool
	onFree func()
	// idle are the bytes of warm chunks, which the process has and nobody uses.
	// used and idle together stay near total; see free and take.
	idle atomic.Int64

	classes [len(chunkClasses)]chunkClass
}

// chunkClass are the free chunks of one size. warm ones are backed by pages,
// cold ones were given back to the kernel and keep their address only.
type chunkClass struct {
	mu      sync.Mutex
	warm    []*chunk
	cold    []*chunk
	warmMin int // fewest warm ones since the last trim: nobody needed these
}

func newMemory(total int64, loops int) *memory {
	return &memory{total: total, reserve: int64(loops) * 2 * landingBytes, onFree: func() {}}
}

// admit charges n bytes for a frame or an answer that announced so many bytes, if
// enough stays free for those that announced less.
func (m *memory) admit(n, announced int) bool {
	leave := min(m.total/8, int64(announced)/4)
	if m.used.Add(int64(n)) <= m.total-leave {
		return true
	}
	m.uncharge(n)
	return false
}

// charge takes n bytes whatever the budget says.
func (m *memory) charge(n int) { m.used.Add(int64(n)) }

// uncharge gives n bytes back and wakes those that wait for memory.
func (m *memory) uncharge(n int) {
	m.used.Add(int64(-n))
	if m.hungry.Load() && m.hungry.CompareAndSwap(true, false) {
		m.onFree()
	}
}

// scarce tells that only little may be read at a time.
func (m *memory) scarce() bool { return m.used.Load() > m.total/8*7 }

// plenty tells that a frame may get its memory before its bytes.
func (m *memory) plenty() bool { return m.used.Load() < m.total/4 }

// classFor returns the smallest class of at least n bytes, or mappedClass.
func classFor(n int) int {
	for i, size := range chunkClasses {
		if n <= size {
			return i
		}
	}
	return mappedClass
}

// sizeFor returns the length of the chunk that alloc(n) makes.
func sizeFor(n int) int {
	if class := classFor(n); class != mappedClass {
		return chunkClasses[class]
	}
	return (n + pageBytes - 1) &^ (pageBytes - 1)
}

// alloc returns a chunk of at least n bytes with one reference. Its size was
// charged by the caller.
func (m *memory) alloc(n int) *chunk {
	class := classFor(n)
	if class == mappedClass {
		k := &chunk{mem: mapMemory(sizeFor(n)), class: mappedClass, pool: m}
		k.refs.Store(1)
		return k
	}
	k := m.take(class)
	k.refs.Store(1)
	return k
}

func (m *memory) take(class int) *chunk {
	c := &m.classes[class]
	c.mu.Lock()
	if n := len(c.warm); n > 0 {
		k := c.warm[n-1]
		c.warm = c.warm[:n-1]
		c.warmMin = min(c.warmMin, n-1)
		c.mu.Unlock()
		m.addIdle(-len(k.mem))
		return k
	}
	c.mu.Unlock()
	if m.used.Load()+m.idle.Load() > m.total {
		// New pages are about to be touched: give back those of other sizes first.
		m.trimTo(func(c *chunkClass) int { return len(c.warm) })
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.cold) == 0 {
		size := chunkClasses[class]
		arena := mapMemory(max(arenaBytes, size))
		for len(arena) > 0 {
			c.cold = append(c.cold, &chunk{mem: arena[:size:size], class: class, pool: m})
			arena = arena[size:]
		}
	}
	n := len(c.cold)
	k := c.cold[n-1]
	c.cold = c.cold[:n-1]
	return k
}

// grow makes a mapped chunk that nobody else refers to longer, without copying.
// The caller has charged the difference.
func (m *memory) grow(k *chunk, size int) {
	if k.class != mappedClass || k.refs.Load() != 1 {
		panic("BUG: grow of a shared chunk")
	}
	k.mem = remapMemory(k.mem, size)
}

func (m *memory) free(k *chunk) {
	size := len(k.mem)
	if k.class == mappedClass {
		unmapMemory(k.mem)
		k.mem = nil
	} else {
		poison(k.mem)
		c := &m.classes[k.class]
		warm := size < pageBytes || m.idle.Load()+int64(size) <= m.total/4 && !m.scarce()
		if warm {
			m.addIdle(size)
		} else {
			dropPages(k.mem)
		}
		c.mu.Lock()
		if warm {
			c.warm = append(c.warm, k)
		} else {
			c.cold = append(c.cold, k)
		}
		c.mu.Unlock()
	}
	m.uncharge(size)
}

// addIdle counts warm bytes. Chunks below a page cannot be given back alone and
// are too few to count.
func (m *memory) addIdle(n int) {
	if n >= pageBytes || n <= -pageBytes {
		m.idle.Add(int64(n))
	}
}

// trim gives the pages of chunks that nobody needed since the last call back to the
// kernel, and says whether there is more to look at later.
func (m *memory) trim() (more bool) {
	return m.trimTo(func(c *chunkClass) int { return min(c.warmMin, len(c.warm)) })
}

// trimTo makes the oldest so many warm chunks of each class cold.
func (m *memory) trimTo(count func(*chunkClass) int) (more bool) {
	for i := range m.classes {
		c := &m.classes[i]
		if chunkClasses[i] < pageBytes {
			continue
		}
		c.mu.Lock()
		n := count(c)
		for _, k := range c.warm[:n] {
			dropPages(k.mem)
		}
		m.addIdle(-n * chunkClasses[i])
		c.cold = append(c.cold, c.warm[:n]...)
		rest := copy(c.warm, c.warm[n:])
		clear(c.warm[rest:])
		c.warm = c.warm[:rest]
		c.warmMin = rest
		more = more || rest > 0
		c.mu.Unlock()
	}
	return more
}
