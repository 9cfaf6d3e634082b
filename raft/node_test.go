package raft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"millrace/engine/disk"
	"millrace/engine/disk/simdisk"
	"millrace/raft/logdb"
)

func openTest(t *testing.T, o Options) *Node {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.NodeID == 0 {
		o.NodeID = 1
	}
	n, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func propose(t testing.TB, n *Node, c Command) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := n.ProposeAgain(ctx, c)
	if err != nil {
		t.Fatalf("propose %T: %v", c, err)
	}
	if r.Err() != nil {
		t.Fatalf("propose %T: %v", c, r.Err())
	}
	return r
}

var testRegistration = RegisterBroker{
	ID: 1, ReplicaID: 2, DirectoryID: testUUID(1), IncarnationID: testUUID(2), Host: "localhost", Port: 9092, MaxLevel: MaxLevel,
}

// formTest makes a cluster of one broker.
func formTest(t *testing.T, n *Node) {
	t.Helper()
	propose(t, n, FormCluster{ClusterID: "abc", Level: 1})
	propose(t, n, testRegistration)
}

func newTopic(i int) CreateTopics {
	return CreateTopics{Topics: []NewTopic{{Name: fmt.Sprint("topic-", i), ID: testUUID(i + 1), Assignments: [][]int32{{1}}}}}
}

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

func TestClosedNodeLeavesNothingRunning(t *testing.T) {
	none := goleak.IgnoreCurrent()
	n := openTest(t, Options{SnapshotEntries: 10})
	formTest(t, n)
	stop := n.Updates(func(_, _ *Image) {})
	n.Updates(func(_, _ *Image) {})
	for i := range 100 {
		propose(t, n, newTopic(i))
	}
	stop()
	must(t, n.Close())
	must(t, n.Close())
	goleak.VerifyNone(t, none)
}

func TestNodeKeepsWhatItAcknowledged(t *testing.T) {
	dir := t.TempDir()
	ready := time.Hour
	for range 5 { // the promise is about the node, not about what else the machine does
		begin := time.Now()
		other := openTest(t, Options{})
		ready = min(ready, time.Since(begin))
		must(t, other.Close())
		if ready < time.Second {
			break
		}
	}
	n := openTest(t, Options{Dir: dir})
	formTest(t, n)
	begin := time.Now()
	for i := range 100 {
		propose(t, n, newTopic(i))
	}
	took := time.Since(begin) / 100
	index, hash := n.Image().Index, n.Image().topics.len
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Propose(context.Background(), newTopic(1000)); !errors.Is(err, ErrClosed) {
		t.Fatalf("propose after close: %v", err)
	}
	begin = time.Now()
	n = openTest(t, Options{Dir: dir, ExpectFormed: true})
	t.Logf("ready after %v, a proposal takes %v, restart %v", ready, took, time.Since(begin))
	if m := n.Image(); m.ClusterID != "abc" || m.Index <= index || m.TopicCount() != hash || !n.IsController() {
		t.Fatalf("image at %d of cluster %q, want after %d of abc", m.Index, m.ClusterID, index)
	}
	if ready > time.Second {
		t.Errorf("ready after %v", ready)
	}
}

func TestNodeIsBoundToItsReplica(t *testing.T) {
	dir := t.TempDir()
	n := openTest(t, Options{Dir: dir})
	if _, err := Open(Options{Dir: dir, NodeID: 1}); !errors.Is(err, disk.ErrLocked) {
		t.Fatalf("opened twice: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir, NodeID: 2}); err == nil || !strings.Contains(err.Error(), "replica") {
		t.Fatalf("another replica id: %v", err)
	}
	if _, err := Open(Options{Dir: t.TempDir(), NodeID: 1, ExpectFormed: true}); !errors.Is(err, ErrMetadataLost) {
		t.Fatalf("an empty log of a formed cluster: %v", err)
	}
}

func TestMovedDirectoryStarts(t *testing.T) {
	parent := t.TempDir()
	from, to := filepath.Join(parent, "from"), filepath.Join(parent, "to")
	n := openTest(t, Options{Dir: from, SnapshotEntries: 10})
	formTest(t, n)
	for i := range 40 {
		propose(t, n, newTopic(i))
	}
	must(t, n.Close())
	must(t, os.Rename(from, to))
	n = openTest(t, Options{Dir: to})
	if n.Image().TopicCount() != 40 {
		t.Fatalf("%d topics", n.Image().TopicCount())
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func snapshotFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, snapshotDir, "*", "*", "*", "*", "*.gbsnap"))
	must(t, err)
	return files
}

