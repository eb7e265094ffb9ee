//go:build linux

package faulttest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Fate is what a Disk does with one write.
type Fate uint8

const (
	Keep      Fate = iota
	Fail           // with EIO; the next sync returns nil all the same
	Lose           // and say that it was written
	Misdirect      // to where the log was written last
	Spoil          // one bit
)

// Disk is a disk in memory, which is a file for the kernel: a loop device on it
// carries a file system. What was not flushed is in a volatile cache, and a power
// cut leaves any part of it.
type Disk struct {
	server *fuse.Server
	path   string

	mu        sync.Mutex // guards the fields below
	resumed   *sync.Cond // of hung
	data      []byte     // what reads see
	durable   []byte     // what a power cut leaves for certain
	unsynced  []diskWrite
	lastLog   int64
	off       bool // the power is
	hung      bool // writes and syncs wait
	fate      func(off int64, b []byte) Fate
	clock     func() int64 // of recording, which is nil when there is none
	recording *Recording
	rng       *rand.Rand

	counts DiskCounts
}

// DiskCounts count writes and flushes, and writes by what happened to them.
type DiskCounts struct {
	Writes, Syncs int
	Fates         [Spoil + 1]int
}

// Counts returns what happened so far.
func (d *Disk) Counts() DiskCounts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts
}

// diskWrite is in the volatile cache.
type diskWrite struct {
	off  int64
	data []byte
}

const (
	sectorBytes = 512
	pageBytes   = 4096
)

// NewDisk serves a disk of some size below the directory dir.
func NewDisk(dir string, size int64, seed uint64) (*Disk, error) {
	rng := rand.New(rand.NewPCG(seed, 2)) //gosec:disable G404 -- faults, not secrets
	d := &Disk{path: filepath.Join(dir, "disk"), data: make([]byte, size), durable: make([]byte, size), rng: rng}
	d.resumed = sync.NewCond(&d.mu)
	var err error
	d.server, err = fs.Mount(dir, &diskRoot{disk: d}, &fs.Options{MountOptions: fuse.MountOptions{DirectMount: true, FsName: "faulttest", MaxWrite: mib}})
	if err != nil {
		return nil, err
	}
	if err := closeFuseOnExec(); err != nil {
		return nil, errors.Join(err, d.server.Unmount())
	}
	return d, nil
}

// closeFuseOnExec keeps children from inheriting the connection to the kernel. If
// one had it, the death of this process would not end the connection, and whoever
// waits for the disk then, a child that is killed included, would wait for ever.
func closeFuseOnExec() error {
	const own = "/proc/self/fd"
	fds, err := os.ReadDir(own)
	if err != nil {
		return err
	}
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(own, fd.Name())); err != nil || target != "/dev/fuse" {
			continue // closed meanwhile, or something else
		}
		n, err := strconv.Atoi(fd.Name())
		if err != nil {
			return err
		}
		unix.CloseOnExec(n)
	}
	return nil
}

const mib = 1 << 20

// Path is the file that is the disk.
func (d *Disk) Path() string { return d.path }

// Close ends the service.
//
// REQUIRES: no loop device uses the file.
func (d *Disk) Close() error {
	d.Resume()
	return d.server.Unmount()
}

// SetFate has every write decided by f, which may be nil.
func (d *Disk) SetFate(f func(off int64, b []byte) Fate) {
	d.mu.Lock()
	d.fate = f
	d.mu.Unlock()
}

// Hang has writes and syncs wait until Resume.
func (d *Disk) Hang() {
	d.mu.Lock()
	d.hung = true
	d.mu.Unlock()
}

// Resume ends Hang.
func (d *Disk) Resume() {
	d.mu.Lock()
	d.hung = false
	d.resumed.Broadcast()
	d.mu.Unlock()
}

// PowerOff takes the power away. Each write in the volatile cache is kept or lost
// page by page, those of the log sector by sector; which share is kept is chance.
// Until PowerOn everything fails.
func (d *Disk) PowerOff() {
	d.mu.Lock()
	defer d.mu.Unlock()
	kept := d.rng.Float64()
	if d.rng.IntN(4) == 0 {
		kept = 0
	}
	keepSome(d.durable, d.unsynced, kept, d.rng)
	d.unsynced, d.off = nil, true
	copy(d.data, d.durable)
}

// keepSome writes a share of what was in the volatile cache to an image.
func keepSome(image []byte, cache []diskWrite, share float64, rng *rand.Rand) {
	for _, w := range cache {
		unit := pageBytes
		if isLog(w.data) {
			unit = sectorBytes
		}
		for at := 0; at < len(w.data); at += unit {
			if end := min(at+unit, len(w.data)); rng.Float64() < share {
				copy(image[w.off+int64(at):], w.data[at:end])
			}
		}
	}
}

// Recording is what was written to a disk, flush by flush.
type Recording struct {
	base    []byte
	flushes []flush
}

// flush is a flush and the writes before it.
type flush struct {
	writes []diskWrite
	moment int64
}

// Record records from now on. The moment of each flush is taken from clock when
// everything before it is durable and nobody knows it yet.
func (d *Disk) Record(clock func() int64) *Recording {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.recording, d.clock = &Recording{base: append([]byte(nil), d.durable...)}, clock
	return d.recording
}

// Stop ends the recording.
func (d *Disk) Stop() {
	d.mu.Lock()
	d.recording = nil
	d.mu.Unlock()
}

