package raftlog

import (
	"sync/atomic"
)

// upkeep is the state of Maintain.
type upkeep struct {
	// reclaimable is the oldest segment that either of the last two durable
	// headers needs: those before it may be used again.
	reclaimable atomic.Uint32
	// uncovered is how many bytes of batches the newest checkpoint lacks.
	uncovered atomic.Int64

	identity   *identityFile
	checkpoint checkpointJob
	straggler  stragglerJob
}

// Maintain does one bounded piece of background work and reports whether there
// was any: it recycles segments without live data, keeps the reserve filled,
// rewrites stragglers and writes checkpoints. It is not safe for concurrent use
// with itself, but with everything else.
func (l *Log) Maintain() bool {
	if l.failure.Load() != nil {
		return false
	}
	// In this order: what needs no space, what makes space safe, what gains
	// space, what only saves time at the next Open.
	for _, step := range [...]func(*Log) (bool, error){noteReached, recycleOne, fillReserve, rewriteStraggler, writeCheckpoint} {
		did, err := step(l)
		if err != nil {
			l.o.Events.MaintainFailed(err)
		}
		if did {
			return true
		}
	}
	return false
}

// noteReached puts the newest segment into the identity once it has batches, so
// that its loss will be noticed.
func noteReached(l *Log) (bool, error) {
	segments := l.table.Load().segments
	newest := segments[len(segments)-1]
	if newest.batches.Load() < minHeaders || newest.number <= l.upkeep.identity.reached {
		return false, nil
	}
	return true, l.upkeep.identity.reach(newest.number)
}

// recycleOne frees the first segment when two durable headers say that the log
// begins behind it.
func recycleOne(l *Log) (bool, error) {
	l.tableMu.Lock()
	table := l.table.Load()
	first := table.segments[0]
	if first.number >= l.upkeep.reclaimable.Load() {
		l.tableMu.Unlock()
		if first.live.Load() == 0 && len(table.segments) > 1 {
			l.Seal() // the headers of empty batches will say that it may go
		}
		return false, nil
	}
	l.table.Store(table.withoutFirst())
	l.tableMu.Unlock()
	return true, l.spares.recycle(first)
}

// fillReserve prepares segments. A log that grows, because nothing is compacted,
// lets go of the page cache of old segments as it takes memory for new ones:
// pages that the system has at hand cost a tenth of pages it has to find, and the
// store does not push everything else out of memory. A log that recycles its
// segments gets here no more, and keeps them cached, since a part of a page can
// only be written when the rest is in memory.
func fillReserve(l *Log) (bool, error) {
	idle := l.spares.filling == nil
	did, err := l.spares.fill()
	if idle && l.spares.filling != nil && err == nil {
		err = l.dropOldCache()
	}
	return did, err
}

// cachedSegments is how many of the newest segments stay in the page cache of a
// growing log, for followers that are a little behind.
const cachedSegments = 2

// dropOldCache lets go of the oldest segment that is still cached.
func (l *Log) dropOldCache() error {
	segments := l.table.Load().segments
	for _, s := range segments[:max(0, len(segments)-cachedSegments)] {
		if !s.uncached {
			s.uncached = true
			return s.file.DropCache()
		}
	}
	return nil
}

// handles returns all groups there are, also the one that stands for the store.
func (l *Log) handles() []*Group {
	l.groupsMu.RLock()
	defer l.groupsMu.RUnlock()
	return append([]*Group(nil), l.ordered...)
}