func TestNodeRestartsFromSnapshots(t *testing.T) {
	dir := t.TempDir()
	n := openTest(t, Options{Dir: dir, SnapshotEntries: 50})
	formTest(t, n)
	for i := range 400 {
		propose(t, n, newTopic(i))
	}
	must(t, n.Close())
	files := snapshotFiles(t, dir)
	if len(files) != 1 {
		t.Fatalf("snapshots: %v", files)
	}
	n = openTest(t, Options{Dir: dir, SnapshotEntries: 50})
	if n.Image().TopicCount() != 400 {
		t.Fatalf("%d topics", n.Image().TopicCount())
	}
	must(t, n.Close())
	files = snapshotFiles(t, dir)
	b, err := os.ReadFile(files[0])
	must(t, err)
	b[len(b)/2] ^= 4
	must(t, os.WriteFile(files[0], b, 0o644))
	if _, err := Open(Options{Dir: dir, NodeID: 1}); !errors.Is(err, logdb.ErrDamaged) {
		t.Fatalf("a damaged snapshot: %v", err)
	}
	must(t, os.Remove(files[0]))
	if _, err := Open(Options{Dir: dir, NodeID: 1}); !errors.Is(err, logdb.ErrDamaged) {
		t.Fatalf("a missing snapshot: %v", err)
	}
}

func TestLargeCommandsBoundTheLog(t *testing.T) {
	dir := t.TempDir()
	n := openTest(t, Options{Dir: dir})
	formTest(t, n)
	propose(t, n, newTopic(0))
	value := strings.Repeat("x", 200<<10)
	for i := range 400 {
		propose(t, n, AlterConfigs{Resources: []ConfigChange{{
			Resource: ConfigResource{ConfigTopic, "topic-0"}, Set: map[string]string{"k": value + fmt.Sprint(i)},
		}}})
	}
	if r := propose(t, n, DeleteTopics{IDs: make([]UUID, 65_000)}); len(r.Items) != 65_000 || r.Items[0].Code != UnknownTopic {
		t.Fatalf("the largest command was answered %v with %d items", r.Err(), len(r.Items))
	}
	if size := n.log.Size(); size > 2*maxLogBytes {
		t.Fatalf("%d MiB of commands left a log of %d bytes", 400*200>>10, size)
	}
	must(t, n.Close())
	n = openTest(t, Options{Dir: dir})
	if c := n.Image().TopicConfig("topic-0"); !strings.HasSuffix(c["k"], "x399") {
		t.Fatal("the last config is not there")
	}
}

func TestConcurrentProposalsAreAllAnswered(t *testing.T) {
	n := openTest(t, Options{})
	formTest(t, n)
	epoch := n.Image().Broker(1).Epoch
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				r, err := n.Propose(context.Background(), AllocateProducerIDs{BrokerID: 1, BrokerEpoch: epoch, Count: 1000})
				if err != nil || r.Err() != nil {
					t.Errorf("%+v, %v", r, err)
					return
				}
				if n.Image().Index < r.Index {
					t.Errorf("answered at %d, image is at %d", r.Index, n.Image().Index)
				}
				mu.Lock()
				if seen[r.Value] {
					t.Errorf("block %d was given out twice", r.Value)
				}
				seen[r.Value] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 800 {
		t.Fatalf("%d blocks", len(seen))
	}
}

