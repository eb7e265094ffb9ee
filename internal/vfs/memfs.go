package vfs

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"multiraft/raftlog"
)

// Options of a [MemFS]. The zero value is a disk without limits.
type Options struct {
	// Capacity is the sum of the sizes of all files beyond which writes fail
	// with ENOSPC, after as much as still fits. Holes count. Zero means no
	// limit. [MemFS.SetCapacity] changes it.
	Capacity int64
	// FailedSyncDrops makes a failed Sync behave as Linux does: what was not
	// synced stays visible and counts as clean, so that the next Sync returns
	// nil though it never reaches the disk. Otherwise it stays unsynced.
	FailedSyncDrops bool
}

// MemFS is a file system in memory. See the package comment.
type MemFS struct {
	hook  atomic.Pointer[Hook]
	calls atomic.Uint64
	delay atomic.Uint64

	mu      sync.Mutex // guards everything below, and all that hangs on root
	options Options
	used    int64 // sizes of all files, also of removed ones that are open
	root    *dir
	dirs    map[string]*dir // visible directories by clean name
	locks   map[string]bool
	losses  Losses // of the crash that made it
	noRoom  int    // calls that failed for want of room
}

// entry is what a name stands for: a file or a directory.
type entry struct {
	file *inode
	dir  *dir
}

// dir is a directory: its visible names, its durable ones, and what led from
// these to those.
type dir struct {
	visible names
	durable names
	pending []entryOp
}

// entryOp is a change of one directory: e loses the name from and gets the name
// to, each if not empty. A rename within a directory is one op, so that a crash
// keeps or loses it as one.
type entryOp struct {
	from, to string
	e        entry
}

// apply makes the change, on entries that need not be those it was made on.
func (op entryOp) apply(entries *names) {
	if op.from != "" && entries.of(op.from) == op.e {
		entries.drop(op.from)
	}
	if op.to != "" {
		entries.set(op.to, op.e)
	}
}

// change makes a change that is visible at once and durable after SyncDir.
func (d *dir) change(op entryOp) {
	op.apply(&d.visible)
	d.pending = append(d.pending, op)
}

// New returns an empty file system with the directories "/" and ".", which are
// the same.
func New(o Options) *MemFS {
	m := &MemFS{options: o, root: new(dir), dirs: make(map[string]*dir), locks: make(map[string]bool)}
	m.dirs["/"] = m.root
	return m
}

var _ raftlog.FS = (*MemFS)(nil)

// SetHook makes h see all calls from now on; nil ends that.
func (m *MemFS) SetHook(h Hook) {
	if h == nil {
		m.hook.Store(nil)
		return
	}
	m.hook.Store(&h)
}

// SetCapacity changes the capacity; zero means no limit.
func (m *MemFS) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.options.Capacity = bytes
}

// Used returns the sum of the sizes of all files.
func (m *MemFS) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// Calls returns the number of calls so far, which is the Call of the last [Op].
func (m *MemFS) Calls() uint64 { return m.calls.Load() }

// TakeDelay returns the sum of the delays of faults since it was last called.
func (m *MemFS) TakeDelay() uint64 { return m.delay.Swap(0) }

// TakeNoRoom returns how many calls failed for want of room since it was last called.
func (m *MemFS) TakeNoRoom() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.noRoom
	m.noRoom = 0
	return n
}

// Unsynced returns how many sectors and directory entries a crash may take.
func (m *MemFS) Unsynced() (sectors, entries int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.dirs {
		entries += len(d.pending)
		for _, e := range d.visible {
			if e.file != nil {
				sectors += e.file.unsynced()
			}
		}
	}
	return sectors, entries
}

// FlipBit damages one bit of a file at rest: the next read sees it, and so does
// every clone.
func (m *MemFS) FlipBit(name string, offset int64, bit uint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("flip", name)
	if err != nil {
		return err
	}
	if offset < 0 || offset >= n.size {
		return &fs.PathError{Op: "flip", Path: name, Err: io.ErrUnexpectedEOF}
	}
	n.flip(offset, 1<<(bit%8))
	return nil
}

// Spoil replaces bytes of a file at rest, as a disk does that has written something
// else: the next read sees it, and so does every clone.
func (m *MemFS) Spoil(name string, offset int64, content []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("spoil", name)
	if err != nil {
		return err
	}
	if offset < 0 || offset+int64(len(content)) > n.size {
		return &fs.PathError{Op: "spoil", Path: name, Err: io.ErrUnexpectedEOF}
	}
	old := make([]byte, len(content))
	n.read(old, offset)
	for i := range content {
		if mask := old[i] ^ content[i]; mask != 0 {
			n.flip(offset+int64(i), mask)
		}
	}
	return nil
}

