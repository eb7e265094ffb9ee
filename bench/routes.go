package bench

import (
	"context"
	"sync/atomic"
	"time"

	"multiraft/engine"
	"multiraft/wire"
)

// routes knows on which store to propose for each active group. It is a dense
// array: a goroutine that loads one store walks it and takes the groups whose
// leader is there, so that a leader that moves is one store to one word and no
// list is kept anywhere. At a third of the groups per store the walk costs
// three loads per operation.
//
// Groups are numbered from 0 here, in the order of their ids.
type routes struct {
	stores  int
	ids     []wire.GroupID
	handles []*engine.Group // [group*stores + store]; nil where there is no replica

	leaders []atomic.Uint32 // number of the leader's store, from 1
	unknown atomic.Int64    // groups that wait for watch
}

// Values of routes.leaders that are no store.
const (
	leaderUnknown uint32 = 0
	groupDead     uint32 = 1 << 31 // stopped or failed on the store that led it
)

func newRoutes(c *cluster, groups int) *routes {
	r := &routes{
		stores:  len(c.stores),
		ids:     make([]wire.GroupID, groups),
		handles: c.groups[:groups*len(c.stores)],
		leaders: make([]atomic.Uint32, groups),
	}
	for g := range r.ids {
		r.ids[g] = groupID(g)
		r.leaders[g].Store(uint32(c.leader(g)))
		if r.leaders[g].Load() == leaderUnknown {
			r.unknown.Add(1)
		}
	}
	return r
}

// anyStore as an argument of next takes groups wherever they are led.
const anyStore uint32 = 1<<32 - 1

// next returns the first group behind cursor that is led by the given store, in
// round robin order, and where. ok is false when there is none.
//
//mr:hotpath
func (r *routes) next(cursor uint32, store uint32) (group, leader uint32, ok bool) {
	n := uint32(len(r.leaders))
	for range n {
		if cursor++; cursor >= n {
			cursor = 0
		}
		leader := r.leaders[cursor].Load()
		if leader == store || (store == anyStore && leader-1 < groupDead-1) {
			return cursor, leader, true
		}
	}
	return 0, 0, false
}

// handle returns the replica of a group on a store, numbered from 1.
//
//mr:hotpath
func (r *routes) handle(group, store uint32) *engine.Group {
	return r.handles[int(group)*r.stores+int(store)-1]
}

// moved notes where a refusal says the leader is. A leader that is not known, or
// that is said to be where the refusal came from, is found by watch.
func (r *routes) moved(group, from uint32, to wire.StoreID) {
	leader := uint32(to)
	if to > wire.StoreID(r.stores) || leader == from || (leader != leaderUnknown && r.handle(group, leader) == nil) {
		leader = leaderUnknown
	}
	if r.leaders[group].CompareAndSwap(from, leader) && leader == leaderUnknown {
		r.unknown.Add(1)
	}
}

// dead takes a group out of the load.
func (r *routes) dead(group, from uint32) { r.leaders[group].CompareAndSwap(from, groupDead) }

// watchInterval is how long a group without a known leader waits at most for
// the next look.
const watchInterval = 5 * time.Millisecond

// watch looks for the leaders of groups that lost theirs, until ctx ends.
func (r *routes) watch(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if r.unknown.Load() == 0 {
			continue
		}
		for g := range r.leaders {
			if r.leaders[g].Load() != leaderUnknown {
				continue
			}
			if leader := findLeader(r.handles[g*r.stores : (g+1)*r.stores]); leader != 0 &&
				r.leaders[g].CompareAndSwap(leaderUnknown, uint32(leader)) {
				r.unknown.Add(-1)
			}
		}
	}
}

// findLeader returns the store whose own replica says that it leads, 0 if there
// is none. What other replicas believe may be old.
func findLeader(replicas []*engine.Group) wire.StoreID {
	for i, g := range replicas {
		if g == nil {
			continue
		}
		if g.IsLeader() {
			return wire.StoreID(i + 1)
		}
	}
	return 0
}

// groupID returns the id of the group with the given place.
func groupID(place int) wire.GroupID { return wire.GroupID(place + 1) }