func TestUpdatesSeeTheNewestImageAndNeverHoldTheLog(t *testing.T) {
	n := openTest(t, Options{})
	formTest(t, n)
	seen := make(chan uint64, 1000)
	hold := make(chan struct{})
	last := newImage()
	stop := n.Updates(func(old, now *Image) {
		if old.Index != last.Index || now.Index <= old.Index {
			t.Errorf("old %d, now %d, last seen %d", old.Index, now.Index, last.Index)
		}
		last = now
		seen <- now.Index
		<-hold
	})
	<-seen
	for i := range 50 {
		propose(t, n, newTopic(i)) // while the consumer hangs
	}
	close(hold)
	index := n.Image().Index
	for <-seen != index {
	}
	if len(seen) > 2 {
		t.Errorf("%d images were shown one by one", len(seen))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := n.WaitIndex(ctx, index+1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("waited for an index that never came: %v", err)
	}
	go func() { _, _ = n.Propose(context.Background(), newTopic(100)) }()
	if m, err := n.WaitIndex(context.Background(), index+1); err != nil || m.Index <= index {
		t.Fatalf("%v", err)
	}
	stop()
	if m, err := n.Latest(context.Background()); err != nil || m.Index < index {
		t.Fatalf("%v", err)
	}
	if s := n.Stats(); s.Index < index || s.LogBytes == 0 || s.Waiting {
		t.Fatalf("%+v", s)
	}
}

func TestUnknownAcceptedCommandStopsTheNode(t *testing.T) {
	failed := make(chan error, 1)
	n := openTest(t, Options{OnFailed: func(err error) { failed <- err }})
	formTest(t, n)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := n.host.Load().SyncPropose(ctx, n.host.Load().GetNoOPSession(shardID), futureCommand(1))
	if err != nil || Code(r.Value) != Halted {
		t.Fatalf("%v, %v", Code(r.Value), err)
	}
	if err := <-failed; !errors.Is(err, errCannotApply) {
		t.Fatal(err)
	}
	before := n.Image()
	if r, err := n.Propose(ctx, newTopic(1)); err != nil || r.Code != Halted || n.Image().TopicCount() != before.TopicCount() {
		t.Fatalf("a halted replica goes on: %+v, %v", r, err)
	}
}

// folderFS lets dragonboat rename its snapshot folders on the simulated disk.
type folderFS struct{ *simdisk.Disk }

func (f folderFS) Rename(from, to string) error {
	if info, err := f.Stat(from); err == nil && info.IsDir {
		return f.RenameFolder(from, to)
	}
	return f.Disk.Rename(from, to)
}

func TestFailedDiskStopsTheNode(t *testing.T) {
	d := simdisk.New(1)
	failed := make(chan error, 1)
	n := openTest(t, Options{Dir: "/data/raft", FS: folderFS{d}, OnFailed: func(err error) { failed <- err }})
	formTest(t, n)
	d.SetFaults(func(op simdisk.Op) simdisk.Fault {
		if op.Kind == simdisk.Fsync {
			return simdisk.Fault{Err: syscall.EIO}
		}
		return simdisk.Fault{}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if r, err := n.Propose(ctx, newTopic(1)); !errors.Is(err, ErrOutcomeUnknown) {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := <-failed; !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	go func() {
		if r, err := n.Propose(context.Background(), newTopic(2)); err == nil {
			t.Errorf("acknowledged while closing on a failed disk: %+v", r)
		}
	}()
	time.Sleep(20 * time.Millisecond)
	must(t, n.Close())
	if n.Image().TopicCount() != 0 {
		t.Fatal("an entry that is not durable was applied")
	}
}

func TestFullDiskIsWaitedForAndSnapshotsArePostponed(t *testing.T) {
	d := simdisk.New(1)
	n := openTest(t, Options{Dir: "/data/raft", FS: folderFS{d}, SnapshotEntries: 20})
	formTest(t, n)
	d.SetCapacity(8 << 20) // less than a snapshot may leave
	for i := range 100 {
		propose(t, n, newTopic(i))
	}
	d.SetCapacity(1)
	done := make(chan error, 1)
	go func() {
		for i := range 2000 { // until the reserve is used up
			if _, err := n.Propose(context.Background(), newTopic(1000+i)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	select {
	case err := <-done:
		t.Fatalf("2000 commands went onto a full disk: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	d.SetCapacity(1 << 30)
	must(t, <-done)
	must(t, n.Close())
	n = openTest(t, Options{Dir: "/data/raft", FS: d})
	if n.Image().TopicCount() != 2100 {
		t.Fatalf("%d topics", n.Image().TopicCount())
	}
}

func TestNodeStartsOnAFullDisk(t *testing.T) {
	d := simdisk.New(1)
	o := Options{Dir: "/data/raft", FS: folderFS{d}}
	n := openTest(t, o)
	formTest(t, n)
	for i := range 20 {
		propose(t, n, newTopic(i))
	}
	must(t, n.Close())
	free, total, err := d.Statfs("/")
	must(t, err)
	d.SetCapacity(total - free)
	for start := range 20 {
		n = openTest(t, o)
		again := testRegistration
		again.IncarnationID = testUUID(100 + start)
		propose(t, n, again)
		must(t, n.Close())
	}
	d.SetCapacity(1 << 30)
	n = openTest(t, o)
	if m := n.Image(); m.TopicCount() != 20 || m.Partition("topic-0", 0).LeaderEpoch != 20 {
		t.Fatalf("%d topics, %+v", m.TopicCount(), m.Partition("topic-0", 0))
	}
}

// TestNodePowerCuts runs the whole node, dragonboat's snapshots included, on the simulated disk, and cuts the
// power while topics are created: every acknowledged one is there afterwards.
func TestNodePowerCuts(t *testing.T) {
	// In a process of its own: nodes that are abandoned on a dead disk hold a lock that dragonboat's nodes
	// share, and real processes have one node and end then.
	const own = "MILLRACE_RAFT_POWER_CUTS"
	if os.Getenv(own) == "" {
		t.Parallel()
		self, err := os.Executable()
		must(t, err)
		cmd := exec.Command(self, "-test.run=^TestNodePowerCuts$", "-test.timeout=120s")
		cmd.Env = append(os.Environ(), own+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v:\n%s", err, out)
		}
		return
	}
	for seed := range uint64(8) {
		d := simdisk.New(seed)
		acked := 0
		for life := range 4 {
			failed := make(chan error, 1)
			if life == 2 {
				d.CutAfter(1+seed*3, nil) // in the middle of the start
			}
			n, err := Open(Options{
				Dir: "/data/raft", FS: folderFS{d}, NodeID: 1, SnapshotEntries: 10, ReadyTimeout: 20 * time.Second,
				OnFailed: func(err error) { failed <- err },
			})
			if err != nil && d.PowerIsOut() {
				d.Crash(d.RandomPolicy())
				continue
			}
			if err != nil {
				t.Fatalf("seed %d life %d: %v", seed, life, err)
			}
			if life == 0 {
				formTest(t, n)
			}
			for i := range acked {
				if n.Image().Topic(fmt.Sprint("topic-", i)) == nil {
					t.Fatalf("seed %d life %d: topic %d of %d acknowledged ones is gone", seed, life, i, acked)
				}
			}
			acked = max(acked, n.Image().TopicCount())
			d.CutAfter(20+seed*7+uint64(life)*13, nil)
			ctx, cancel := context.WithCancel(context.Background())
			go func() {
				t.Log(<-failed)
				cancel()
			}()
			for tried := acked; ; tried++ {
				r, err := n.Propose(ctx, newTopic(tried))
				if err != nil {
					break
				}
				if r.Items[0].Code != OK {
					t.Fatalf("seed %d: %+v", seed, r)
				}
				acked = tried + 1
			}
			_ = n.Close()
			cancel()
			d.Crash(d.RandomPolicy())
		}
		if acked == 0 {
			t.Fatalf("seed %d: nothing was ever acknowledged", seed)
		}
	}
}

func TestProposalThatCannotBeInTimeIsNotMade(t *testing.T) {
	n := openTest(t, Options{})
	formTest(t, n)
	for _, d := range []time.Duration{-time.Second, 0, time.Millisecond} {
		ctx, cancel := context.WithTimeout(context.Background(), d)
		_, err := n.Propose(ctx, newTopic(1))
		cancel()
		if d <= 0 && !errors.Is(err, ErrNotReady) {
			t.Errorf("deadline in %v: %v", d, err)
		}
		if errors.Is(err, ErrNotReady) && n.Image().TopicCount() != 0 {
			t.Errorf("deadline in %v: the command was applied", d)
		}
	}
}

func TestLibraryWarningsReachSlog(t *testing.T) {
	var b strings.Builder
	routeLibraryLog(slog.New(slog.NewTextHandler(&b, nil)))
	l := &libraryLogger{pkg: "transport"}
	l.Infof("chatter")
	(&libraryLogger{pkg: "config"}).Warningf("mutual TLS disabled, communication is insecure")
	for i := range 100 {
		l.Warningf("disk %d is slow", i)
	}
	if s := b.String(); !strings.Contains(s, "disk 0 is slow") || strings.Contains(s, "chatter") || strings.Contains(s, "TLS") || strings.Contains(s, "disk 7") {
		t.Fatal(s)
	}
	defer func() {
		if recover() == nil {
			t.Error("Panicf returned")
		}
	}()
	l.Panicf("end")
}

func TestReplicaNames(t *testing.T) {
	if id, err := parseReplicaAddress(replicaAddress(7)); err != nil || id != 7 {
		t.Fatalf("%d, %v", id, err)
	}
	for _, s := range []string{"", "replica-", "replica-0", "replica-07", "replica-+7", "replica-7 ", "localhost:63001"} {
		if (transportFactory{}).Validate(s) {
			t.Errorf("%q is accepted", s)
		}
	}
}

// Some promises are about a whole process: they are kept by this test binary as a child.
const childVariable = "MILLRACE_RAFT_TEST_CHILD"

func child() int {
	if name := os.Getenv("HOSTNAME_TO_BE"); name != "" {
		if err := unix.Sethostname([]byte(name)); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	before := rss()
	n, err := Open(Options{Dir: os.Getenv(childVariable), NodeID: 1})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer func() { _ = n.Close() }()
	if os.Getenv("HOSTNAME_TO_BE") == "" {
		time.Sleep(2 * time.Second)
	}
	var use unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &use)
	if os.Getenv("HOSTNAME_TO_BE") == "" {
		time.Sleep(time.Second)
	}
	var later unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &later)
	cpu := later.Utime.Nano() + later.Stime.Nano() - use.Utime.Nano() - use.Stime.Nano()
	sockets := 0
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); strings.HasPrefix(to, "socket:") {
			sockets++
		}
	}
	fmt.Printf("rss_before=%d rss=%d cpu_ms_per_s=%d sockets=%d cluster=%s\n", before>>10, rss()>>10, cpu/1e6, sockets, n.Image().ClusterID)
	return 0
}

func rss() (bytes int) {
	b, _ := os.ReadFile("/proc/self/statm")
	var size, resident int
	_, _ = fmt.Sscan(string(b), &size, &resident)
	return resident * os.Getpagesize()
}

func runChild(t *testing.T, dir string, attr *syscall.SysProcAttr, env ...string) (string, error) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), childVariable+"="+dir), env...)
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func TestIdleNodeIsLightAndOpensNoPort(t *testing.T) {
	t.Parallel()
	out, err := runChild(t, t.TempDir(), nil)
	must(t, err)
	t.Log(out)
	var before, after, cpu, sockets int
	if _, err := fmt.Sscanf(out, "rss_before=%d rss=%d cpu_ms_per_s=%d sockets=%d", &before, &after, &cpu, &sockets); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	if after-before > 20<<10 {
		t.Errorf("an idle replica takes %d KiB", after-before)
	}
	if sockets != 0 {
		t.Errorf("%d sockets", sockets)
	}
}

func TestChangedHostNameStarts(t *testing.T) {
	dir := t.TempDir()
	n := openTest(t, Options{Dir: dir, SnapshotEntries: 10})
	formTest(t, n)
	for i := range 40 {
		propose(t, n, newTopic(i))
	}
	must(t, n.Close())
	out, err := runChild(t, dir, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS}, "HOSTNAME_TO_BE=quite-another-name")
	if errors.Is(err, syscall.EPERM) {
		t.Skip("SKIPPED: this user may not make a UTS namespace: a changed host name is NOT tested")
	}
	if err != nil || !strings.Contains(out, "cluster=abc") {
		t.Fatalf("%s: %v", out, err)
	}
}
