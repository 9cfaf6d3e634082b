package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// backlogWanted is a listen queue that survives all clients coming back at once.
const backlogWanted = 1024

func networkCheck(_ context.Context, o Options) []Finding {
	var findings []Finding
	for _, address := range o.Addresses {
		l, err := net.Listen("tcp", address)
		switch {
		case err == nil:
			_ = l.Close() // it only showed that the address is free
			findings = append(findings, good("network", "%s is free", address))
		case errors.Is(err, syscall.EADDRINUSE):
			findings = append(findings, note("network", address+" is in use", "by a broker that runs already? Otherwise --kafka-port, --admin-addr and --raft-addr choose others"))
		default:
			findings = append(findings, bad("network", fmt.Sprintf("%s: %v", address, err), "--bind-addr chooses another"))
		}
	}
	if n, err := strconv.Atoi(readWord("/proc/sys/net/core/somaxconn")); err == nil && n < backlogWanted {
		findings = append(findings, note("network", fmt.Sprintf("at most %d connections may wait to be accepted", n), fmt.Sprintf("sysctl -w net.core.somaxconn=%d", backlogWanted)))
	}
	return findings
}

// peerTimeout is how long a peer may take to accept a connection.
const peerTimeout = 2 * time.Second

// peersCheck looks whether the cluster ports of the other nodes accept connections, and how long that takes: every
// acknowledgement with acks=all waits for such a round trip.
func peersCheck(ctx context.Context, o Options) []Finding {
	findings := make([]Finding, len(o.Peers))
	var asking sync.WaitGroup
	for i, addr := range o.Peers {
		asking.Go(func() {
			dialer, began := net.Dialer{Timeout: peerTimeout}, time.Now()
			conn, err := dialer.DialContext(ctx, "tcp", addr)
			switch {
			case err == nil:
				took := time.Since(began)
				_ = conn.Close() // it only showed that somebody listens
				findings[i] = good("cluster", "%s accepts connections, within %v", addr, took.Round(10*time.Microsecond))
			case errors.Is(err, syscall.ECONNREFUSED):
				findings[i] = note("cluster", addr+" can be reached, and nothing listens there", "start that node; the order does not matter")
			default:
				findings[i] = weak("cluster", fmt.Sprintf("%s cannot be reached: %v", addr, err), "is the name right, and the port open between the nodes? --peers")
			}
		})
	}
	asking.Wait()
	return findings
}
