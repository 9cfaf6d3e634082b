package engine

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"millrace/engine/disk"
)

// noDirectFS is a filesystem without O_DIRECT, as tmpfs of older kernels.
type noDirectFS struct{ disk.FS }

func (f noDirectFS) OpenFile(name string, flag int, perm fs.FileMode) (disk.File, error) {
	if flag&disk.Direct != 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EINVAL}
	}
	return f.FS.OpenFile(name, flag, perm)
}

func TestFilesystemWithoutDirectIO(t *testing.T) {
	for _, mode := range []disk.Mode{disk.ModeAuto, disk.ModePwrite} {
		t.Run(mode.String(), func(t *testing.T) {
			o := testOptions(t)
			o.FS, o.IO = noDirectFS{disk.OS()}, mode
			want := make(map[int64][]byte)
			for range 3 {
				said := 0
				o.Warn = func(format string, args ...any) {
					if s := fmt.Sprintf(format, args...); strings.Contains(s, "no direct I/O") {
						said++
					} else {
						t.Log(s)
					}
				}
				e := mustOpen(t, o)
				l := e.Log(TopicID{'t'}, 0)
				if l == nil {
					l = mustCreate(t, e, "t", 1)[0]
				}
				l.SetConfig(LogConfig{SegmentBytes: 256 << 10})
				raw, h := testBatch(2, strings.Repeat("x", 20_000), 1)
				for range 100 {
					r := appendOne(t, l, raw, h)
					want[r.BaseOffset] = raw
				}
				awaitAck(t, l, l.AppendedEnd())
				checkDense(t, l, want)
				mustClose(t, e)
				if said != 1 {
					t.Errorf("said %d times that there is no direct I/O", said)
				}
			}
			if r, err := Check(o.FS, o.Dir); err != nil || len(r.Problems) > 0 {
				t.Error(r, err)
			}
		})
	}
}
