package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ProbeReport is what a data directory's machine gives. A probe finds facts and
// does not judge; what could not be found out is zero, and Notes says why.
type ProbeReport struct {
	Dir        string
	Kernel     string // release
	Filesystem string // "ext4", "xfs", ...; "0x…" when unknown
	OwnMount   bool   // Dir is the root of a mount: SyncFS concerns nobody else

	Direct    bool   // O_DIRECT works with Alignment
	DirectWhy string // why not
	MemAlign  uint32 // by STATX_DIOALIGN (Linux 6.1); 0 when the kernel does not tell
	OffAlign  uint32

	Device        string // "vda"; "" when the filesystem has no block device
	WriteCache    string // "write back": flushes cost; "write through": they are free
	FUA           bool   // the device can write one block through its cache
	LogicalBlock  int
	PhysicalBlock int

	Uring      bool
	UringFlags string // setup flags that the kernel accepted
	UringWhy   string // why not, or what is missing

	Memlock uint64 // RLIMIT_MEMLOCK, soft; all ones is unlimited

	Backend string       // that carried the measurement of Flush
	Flush   FlushLatency // on a written file; zero when Direct is false
	Notes   []string
}

// FlushLatency compares the two ways to make one small direct write durable.
type FlushLatency struct {
	Dsync      Latency // one write with RWF_DSYNC
	WriteFsync Latency // a write, then a data flush
}

// DsyncIsFaster is the first choice for commits of one write.
func (l FlushLatency) DsyncIsFaster() bool { return l.Dsync.P50 <= l.WriteFsync.P50 }

// Latency summarises some operations.
type Latency struct {
	Samples  int
	P50, P99 time.Duration
	Max      time.Duration
}

// String is for people.
func (l Latency) String() string {
	if l.Samples == 0 {
		return "not measured"
	}
	round := func(d time.Duration) time.Duration { return d.Round(time.Microsecond) }
	return fmt.Sprintf("p50 %v, p99 %v, max %v (%d samples)", round(l.P50), round(l.P99), round(l.Max), l.Samples)
}

// What the flush probe writes: enough blocks that a device cannot serve them from
// one sector, few enough to take no time.
const (
	probeFileBytes  = 4 << 20
	probeWriteBytes = 16 << 10
	probeBudget     = 250 * time.Millisecond
	probeSamplesMax = 200
)

// Probe looks at the machine below dir, which must exist. It writes a temporary
// file of 4 MiB there and takes about half a second at most.
func Probe(dir string) (ProbeReport, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return ProbeReport{}, err
	}
	r := ProbeReport{Dir: dir}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return r, fmt.Errorf("probe %s: %w", dir, err)
	}
	r.probeMachine()
	r.probeFilesystem(&st)
	r.probeDevice(&st)
	r.probeUring()
	if err := r.probeFile(); err != nil {
		return r, fmt.Errorf("probe %s: %w", dir, err)
	}
	return r, nil
}

func (r *ProbeReport) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (r *ProbeReport) probeMachine() {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err == nil {
		r.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		r.note("memlock limit: %v", err)
	}
	r.Memlock = limit.Cur
}

// filesystemNames are the magic numbers of statfs(2) that an operator may meet.
var filesystemNames = map[int64]string{
	unix.EXT4_SUPER_MAGIC:      "ext4",
	unix.XFS_SUPER_MAGIC:       "xfs",
	unix.BTRFS_SUPER_MAGIC:     "btrfs",
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	unix.F2FS_SUPER_MAGIC:      "f2fs",
	unix.NFS_SUPER_MAGIC:       "nfs",
	unix.FUSE_SUPER_MAGIC:      "fuse",
	0x6a656a63:                 "virtiofs",
	0x2fc12fc1:                 "zfs",
	0xca451a4e:                 "bcachefs",
	0x01021997:                 "9p",
}

func (r *ProbeReport) probeFilesystem(st *unix.Stat_t) {
	var fs unix.Statfs_t
	if err := unix.Statfs(r.Dir, &fs); err != nil {
		r.note("statfs: %v", err)
	} else if name, ok := filesystemNames[int64(fs.Type)]; ok { //nolint:unconvert // not all architectures have 64 bits there
		r.Filesystem = name
	} else {
		r.Filesystem = fmt.Sprintf("%#x", fs.Type)
	}
	var parent unix.Stat_t
	if err := unix.Stat(filepath.Dir(r.Dir), &parent); err == nil {
		r.OwnMount = parent.Dev != st.Dev || r.Dir == "/"
	}
}

func (r *ProbeReport) probeDevice(st *unix.Stat_t) {
	link := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	path, err := filepath.EvalSymlinks(link)
	if err != nil {
		return // no block device below: overlay, tmpfs, btrfs, network
	}
	r.Device = filepath.Base(path)
	queue := filepath.Join(path, "queue")
	if _, err := os.Stat(queue); err != nil {
		queue = filepath.Join(filepath.Dir(path), "queue") // a partition has the queue of its disk
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(queue, name))
		if err != nil {
			r.note("device %s: %v", r.Device, err)
		}
		return strings.TrimSpace(string(b))
	}
	number := func(name string) int {
		n, _ := strconv.Atoi(read(name)) // 0 when unreadable, which is noted
		return n
	}
	r.WriteCache = read("write_cache")
	r.FUA = read("fua") == "1"
	r.LogicalBlock = number("logical_block_size")
	r.PhysicalBlock = number("physical_block_size")
}

