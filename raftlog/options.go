package raftlog

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"

	"multiraft/wire"
)

// Options of a log. Zero fields select their defaults.
type Options struct {
	// FS holds the files. Nil means [OSFS].
	FS FS
	// Dir is the directory of the log, made when missing. It belongs to one
	// store; files in it that the log did not make are left alone.
	Dir string
	// Cluster and Store are written into a new directory, and must match those
	// of an existing one. Store must not be zero.
	Cluster uint64
	Store   wire.StoreID
	// SegmentBytes is the size of a segment. Zero means 64 MiB. Larger ones make
	// fewer rotations and coarser reclaiming. A change applies to new segments.
	SegmentBytes int64
	// MaxBatchBytes is where a batch is cut when more is queued: above, a sync
	// costs more time than it saves. Zero means 1 MiB. One larger record still
	// goes in one batch.
	MaxBatchBytes int
	// NoSync leaves out all syncs. A killed process loses nothing then, a machine
	// that loses power loses anything.
	NoSync bool
	// Recovery says what Open does about damage. Zero is [RecoverCut].
	Recovery RecoveryMode
	// Serial makes recovery use the calling goroutine only. It is implied when
	// GOMAXPROCS is 1. The result is the same.
	Serial bool
	// Rand makes the random id of a new store. Nil means crypto/rand.
	Rand func() uint64
	// Events are told what an operator should know. All may be nil.
	Events Events
}

// RecoveryMode says what Open does when the end of the log, or something in
// it, is not as it should be.
type RecoveryMode uint8

const (
	// RecoverCut drops a torn tail, of which nothing was acknowledged, and opens
	// a damaged log with the affected groups marked, see [Group.Err].
	RecoverCut RecoveryMode = iota
	// RecoverStrict refuses to open in both cases and leaves the files as they
	// are, for an operator to look at.
	RecoverStrict
)

// Events are called from within Open, Step and Maintain and must return soon.
type Events struct {
	// TailCut: the log ended in a batch that was never proven durable, and was
	// cut there.
	TailCut func(segment uint64, offset int64)
	// Damaged: durable bytes are not what was written, and these groups lost
	// entries or hard state: see [Group.Err]. Group 0 stands for all groups. No
	// groups means that a copy or a neighbour made up for it. Maintain may find
	// damage too; the group must be stopped then.
	Damaged func(err *CorruptionError, groups []wire.GroupID)
	// CheckpointSkipped: a checkpoint of the index cannot be used, so all
	// segments are scanned.
	CheckpointSkipped func(name string, err error)
	// DiskFull: space or file descriptors for the reserve ran out, or are back.
	DiskFull func(full bool)
	// MaintainFailed: background work failed and will be tried again. No data is
	// concerned.
	MaintainFailed func(err error)
	// Failed: the log failed for good.
	Failed func(err error)
	// Ignored: a file in the directory is not the log's and was left alone.
	Ignored func(name string)
}

const (
	defaultSegmentBytes  = 64 << 20
	minSegmentBytes      = 4 << 10
	maxSegmentBytes      = 1 << 30
	defaultMaxBatchBytes = 1 << 20
	minMaxBatchBytes     = 1 << 10
	maxMaxBatchBytes     = 64 << 20

	// maxSegmentFileBytes bounds what is read from a segment: one batch with a
	// record of any size may have made an empty segment longer than usual.
	maxSegmentFileBytes = maxSegmentBytes + maxBatchBytes
)

const _ = uint(1<<32 - 1 - maxSegmentFileBytes) // offsets are u32

// Validate reports all faults of the options at once.
func (o *Options) Validate() error {
	var errs []error
	bad := func(field string, value any, rule string) {
		errs = append(errs, &OptionError{field, value, rule})
	}
	if o.Dir == "" {
		bad("Dir", `""`, "must name a directory")
	}
	if o.Store == 0 {
		bad("Store", o.Store, "must not be zero")
	}
	if o.SegmentBytes != 0 && (o.SegmentBytes < minSegmentBytes || o.SegmentBytes > maxSegmentBytes) {
		bad("SegmentBytes", o.SegmentBytes, "must be between 4 KiB and 1 GiB")
	}
	if o.MaxBatchBytes != 0 && (o.MaxBatchBytes < minMaxBatchBytes || o.MaxBatchBytes > maxMaxBatchBytes) {
		bad("MaxBatchBytes", o.MaxBatchBytes, "must be between 1 KiB and 64 MiB")
	}
	if o.Recovery > RecoverStrict {
		bad("Recovery", o.Recovery, "is no recovery mode")
	}
	return errors.Join(errs...)
}

// path returns the path of a file of the log.
//
// REQUIRES: Dir is clean, as withDefaults leaves it.
func (o *Options) path(base string) string {
	if os.IsPathSeparator(o.Dir[len(o.Dir)-1]) {
		return o.Dir + base // the root
	}
	return o.Dir + string(filepath.Separator) + base
}

func (o Options) withDefaults() Options {
	o.Dir = filepath.Clean(o.Dir)
	if o.FS == nil {
		o.FS = OSFS{}
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = defaultSegmentBytes
	}
	if o.MaxBatchBytes == 0 {
		o.MaxBatchBytes = defaultMaxBatchBytes
	}
	o.Serial = o.Serial || runtime.GOMAXPROCS(0) == 1
	if o.Rand == nil {
		o.Rand = func() uint64 {
			var b [8]byte
			_, _ = rand.Read(b[:]) // documented never to fail
			return binary.LittleEndian.Uint64(b[:])
		}
	}
	o.Events = o.Events.withDefaults()
	return o
}

// withDefaults fills in events that nobody listens to.
func (e Events) withDefaults() Events {
	if e.TailCut == nil {
		e.TailCut = func(uint64, int64) {}
	}
	if e.Damaged == nil {
		e.Damaged = func(*CorruptionError, []wire.GroupID) {}
	}
	if e.CheckpointSkipped == nil {
		e.CheckpointSkipped = func(string, error) {}
	}
	if e.DiskFull == nil {
		e.DiskFull = func(bool) {}
	}
	if e.MaintainFailed == nil {
		e.MaintainFailed = func(error) {}
	}
	if e.Failed == nil {
		e.Failed = func(error) {}
	}
	if e.Ignored == nil {
		e.Ignored = func(string) {}
	}
	return e
}
