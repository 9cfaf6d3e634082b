package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"millrace/engine/disk"
	"millrace/tools/millrace/machine"
)

// freeWanted is the free space below which a broker soon refuses records.
const freeWanted = 4 << 30

func fileSystemCheck(_ context.Context, o Options) []Finding {
	name, err := machine.FileSystem(o.DataDir)
	if err != nil {
		return []Finding{bad("data", fmt.Sprintf("%s: %v", o.DataDir, err), "name a directory that exists or can be made: --data-dir")}
	}
	total, free, err := machine.Disk(o.DataDir)
	if err != nil {
		return []Finding{bad("data", err.Error(), "")}
	}
	text := fmt.Sprintf("%s is on %s, %s free of %s", o.DataDir, name, sizeText(free), sizeText(total))
	var findings []Finding
	switch name {
	case "ext4", "xfs":
		findings = append(findings, good("data", "%s", text))
	case "tmpfs":
		findings = append(findings, bad("data", text+": this is memory, nothing on it survives a reboot", "use a directory on ext4 or XFS"))
	case "nfs", "9p", "fuse":
		findings = append(findings, weak("data", text+": flushes and locks over it promise less than those of a local file system", "use a local ext4 or XFS"))
	default:
		findings = append(findings, weak("data", text+": direct writes over written blocks are not what it does well, it copies on write or caches", "use ext4 or XFS"))
	}
	if free < freeWanted {
		findings = append(findings, weak("data", fmt.Sprintf("only %s free", sizeText(free)), "free some space: a full disk refuses records"))
	}
	return append(findings, directCheck(o)...)
}

// directCheck tries what the log does: open a file for direct writes.
func directCheck(o Options) []Finding {
	file, remove, err := scratch(o.DataDir, 0)
	if err != nil {
		return []Finding{bad("data", err.Error(), "give this user the right to write there")}
	}
	defer remove()
	direct, err := disk.OS().OpenFile(file, os.O_RDWR|disk.Direct, 0o600)
	if err != nil {
		return []Finding{bad("data", fmt.Sprintf("direct writes (O_DIRECT) are refused: %v", err), "use a directory on ext4 or XFS")}
	}
	defer func() { _ = direct.Close() }() // nothing was written
	var st unix.Statx_t
	err = unix.Statx(unix.AT_FDCWD, file, 0, unix.STATX_DIOALIGN, &st)
	switch {
	case err != nil || st.Mask&unix.STATX_DIOALIGN == 0:
		return []Finding{good("data", "direct writes work (the kernel does not tell their alignment; 4096 is used)")}
	case st.Dio_offset_align > disk.Alignment || st.Dio_mem_align > disk.Alignment:
		return []Finding{bad("data", fmt.Sprintf("direct writes need an alignment of %d bytes, the log uses %d", max(st.Dio_offset_align, st.Dio_mem_align), disk.Alignment), "use another device or file system block size")}
	}
	return []Finding{good("data", "direct writes work, aligned to %d bytes (4096 is used)", st.Dio_offset_align)}
}

// scratch makes a file of its own in dir, or in the nearest directory above it that exists.
func scratch(dir string, size int64) (name string, remove func(), err error) {
	existing, err := machine.Existing(dir)
	if err != nil {
		return "", nil, err
	}
	f, err := os.CreateTemp(existing, ".millrace-doctor-*")
	if err != nil {
		return "", nil, err
	}
	remove = func() { _ = os.Remove(f.Name()) } // a leftover is small and named after us
	if size > 0 {
		chunk := disk.AlignedAlloc(1 << 20)
		for at := int64(0); at < size && err == nil; at += int64(len(chunk)) {
			_, err = f.WriteAt(chunk, at)
		}
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		remove()
		return "", nil, err
	}
	return f.Name(), remove, nil
}

