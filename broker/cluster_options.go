package broker

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"millrace/raft"
	"millrace/raft/controller"
	"millrace/raft/transport"
)

// ClusterOptions make a broker one of several. Without them it runs alone and opens no port for others.
type ClusterOptions struct {
	// RaftAddr is where the cluster port listens, host:port: metadata, heartbeats and replication. Without a host it
	// is this machine only.
	RaftAddr string
	// AdvertisedAddr is where the other nodes are told to reach that port, host:port. Default: the host that the
	// listener got, or the advertised host of the clients' listener if that is every address; and the listener's port.
	AdvertisedAddr string
	// Peers are the other nodes: all first ones for Bootstrap, some members for Join; later they are hints only.
	Peers []raft.Peer
	// Bootstrap makes an empty data directory one of the first nodes, which vote; Join has it admitted by a running
	// cluster, without a vote. Neither matters once the directory belongs to a cluster.
	Bootstrap, Join bool
	// Secret, if set, must be known to every node. TLS, if set, secures the port with certificates of both ends.
	Secret []byte
	TLS    *transport.TLS

	// For tests: an open listener instead of RaftAddr, and faster clocks.
	listener   net.Listener
	tickMillis uint64
	controller controller.Config
}

func (c *ClusterOptions) complete() error {
	if c == nil {
		return nil
	}
	if c.RaftAddr == "" && c.listener == nil {
		return errors.New("broker: a node of a cluster needs the address of its cluster port")
	}
	if c.Bootstrap && c.Join {
		return errors.New("broker: a node is one of the first (bootstrap) or joins later, not both")
	}
	return nil
}

// listen opens the cluster port; nothing is accepted before the metadata is opened with it.
func (c *ClusterOptions) listen() (net.Listener, error) {
	if c.listener != nil {
		return c.listener, nil
	}
	l, err := transport.Listen(c.RaftAddr)
	if err != nil {
		return nil, fmt.Errorf("cluster port %s: %w", c.RaftAddr, err)
	}
	return l, nil
}

// advertise is what the other nodes are told of the open port. clientHost is what clients are told of this broker.
func (c *ClusterOptions) advertise(l net.Listener, clientHost string) (string, error) {
	addr := c.AdvertisedAddr
	if addr == "" {
		host, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return "", err
		}
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			host = clientHost
		}
		addr = net.JoinHostPort(host, port)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("advertised address of the cluster port %q: %w", addr, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return "", fmt.Errorf("advertised address of the cluster port %q: it needs a host and a port", addr)
	}
	return addr, raft.CheckAdvertised(addr, c.Peers)
}
