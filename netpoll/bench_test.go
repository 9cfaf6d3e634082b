package netpoll

import (
	"io"
	"net"
	"strconv"
	"testing"
)

// BenchmarkEcho is one loop under a number of clients in the same process, each
// with one request under way.
func BenchmarkEcho(b *testing.B) {
	for _, clients := range []int{1, 16, 128} {
		for _, size := range []int{256, 64 << 10, 1 << 20} {
			b.Run("clients="+strconv.Itoa(clients)+"/bytes="+strconv.Itoa(size), func(b *testing.B) {
				_, addr := serve(b, Options{}, &hooks{frame: func(c *Conn, f Frame) {
					r := c.Loop().NewResponse()
					r.Append(f.Data[:16])
					c.Reply(c.Begin(), r)
					f.Release()
				}})
				b.SetBytes(int64(size))
				b.ReportAllocs()
				work := make(chan struct{}, clients)
				done := make(chan error, clients)
				for range clients {
					conn, err := net.Dial("tcp", addr)
					if err != nil {
						b.Fatal(err)
					}
					defer func() { _ = conn.Close() }()
					go func() {
						request, answer := framed(make([]byte, size)), make([]byte, 20)
						for range work {
							if _, err := conn.Write(request); err != nil {
								done <- err
								return
							}
							if _, err := io.ReadFull(conn, answer); err != nil {
								done <- err
								return
							}
						}
						done <- nil
					}()
				}
				b.ResetTimer()
				for range b.N {
					work <- struct{}{}
				}
				close(work)
				for range clients {
					if err := <-done; err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
