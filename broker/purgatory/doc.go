// Package purgatory keeps what waits: requests that are answered when something
// happens to one of several keys (a partition's high watermark moves), or when their
// time is up.
//
//	Watch(wait, keys, deadline) ---> Waiters: key -> wait, wait, ...   Timers: wheel
//	                                    ^                                 ^
//	Progress(key, value) ---------------+            Advance(now) --------+
//	     |                                                |
//	     +------------> Complete(Progressed | Expired) <--+    exactly once
//
// # Contract
//
//   - A Wait that Watch accepted is completed exactly once: by the first Progress on one
//     of its keys that goes beyond what it waits for, by the end of its deadline, or by a
//     Cancel that returns true (then Complete is not called). It is free for the next
//     Watch before Complete is called, and a Cancel that returned false says nothing about
//     whether Complete has begun.
//   - Progress must be called after what it tells of can be seen. The owner of a Wait looks
//     again after Watch has returned true; if there is something, it calls Cancel, and goes
//     on by itself if that returns true. Then no progress is ever missed.
//   - Complete runs on the thread that called Progress or Advance, with no lock held. It
//     must not block; to post a task to an event loop is what it is for.
//   - Deadlines are in milliseconds of any clock that the caller also gives to Advance.
//     Nothing completes before its deadline; how late depends on how often Advance is
//     called. OnEarlier tells a driver that sleeps until Next to wake up.
//
// # Memory
//
// A Wait lives inside the request that waits, and is used again with it: waiting
// allocates nothing, once the Wait has had as many keys before. There is no goroutine
// here, neither for a request nor for the clock.
//
// # Threads and locks
//
// Waiters and Timers are safe for concurrent use. One Wait is watched by one thread at a
// time: its owner. Locks: a bucket of keys, or the wheel, never two at once.
package purgatory
