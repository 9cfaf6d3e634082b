package disk

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestRefusedUringFallsBackWithOneWarning runs the queue's tests again in a process
// whose seccomp filter forbids io_uring, as container runtimes do.
func TestRefusedUringFallsBackWithOneWarning(t *testing.T) {
	const child = "MILLRACE_TEST_NO_URING"
	if os.Getenv(child) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "SKIPPED") {
			t.Skipf("%s", out)
		}
		if err != nil || !strings.Contains(string(out), "PASS") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := forbidUring(); err != nil {
		t.Skipf("SKIPPED, no seccomp filter: %v", err)
	}
	if _, _, err := NewQueue(ModeUring, 4); !errors.Is(err, ErrUringUnavailable) {
		t.Errorf("io_uring where it is forbidden: %v", err)
	}
	q, warning, err := NewQueue(ModeAuto, 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(warning)
	if BackendOf(q) != "pwrite" || warning == "" || strings.Contains(warning, "\n") {
		t.Errorf("%s, %q", BackendOf(q), warning)
	}
	dir := testDir(t)
	if err := q.Write(writtenFile(t, dir, 8192), AlignedAlloc(4096), 0, true, 3); err != nil {
		t.Fatal(err)
	}
	if err := q.Submit(); err != nil {
		t.Fatal(err)
	}
	if c := await(t, q, 1)[0]; c != (Completion{ID: 3, N: 4096}) {
		t.Errorf("%+v", c)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	r, err := Probe(dir)
	if err != nil || r.Uring || r.UringWhy == "" || r.Backend != "pwrite" {
		t.Errorf("%+v %v", r, err)
	}
	t.Log(r.UringWhy)
}

// forbidUring lets io_uring_setup fail with EPERM in all threads of this process.
func forbidUring() error {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return errors.ErrUnsupported
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_IO_URING_SETUP, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(syscall.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return errno
	}
	return nil
}