// Replay calls visit with what a power cut may leave after each flush, but before
// the next: the flush whole, and any part of what was written after it. Of many
// flushes it visits most, evenly. What is written after the flush began before until.
// The image is visit's to change.
func (r *Recording) Replay(most int, rng *rand.Rand, visit func(moment, until int64, image []byte)) (visited int) {
	durable := append([]byte(nil), r.base...)
	for at, f := range r.flushes {
		for _, w := range f.writes {
			copy(durable[w.off:], w.data)
		}
		if n := len(r.flushes); at*most/n == (at+1)*most/n && n > most {
			continue
		}
		image := append([]byte(nil), durable...)
		until := f.moment
		if at+1 < len(r.flushes) {
			until = r.flushes[at+1].moment
			keepSome(image, r.flushes[at+1].writes, []float64{0, 0.5, rng.Float64()}[rng.IntN(3)], rng)
		}
		visit(f.moment, until, image)
		visited++
	}
	return visited
}

// Load puts an image onto the disk.
//
// REQUIRES: no file system is mounted.
func (d *Disk) Load(image []byte) {
	d.mu.Lock()
	copy(d.data, image)
	copy(d.durable, image)
	d.unsynced = nil
	d.mu.Unlock()
}

// PowerOn has the disk work again.
func (d *Disk) PowerOn() {
	d.mu.Lock()
	d.off = false
	d.mu.Unlock()
}

// Rot flips a bit in each of n sectors with which batches of a log begin, and
// returns how many it found.
//
// REQUIRES: no file system is mounted.
func (d *Disk) Rot(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	var batches []int
	for at := 0; at < len(d.data); at += sectorBytes {
		if isLog(d.data[at : at+sectorBytes]) {
			batches = append(batches, at)
		}
	}
	d.rng.Shuffle(len(batches), func(i, j int) { batches[i], batches[j] = batches[j], batches[i] })
	batches = batches[:min(n, len(batches))]
	for _, at := range batches {
		at, bit := at+d.rng.IntN(sectorBytes), byte(1)<<d.rng.IntN(8)
		d.data[at] ^= bit
		d.durable[at] ^= bit
	}
	return len(batches)
}

// isLog tells whether a sector of b begins like a batch of raftlog's.
func isLog(b []byte) bool {
	for at := 0; at+12 <= len(b); at += sectorBytes {
		if bytes.Equal(b[at+8:at+12], logMagic) {
			return true
		}
	}
	return false
}

// logMagic is the same in docs/log-format.md.
var logMagic = []byte("MRL1")

func (d *Disk) read(b []byte, off int64) (int, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return 0, syscall.EIO
	}
	if off >= int64(len(d.data)) {
		return 0, 0
	}
	return copy(b, d.data[off:]), 0
}

func (d *Disk) write(b []byte, off int64) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.hung {
		d.resumed.Wait()
	}
	if d.off || off+int64(len(b)) > int64(len(d.data)) {
		return syscall.EIO
	}
	d.counts.Writes++
	fate := Keep
	if d.fate != nil {
		fate = d.fate(off, b)
	}
	d.counts.Fates[fate]++
	b = append([]byte(nil), b...)
	last := d.lastLog
	if isLog(b) {
		d.lastLog = off
	}
	switch fate {
	case Fail:
		return syscall.EIO
	case Lose:
		return 0
	case Misdirect:
		if off = last; off+int64(len(b)) > int64(len(d.data)) {
			return 0
		}
	case Spoil:
		b[d.rng.IntN(len(b))] ^= 1 << d.rng.IntN(8)
	}
	copy(d.data[off:], b)
	d.unsynced = append(d.unsynced, diskWrite{off, b})
	return 0
}

func (d *Disk) sync() syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.hung {
		d.resumed.Wait()
	}
	if d.off {
		return syscall.EIO
	}
	d.counts.Syncs++
	for _, w := range d.unsynced {
		copy(d.durable[w.off:], w.data)
	}
	if d.recording != nil {
		d.recording.flushes = append(d.recording.flushes, flush{writes: d.unsynced, moment: d.clock()})
	}
	d.unsynced = nil
	return 0
}

// diskRoot is a directory with the disk in it.
type diskRoot struct {
	fs.Inode
	disk *Disk
}

var _ fs.NodeOnAdder = (*diskRoot)(nil)

// OnAdd puts the disk into the directory.
func (r *diskRoot) OnAdd(ctx context.Context) {
	child := r.NewPersistentInode(ctx, &diskFile{disk: r.disk}, fs.StableAttr{Mode: fuse.S_IFREG, Ino: 2})
	r.AddChild(filepath.Base(r.disk.path), child, true)
}

// diskFile is the disk as a file.
type diskFile struct {
	fs.Inode
	disk *Disk
}

var (
	_ fs.NodeOpener    = (*diskFile)(nil)
	_ fs.NodeGetattrer = (*diskFile)(nil)
	_ fs.NodeReader    = (*diskFile)(nil)
	_ fs.NodeWriter    = (*diskFile)(nil)
	_ fs.NodeFsyncer   = (*diskFile)(nil)
)

// Open keeps the kernel from caching: what it reads and writes comes here.
func (f *diskFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

// Getattr tells the size.
func (f *diskFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = fuse.S_IFREG|0o600, uint64(len(f.disk.data))
	return 0
}

// Read reads.
func (f *diskFile) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n, errno := f.disk.read(dest, off)
	return fuse.ReadResultData(dest[:n]), errno
}

// Write writes all or nothing.
func (f *diskFile) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := f.disk.write(data, off); errno != 0 {
		return 0, errno
	}
	return uint32(len(data)), 0
}

// Fsync empties the volatile cache.
func (f *diskFile) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno { return f.disk.sync() }
