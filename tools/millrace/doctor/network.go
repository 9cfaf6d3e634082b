package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
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
			findings = append(findings, note("network", address+" is in use", "by a broker that runs already? Otherwise --kafka-port and --admin-addr choose others"))
		default:
			findings = append(findings, bad("network", fmt.Sprintf("%s: %v", address, err), "--bind-addr chooses another"))
		}
	}
	if n, err := strconv.Atoi(readWord("/proc/sys/net/core/somaxconn")); err == nil && n < backlogWanted {
		findings = append(findings, note("network", fmt.Sprintf("at most %d connections may wait to be accepted", n), fmt.Sprintf("sysctl -w net.core.somaxconn=%d", backlogWanted)))
	}
	return findings
}
