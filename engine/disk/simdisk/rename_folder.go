package simdisk

import "syscall"

// RenameFolder moves a folder to a new name under the same parent, atomically, as rename(2) does. It
// is apart from Rename because the engine has no business renaming folders; dragonboat's snapshots do.
// Operations on files below go on reporting their old path.
func (d *Disk) RenameFolder(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return pathError("rename", from, d.renameFolder(from, to))
}

func (d *Disk) renameFolder(from, to string) error {
	if d.off {
		return ErrPowerCut
	}
	n, err := d.lookup(from)
	if err != nil {
		return err
	}
	dir, fromBase, err := d.parent(from)
	if err != nil {
		return err
	}
	toDir, toBase, err := d.parent(to)
	if err != nil {
		return err
	}
	switch {
	case !n.isDir():
		return syscall.ENOTDIR
	case dir != toDir:
		return syscall.ENOTSUP
	case dir.entries[toBase] != nil:
		return syscall.EEXIST
	}
	err = d.begin(Op{Kind: Rename, Path: clean(to)})
	if err != nil && !d.halfDone(err) {
		return err
	}
	dir.change(nameChange{removed: []string{fromBase}, added: toBase, target: n})
	return err
}
