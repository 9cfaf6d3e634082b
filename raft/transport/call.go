package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Method answers a call. ctx ends with the caller's patience or the connection.
type Method func(ctx context.Context, peer Identity, body []byte) ([]byte, error)

// MaxCallBytes bounds a request and its answer.
const MaxCallBytes = 8 << 20

const (
	callRequest  = 1 // id u64, method u16, patience in ms u32, body
	callResponse = 2 // id u64, status u8, body or text
	callHead     = 14
	answerHead   = 9

	statusOK      = 0
	statusError   = 1
	statusUnknown = 2

	callsAtOnce = 64 // of one connection; more are left unread
	maxPatience = time.Minute
)

// CallError is what the other end's method returned, in words.
type CallError struct{ Text string }

func (e *CallError) Error() string { return e.Text }

// Errors of calls. After ErrNoAnswer the method may have run.
var (
	ErrNoMethod = errors.New("transport: the peer does not know this method")
	ErrNoAnswer = errors.New("transport: no answer")
)

// Serve has calls of a method answered by m. Methods are numbered by who owns them; Register's rules apply.
func (t *Transport) Serve(method uint16, m Method) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.methods[method] = m
}

func (t *Transport) serveCalls(c *Conn) {
	defer t.tellLost(c.peer)
	go c.KeepAlive(t.o.PingInterval, t.o.SilenceTimeout)
	room := make(chan struct{}, callsAtOnce)
	ctx, cancel := context.WithCancel(t.closing)
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	defer func() { _ = c.Close() }()
	for {
		kind, b, err := c.ReadFrame(MaxCallBytes + callHead)
		if err != nil || kind != callRequest || len(b) < callHead {
			return
		}
		id, method := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint16(b[8:])
		patience := min(time.Duration(binary.LittleEndian.Uint32(b[10:]))*time.Millisecond, maxPatience)
		t.mu.Lock()
		m := t.methods[method]
		t.mu.Unlock()
		select {
		case room <- struct{}{}:
		case <-c.closed:
			return
		}
		running.Go(func() {
			defer func() { <-room }()
			var head [answerHead]byte
			binary.LittleEndian.PutUint64(head[:], id)
			if m == nil {
				head[8] = statusUnknown
				_ = c.WriteFrame(callResponse, head[:])
				return
			}
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			answer, err := m(ctx, c.peer, b[callHead:])
			if err == nil && len(answer) > MaxCallBytes {
				err = ErrFrameTooLarge
			}
			if err != nil {
				head[8], answer = statusError, []byte(err.Error())
			}
			_ = c.WriteFrame(callResponse, head[:], answer)
		})
	}
}

// caller is the connection over which calls to one target go.
type caller struct {
	mu      sync.Mutex // held while dialing: others wait for the same outcome
	conn    *Conn
	pending struct {
		sync.Mutex
		next  uint64
		calls map[uint64]chan answer
	}
}

type answer struct {
	status byte
	body   []byte
}

// Call asks a peer and waits for its answer. Calls to one target share a connection.
func (t *Transport) Call(ctx context.Context, to Target, method uint16, body []byte) ([]byte, error) {
	if len(body) > MaxCallBytes {
		return nil, ErrFrameTooLarge
	}
	patience := maxPatience
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, deadline.Sub(now()))
	}
	if patience <= 0 {
		return nil, context.DeadlineExceeded
	}
	t.mu.Lock()
	k := t.callers[to]
	if k == nil {
		k = &caller{}
		k.pending.calls = map[uint64]chan answer{}
		t.callers[to] = k
	}
	t.mu.Unlock()
	c, err := t.connected(ctx, k, to)
	if err != nil {
		return nil, err
	}
	wait := make(chan answer, 1)
	k.pending.Lock()
	k.pending.next++
	id := k.pending.next
	k.pending.calls[id] = wait
	k.pending.Unlock()
	defer func() {
		k.pending.Lock()
		delete(k.pending.calls, id)
		k.pending.Unlock()
	}()
	var head [callHead]byte
	binary.LittleEndian.PutUint64(head[:], id)
	binary.LittleEndian.PutUint16(head[8:], method)
	binary.LittleEndian.PutUint32(head[10:], uint32(patience.Milliseconds()+1))
	if err := c.WriteFrame(callRequest, head[:], body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	select {
	case a := <-wait:
		switch a.status {
		case statusOK:
			return a.body, nil
		case statusUnknown:
			return nil, ErrNoMethod
		default:
			return nil, &CallError{Text: string(a.body)}
		}
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, ctx.Err())
	case <-c.closed:
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, c.reason)
	case <-after(patience + time.Second): // a context without a deadline
		return nil, fmt.Errorf("%w in %v", ErrNoAnswer, patience)
	}
}

func (t *Transport) connected(ctx context.Context, k *caller, to Target) (*Conn, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn != nil {
		select {
		case <-k.conn.closed:
		default:
			return k.conn, nil
		}
	}
	c, err := t.Dial(ctx, to, KindCall)
	if err != nil {
		return nil, err
	}
	k.conn = c
	go c.KeepAlive(t.o.PingInterval, t.o.SilenceTimeout)
	go k.readAnswers(c)
	return c, nil
}

func (k *caller) readAnswers(c *Conn) {
	defer func() { _ = c.Close() }()
	for {
		kind, b, err := c.ReadFrame(MaxCallBytes + answerHead)
		if err != nil {
			c.close(err)
			return
		}
		if kind != callResponse || len(b) < answerHead {
			return
		}
		k.pending.Lock()
		wait := k.pending.calls[binary.LittleEndian.Uint64(b)]
		k.pending.Unlock()
		if wait != nil {
			select {
			case wait <- answer{status: b[8], body: b[answerHead:]}:
			default: // answered twice
			}
		}
	}
}