// Peek reads from a file as [MemFS.Open] and ReadAt would, but is no call: the hook
// does not see it. It returns how many bytes there were, none for no file.
func (m *MemFS) Peek(name string, p []byte, offset int64) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("peek", name)
	if err != nil || offset < 0 {
		return 0
	}
	return n.read(p, offset)
}

// FileSize returns the visible size of a file, zero for no file. It is no call.
func (m *MemFS) FileSize(name string) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("size", name)
	if err != nil {
		return 0
	}
	return n.size
}

// DropCaches makes every file read as it is on disk where a failed Sync dropped
// sectors: the kernel may do so at any time.
func (m *MemFS) DropCaches() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.dirs {
		for _, e := range d.visible {
			if e.file != nil {
				e.file.dropCache()
			}
		}
	}
}

// DropUnsynced is a failed Sync of every file, with or without FailedSyncDrops:
// what was not synced stays visible, counts as clean, and never reaches the disk.
// A process that dies then can tell nobody.
func (m *MemFS) DropUnsynced() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.dirs {
		for _, e := range d.visible { // nothing depends on the order
			if e.file != nil {
				e.file.drop()
			}
		}
	}
}

// begin counts a call and asks the hook about it.
func (m *MemFS) begin(op Op) Fault {
	op.Call = m.calls.Add(1)
	hook := m.hook.Load()
	if hook == nil {
		return Fault{}
	}
	f := (*hook)(op)
	if f.Delay != 0 {
		m.delay.Add(f.Delay)
	}
	return f
}

// refused is what a call that a hook failed returns.
func refused(op string, name string, f Fault) error {
	return &fs.PathError{Op: op, Path: name, Err: f.Err}
}

// clean gives every path one name; "." is "/".
func clean(name string) string { return filepath.Join("/", filepath.ToSlash(name)) }

// join is clean(dir + "/" + base) for names that are clean.
func join(dir, base string) string {
	if dir == "/" {
		return dir + base
	}
	return dir + "/" + base
}

// split returns the directory that name is in, and its base name.
func (m *MemFS) split(op, name string) (*dir, string, error) {
	// Most names are clean: then the directory is found as it stands.
	if i := strings.LastIndexByte(name, '/'); i > 0 && i < len(name)-1 && name[i+1] != '.' {
		if d := m.dirs[name[:i]]; d != nil {
			return d, name[i+1:], nil
		}
	}
	parent, base := filepath.Split(clean(name))
	d := m.dirs[clean(parent)]
	if d == nil {
		return nil, "", &fs.PathError{Op: op, Path: name, Err: m.whyNoDir(clean(parent))}
	}
	if base == "" {
		return nil, "", &fs.PathError{Op: op, Path: name, Err: syscall.EISDIR}
	}
	return d, base, nil
}

// whyNoDir says what is wrong with a clean name that is not a directory's: it
// goes through a file, or it is not there.
func (m *MemFS) whyNoDir(name string) error {
	for name != "/" {
		parent, base := filepath.Split(name)
		name = clean(parent)
		if d := m.dirs[name]; d != nil {
			if d.visible.of(base).file != nil {
				return syscall.ENOTDIR
			}
			break
		}
	}
	return fs.ErrNotExist
}

// find returns the file called name.
func (m *MemFS) find(op, name string) (*inode, error) {
	d, base, err := m.split(op, name)
	if err != nil {
		return nil, err
	}
	e, ok := d.visible.get(base)
	if !ok {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	if e.file == nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: syscall.EISDIR}
	}
	return e.file, nil
}