func (r *ProbeReport) probeUring() {
	q, warning, err := newUringQueue(1)
	if err != nil {
		r.UringWhy = strings.TrimPrefix(err.Error(), ErrUringUnavailable.Error()+": ")
		return
	}
	r.Uring, r.UringWhy = true, warning
	r.UringFlags = q.(*uringQueue).ring.Describe()
	_ = q.Close()
}

// probeFile tries direct I/O on a file and measures flushes on it.
func (r *ProbeReport) probeFile() (err error) {
	temp, err := os.CreateTemp(r.Dir, "probe-*"+TempSuffix)
	if err != nil {
		return err
	}
	_ = temp.Close()
	defer func() {
		if rerr := os.Remove(temp.Name()); err == nil {
			err = rerr
		}
	}()
	f, err := OS().OpenFile(temp.Name(), os.O_RDWR|Direct, 0)
	if errors.Is(err, unix.EINVAL) {
		r.DirectWhy = "the filesystem refuses O_DIRECT"
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	r.probeAlignment(f)
	zeros := AlignedAlloc(1 << 20)
	for off := int64(0); off < probeFileBytes; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros, off); err != nil {
			r.DirectWhy = err.Error()
			return nil
		}
	}
	if err := f.Fdatasync(); err != nil {
		return err
	}
	r.Direct = true
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	q, _, err := NewQueue(ModeAuto, 1)
	if err != nil {
		return err
	}
	defer func() { _ = q.Close() }()
	r.Backend = BackendOf(q)
	r.Flush, err = MeasureFlush(q, f, probeFileBytes, probeBudget)
	return err
}

func (r *ProbeReport) probeAlignment(f File) {
	var stx unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &stx); err != nil {
		r.note("statx: %v", err)
		return
	}
	if stx.Mask&unix.STATX_DIOALIGN == 0 {
		r.note("this kernel or filesystem does not tell its alignment for direct I/O (Linux 6.1)")
		return
	}
	r.MemAlign, r.OffAlign = stx.Dio_mem_align, stx.Dio_offset_align
}

// MeasureFlush writes zeros over the first size bytes of f, which must be written and
// flushed already, and times both ways to flush for about half of budget each,
// alternating. The caller owns q's thread, and q must be idle.
func MeasureFlush(q Queue, f File, size int64, budget time.Duration) (FlushLatency, error) {
	if size < probeWriteBytes {
		panic(fmt.Sprintf("BUG: flush measured on %d bytes", size))
	}
	p := AlignedAlloc(probeWriteBytes)
	var dsync, fsync []time.Duration
	off := int64(0)
	timed := func(steps ...func() error) (time.Duration, error) {
		start := time.Now() //nolint:forbidigo // it measures the device
		for _, step := range steps {
			if err := step(); err != nil {
				return 0, err
			}
			if err := q.Submit(); err != nil {
				return 0, err
			}
			if err := awaitOne(q); err != nil {
				return 0, err
			}
		}
		off = (off + probeWriteBytes) % (size - size%probeWriteBytes)
		return time.Since(start), nil //nolint:forbidigo // as above
	}
	for end := time.Now().Add(budget); len(dsync) < probeSamplesMax && (len(dsync) == 0 || time.Now().Before(end)); { //nolint:forbidigo // as above
		d, err := timed(func() error { return q.Write(f, p, off, true, 0) })
		if err != nil {
			return FlushLatency{}, fmt.Errorf("measure dsync: %w", err)
		}
		dsync = append(dsync, d)
		d, err = timed(
			func() error { return q.Write(f, p, off, false, 0) },
			func() error { return q.Fsync(f, 0) },
		)
		if err != nil {
			return FlushLatency{}, fmt.Errorf("measure write and fsync: %w", err)
		}
		fsync = append(fsync, d)
	}
	return FlushLatency{Dsync: summarise(dsync), WriteFsync: summarise(fsync)}, nil
}

// awaitOne sleeps until the one operation in flight is done.
func awaitOne(q Queue) error {
	var done []Completion
	for {
		if done = q.Reap(done); len(done) > 0 {
			return done[0].Err
		}
		if q.EventFD() < 0 {
			continue // a simulation delivers when it is asked
		}
		fds := []unix.PollFd{{Fd: int32(q.EventFD()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("poll: %w", err)
		}
	}
}

func summarise(samples []time.Duration) Latency {
	if len(samples) == 0 {
		return Latency{}
	}
	slices.Sort(samples)
	n := len(samples)
	return Latency{Samples: n, P50: samples[n/2], P99: samples[n*99/100], Max: samples[n-1]}
}
