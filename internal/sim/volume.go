package sim

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"multiraft/internal/vfs"
	"multiraft/raftlog"
)

var (
	// errCrashed answers every call to a disk whose store died in the middle of
	// what it was doing.
	errCrashed = errors.New("store crashed")
	// errSync is what a broken disk answers to a sync.
	errSync = errors.New("simulated sync error")
	// errWrite is what a broken disk answers to a write.
	errWrite = errors.New("simulated write error")
)

// volume is the disk of a site. It survives its stores, or what a crash leaves
// of it does.
type volume struct {
	*vfs.MemFS
	site   *site
	source random
	locks  map[string]uint32 // held in which life: a dead store holds none

	// What happens next. left counts the calls that change something.
	crashIn     int              // that many calls from now the store dies; 0: it does not
	crashAs     vfs.CrashOptions // and this is lost
	keep        bool             // nothing is lost: only the process dies
	failSyncIn  int              // that many syncs from now fail for good; 0: none
	failWriteIn int              // that many writes from now fails, half done
	image       *vfs.MemFS       // what a crash left
	crashed     bool             // it happened
	failed      bool             // a call failed in this life, or there was no room
	capacity    int64            // 0: no limit
	reads       int              // in the step under way
	writes      []written        // the last ones to segments
	names       map[string]string
}

func newVolume(s *site) *volume {
	v := &volume{site: s, source: newRandom(s.c.seed, streamDisks+uint64(groupSpread*(s.at+1))), locks: make(map[string]uint32), names: make(map[string]string)}
	v.use(vfs.New(vfs.Options{FailedSyncDrops: true}))
	return v
}

func (v *volume) use(fs *vfs.MemFS) {
	v.MemFS = fs
	fs.SetHook(v.call)
	fs.SetCapacity(v.capacity)
}

// call decides what becomes of one call.
func (v *volume) call(op vfs.Op) vfs.Fault {
	c := v.site.c
	c.trace.mix(uint64(op.Kind)<<56 ^ uint64(op.Offset)<<24 ^ uint64(op.Length))
	if v.crashed {
		return vfs.Fault{Err: errCrashed}
	}
	if op.Kind == vfs.OpRename && strings.Contains(op.Name, "segment-") {
		c.count(segmentsRecycled)
	}
	if !op.Kind.Mutates() {
		if op.Kind == vfs.OpRead {
			v.reads++
		}
		return vfs.Fault{}
	}
	if v.crashIn > 0 {
		if v.crashIn--; v.crashIn == 0 {
			c.note("store %d dies before %v of %s at %d", v.site.at+1, op.Kind, op.Name, op.Offset)
			v.crash(v.crashAs)
			return vfs.Fault{Err: errCrashed}
		}
	}
	fault := v.fault(op)
	if fault == (vfs.Fault{}) || op.Kind == vfs.OpWrite {
		v.remember(op)
	}
	return fault
}

// fault decides whether a call that changes something fails.
func (v *volume) fault(op vfs.Op) vfs.Fault {
	c := v.site.c
	switch op.Kind {
	case vfs.OpSync:
		c.count(syncs)
		if c.plan.Plant == PlantLyingSync && v.site.store != nil {
			return vfs.Fault{Lie: true}
		}
		if v.failSyncIn > 0 {
			if v.failSyncIn--; v.failSyncIn == 0 {
				v.fail(syncsFailed, "sync", op)
				return vfs.Fault{Err: errSync}
			}
		}
	case vfs.OpWrite:
		if v.failWriteIn > 0 {
			if v.failWriteIn--; v.failWriteIn == 0 {
				v.fail(writesFailed, "write", op)
				return vfs.Fault{Err: errWrite, Written: v.source.IntN(int(op.Length) + 1)}
			}
		}
	}
	return vfs.Fault{}
}

func (v *volume) fail(n counter, what string, op vfs.Op) {
	v.site.c.count(n)
	v.site.c.note("store %d: %s of %s at %d fails", v.site.at+1, what, op.Name, op.Offset)
	v.failed = true
}

// fill leaves room up to the given number of bytes in all; zero is all the room
// there is.
func (v *volume) fill(capacity int64) {
	v.countNoRoom()
	v.capacity = capacity
	v.failed = v.failed || capacity > 0
	v.SetCapacity(capacity)
}

// crash keeps what is left of the disk as it is now. From here on nothing
// reaches it.
func (v *volume) crash(o vfs.CrashOptions) {
	if v.crashed {
		return
	}
	v.crashed = true
	v.countNoRoom()
	v.forgetWrites(func(w *written) bool { return !w.synced })
	if !v.keep {
		v.image = v.CrashClone(v.source, o)
		v.countLosses(v.image.Losses())
	}
}

// countNoRoom counts the calls that a full disk refused.
func (v *volume) countNoRoom() {
	v.site.c.counts[callsWithoutRoom] += uint64(v.TakeNoRoom())
}

// countLosses counts what a crash took.
func (v *volume) countLosses(l vfs.Losses) {
	counts := &v.site.c.counts
	for n, lost := range map[counter]int{
		sectorsLost: l.Lost, sectorsTorn: l.Torn, sectorsZeroed: l.Zeroed, sectorsGarbage: l.Garbage,
		sectorsReordered: l.Reordered, sizesLost: l.Sizes, namesLost: l.Entries,
	} {
		counts[n] += uint64(lost)
	}
}

// restore makes what was left the disk of the next life.
func (v *volume) restore() {
	if v.image != nil {
		v.use(v.image)
	}
	v.image, v.crashed, v.failed, v.keep = nil, false, v.capacity > 0, false
	v.crashIn, v.failSyncIn, v.failWriteIn = 0, 0, 0
	clear(v.names)
}

// Lock takes a lock for this life of the store. Those of dead ones count for
// nothing, as with the operating system's.
func (v *volume) Lock(name string) (io.Closer, error) {
	if v.crashed {
		return nil, errCrashed
	}
	life := v.site.life
	if v.locks[name] == life {
		return nil, fmt.Errorf("lock %s: %w", name, raftlog.ErrLocked)
	}
	v.locks[name] = life
	return unlocker(func() {
		if v.locks[name] == life {
			delete(v.locks, name)
		}
	}), nil
}

// locked tells whether this life holds a lock.
func (v *volume) locked() bool {
	for _, life := range v.locks {
		if life == v.site.life {
			return true
		}
	}
	return false
}

type unlocker func()

func (u unlocker) Close() error {
	u()
	return nil
}
