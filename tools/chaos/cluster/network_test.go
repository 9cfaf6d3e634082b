package cluster

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestWaysAreCut runs itself again in a namespace of its own.
func TestWaysAreCut(t *testing.T) {
	if err := NamespacesAvailable(); err != nil {
		t.Skipf("SKIPPED, NO NETWORK WAS CUT: %v", err)
	}
	if os.Getenv(isolated) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWaysAreCut$", "-test.v")
		cmd.Env = append(os.Environ(), isolated+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	n, err := newNetwork(2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.close(); err != nil {
			t.Error(err)
		}
	}()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	heard := listen(t)
	hears := func(from int, want bool) {
		t.Helper()
		if got := heard(n, from); got != want {
			t.Errorf("packets of %d arrive: %t, want %t", from, got, want)
		}
	}
	hears(1, true)
	hears(2, true)
	must(n.cut(way{1, Clients}))
	hears(1, false)
	hears(2, true)
	must(n.cut(way{1, Clients})) // twice: by two faults
	must(n.mend(way{1, Clients}))
	hears(1, false)
	must(n.mend(way{1, Clients}))
	hears(1, true)
	must(n.cut(way{Clients, 1})) // the other direction
	hears(1, true)
	must(n.mend(way{Clients, 1}))
	must(n.unplug(2))
	hears(2, false)
	must(n.plug(2))
	hears(2, true)
	must(n.throttle(1, 1000))
	hears(1, true)
	must(n.throttle(1, 0))
}

// listen returns a function that sends packets from a node to us and says whether one arrives.
func listen(t *testing.T) func(*network, int) bool {
	t.Helper()
	c, err := net.ListenPacket("udp4", clientHost+":7000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	number := 0
	return func(n *network, from int) bool {
		for range 5 {
			number++
			say := fmt.Sprintf("exec 3<>/dev/udp/%s/7000; echo -n %d >&3", clientHost, number)
			out, err := exec.Command("nsenter", "--net=/run/netns/"+n.namespace(from), "bash", "-c", say).CombinedOutput()
			if err != nil {
				t.Logf("%s: %v", out, err) // an unplugged one may be told so
			}
			// A packet within one machine needs no time: it is there when its sender has ended.
			if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			var buffer [16]byte
			for {
				size, _, err := c.ReadFrom(buffer[:])
				if err != nil {
					break
				}
				if string(buffer[:size]) == fmt.Sprint(number) {
					return true
				}
			}
		}
		return false
	}
}
