package process

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports that addresses are taken from: below those that the kernel gives to connections, so that none is taken
// while its broker is down.
const (
	portMin = 20000
	portMax = 32000
)

// addressTries bounds the search for a free port.
const addressTries = 200

// FreeAddress finds a port of a host of ours that nobody listens on. It is random, and not held.
func FreeAddress(host string) (string, error) {
	var last error
	for range addressTries {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(portMin+rand.IntN(portMax-portMin))))
		if err != nil {
			last = err
			continue
		}
		return l.Addr().String(), l.Close()
	}
	return "", fmt.Errorf("no free port on %s: %w", host, last)
}
