package raftlog_test

import (
	"encoding/binary"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
)

// plantedBug is what is done to a log to see whether the enumeration of crash
// states notices: a disk that lies, or files that do what a log without some
// rule would do.
type plantedBug struct {
	name     string
	ackEarly bool     // a change is acknowledged when it is submitted
	fault    vfs.Hook // a call that is left out

	noRecoverySync bool                              // Open does not sync what it found
	write          func(b []byte) []byte             // what becomes of a batch on its way to the disk; nil: nothing
	read           func(*patchedFile, []byte, int64) // changes what Open reads from a segment
}

func (b *plantedBug) faultOf(op vfs.Op) vfs.Fault {
	if b.fault == nil {
		return vfs.Fault{}
	}
	return b.fault(op)
}

func (b *plantedBug) patched() bool { return b.noRecoverySync || b.write != nil || b.read != nil }

// patchedFS changes what goes to files and comes from them.
type patchedFS struct {
	*vfs.MemFS
	bug     *plantedBug
	opening bool // Open runs
	uuid    [16]byte
}

func (p *patchedFS) Create(name string) (File, error) {
	f, err := p.MemFS.Create(name)
	return &patchedFile{f, p, name}, err
}

func (p *patchedFS) Open(name string) (File, error) {
	f, err := p.MemFS.Open(name)
	return &patchedFile{f, p, name}, err
}

type patchedFile struct {
	File
	fs   *patchedFS
	name string
}

func (f *patchedFile) Sync() error {
	if f.fs.opening && f.fs.bug.noRecoverySync && strings.HasPrefix(filepath.Base(f.name), "segment-") {
		return nil
	}
	return f.File.Sync()
}

// Where fields of a batch header are.
const (
	atMagic, atFlags, atSegment, atSequence, atDurable, atOldest, atPrevSum, atOffset, atLength, atRecords = 8, 14, 16, 24, 32, 40, 56, 72, 76, 84

	magic, seal = 0x314c524d, 1
)

// isBatch reports whether b begins with a header that was written for an offset.
func isBatch(b []byte, offset int64) bool {
	le := binary.LittleEndian
	return len(b) >= BatchHeaderBytes && le.Uint32(b[atMagic:]) == magic && int64(le.Uint32(b[atOffset:])) == offset
}

func (f *patchedFile) WriteAt(b []byte, offset int64) (int, error) {
	if f.fs.bug.write == nil || !isBatch(b, offset) {
		return f.File.WriteAt(b, offset)
	}
	changed := f.fs.bug.write(append([]byte(nil), b...))
	if changed == nil {
		return len(b), nil
	}
	changed = SealBatch(f.fs.uuid, uint64(binary.LittleEndian.Uint32(b[atSegment:])), uint32(offset), changed)
	return f.File.WriteAt(changed, offset)
}

func (f *patchedFile) ReadAt(b []byte, offset int64) (int, error) {
	n, err := f.File.ReadAt(b, offset)
	if f.fs.bug.read != nil && f.fs.opening && strings.HasPrefix(filepath.Base(f.name), "segment-") {
		f.fs.bug.read(f, b[:n], offset)
	}
	return n, err
}

// uuid is the store's, whose Rand gives one number again and again.
func (x *crashRun) uuid() (id [16]byte) {
	binary.LittleEndian.PutUint64(id[:8], x.o.Rand())
	binary.LittleEndian.PutUint64(id[8:], x.o.Rand())
	return id
}

// lieAbout leaves out calls of a kind on files with a prefix.
func lieAbout(kind vfs.OpKind, prefixes ...string) vfs.Hook {
	return func(op vfs.Op) vfs.Fault {
		base := filepath.Base(op.Name)
		for _, prefix := range prefixes {
			if op.Kind == kind && strings.HasPrefix(base, prefix) && !strings.HasSuffix(base, ".tmp") {
				return vfs.Fault{Lie: true}
			}
		}
		return vfs.Fault{}
	}
}

var plantedBugs = []plantedBug{
	{name: "the log is not synced", fault: lieAbout(vfs.OpSync, "segment-", "spare-")},
	{name: "the directory is not synced", fault: lieAbout(vfs.OpSyncDir, "")},
	{name: "the identity is not synced", fault: lieAbout(vfs.OpSync, "identity-")},
	{name: "acknowledged before it is durable", ackEarly: true},
	{name: "what a killed process left is not synced", noRecoverySync: true},
	{name: "the last batch is called durable too early", write: func(b []byte) []byte {
		copy(b[atDurable:atDurable+8], b[atSequence:])
		return b
	}},
	{name: "the log is said to begin too late", write: func(b []byte) []byte {
		copy(b[atOldest:atOldest+4], b[atSegment:])
		return b
	}},
	{name: "the chain of checksums is not kept", write: func(b []byte) []byte {
		clear(b[atPrevSum : atPrevSum+8])
		return b
	}},
	{name: "seals are lost", write: func(b []byte) []byte {
		if b[atFlags]&seal != 0 {
			return nil
		}
		return b
	}},
	{name: "the body of a batch is not checked", read: func(f *patchedFile, b []byte, offset int64) {
		reseal(f, b, offset, func(segment, of uint64) bool { return segment == of })
	}},
	{name: "checksums are not bound to a segment", read: func(f *patchedFile, b []byte, offset int64) {
		reseal(f, b, offset, func(segment, of uint64) bool { return segment != of })
	}},
}

// segmentOf returns the number in the name of a segment.
func segmentOf(name string) uint64 {
	_, digits, _ := strings.Cut(filepath.Base(name), "-")
	number, _ := strconv.ParseUint(digits, 16, 64) // 0 is no segment's
	return number
}

// reseal puts right the checksums of batches that look like some, of segments
// that are of interest.
func reseal(f *patchedFile, b []byte, offset int64, wanted func(segment, of uint64) bool) {
	le := binary.LittleEndian
	segment := segmentOf(f.name)
	for at := int64(0); at+BatchHeaderBytes <= int64(len(b)); at += SectorBytes {
		rest := b[at:]
		if (offset+at)%SectorBytes != 0 || !isBatch(rest, offset+at) || !wanted(segment, uint64(le.Uint32(rest[atSegment:]))) {
			continue
		}
		length := int64(le.Uint32(rest[atLength:]))
		if length <= int64(len(rest)) && length%SectorBytes == 0 && length > 0 {
			copy(rest, SealBatch(f.fs.uuid, segment, uint32(offset+at), append([]byte(nil), rest[:length]...)))
		}
	}
}

// TestCrashStatesFindBugs plants bugs and counts how many states it takes to
// notice them.
func TestCrashStatesFindBugs(t *testing.T) {
	depth := crashDepth{
		states: vfs.StateOptions{Combined: 2, Entries: 4}, inner: vfs.StateOptions{Combined: 1, Entries: 3},
		rounds: 32, lives: 3, nested: 200, killed: 8,
	}
	const most = 3
	for _, bug := range plantedBugs {
		t.Run(bug.name, func(t *testing.T) {
			states := 0
			for seed := range uint64(most) {
				x := newCrashRun("", seed, depth, bug)
				x.run()
				states += x.facts.distinct
				if x.err != nil {
					text, _, _ := strings.Cut(x.err.Error(), "\nreplay")
					t.Logf("seed %d, %d states: %s", seed, states, text)
					return
				}
			}
			t.Errorf("not noticed in %d states", states)
		})
	}
}
