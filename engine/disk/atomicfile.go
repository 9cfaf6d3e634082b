package disk

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// TempSuffix ends the names of files that WriteFileAtomic has not finished. One
// that is found at start was left by a crash and may be removed.
const TempSuffix = ".tmp"

// WriteFileAtomic replaces path by data: after a crash the file holds either all
// of the old or all of the new bytes. On return the new ones are durable. Two
// callers must not replace the same path at once.
func WriteFileAtomic(fsys FS, path string, data []byte) error {
	temp := path + TempSuffix
	if err := writeFileSynced(fsys, temp, data); err != nil {
		// The old file is untouched; what is left of the new one is garbage.
		_ = fsys.Remove(temp)
		return fmt.Errorf("replace %s: %w", path, err)
	}
	if err := fsys.Rename(temp, path); err != nil {
		_ = fsys.Remove(temp)
		return fmt.Errorf("replace %s: %w", path, err)
	}
	// The new name is visible but not durable before its folder is flushed.
	if err := fsys.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}

func writeFileSynced(fsys FS, path string, data []byte) (err error) {
	f, err := fsys.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if _, err := f.WriteAt(data, 0); err != nil {
		return err
	}
	return f.Fdatasync()
}

// ReadFile returns the content of path, refusing files larger than limit.
func ReadFile(fsys FS, path string, limit int64) ([]byte, error) {
	f, err := fsys.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("read %s: %d bytes, limit %d", path, size, limit)
	}
	data := make([]byte, size)
	if n, err := f.ReadAt(data, 0); n < len(data) {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// MkdirAllDurable creates dir and its missing parents and makes their names durable.
func MkdirAllDurable(fsys FS, dir string, perm fs.FileMode) error {
	dir = filepath.Clean(dir)
	var missing []string
	for d := dir; ; d = filepath.Dir(d) {
		if info, err := fsys.Stat(d); err == nil {
			if !info.IsDir {
				return fmt.Errorf("create folder %s: %s is a file", dir, d)
			}
			break
		}
		missing = append(missing, d)
		if d == filepath.Dir(d) {
			break
		}
	}
	if err := fsys.MkdirAll(dir, perm); err != nil {
		return err
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := fsys.SyncDir(filepath.Dir(missing[i])); err != nil {
			return err
		}
	}
	return nil
}
