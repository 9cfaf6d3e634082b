package powercut

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// diskName is the one file of the FUSE filesystem.
const diskName = "disk"

// folder is the root of the FUSE filesystem.
type folder struct {
	fs.Inode
	cache *cache
}

var _ fs.NodeOnAdder = (*folder)(nil)

// OnAdd creates the one file.
func (f *folder) OnAdd(ctx context.Context) {
	child := f.NewPersistentInode(ctx, &image{cache: f.cache}, fs.StableAttr{Mode: syscall.S_IFREG})
	f.AddChild(diskName, child, true)
}

// image is the file below the loop device. Every call is the cache's.
type image struct {
	fs.Inode
	cache *cache
}

var (
	_ fs.NodeGetattrer = (*image)(nil)
	_ fs.NodeSetattrer = (*image)(nil)
	_ fs.NodeOpener    = (*image)(nil)
	_ fs.NodeReader    = (*image)(nil)
	_ fs.NodeWriter    = (*image)(nil)
	_ fs.NodeFsyncer   = (*image)(nil)
)

// Getattr tells the size.
func (i *image) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size, out.Blksize = syscall.S_IFREG|0o600, uint64(i.cache.size), blockSize
	return 0
}

// Setattr accepts and forgets times and modes.
func (i *image) Setattr(ctx context.Context, h fs.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return i.Getattr(ctx, h, out)
}

// Open keeps no state.
func (i *image) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, 0, 0
}

// Read returns what is cached over what is stored.
func (i *image) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n, errno := i.cache.read(dest, off)
	return fuse.ReadResultData(dest[:n]), errno
}

// Write goes to the volatile cache.
func (i *image) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	n, errno := i.cache.write(data, off)
	return uint32(n), errno
}

// Fsync makes the cache durable.
func (i *image) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	return i.cache.fsync()
}
