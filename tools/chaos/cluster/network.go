package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

// The addresses within the tool's own namespace: they meet nobody else's.
const (
	clientHost = "10.77.0.254"
	nobodyMAC  = "02:00:00:00:ff:ff"
)

func hostOf(node int) string { return fmt.Sprintf("10.77.0.%d", node) }
func macOf(node int) string  { return fmt.Sprintf("02:00:00:00:00:%02x", node) }

// Clients is the end of a way that the load is at, beside the numbers of the nodes.
const Clients = 254

// isolated marks a process that Isolate has started.
const isolated = "MILLRACE_CHAOS_ISOLATED"

// NamespacesAvailable reports nil, or why nodes cannot have a network of their own.
func NamespacesAvailable() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	for _, tool := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			return err
		}
	}
	cmd := exec.Command("ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("a veth pair in a namespace of its own: %w: %s", err, out)
	}
	return nil
}

// Isolate runs this program again in a network namespace of its own and returns its exit code; in that second
// run it returns ok as false: go on. What is made there disappears with it.
func Isolate() (code int, ok bool, err error) {
	if os.Getenv(isolated) != "" {
		return 0, false, nil
	}
	self, err := os.Executable()
	if err != nil {
		return 0, false, err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	err = cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return ended.ExitCode(), true, nil
	}
	return 0, true, err
}

// network joins nodes, each in a namespace, with a bridge in ours. Its methods are safe for concurrent use.
type network struct {
	prefix string
	nodes  int

	mu   sync.Mutex
	cuts map[way]int // how often a way is cut
}

// way is one direction between two ends.
type way struct{ from, to int }

func newNetwork(nodes int) (*network, error) {
	if os.Getenv(isolated) == "" {
		return nil, errors.New("BUG: namespaces are for a process that Isolate has started")
	}
	n := &network{prefix: fmt.Sprintf("mrchaos-%d-", os.Getpid()), nodes: nodes, cuts: map[way]int{}}
	if err := n.build(); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *network) namespace(node int) string { return fmt.Sprintf("%s%d", n.prefix, node) }

func (n *network) build() error {
	script := []string{
		"link set lo up", "link add br0 type bridge", "link set br0 address " + macOf(Clients),
		"addr add " + clientHost + "/24 dev br0", "link set br0 up",
	}
	for node := 1; node <= n.nodes; node++ {
		ns := n.namespace(node)
		script = append(script, "netns add "+ns,
			fmt.Sprintf("link add veth%d type veth peer name eth0 address %s netns %s", node, macOf(node), ns),
			fmt.Sprintf("link set veth%d master br0", node), fmt.Sprintf("link set veth%d up", node),
			fmt.Sprintf("-n %s addr add %s/24 dev eth0", ns, hostOf(node)),
			fmt.Sprintf("-n %s link set lo up", ns), fmt.Sprintf("-n %s link set eth0 up", ns))
	}
	for _, line := range script {
		if err := ip(line); err != nil {
			return err
		}
	}
	for from := range n.ends() {
		for to := range n.ends() {
			if from != to {
				if err := n.set(way{from, to}, false); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// ends yields the numbers of the nodes and Clients.
func (n *network) ends() func(func(int) bool) {
	return func(yield func(int) bool) {
		for node := 1; node <= n.nodes; node++ {
			if !yield(node) {
				return
			}
		}
		yield(Clients)
	}
}

// set points the neighbour entry of one end for another at it, or at nobody.
func (n *network) set(w way, cut bool) error {
	host, mac := hostOf(w.to), macOf(w.to)
	if cut {
		mac = nobodyMAC
	}
	if w.from == Clients {
		return ip(fmt.Sprintf("neigh replace %s lladdr %s dev br0 nud permanent", host, mac))
	}
	return ip(fmt.Sprintf("-n %s neigh replace %s lladdr %s dev eth0 nud permanent", n.namespace(w.from), host, mac))
}

// cut makes packets of one direction disappear; each cut is mended once.
func (n *network) cut(w way) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[w]++
	return n.set(w, true)
}

func (n *network) mend(w way) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cuts[w]--; n.cuts[w] > 0 {
		return nil
	}
	return n.set(w, false)
}

// unplug takes the link of a node down, and plug brings it back. The address survives, the entries of neighbours
// on the node's side do not.
func (n *network) unplug(node int) error { return ip(fmt.Sprintf("link set veth%d down", node)) }

func (n *network) plug(node int) error {
	if err := ip(fmt.Sprintf("link set veth%d up", node)); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for to := range n.ends() {
		if to != node {
			errs = append(errs, n.set(way{node, to}, n.cuts[way{node, to}] > 0))
		}
	}
	return errors.Join(errs...)
}

// throttle lets a node send and receive so many kilobit a second; 0 takes that back.
func (n *network) throttle(node, kbit int) error {
	inside := []string{"-n", n.namespace(node)}
	var errs []error
	for _, end := range [][]string{append(inside, "qdisc", "VERB", "dev", "eth0", "root"), {"qdisc", "VERB", "dev", fmt.Sprintf("veth%d", node), "root"}} {
		verb := "replace"
		if kbit == 0 {
			verb = "del"
		}
		for i := range end {
			if end[i] == "VERB" {
				end[i] = verb
			}
		}
		if kbit > 0 {
			end = append(end, "tbf", "rate", fmt.Sprintf("%dkbit", kbit), "burst", "64kb", "latency", "500ms")
		}
		if out, err := exec.Command("tc", end...).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("tc %s: %w: %s", strings.Join(end, " "), err, out))
		}
	}
	return errors.Join(errs...)
}

// close removes the namespaces, by our own prefix. The bridge goes with this process.
func (n *network) close() error {
	var errs []error
	for node := 1; node <= n.nodes; node++ {
		if _, err := os.Stat("/run/netns/" + n.namespace(node)); err == nil {
			errs = append(errs, ip("netns del "+n.namespace(node)))
		}
	}
	return errors.Join(errs...)
}

// ip runs ip(8).
func ip(line string) error {
	if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", line, err, out)
	}
	return nil
}
