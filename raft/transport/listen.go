package transport

import (
	"fmt"
	"net"
)

// Listen binds the cluster port. An address without a host is loopback: a port that anybody may reach is opened only
// when a host (or 0.0.0.0) says so.
func Listen(addr string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("cluster port %q: %w", addr, err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("cluster port: %w", err)
	}
	return l, nil
}
