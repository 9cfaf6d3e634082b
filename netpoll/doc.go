// Package netpoll carries size-prefixed frames between TCP connections and one
// handler, on its own epoll loops.
//
//	          accept            recv, frames             OnFrame
//	listener -------> Loop 0 ---------------> landing ------------> Handler
//	             \                            chunk                   |  Begin
//	              +-> Loop 1 ...                                      v  Reply, in any order
//	                                          sendmsg, sendfile     slots
//	peer <------------------------------------------------------- in order
//
// A frame is four bytes of big-endian length and that many bytes, as in Kafka's
// protocol, both ways. What the bytes mean is the handler's business.
//
// # A turn of a loop
//
//	epoll_wait -> recv and OnFrame -> posted tasks -> timers -> OnTurnEnd -> flush
//
// Everything that was answered during a turn leaves at its end, with one sendmsg a
// connection. A loop that finds nothing to do asks the kernel once without waiting
// and then sleeps; Post wakes it with one write to an eventfd however many tasks are
// posted meanwhile. Sockets are registered once, edge triggered, for both directions;
// a connection that still has bytes to be read or written after its share of the turn
// stays on the loop's own ready list, so a fast peer takes turns with the others.
//
// # A connection
//
//	          accept, limits ok
//	                |
//	                v   Close(err) on any thread; EOF, error,
//	Pause --> +---------+ deadline, budget           +---------+
//	paused    |  open   |--------------------------->| closing |
//	Resume -> +---------+                            +---------+
//	                |  Shutdown, Drain                    |
//	                v                                     | on the loop's thread:
//	          +----------+  last answer sent, or          | one last flush, owners and
//	          | draining |------------------------------->| frames given back, fd closed
//	          +----------+  the context ended             v
//	                                                 +---------+
//	                                                 | closed  |  OnClose(err), once
//	                                                 +---------+
//
// Draining is open for answers and closed for frames.
//
// # Close protocol
//
//  1. Close wins a compare-and-swap from open to closing; whoever loses it does
//     nothing, so the first reason is the one that OnClose reports. From here on no
//     frame is delivered, also none of those that were read together.
//  2. The winner posts the connection to its loop. Only the loop's thread closes the
//     descriptor, so no thread can use a descriptor that is being closed.
//  3. On the loop: what was replied in order gets one chance to be written; then
//     every response is dropped and its owners are released, the connection leaves
//     the lists, and OnClose is called. If the last answers are only in the kernel,
//     our side is shut down and the descriptor lingers: what the peer sends is read
//     and thrown away until it closes, for a second at most, because closing over
//     unread bytes resets the connection and destroys the answers. Then the
//     descriptor is closed and the limits are given back.
//  4. Reply, Skip, Pause, Resume and Frame.Release still work on a closed connection
//     and only give memory back. A Conn is never reused.
//  5. The kernel may hand the number of the descriptor to the next connection while
//     events of the old one are still queued. Every event therefore carries the
//     generation of its registration, and an event whose generation is not the
//     table's is dropped.
//
// # Memory
//
// Bytes are received into the loop's landing chunk, off the Go heap, and frames are
// handed out where they lie. A connection that has no half frame holds no receive
// memory. A half frame moves to a chunk of its own, which grows with the bytes that
// have come, not with the length that was announced. All chunks, and answers that a
// peer does not take, are charged to Options.TotalMemory:
//
//   - A frame that announced L bytes may take memory only while min(T/8, L/4) of the
//     total T stays free. Large frames stop first; what they leave serves the small
//     ones.
//   - A connection that is refused memory is not read until some is free. If that
//     takes longer than a second, the oldest half frames are closed (ErrShed) until
//     half of T is free. That is also what happens to an honest but slow sender on a
//     machine under attack.
//   - Above 7/8 of T only a kilobyte is received at a time from a connection without
//     a half frame, so that what cannot be refused any more stays small.
//   - The landing chunks have their own reserve on top of T, so whole small frames
//     are served whatever half frames hold.
//
// Frames that the handler keeps, and answers that the peer has not taken, count
// against Options.ConnMemory; above it the connection is not read.
//
// # Answers
//
// Parts of a Response that are memory of others (AppendMem) are written from where
// they lie. What the socket refuses stays pinned for at most Options.PinTimeout and
// is then copied into memory charged to the connection, so that a slow reader never
// holds the engine's buffers; over budget the connection is closed (ErrSlowReader).
// File parts go out by sendfile, at most 256 KiB a call, with MSG_MORE on the bytes
// before them. The caller makes file ranges resident first: a cold sendfile blocks
// the loop.
//
// # Deadlines
//
// A half frame must be complete within FrameTimeout plus what its bytes take at 32
// KiB/s; a peer must take some byte of its answer every WriteTimeout; a connection
// with nothing under way lives IdleTimeout. Time during which the server itself does
// not read counts for nobody.
//
// # Threads
//
// A loop is a goroutine locked to its thread. Everything here is for that thread
// only, except Loop.Post, Conn.Close, Conn.Closed, Frame.Release and the methods of
// Server.
package netpoll
