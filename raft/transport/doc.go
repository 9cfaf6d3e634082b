// Package transport is the cluster port: one TCP port between the nodes of a cluster, with a handshake that
// knows who is who, capped and checksummed frames, and one kind of stream a connection.
//
//	   Dial(ctx, peer, kind)                       Register(kind, handler)
//	          |                                            ^
//	TCP [TLS] -> Hello ---------------------------> admit? | one goroutine a connection
//	          <- Welcome (or a refusal with words) <-------+
//	          -> Proof (HMAC, where a secret is set)
//	          <> frames of that stream
//
// Streams of this package: KindRaft (raft messages) and KindSnapshot (snapshot chunks), which together are
// dragonboat's transport (Factory), and KindCall (requests with answers: Call, Serve). Other packages register
// their own kinds from KindFirstFree up, for replication say: a handler gets a Conn whose peer is known, and
// owns it until it returns.
//
// Contract:
//   - Nothing of a peer is believed before the handshake: one small frame under a deadline, and a bound on how
//     many may be at it. A node id, replica id or data directory that does not fit is refused with words.
//   - A frame is at most what the reader allows, and memory is taken as bytes arrive.
//   - Both CRCs of a frame are checked before its bytes are looked at; what decodes is still checked against the
//     handshake (check.go), because dragonboat ends the process on messages that cannot be.
//   - A bulk frame (WriteBulk, ReadBulk) is the exception: its head is checked, its bulk, which may go from a file to the
//     socket by sendfile, is for who reads it to check. ReadFrame refuses such frames.
//   - Sending raft messages never blocks: a bounded queue a peer drops its oldest; raft is told that the peer is
//     unreachable and sends again.
//   - A connection that is silent for its keep-alive time is closed, so that a healed network is found within a
//     second and not when TCP next tries.
//
// Threads: Transport, Conn.WriteFrame and Call are safe for concurrent use; a Conn has one reader.
//
// The handshake's secret proves who opens a connection, not what is sent later: on a network that others can write
// to use TLS. The wire version is negotiated in the Hello (WireMin, WireMax).
package transport
