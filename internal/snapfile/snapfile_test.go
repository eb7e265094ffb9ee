package snapfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"syscall"
	"testing"

	"multiraft/internal/snapfile"
	"multiraft/internal/vfs"
	"multiraft/raftlog"
	"multiraft/wire"
)

const dirName = "/store/snapshots"

var name = snapfile.Name{Group: 7, Index: 90}

func meta() snapfile.Meta {
	return snapfile.Meta{
		Cluster: 1, Store: 2, Group: name.Group, Index: name.Index, Term: 4, Nonce: 77, ChunkBytes: snapfile.MinChunkBytes,
		Members: wire.Membership{Index: 3, Members: []wire.Member{{Replica: 1, Store: 2, Role: wire.Voter}}},
	}
}

func newFS(t testing.TB) *vfs.MemFS {
	t.Helper()
	disk := vfs.New(vfs.Options{})
	if err := disk.MkdirAll("/store"); err != nil {
		t.Fatal(err)
	}
	if err := disk.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	return disk
}

func openDir(t testing.TB, disk raftlog.FS) (*snapfile.Dir, snapfile.Contents) {
	t.Helper()
	d, c, err := snapfile.OpenDir(disk, dirName, false)
	if err != nil {
		t.Fatal(err)
	}
	return d, c
}

func state(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 / 3)
	}
	return b
}

// write makes a snapshot of state.
func write(d *snapfile.Dir, m snapfile.Meta, state []byte) (*snapfile.Info, error) {
	w, err := d.Create(m)
	if err != nil {
		return nil, err
	}
	for len(state) > 0 { // in pieces that fit nothing
		n := min(len(state), 333)
		if _, err := w.Write(state[:n]); err != nil {
			return nil, errors.Join(err, w.Abort())
		}
		state = state[n:]
	}
	return w.Commit()
}

func mustWrite(t testing.TB, d *snapfile.Dir, m snapfile.Meta, state []byte) *snapfile.Info {
	t.Helper()
	info, err := write(d, m, state)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// read reads the state of a snapshot back.
func read(d *snapfile.Dir) ([]byte, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(f.Reader())
	return b, errors.Join(err, f.Verify(), f.Close())
}

func TestRoundTrip(t *testing.T) {
	const c = snapfile.MinChunkBytes
	for _, size := range []int{0, 1, c - 1, c, c + 1, 5 * c, 5*c + 100} {
		d, _ := openDir(t, newFS(t))
		info := mustWrite(t, d, meta(), state(size))
		if got, want := info.Chunks, uint64((size+c-1)/c); got != want || info.Bytes != uint64(size) {
			t.Fatalf("%d bytes: %d in %d chunks, want %d", size, info.Bytes, got, want)
		}
		got, err := read(d)
		if err != nil || !bytes.Equal(got, state(size)) {
			t.Fatalf("%d bytes: got %d back, %v", size, len(got), err)
		}
		var decoded snapfile.Info
		if err := decoded.Decode(info.AppendTo(nil)); err != nil || !decoded.Same(info) || decoded.Members.Members[0] != meta().Members.Members[0] {
			t.Fatalf("%d bytes: description %+v, %v", size, decoded, err)
		}
		f, err := d.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		var copied bytes.Buffer
		if err := f.CopyTo(&copied); err != nil || int64(copied.Len()) != info.FileBytes() {
			t.Fatalf("%d bytes: copy of %d, want %d: %v", size, copied.Len(), info.FileBytes(), err)
		}
	}
}

func readFile(t testing.TB, disk raftlog.FS, path string) []byte {
	t.Helper()
	f, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return b
}

func replaceFile(t testing.TB, disk raftlog.FS, path string, b []byte) {
	t.Helper()
	f, err := disk.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
}

func path(suffix string) string {
	return fmt.Sprintf("%s/%016x-%016x%s", dirName, uint64(name.Group), uint64(name.Index), suffix)
}

// TestEveryBit: whichever bit of a file is flipped, and wherever it is cut or
// made longer, reading it is a typed error (P2).
func TestEveryBit(t *testing.T) {
	disk := newFS(t)
	d, _ := openDir(t, disk)
	mustWrite(t, d, meta(), state(2*snapfile.MinChunkBytes+40))
	good := readFile(t, disk, path(".snap"))
	try := func(b []byte, what string) {
		t.Helper()
		replaceFile(t, disk, path(".snap"), b)
		_, err := read(d)
		var damage *snapfile.DamageError
		if !errors.As(err, &damage) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			try(bad, fmt.Sprintf("bit %d of byte %d", bit, i))
		}
	}
	for n := range good {
		try(good[:n], fmt.Sprintf("cut at %d", n))
	}
	try(append(bytes.Clone(good), 0), "made longer")
	// Chunks that stand in each other's places are right by themselves.
	swapped := bytes.Clone(good)
	head := len(good) - 40 - (16 + 40) - 2*(16+snapfile.MinChunkBytes)
	size := 16 + snapfile.MinChunkBytes
	copy(swapped[head:], good[head+size:head+2*size])
	copy(swapped[head+size:], good[head:head+size])
	try(swapped, "swapped chunks")
}