func deviceCheck(_ context.Context, o Options) []Finding {
	existing, err := machine.Existing(o.DataDir)
	if err != nil {
		return nil // the file system check has said so
	}
	var st unix.Stat_t
	if err := unix.Stat(existing, &st); err != nil {
		return []Finding{note("device", err.Error(), "")}
	}
	link, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return []Finding{note("device", "the kernel does not show the block device behind "+existing, "")}
	}
	if _, err := os.Stat(filepath.Join(link, "queue")); err != nil {
		link = filepath.Dir(link) // a partition: its queue is the disk's
	}
	queue := func(name string) string { return readWord(filepath.Join(link, "queue", name)) }
	kind := "solid state"
	if queue("rotational") == "1" {
		kind = "rotating (or the hypervisor does not say)"
	}
	cache, fua := queue("write_cache"), queue("fua")
	text := fmt.Sprintf("%s, %s, scheduler %s, write cache: %s", filepath.Base(link), kind, chosen(queue("scheduler")), orUnknown(cache))
	findings := []Finding{good("device", "%s", text)}
	switch {
	case cache == "write back" && fua != "1":
		findings = append(findings, note("device", "it caches writes and has no FUA: each commit costs a write and a flush of the whole cache", "a device with power-loss protection needs neither"))
	case cache == "write through":
		findings = append(findings, good("device", "it says that what it acknowledged is stable; a flush costs little"))
	}
	return findings
}

// chosen picks the bracketed word of a kernel file with alternatives.
func chosen(text string) string {
	if _, rest, ok := strings.Cut(text, "["); ok {
		if name, _, ok := strings.Cut(rest, "]"); ok {
			return name
		}
	}
	return orUnknown(text)
}

func orUnknown(text string) string {
	if text == "" {
		return "unknown"
	}
	return text
}

// The files of the flush measurement.
const (
	flushFileBytes = 32 << 20
	flushBlock     = 4096
)

// suspiciousFlush is what no device needs less for, unless it has power-loss protection or ignores flushes.
const suspiciousFlush = 30 * time.Microsecond

// slowFlush is where durable latency begins to hurt.
const slowFlush = 5 * time.Millisecond

// flushCheck measures what a durable write costs on a file like the log's (blocks written before), and on a
// growing file for comparison.
func flushCheck(ctx context.Context, o Options) []Finding {
	if o.Measure <= 0 {
		return nil
	}
	written, err := measureFlush(ctx, o, true)
	if err != nil {
		return []Finding{bad("flush", err.Error(), "")}
	}
	growing, err := measureFlush(ctx, o, false)
	if err != nil {
		return []Finding{bad("flush", err.Error(), "")}
	}
	text := fmt.Sprintf("a durable write of 4 KiB takes %s (99%%: %s): %.0f commits a second, each shared by all that arrived meanwhile; on a growing file %s",
		written.median, written.p99, float64(time.Second)/float64(written.median), growing.median)
	switch {
	case written.median < suspiciousFlush:
		return []Finding{note("flush", text, "that is faster than a medium: either the device protects its cache from power loss, or something (a hypervisor, a controller) ignores flushes. Make sure which")}
	case written.median > slowFlush:
		return []Finding{weak("flush", text, "a device with power-loss protection answers in microseconds; flush.messages per topic trades safety for latency")}
	}
	return []Finding{good("flush", "%s", text)}
}

// flushTimes is a measured distribution.
type flushTimes struct{ median, p99 time.Duration }

func measureFlush(ctx context.Context, o Options, overwrite bool) (flushTimes, error) {
	size := int64(0)
	if overwrite {
		size = flushFileBytes
	}
	name, remove, err := scratch(o.DataDir, size)
	if err != nil {
		return flushTimes{}, err
	}
	defer remove()
	f, err := disk.OS().OpenFile(name, os.O_RDWR|disk.Direct, 0o600)
	if err != nil {
		return flushTimes{}, err
	}
	defer func() { _ = f.Close() }() // what was written is thrown away
	block := disk.AlignedAlloc(flushBlock)
	var times []time.Duration
	for at, end := int64(0), time.Now().Add(o.Measure); time.Now().Before(end) && ctx.Err() == nil; at += flushBlock {
		began := time.Now()
		if _, err := f.WriteAt(block, at%flushFileBytes); err != nil {
			return flushTimes{}, err
		}
		if err := f.Fdatasync(); err != nil {
			return flushTimes{}, err
		}
		times = append(times, time.Since(began))
	}
	if len(times) == 0 {
		return flushTimes{}, ctx.Err()
	}
	slices.Sort(times)
	return flushTimes{times[len(times)/2].Round(time.Microsecond), times[len(times)*99/100].Round(time.Microsecond)}, nil
}
