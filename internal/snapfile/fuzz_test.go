package snapfile_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"multiraft/internal/allocs"
	"multiraft/internal/snapfile"
)

// FuzzFile reads anything as a snapshot, with right checksums on demand: what passes
// is a state that, written again, makes the same file. A reader has one buffer,
// and no chunk is larger than the file.
func FuzzFile(f *testing.F) {
	disk := newFS(f)
	d, _ := openDir(f, disk)
	mustWrite(f, d, meta(), state(1300))
	f.Add(readFile(f, disk, path(".snap")), false)
	f.Add(readFile(f, disk, path(".snap")), true)
	mustWrite(f, d, meta(), nil)
	f.Add(readFile(f, disk, path(".snap")), true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal {
			b = snapfile.Reseal(b)
		}
		disk := newFS(t)
		if err := disk.MkdirAll(dirName); err != nil {
			t.Fatal(err)
		}
		replaceFile(t, disk, path(".snap"), b)
		var file *snapfile.File
		var err error
		var read int64
		// Twice the file: its chunks, and the header, in the memory of this disk too.
		allocs.AtMost(t, uint64(64<<10+2*len(b)), func() {
			if file, err = snapfile.OpenFile(disk, path(".snap")); err == nil {
				read, err = io.Copy(io.Discard, onlyReader{file.Reader()})
			}
		})
		if file != nil && (err == nil) != (file.Verify() == nil) {
			t.Fatalf("reading says %v, verifying %v", err, file.Verify())
		}
		if err != nil {
			return
		}
		got, err := io.ReadAll(file.Reader())
		if err != nil || int64(len(got)) != read {
			t.Fatalf("%d bytes, %v, and %d before", len(got), err, read)
		}
		again := newFS(t)
		d, _ := openDir(t, again)
		info := mustWrite(t, d, file.Info().Meta, got)
		if !info.Same(file.Info()) {
			t.Fatalf("%+v was written again as %+v", file.Info(), info)
		}
	})
}

// onlyReader hides all other methods.
type onlyReader struct{ io.Reader }

// FuzzDescription decodes anything as the description of a snapshot, as leaders send
// it, with right checksums on demand. What passes encodes to the same bytes, names
// no chunk that has no place, and passes no more with a bit flipped.
func FuzzDescription(f *testing.F) {
	disk := newFS(f)
	d, _ := openDir(f, disk)
	for _, n := range []int{0, 1, 1300} {
		b := mustWrite(f, d, meta(), state(n)).AppendTo(nil)
		f.Add(b, false)
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal {
			b = snapfile.Reseal(b)
		}
		var info snapfile.Info
		var err error
		// The header is kept, and the members in it as values.
		allocs.AtMost(t, 8<<10, func() { err = info.Decode(b) })
		if err != nil {
			return
		}
		if again := info.AppendTo(nil); !bytes.Equal(again, b) {
			t.Fatalf("encoded again\n got %x\nwant %x", again, b)
		}
		if n := info.Chunks; n > 0 && (info.RecordBytes(0) <= 0 || info.RecordBytes(n-1) <= 0 || info.RecordBytes(0) > snapfile.MaxRecordBytes ||
			info.FileBytes() < int64(info.Bytes)) {
			t.Fatalf("%+v: records of %d and %d bytes, file of %d", info, info.RecordBytes(0), info.RecordBytes(n-1), info.FileBytes())
		}
		flipped := bytes.Clone(b)
		bit := uint64(len(b)) * 4
		for _, c := range b {
			bit = bit*31 + uint64(c)
		}
		bit %= uint64(8 * len(b))
		flipped[bit/8] ^= 1 << (bit % 8)
		if info.Decode(flipped) == nil {
			t.Fatalf("bit %d of %x flipped unnoticed", bit, b)
		}
	})
}

// FuzzChunks has a sender give any record for any chunk, with a right checksum on
// demand. What it gives may be taken or not; a snapshot becomes of it what the
// description says, or nothing.
func FuzzChunks(f *testing.F) {
	source := newFS(f)
	d, _ := openDir(f, source)
	want := state(1300)
	info := mustWrite(f, d, meta(), want)
	whole, err := d.Open(name)
	if err != nil {
		f.Fatal(err)
	}
	var records [][]byte
	for n := range info.Chunks {
		record, err := whole.Chunk(n, nil)
		if err != nil {
			f.Fatal(err)
		}
		records = append(records, record)
		f.Add(n, record, false)
		f.Add(n+1, record, true)
	}
	f.Fuzz(func(t *testing.T, n uint64, record []byte, seal bool) {
		if seal {
			record = snapfile.ResealChunk(info, n, record)
		}
		d, _ := openDir(t, newFS(t))
		part, err := d.Receive(info)
		if err != nil {
			t.Fatal(err)
		}
		// The disk of this test keeps what is written, in sectors.
		allocs.AtMost(t, uint64(32<<10+8*len(record)), func() { err = part.Put(n, record) })
		if err != nil && !errors.Is(err, snapfile.ErrChunk) && !errors.Is(err, snapfile.ErrWindow) {
			t.Fatal(err)
		}
		for at, record := range records {
			if err := part.Put(uint64(at), record); err != nil {
				t.Fatal(err)
			}
		}
		lied := err == nil && !bytes.Equal(record, records[n])
		if err := part.Commit(); (err != nil) != lied {
			t.Fatalf("%v, and the sender lied: %t", err, lied)
		}
		if got, err := read(d); lied != (err != nil) || !lied && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, %v, and the sender lied: %t", len(got), err, lied)
		}
	})
}