// TestDescriptionEveryBit: the same for the description that travels.
func TestDescriptionEveryBit(t *testing.T) {
	d, _ := openDir(t, newFS(t))
	good := mustWrite(t, d, meta(), state(600)).AppendTo(nil)
	for i := range 8 * len(good) {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		if err := new(snapfile.Info).Decode(bad); err == nil {
			t.Fatalf("bit %d may be flipped", i)
		}
	}
	if err := new(snapfile.Info).Decode(append(good, 0)); !errors.Is(err, snapfile.ErrTrailer) {
		t.Fatal(err)
	}
}

// records returns the chunks of a snapshot as they travel.
func records(t testing.TB, d *snapfile.Dir) (info *snapfile.Info, list [][]byte) {
	t.Helper()
	f, err := d.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	for n := range f.Info().Chunks {
		record, err := f.Chunk(n, nil)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, record)
	}
	if _, err := f.Chunk(f.Info().Chunks, nil); !errors.Is(err, snapfile.ErrChunk) {
		t.Fatalf("chunk behind the last: %v", err)
	}
	return f.Info(), list
}

func resume(t testing.TB, p *snapfile.Part) {
	t.Helper()
	for {
		done, err := p.Resume()
		if err != nil {
			t.Fatal(err)
		}
		if done {
			return
		}
	}
}

