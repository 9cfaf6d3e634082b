package netpoll

import (
	"fmt"
	"time"
)

// Options of a Server. The zero value of a field means its default.
type Options struct {
	Loops         int // event loops, each with a thread; default 1
	MaxFrameBytes int // payload of the largest frame; default 100 MiB (socket.request.max.bytes)
	MaxConns      int // connections over all; default 20,000
	// MaxConnsPerIP limits the connections of one address (of one /64 for IPv6); default MaxConns.
	MaxConnsPerIP int
	// ConnMemory limits what one connection may hold in delivered frames and
	// unsent answers before it is no longer read, and what may be copied for it
	// when it does not read; default MaxFrameBytes.
	ConnMemory int64
	// TotalMemory limits half frames, delivered frames and unsent answers of all
	// connections; default MaxFrameBytes + MaxFrameBytes/4, at least 32 MiB. It is
	// raised to what one frame of MaxFrameBytes needs.
	TotalMemory  int64
	IdleTimeout  time.Duration // default 10 minutes (connections.max.idle.ms)
	FrameTimeout time.Duration // for a frame to be complete; default 30 s
	WriteTimeout time.Duration // for a peer to take any byte of an answer; default 60 s
	// PinTimeout is how long memory of others may stay referenced by an answer
	// that the peer does not take; default 20 ms; negative: not at all.
	PinTimeout  time.Duration
	MaxInflight int // frames delivered and not yet answered, per connection; default 128
	Backlog     int // of listen(2); default 4096, capped by net.core.somaxconn
}

const (
	defaultFrameBytesMax  = 100 << 20
	defaultTotalMemoryMin = 32 << 20

	landingBytes     = 256 << 10 // a chunk that small frames of all connections land in
	recvWindowBytes  = 64 << 10  // asked of one recv into the landing chunk
	recvScarceBytes  = 1 << 10   // the same when memory is scarce
	recvBudgetBytes  = 256 << 10 // read from one connection in one turn
	sendBudgetBytes  = 1 << 20   // written to one connection in one turn
	sendfileBytesMax = 256 << 10 // of one sendfile call: it runs on the loop
	iovecsMax        = 64        // of one sendmsg
	eventsMax        = 256       // of one epoll_wait
	acceptsMax       = 64        // of one listener in one turn

	frameRateMin  = 32 << 10    // bytes a second that a half frame must make after FrameTimeout
	shedAge       = 1000        // ms: a half frame older than this may be shed when others wait
	hungryRetry   = 2           // ms between two tries of those that were refused memory
	acceptBackoff = 100         // ms without accepting when no descriptor can be had at all
	lingerTime    = time.Second // for a peer to take its last answers from the kernel
	trimPeriod    = 1000        // ms between two looks at cached chunks
)

func (o *Options) complete() error {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	after := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	set(&o.Loops, 1)
	set(&o.MaxFrameBytes, defaultFrameBytesMax)
	set(&o.MaxConns, 20_000)
	set(&o.MaxConnsPerIP, o.MaxConns)
	set(&o.MaxInflight, 128)
	set(&o.Backlog, 4096)
	after(&o.IdleTimeout, 10*time.Minute)
	after(&o.FrameTimeout, 30*time.Second)
	after(&o.WriteTimeout, time.Minute)
	after(&o.PinTimeout, 20*time.Millisecond)
	if o.Loops < 0 || o.MaxFrameBytes < 0 || o.MaxConns < 0 || o.MaxConnsPerIP < 0 || o.MaxInflight < 0 || o.Backlog < 0 ||
		o.ConnMemory < 0 || o.TotalMemory < 0 || o.IdleTimeout < 0 || o.FrameTimeout < 0 || o.WriteTimeout < 0 {
		return fmt.Errorf("netpoll: a negative limit in %+v", *o)
	}
	if o.MaxFrameBytes > 1<<31-1-4 {
		return fmt.Errorf("netpoll: frames of %d bytes do not fit Kafka's size field", o.MaxFrameBytes)
	}
	frame := int64(o.MaxFrameBytes)
	if o.ConnMemory == 0 {
		o.ConnMemory = max(frame, 1<<20)
	}
	if o.TotalMemory == 0 {
		o.TotalMemory = max(frame+frame/4, defaultTotalMemoryMin)
	}
	// One frame of the largest size must be possible: its chunk, and an eighth that it has to leave.
	o.TotalMemory = max(o.TotalMemory, frame+frame/6+4<<20)
	return nil
}