// MkdirAll makes dir and its parents where they are missing. As with files,
// each is durable once SyncDir of the directory that it is in has returned.
func (m *MemFS) MkdirAll(name string) error {
	if f := m.begin(Op{Kind: OpMkdirAll, Name: name}); f.Err != nil || f.Lie {
		return faultError("mkdir", name, f)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mkdirAll(clean(name))
}

func (m *MemFS) mkdirAll(name string) error {
	if m.dirs[name] != nil {
		return nil
	}
	parent, base := filepath.Split(name)
	if err := m.mkdirAll(clean(parent)); err != nil {
		return err
	}
	d := m.dirs[clean(parent)]
	if _, ok := d.visible.find(base); ok {
		return &fs.PathError{Op: "mkdir", Path: name, Err: syscall.ENOTDIR}
	}
	e := entry{dir: new(dir)}
	d.change(entryOp{to: base, e: e})
	m.dirs[name] = e.dir
	return nil
}

// faultError is what a failed or lying call returns.
func faultError(op, name string, f Fault) error {
	if f.Err == nil {
		return nil
	}
	return refused(op, name, f)
}

// Create makes an empty file, or empties the one that is there. Until both the
// file and its directory are synced, a crash may take the file or bring back
// what was in it.
func (m *MemFS) Create(name string) (raftlog.File, error) {
	f := m.begin(Op{Kind: OpCreate, Name: name})
	if f.Err != nil {
		return nil, refused("create", name, f)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.split("create", name)
	if err != nil {
		return nil, err
	}
	old := d.visible.of(base)
	n := old.file
	switch {
	case old.dir != nil:
		return nil, &fs.PathError{Op: "create", Path: name, Err: syscall.EISDIR}
	case n != nil:
		m.used -= n.size
		n.truncate(0)
	default:
		n = &inode{names: 1}
		d.change(entryOp{to: base, e: entry{file: n}})
	}
	return m.open(n, name), nil
}

// Open opens a file that exists.
func (m *MemFS) Open(name string) (raftlog.File, error) {
	if f := m.begin(Op{Kind: OpOpen, Name: name}); f.Err != nil {
		return nil, refused("open", name, f)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("open", name)
	if err != nil {
		return nil, err
	}
	return m.open(n, name), nil
}

func (m *MemFS) open(n *inode, name string) *file {
	n.opens++
	return &file{fs: m, node: n, name: name}
}

// Remove deletes a file. Who has it open can go on using it.
func (m *MemFS) Remove(name string) error {
	if f := m.begin(Op{Kind: OpRemove, Name: name}); f.Err != nil || f.Lie {
		return faultError("remove", name, f)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("remove", name)
	if err != nil {
		return err
	}
	d, base, err := m.split("remove", name)
	if err != nil {
		return err
	}
	d.change(entryOp{from: base, e: entry{file: n}})
	m.unname(n)
	return nil
}

// unname takes a name from a file and its room with the last.
func (m *MemFS) unname(n *inode) {
	n.names--
	m.maybeFree(n)
}

func (m *MemFS) maybeFree(n *inode) {
	if n.names == 0 && n.opens == 0 {
		m.used -= n.size
	}
}

// Rename gives a file a new name, in place of a file that may have it. Within a
// directory a crash keeps or loses that as a whole; between two, the new name
// and the end of the old one are two changes, each durable with its directory.
func (m *MemFS) Rename(from, to string) error {
	if f := m.begin(Op{Kind: OpRename, Name: from, To: to}); f.Err != nil || f.Lie {
		return faultError("rename", from, f)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.split("rename", from)
	if err != nil {
		return err
	}
	toDir, toBase, err := m.split("rename", to)
	if err != nil {
		return err
	}
	n, err := m.find("rename", from)
	if err != nil {
		return err
	}
	if d == toDir && base == toBase {
		return nil
	}
	old := toDir.visible.of(toBase)
	if old.dir != nil {
		return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist}
	}
	e := entry{file: n}
	if d == toDir {
		d.change(entryOp{from: base, to: toBase, e: e})
	} else {
		toDir.change(entryOp{to: toBase, e: e})
		d.change(entryOp{from: base, e: e})
	}
	if old.file != nil {
		m.unname(old.file)
	}
	return nil
}

// List returns the base names of what is in a directory, sorted.
func (m *MemFS) List(name string) ([]string, error) {
	if f := m.begin(Op{Kind: OpList, Name: name}); f.Err != nil {
		return nil, refused("list", name, f)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.dirs[clean(name)]
	if d == nil {
		return nil, &fs.PathError{Op: "list", Path: name, Err: m.whyNoDir(clean(name))}
	}
	return d.visible.bases(), nil
}

// SyncDir makes the entries of a directory durable.
func (m *MemFS) SyncDir(name string) error {
	if f := m.begin(Op{Kind: OpSyncDir, Name: name}); f.Err != nil || f.Lie {
		return faultError("syncdir", name, f)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.dirs[clean(name)]
	if d == nil {
		return &fs.PathError{Op: "syncdir", Path: name, Err: m.whyNoDir(clean(name))}
	}
	for _, op := range d.pending {
		op.apply(&d.durable)
	}
	clear(d.pending) // lets go of removed files
	d.pending = d.pending[:0]
	return nil
}

// Lock takes the lock of that name, and makes the file when it is missing.
func (m *MemFS) Lock(name string) (io.Closer, error) {
	if f := m.begin(Op{Kind: OpLock, Name: name}); f.Err != nil {
		return nil, refused("lock", name, f)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.split("lock", name)
	if err != nil {
		return nil, err
	}
	key := clean(name)
	if d.visible.of(base).dir != nil {
		return nil, &fs.PathError{Op: "lock", Path: name, Err: syscall.EISDIR}
	}
	if m.locks[key] {
		return nil, &fs.PathError{Op: "lock", Path: name, Err: raftlog.ErrLocked}
	}
	if _, ok := d.visible.find(base); !ok {
		d.change(entryOp{to: base, e: entry{file: &inode{names: 1}}})
	}
	m.locks[key] = true
	return &lock{fs: m, key: key}, nil
}

// lock is a lock that is held.
type lock struct {
	fs   *MemFS
	key  string
	once sync.Once
}

// Close gives the lock back, the first time.
func (l *lock) Close() error {
	l.once.Do(func() {
		l.fs.mu.Lock()
		defer l.fs.mu.Unlock()
		delete(l.fs.locks, l.key)
	})
	return nil
}

// file is an open file.
type file struct {
	fs     *MemFS
	node   *inode
	name   string
	closed bool
}

// errNegative is returned for an offset or size below zero.
var errNegative = errors.New("negative offset")

// check returns why an access that ends at end cannot be.
func (f *file) check(op string, off, end int64) error {
	var err error
	switch {
	case f.closed:
		err = fs.ErrClosed
	case off < 0:
		err = errNegative
	case end < off || end > maxFileBytes:
		err = syscall.EFBIG
	default:
		return nil
	}
	return &fs.PathError{Op: op, Path: f.name, Err: err}
}

// ReadAt reads len(p) bytes from off, or fewer and io.EOF.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if fault := f.fs.begin(Op{Kind: OpRead, Name: f.name, Offset: off, Length: int64(len(p))}); fault.Err != nil {
		return 0, refused("read", f.name, fault)
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("read", off, off); err != nil {
		return 0, err
	}
	n := f.node.read(p, off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes p at off, visible at once and durable after Sync.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	fault := f.fs.begin(Op{Kind: OpWrite, Name: f.name, Offset: off, Length: int64(len(p))})
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("write", off, off+int64(len(p))); err != nil {
		return 0, err
	}
	if fault.Err != nil {
		n, err := f.write(p[:min(max(fault.Written, 0), len(p))], off)
		if err != nil {
			return n, err
		}
		return n, refused("write", f.name, fault)
	}
	if fault.Lie {
		return len(p), nil
	}
	if fault.Shift != 0 {
		off = max(off+fault.Shift, 0)
		if err := f.check("write", off, off+int64(len(p))); err != nil {
			return 0, err
		}
	}
	return f.write(p, off)
}

// write writes as much of p as there is room for.
func (f *file) write(p []byte, off int64) (int, error) {
	node, room := f.node, f.fs.room()
	if grow := off + int64(len(p)) - node.size; grow > room {
		p = p[:max(0, min(int64(len(p)), node.size+room-off))]
		f.put(p, off)
		f.fs.noRoom++
		return len(p), &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
	}
	f.put(p, off)
	return len(p), nil
}

func (f *file) put(p []byte, off int64) {
	before := f.node.size
	f.node.write(p, off)
	f.fs.used += f.node.size - before
}

// room returns how many bytes files may still grow.
func (m *MemFS) room() int64 {
	if m.options.Capacity == 0 {
		return maxFileBytes
	}
	return max(0, m.options.Capacity-m.used)
}

// Sync makes content and size durable. It does not make the name durable.
func (f *file) Sync() error {
	fault := f.fs.begin(Op{Kind: OpSync, Name: f.name})
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("sync", 0, 0); err != nil {
		return err
	}
	if fault.Err != nil {
		if f.fs.options.FailedSyncDrops {
			f.node.drop()
		}
		return refused("sync", f.name, fault)
	}
	if !fault.Lie {
		f.node.sync()
	}
	return nil
}

// Size returns the visible size.
func (f *file) Size() (int64, error) {
	if fault := f.fs.begin(Op{Kind: OpSize, Name: f.name}); fault.Err != nil {
		return 0, refused("size", f.name, fault)
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("size", 0, 0); err != nil {
		return 0, err
	}
	return f.node.size, nil
}

// Truncate sets the size. What is added reads as zeros.
func (f *file) Truncate(size int64) error {
	fault := f.fs.begin(Op{Kind: OpTruncate, Name: f.name, Length: size})
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("truncate", size, size); err != nil {
		return err
	}
	if fault.Err != nil || fault.Lie {
		return faultError("truncate", f.name, fault)
	}
	if size-f.node.size > f.fs.room() {
		f.fs.noRoom++
		return &fs.PathError{Op: "truncate", Path: f.name, Err: syscall.ENOSPC}
	}
	f.fs.used += size - f.node.size
	f.node.truncate(size)
	return nil
}

// DropCache does nothing: a MemFS has no second place to read from. What a cache
// hides is [MemFS.DropCaches].
func (f *file) DropCache() error { return nil }

// Close ends the use of the file. It makes nothing durable.
func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("close", 0, 0); err != nil {
		return err
	}
	f.closed = true
	f.node.opens--
	f.fs.maybeFree(f.node)
	return nil
}