// TestReceive takes chunks in any order, twice, and damaged ones among them; the
// file is that of the sender.
func TestReceive(t *testing.T) {
	from, to := newFS(t), newFS(t)
	source, _ := openDir(t, from)
	mustWrite(t, source, meta(), state(200*snapfile.MinChunkBytes+40))
	info, chunks := records(t, source)
	d, _ := openDir(t, to)
	p, err := d.Receive(info)
	if err != nil {
		t.Fatal(err)
	}
	resume(t, p)
	r := rand.New(rand.NewPCG(1, 2))
	if err := p.Put(snapfile.Window, chunks[snapfile.Window]); !errors.Is(err, snapfile.ErrWindow) {
		t.Fatalf("too far ahead: %v", err)
	}
	for !p.Complete() {
		n := p.Next() + r.Uint64N(snapfile.Window)
		if n >= info.Chunks {
			continue
		}
		if err := p.Commit(); !errors.Is(err, snapfile.ErrIncomplete) {
			t.Fatalf("commit before the end: %v", err)
		}
		if !p.Has(n) {
			bad := bytes.Clone(chunks[n])
			bad[r.IntN(len(bad))] ^= 1
			if err := p.Put(n, bad); !errors.Is(err, snapfile.ErrChunk) {
				t.Fatalf("damaged chunk %d: %v", n, err)
			}
		}
		if err := p.Put(n, chunks[n]); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(readFile(t, to, path(".snap")), readFile(t, from, path(".snap"))) {
		t.Fatal("the copy differs")
	}
	if _, c := openDir(t, to); len(c.Whole) != 1 || c.Whole[0] != name || len(c.Parts) != 0 {
		t.Fatalf("%+v", c)
	}
}

// TestResume: after each number of chunks a part that is opened again has those
// that came in one piece, whatever the crash left of the file (P3); one of another
// snapshot begins with nothing.
func TestResume(t *testing.T) {
	source, _ := openDir(t, newFS(t))
	mustWrite(t, source, meta(), state(9*snapfile.MinChunkBytes))
	info, chunks := records(t, source)
	for have := range len(chunks) + 1 {
		disk := newFS(t)
		d, _ := openDir(t, disk)
		p, err := d.Receive(info)
		if err != nil {
			t.Fatal(err)
		}
		for n := range have {
			if err := p.Put(uint64(n), chunks[n]); err != nil {
				t.Fatal(err)
			}
		}
		if have+1 < len(chunks) { // beyond a gap
			if err := p.Put(uint64(have+1), chunks[have+1]); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		for seed := range uint64(20) {
			crashed := disk.CrashClone(rand.New(rand.NewPCG(seed, 3)), []vfs.CrashOptions{vfs.ProcessDies, vfs.DiskFails}[min(seed, 1)])
			again, c := openDir(t, crashed)
			if seed == 0 && (len(c.Parts) != 1 || c.Parts[0] != name) {
				t.Fatalf("%+v", c)
			}
			p, err := again.Receive(info)
			if err != nil {
				t.Fatal(err)
			}
			resume(t, p)
			if seed == 0 && p.Next() != uint64(have) {
				t.Fatalf("%d chunks after a clean stop, want %d", p.Next(), have)
			}
			for n := p.Next(); n < info.Chunks; n++ {
				if err := p.Put(n, chunks[n]); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Commit(); err != nil {
				t.Fatal(err)
			}
			if got, err := read(again); err != nil || !bytes.Equal(got, state(9*snapfile.MinChunkBytes)) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
		}
	}
	disk := newFS(t)
	d, _ := openDir(t, disk)
	p, err := d.Receive(info)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Put(0, chunks[0]), p.Close()); err != nil {
		t.Fatal(err)
	}
	other := meta()
	other.Nonce++
	otherSource, _ := openDir(t, newFS(t))
	otherInfo := mustWrite(t, otherSource, other, state(9*snapfile.MinChunkBytes))
	if p, err = d.Receive(otherInfo); err != nil {
		t.Fatal(err)
	}
	resume(t, p)
	if p.Next() != 0 {
		t.Fatal("chunks of another snapshot were taken over")
	}
	if err := p.Put(0, chunks[0]); !errors.Is(err, snapfile.ErrChunk) {
		t.Fatalf("a chunk of another snapshot: %v", err)
	}
}

// TestResumeAfterFailedSync: what was received can be read, but a sync failed and
// the process died, so that it will never reach the disk by itself. A snapshot that
// is made of it is durable all the same.
func TestResumeAfterFailedSync(t *testing.T) {
	source, _ := openDir(t, newFS(t))
	mustWrite(t, source, meta(), state(9*snapfile.MinChunkBytes))
	info, chunks := records(t, source)
	for have := range len(chunks) + 1 {
		disk := newFS(t)
		d, _ := openDir(t, disk)
		p, err := d.Receive(info)
		if err != nil {
			t.Fatal(err)
		}
		for n := range have {
			if err := p.Put(uint64(n), chunks[n]); err != nil {
				t.Fatal(err)
			}
		}
		died := disk.Fork()
		died.DropUnsynced()
		again, _ := openDir(t, died)
		if p, err = again.Receive(info); err != nil {
			t.Fatal(err)
		}
		resume(t, p)
		if p.Next() != uint64(have) {
			t.Fatalf("%d chunks are found, of %d", p.Next(), have)
		}
		for n := p.Next(); n < info.Chunks; n++ {
			if err := p.Put(n, chunks[n]); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Commit(); err != nil {
			t.Fatal(err)
		}
		after, _ := openDir(t, died.CrashClone(nil, vfs.AllLost))
		if got, err := read(after); err != nil || !bytes.Equal(got, state(9*snapfile.MinChunkBytes)) {
			t.Fatalf("%d chunks were found: after a power cut there are %d bytes, %v", have, len(got), err)
		}
	}
}

// TestNameOfAKilledProcess: a process is killed before it has synced the directory
// in which it gave a snapshot its name. Who finds the snapshot then can count on it.
func TestNameOfAKilledProcess(t *testing.T) {
	disk := newFS(t)
	d, _ := openDir(t, disk)
	var killed []*vfs.MemFS
	disk.SetHook(func(op vfs.Op) vfs.Fault {
		if op.Kind.Mutates() {
			killed = append(killed, disk.Fork())
		}
		return vfs.Fault{}
	})
	mustWrite(t, d, meta(), state(1300))
	found := 0
	for i, disk := range killed {
		if _, c := openDir(t, disk); len(c.Whole) == 0 {
			continue
		}
		found++
		after, c := openDir(t, disk.CrashClone(nil, vfs.AllLost))
		if got, err := read(after); len(c.Whole) != 1 || err != nil || !bytes.Equal(got, state(1300)) {
			t.Errorf("killed before call %d: after a power cut there are %d snapshots, %d bytes, %v", i+1, len(c.Whole), len(got), err)
		}
	}
	if found == 0 {
		t.Error("the snapshot was never there")
	}
}

// TestWrongTotal: chunks that are right one by one and are not those that the
// description is of.
func TestWrongTotal(t *testing.T) {
	source, _ := openDir(t, newFS(t))
	mustWrite(t, source, meta(), state(900))
	_, chunks := records(t, source)
	// The same nonce drawn twice: the identity is the same, the state is not.
	twin, _ := openDir(t, newFS(t))
	changed := state(900)
	changed[800]++
	info := mustWrite(t, twin, meta(), changed)
	disk := newFS(t)
	d, _ := openDir(t, disk)
	p, err := d.Receive(info)
	if err != nil {
		t.Fatal(err)
	}
	for n := range chunks {
		if err := p.Put(uint64(n), chunks[n]); err != nil {
			t.Fatal(err)
		}
	}
	var damage *snapfile.DamageError
	if err := p.Commit(); !errors.As(err, &damage) || !errors.Is(err, snapfile.ErrTrailer) {
		t.Fatal(err)
	}
	if _, c := openDir(t, disk); len(c.Whole)+len(c.Parts) != 0 {
		t.Fatalf("%+v", c)
	}
}

// receive takes a whole snapshot in.
func receive(d *snapfile.Dir, info *snapfile.Info, chunks [][]byte) error {
	p, err := d.Receive(info)
	if err != nil {
		return err
	}
	for done := false; !done; {
		if done, err = p.Resume(); err != nil {
			return errors.Join(err, p.Remove())
		}
	}
	for n := p.Next(); n < info.Chunks; n++ {
		if err := p.Put(n, chunks[n]); err != nil {
			return errors.Join(err, p.Remove())
		}
	}
	return p.Commit()
}

// TestCrashAtEveryCall takes pictures of the disk at every call of a write and of
// a receipt: a file that has its name is whole (P1), and everything is there once
// the call that says so has returned.
func TestCrashAtEveryCall(t *testing.T) {
	source, _ := openDir(t, newFS(t))
	mustWrite(t, source, meta(), state(3000))
	info, chunks := records(t, source)
	for _, what := range []string{"write", "receive"} {
		for call := uint64(1); ; call++ {
			disk := newFS(t)
			d, _ := openDir(t, disk)
			at, reached := disk.Calls()+call, false
			var pictures []*vfs.MemFS
			take := func() {
				for seed, options := range []vfs.CrashOptions{vfs.ProcessDies, vfs.AllLost, vfs.PowerFails, vfs.DiskFails, vfs.DiskFails} {
					pictures = append(pictures, disk.CrashClone(rand.New(rand.NewPCG(call, uint64(seed))), options))
				}
			}
			disk.SetHook(func(op vfs.Op) vfs.Fault {
				if op.Call == at {
					reached = true
					take()
				}
				return vfs.Fault{}
			})
			var err error
			if what == "write" {
				_, err = write(d, meta(), state(3000))
			} else {
				err = receive(d, info, chunks)
			}
			if err != nil {
				t.Fatal(err)
			}
			if !reached {
				take()
			}
			for i, picture := range pictures {
				after, c := openDir(t, picture)
				if !reached && len(c.Whole) == 0 {
					t.Fatalf("%s: picture %d: a snapshot that was durable is gone", what, i)
				}
				for range c.Whole {
					if got, err := read(after); err != nil || !bytes.Equal(got, state(3000)) {
						t.Fatalf("%s: crash at call %d, picture %d: %d bytes, %v", what, call, i, len(got), err)
					}
				}
				if err := receive(after, info, chunks); err != nil {
					t.Fatalf("%s: crash at call %d, picture %d: %v", what, call, i, err)
				}
			}
			if !reached {
				break
			}
		}
	}
}

// TestFailAtEveryCall fails each call in turn: there is an error and no snapshot,
// and the same can be tried again.
func TestFailAtEveryCall(t *testing.T) {
	source, _ := openDir(t, newFS(t))
	mustWrite(t, source, meta(), state(3000))
	info, chunks := records(t, source)
	for _, what := range []string{"write", "receive"} {
		run := func(d *snapfile.Dir) error {
			if what == "write" {
				_, err := write(d, meta(), state(3000))
				return err
			}
			return receive(d, info, chunks)
		}
		for call := uint64(1); ; call++ {
			disk := newFS(t)
			d, _ := openDir(t, disk)
			at := disk.Calls() + call
			disk.SetHook(vfs.FailCall(at, syscall.ENOSPC))
			err := run(d)
			reached := disk.Calls() >= at
			disk.SetHook(nil)
			if reached != (err != nil) {
				t.Fatalf("%s: call %d failed (%v), the result is %v", what, call, reached, err)
			}
			if !reached {
				break
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("%s: %v", what, err)
			}
			if _, c := openDir(t, disk); len(c.Whole) != 0 {
				t.Fatalf("%s: call %d failed, and there is %+v", what, call, c)
			}
			if err := run(d); err != nil {
				t.Fatalf("%s: again after call %d failed: %v", what, call, err)
			}
		}
	}
}

// TestOpenDir removes what writers left behind, keeps parts, and leaves alone
// what is not ours.
func TestOpenDir(t *testing.T) {
	disk := newFS(t)
	d, _ := openDir(t, disk)
	mustWrite(t, d, meta(), state(10))
	w, err := d.Create(meta())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(state(5000)); err != nil {
		t.Fatal(err)
	}
	replaceFile(t, disk, dirName+"/note.txt", []byte("of an operator"))
	replaceFile(t, disk, path(".part"), nil)
	_, c := openDir(t, disk)
	if fmt.Sprint(c) != "{[{7 90}] [{7 90}] [note.txt]}" {
		t.Fatalf("%+v", c)
	}
	names, err := disk.List(dirName)
	if err != nil || len(names) != 3 {
		t.Fatal(names, err)
	}
	if err := errors.Join(d.Remove(name), d.Remove(name), d.RemovePart(name)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open(name); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestFinishedWriter(t *testing.T) {
	d, _ := openDir(t, newFS(t))
	w, err := d.Create(meta())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Abort(), w.Abort()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte{1}); !errors.Is(err, snapfile.ErrFinished) {
		t.Fatal(err)
	}
	if _, err := w.Commit(); !errors.Is(err, snapfile.ErrFinished) {
		t.Fatal(err)
	}
	bad := meta()
	bad.ChunkBytes = 7
	if _, err := d.Create(bad); !errors.Is(err, snapfile.ErrHeader) {
		t.Fatal(err)
	}
}
